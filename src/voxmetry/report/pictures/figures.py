"""Draw what a panel asks for. Matplotlib's object-oriented interface only: no window, no global state."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import matplotlib.patheffects as effects
import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from voxmetry.core.records import Point
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.pictures.panels import Panel
from voxmetry.report.pictures.planes import View, ViewPlane, plane_of

BACKGROUND = "#000000"
INK = "#FFFFFF"
FEW_STRUCTURES = 8
"""Up to this many outlines are drawn bold; more would hide the image."""
TICK_MM = 1.5
"""Half the stroke across the end of a measured line."""
_BARS_MM = (1, 2, 5, 10, 20, 50, 100, 200)


class _Ink(NamedTuple):
    """What is written on a picture, and the edge that lifts it off."""

    colour: str
    edge: str


_INK_ON_DARK, _INK_ON_LIGHT = _Ink(INK, "#000000B0"), _Ink("#182026", "#FFFFFFD0")


def draw_panel(
    axes: Axes,
    panel: Panel,
    volume: Volume,
    segmentation: Segmentation | None = None,
    reference: Segmentation | None = None,
) -> None:
    """Draw one slice with its outlines, orientation letters and a scale bar onto axes in millimetres.

    Parameters
    ----------
    axes
        Where to draw. Their limits become the panel's view, their aspect equal.
    panel
        Which slice, which part of it, and which values are black and white.
    volume
        The image.
    segmentation
        Outlined in the colours of its labels: those of `panel.values` strongly, others thinly.
    reference
        The values of `panel.values` are outlined in dashed white.
    """
    plane = plane_of(volume.geometry, panel.plane)
    rows, columns, extent = seen_part(plane, panel.view_mm)
    image = plane.picture(volume.array, panel.index)[rows, columns]
    axes.set_facecolor(BACKGROUND)
    axes.imshow(
        image.astype(np.float32),
        cmap="gray",
        vmin=panel.window[0],
        vmax=panel.window[1],
        extent=extent,
        # Larger pixels are smoothed as every viewer does; smaller ones are averaged.
        interpolation="bicubic" if min(image.shape) < 256 else "auto",
    )
    if segmentation is not None:
        draw_outlines(axes, plane, panel, segmentation, rows, columns)
    if reference is not None:
        for value, mask in _masks(plane.picture(reference.array, panel.index)[rows, columns]).items():
            if value in panel.values:
                _outline(axes, mask, plane, (rows, columns), INK, 1.1, dashed=True)
    for ends in panel.axes:
        _measured_line(axes, plane, volume, ends)
    finish_panel(axes, plane, panel)


def finish_panel(axes: Axes, plane: ViewPlane, panel: Panel, *, is_light: bool = False) -> None:
    """Set the limits of a picture, and write its orientation letters and its scale bar, dark on a light picture."""
    left, right, top, bottom = panel.view_mm
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    # Not set_axis_off, which hides the face as well: round an image that does not fill the view it stays black.
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    ink = _INK_ON_LIGHT if is_light else _INK_ON_DARK
    _letters(axes, plane, ink)
    _scale_bar(axes, right - left, ink)


def seen_part(plane: ViewPlane, view: View) -> tuple[slice, slice, tuple[float, float, float, float]]:
    """Return the rows and columns that a view needs, with one to spare on each side, and their extent in mm."""
    left, right, top, bottom = view
    (down, across), (n_rows, n_columns) = plane.pixel_mm, plane.shape
    first, last = max(0, int(top // down) - 1), min(n_rows, int(bottom // down) + 2)
    start, stop = max(0, int(left // across) - 1), min(n_columns, int(right // across) + 2)
    return slice(first, last), slice(start, stop), (start * across, stop * across, last * down, first * down)


def draw_outlines(
    axes: Axes, plane: ViewPlane, panel: Panel, segmentation: Segmentation, rows: slice, columns: slice
) -> None:
    """Outline the labels of a slice in their colours: those of the panel strongly, others thinly."""
    picture = plane.picture(segmentation.array, panel.index)[rows, columns]
    width = 1.6 if len(panel.values) <= FEW_STRUCTURES else 1.1
    masks = _masks(picture)
    # What the panel is about is drawn last, on top.
    for value, mask in sorted(masks.items(), key=lambda item: item[0] in panel.values):
        colour = segmentation.labels.by_value(value).colour
        _outline(axes, mask, plane, (rows, columns), colour, width if value in panel.values else 0.7)
    numbers = dict(panel.numbers)
    for value, cut in masks.items():
        if value in numbers:
            _number(axes, cut, plane, (rows, columns), numbers[value])


def _number(
    axes: Axes,
    cut: tuple[NDArray[np.bool_], int, int],
    plane: ViewPlane,
    seen: tuple[slice, slice],
    text: str,
) -> None:
    """Write a number inside a mask, where it is widest."""
    mask, first_row, first_column = cut
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=plane.pixel_mm)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    at = np.array([column + first_column + seen[1].start, row + first_row + seen[0].start]) + 0.5
    x, y = at * plane.pixel_mm[::-1]
    seam = [effects.Stroke(linewidth=2.0, foreground="#000000B0"), effects.Normal()]
    axes.text(x, y, text, color=INK, fontsize=7, ha="center", va="center", path_effects=seam, clip_on=True)


def _masks(picture: NDArray[Any]) -> dict[int, tuple[NDArray[np.bool_], int, int]]:
    """Cut out each value in a picture: its mask, and the row and column at which that begins."""
    boxes = ndimage.find_objects(np.ascontiguousarray(picture))
    return {
        value: (picture[box] == value, box[0].start, box[1].start)
        for value, box in enumerate(boxes, start=1)
        if box is not None
    }


def _outline(
    axes: Axes,
    cut: tuple[NDArray[np.bool_], int, int],
    plane: ViewPlane,
    seen: tuple[slice, slice],
    colour: str,
    width: float,
    *,
    dashed: bool = False,
) -> None:
    """Draw the line half-way between the voxels inside and outside; at the image's edge it runs along the edge."""
    mask, first_row, first_column = cut
    # Column and row of a voxel's centre in the padded mask, to mm from the picture's upper left corner.
    shift = np.array([first_column + seen[1].start, first_row + seen[0].start]) - 0.5
    contours = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    lines = [(np.asarray(contour) + shift) * plane.pixel_mm[::-1] for contour in contours]
    # One path for all of them: a structure in a thousand specks is drawn at the cost of one.
    drawn = PathCollection(
        [Path.make_compound_path(*(Path(line) for line in lines))],
        facecolors="none",
        edgecolors=[colour],
        linewidths=width,
        linestyles=[(0, (3, 2))] if dashed else "solid",
        capstyle="butt" if dashed else "round",
        joinstyle="round",
    )
    if width > 1:
        # A dark seam keeps light outlines visible on bright tissue.
        drawn.set_path_effects([effects.Stroke(linewidth=width + 1.2, foreground="#00000080"), effects.Normal()])
    axes.add_collection(drawn, autolim=False)


def _measured_line(axes: Axes, plane: ViewPlane, volume: Volume, ends: tuple[Point, Point]) -> None:
    """Draw a measured length as a line with a stroke across each end."""
    voxels = np.linalg.solve(volume.geometry.affine, np.column_stack([ends, (1.0, 1.0)]).T)[:3].T
    points = np.array([plane.point_mm(voxel) for voxel in voxels])
    along = points[1] - points[0]
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9) * TICK_MM
    lines = [points, *(np.array([point - across, point + across]) for point in points)]
    drawn = LineCollection(list(lines), colors=[INK], linewidths=1.3, capstyle="butt")
    drawn.set_path_effects([effects.Stroke(linewidth=2.8, foreground="#000000A0"), effects.Normal()])
    axes.add_collection(drawn, autolim=False)


def _letters(axes: Axes, plane: ViewPlane, ink: _Ink) -> None:
    left, right, top, bottom = plane.letters
    for letter, x, y, across, up in (
        (left, 0.025, 0.5, "left", "center"),
        (right, 0.975, 0.5, "right", "center"),
        (top, 0.5, 0.975, "center", "top"),
        (bottom, 0.5, 0.025, "center", "bottom"),
    ):
        _write(axes, x, y, letter, (across, up), 9, ink)


def _write(axes: Axes, x: float, y: float, text: str, aligned: tuple[str, str], size: float, ink: _Ink) -> None:
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        color=ink.colour,
        fontsize=size,
        fontweight="bold",
        ha=aligned[0],
        va=aligned[1],
        path_effects=[effects.Stroke(linewidth=2.2, foreground=ink.edge), effects.Normal()],
    )


def scale_bar_mm(width_mm: float) -> int:
    """Return the longest round length that takes at most 30 % of a width.

    Examples
    --------
    >>> scale_bar_mm(60.0), scale_bar_mm(366.0), scale_bar_mm(2.0)
    (10, 100, 1)
    """
    return max((bar for bar in _BARS_MM if bar <= 0.3 * width_mm), default=_BARS_MM[0])


def _scale_bar(axes: Axes, width_mm: float, ink: _Ink) -> None:
    bar = scale_bar_mm(width_mm)
    share = bar / width_mm
    x, y = 0.035, 0.04
    (line,) = axes.plot([x, x + share], [y, y], transform=axes.transAxes, color=ink.colour, linewidth=2.0)
    line.set_solid_capstyle("butt")
    line.set_path_effects([effects.Stroke(linewidth=3.6, foreground=ink.edge), effects.Normal()])
    _write(axes, x, y + 0.02, f"{bar} mm", ("left", "bottom"), 7, ink)


def render_png(
    panel: Panel, volume: Volume, segmentation: Segmentation, reference: Segmentation | None = None, *, pixels: int
) -> bytes:
    """Draw a panel as a square PNG of `pixels` x `pixels` with a palette of 256 colours.

    The palette saves a quarter of the bytes; a grey image with a few outlines loses nothing visible by it.
    """
    figure = Figure(figsize=(2.6, 2.6), dpi=pixels / 2.6, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    draw_panel(figure.add_axes((0.0, 0.0, 1.0, 1.0)), panel, volume, segmentation, reference)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    out = io.BytesIO()
    small = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()
