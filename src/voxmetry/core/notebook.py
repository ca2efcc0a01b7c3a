"""How the nouns show themselves in a notebook: a table of facts, and three slices where there is an image."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry

_PIXELS = 180
"""Longest edge of a slice on the page."""
# Patient axes across and down each picture: axial, coronal, sagittal, in the radiological convention.
_PICTURES = ((0, 1), (0, 2), (1, 2))


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as an HTML table; the columns are the keys of the first one.

    Examples
    --------
    >>> table([{"label": "liver", "volume_ml": 1500.0}]).count("<td")
    2
    """
    if not rows:
        return "<p>nothing</p>"
    head = "".join(f"<th style='text-align:left'>{html.escape(str(key))}</th>" for key in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{html.escape(_text(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return " x ".join(_text(item) for item in value)
    return str(value)


def grid_facts(geometry: Geometry) -> dict[str, object]:
    """Return what a table says of a grid."""
    return {
        "voxels": geometry.shape,
        "spacing_mm": tuple(round(float(x), 3) for x in geometry.spacing_mm),
        "axes": geometry.axcodes,
    }


def slices(
    array: NDArray[Any],
    geometry: Geometry,
    at: tuple[int, int, int],
    *,
    colours: Mapping[int, tuple[float, float, float]] | None = None,
    window: tuple[float, float] | None = None,
) -> str:
    """Draw an axial, a coronal and a sagittal slice as images that stand in the page itself.

    Patient right is on the left of axial and coronal slices, anterior on the left of sagittal ones.

    Parameters
    ----------
    array
        (I, J, K), an image or a label map.
    geometry
        Its grid; pixels have the shape that they have in the patient.
    at
        The voxel that the three slices meet in.
    colours
        For a label map, red, green and blue in 0..1 of each value.
    window
        For an image, the values that are black and white; None takes the 1st and 99th percentile of each slice.
    """
    from PIL import Image

    axes, signs = geometry.closest_axes
    size = [n * mm for n, mm in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    scale = _PIXELS / max(size)
    shown: list[str] = []
    for across, down in _PICTURES:
        horizontal, vertical = axes.index(across), axes.index(down)
        (normal,) = {0, 1, 2} - {horizontal, vertical}
        plane = np.moveaxis(array, (vertical, horizontal), (0, 1))[..., at[normal]]
        # Right, down: L, P and I, against the axes that grow towards R, A and S.
        plane = plane[:: -1 if signs[vertical] > 0 else 1, :: -1 if signs[horizontal] > 0 else 1]
        picture = Image.fromarray(_coloured(plane, colours) if colours else _grey(plane, window))
        edges = (max(1, round(size[horizontal] * scale)), max(1, round(size[vertical] * scale)))
        out = io.BytesIO()
        how = Image.Resampling.NEAREST if colours else Image.Resampling.BILINEAR
        picture.resize(edges, how).save(out, format="PNG", optimize=True)
        data = base64.b64encode(out.getvalue()).decode()
        name = ("axial", "coronal", "sagittal")[len(shown)]
        style = "display:inline;margin:2px"
        shown.append(f"<img alt='{name} slice' style='{style}' src='data:image/png;base64,{data}'>")
    return f"<div style='background:black;display:inline-block;padding:2px'>{''.join(shown)}</div>"


def _grey(plane: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    low, high = window or np.percentile(plane, (1, 99))
    span = float(high - low) or 1.0
    return (np.clip((plane.astype(np.float64) - low) / span, 0, 1) * 255).astype(np.uint8)


def _coloured(plane: NDArray[Any], colours: Mapping[int, tuple[float, float, float]]) -> NDArray[np.uint8]:
    lookup = np.zeros((max(colours) + 1, 3))
    for value, rgb in colours.items():
        lookup[value] = rgb
    picture: NDArray[np.uint8] = (lookup[plane] * 255).astype(np.uint8)
    return picture
