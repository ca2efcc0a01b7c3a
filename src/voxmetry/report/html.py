"""Spell a report out as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.document import ReportDocument
from voxmetry.report.figures import render_png

FEW_PANELS = 12
"""Up to this many pictures are drawn at full size; more are drawn smaller, so that a page stays below 3 MB."""
FULL_PIXELS, SMALL_PIXELS = 520, 336


def draw_pictures(
    document: ReportDocument, volume: Volume, segmentation: Segmentation, reference: Segmentation | None = None
) -> dict[tuple[str, int], bytes]:
    """Draw all pictures of a document as PNG, by the illustration's id and the picture's place in it."""
    n = sum(len(illustration.pictures) for illustration in document.illustrations)
    pixels = FULL_PIXELS if n <= FEW_PANELS else SMALL_PIXELS
    return {
        (illustration.id, place): render_png(
            picture.panel,
            volume,
            segmentation,
            reference,
            pixels=FULL_PIXELS if illustration.label is None else pixels,
        )
        for illustration in document.illustrations
        for place, picture in enumerate(illustration.pictures)
    }


def render_html(document: ReportDocument, pictures: Mapping[tuple[str, int], bytes]) -> str:
    """Write a document as one page with its pictures inside.

    Parameters
    ----------
    document
        What the report says.
    pictures
        PNG files by illustration and place, as `draw_pictures` returns them.

    Returns
    -------
    str
        HTML. All text is escaped; the page's own policy forbids it to load or to run anything.
    """
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            pictures={key: data_uri(png) for key, png in pictures.items()},
            pixels=FULL_PIXELS,
        )
    )


def environment() -> Environment:
    """Return what all pages are rendered with: everything is escaped, and a name that is not given is an error."""
    return Environment(
        loader=PackageLoader("voxmetry.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
