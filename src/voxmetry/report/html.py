"""Spell a report out as one HTML file that needs nothing else and sends no request."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from voxmetry.core.text import visible
from voxmetry.report.document import ReportDocument
from voxmetry.report.language import ENGLISH
from voxmetry.report.viewer import as_json

if TYPE_CHECKING:
    # What draws the pictures draws those of a cohort's page as well, which is rendered here.
    from voxmetry.report.pictures.material import Material

PICTURE_PIXELS = 520
"""Size that a page reserves for a picture before it is drawn."""
NIIVUE = files("voxmetry.report") / "niivue"


def render_html(document: ReportDocument, material: Material) -> str:
    """Write a document as one page with its pictures and its viewer inside.

    Parameters
    ----------
    document
        What the report says.
    material
        Pictures and scene, as `draw` returns them.

    Returns
    -------
    str
        HTML. All text is escaped. The page's own policy forbids it to load anything, and to run any script but its
        own, which are named by their SHA-256.
    """
    viewer = script("viewer.js")
    scene = material.scene
    search = script("search.js")
    scripts = [viewer, niivue()] if scene is not None else []
    if document.findings.is_grouped:
        scripts.append(search)
    policy = f"script-src {' '.join(repr(_hash(source)) for source in scripts)}; " if scripts else ""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            say=document.language,
            pictures={key: data_uri(png) for key, png in material.pictures.items()},
            pixels=PICTURE_PIXELS,
            policy=policy,
            scene=scene,
            scene_json=Markup(as_json(scene)) if scene is not None else "",
            viewer=Markup(viewer),
            search=Markup(search),
            niivue=base64.b64encode(_niivue_packed()).decode("ascii"),
            niivue_licence=(NIIVUE / "LICENSE-niivue.txt").read_text(encoding="utf-8"),
        )
    )


@functools.cache
def script(name: str) -> str:
    """Return one of the package's own scripts."""
    return (files("voxmetry.report") / "templates" / name).read_text(encoding="utf-8")


def _niivue_packed() -> bytes:
    return (NIIVUE / "niivue.min.js.gz").read_bytes()


@functools.cache
def niivue() -> str:
    """Return NiiVue as the page runs it."""
    return gzip.decompress(_niivue_packed()).decode("utf-8")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


def environment() -> Environment:
    """Return what all pages are rendered with: everything is escaped, and a name that is not given is an error."""
    made = Environment(
        loader=PackageLoader("voxmetry.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["say"] = ENGLISH
    return made


def _harmless(value: object) -> object:
    """Clean each text that a template puts into a page; what is markup of this package's own is not text."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) and len(value) < _LONG else value


_LONG = 20_000
"""Longer than any text that is read: a picture or a block of data in base64, which this package wrote itself."""


def data_uri(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
