"""PET over the image that it belongs to, and its maximum-intensity projections: what a PET is read by.

The PET keeps its own grid: each picture samples it at the positions in mm of the slice that is shown.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.layout import memory_axes
from voxmetry.report.pictures.figures import BACKGROUND, draw_outlines, finish_panel, seen_part
from voxmetry.report.pictures.panels import Panel
from voxmetry.report.pictures.planes import PlaneName, plane_of
from voxmetry.report.pictures.uptake import OPAQUE, sampled, top_of
from voxmetry.report.pictures.window import Window

PROJECTED: tuple[PlaneName, ...] = ("coronal", "sagittal")


def draw_fused(axes: Axes, panel: Panel, volume: Volume, segmentation: Segmentation, overlay: Volume) -> None:
    """Draw a slice of the image in grey, the overlay over it in colour, and the outlines."""
    plane = plane_of(volume.geometry, panel.plane)
    rows, columns, extent = seen_part(plane, panel.view_mm)
    axes.set_facecolor(BACKGROUND)
    grey = plane.picture(volume.array, panel.index)[rows, columns].astype(np.float32)
    low, high = panel.window
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bicubic")
    share = np.clip(sampled(overlay, volume.geometry, plane, panel.index)[rows, columns] / top_of(overlay), 0.0, 1.0)
    colour: Any = matplotlib.colormaps["hot"](share)
    colour[..., 3] = OPAQUE * np.sqrt(share)
    axes.imshow(colour, extent=extent, interpolation="bilinear")
    draw_outlines(axes, plane, panel, segmentation, rows, columns)
    finish_panel(axes, plane, panel)


def projection_panels(overlay: Volume) -> tuple[Panel, ...]:
    """Plan the projections along the front and the side of the whole overlay."""
    window: Window = (0.0, top_of(overlay))
    panels = []
    for name in PROJECTED:
        plane = plane_of(overlay.geometry, name)
        height, width = plane.size_mm
        side = max(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        view = (left, left + side, top, top + side)
        panels.append(Panel(plane=name, index=0, n_slices=1, view_mm=view, window=window))
    return tuple(panels)


def draw_projection(axes: Axes, panel: Panel, overlay: Volume, segmentation: Segmentation) -> None:
    """Draw the largest value along each line of sight, dark where it is high, with the outlines of what was found."""
    plane = plane_of(overlay.geometry, panel.plane)
    height, width = plane.size_mm
    axes.set_facecolor("#FFFFFF")
    highest = plane.picture(overlay.array.max(axis=plane.normal, keepdims=True), 0)
    axes.imshow(
        highest.astype(np.float32),
        cmap="gray_r",
        vmin=panel.window[0],
        vmax=panel.window[1],
        extent=(0.0, width, height, 0.0),
        interpolation="bicubic",
    )
    whole = (slice(0, plane.shape[0]), slice(0, plane.shape[1]))
    flat = _shadow(segmentation, overlay.geometry, plane.normal)
    shown = replace(panel, values=segmentation.labels.values)
    cast = Segmentation(flat, _thin(overlay.geometry, plane.normal), segmentation.labels)
    draw_outlines(axes, plane, shown, cast, *whole)
    finish_panel(axes, plane, panel, is_light=True)


def _shadow(segmentation: Segmentation, grid: Geometry, normal: int) -> NDArray[np.uint16]:
    """Return what the labels cast on the overlay's grid along one axis: one slice, the larger value where two meet."""
    shape = [1 if axis == normal else n for axis, n in enumerate(grid.shape)]
    flat = np.zeros(shape, np.uint16)
    axis = memory_axes(segmentation.array)[0]
    for index, plane in enumerate(np.moveaxis(segmentation.array, axis, 0)):
        voxels = np.argwhere(plane)
        ijk = np.insert(voxels, axis, index, axis=1)
        ijk = np.rint(grid.to_ijk(segmentation.geometry.to_mm(ijk))).astype(np.intp)
        ijk = np.clip(ijk, 0, np.array(grid.shape) - 1)
        ijk[:, normal] = 0
        np.maximum.at(flat, tuple(ijk.T), plane[tuple(voxels.T)].astype(np.uint16))
    return flat


def _thin(grid: Geometry, normal: int) -> Geometry:
    shape = [1 if axis == normal else n for axis, n in enumerate(grid.shape)]
    return Geometry(grid.affine, (shape[0], shape[1], shape[2]))


def render_fused(panel: Panel, volume: Volume, segmentation: Segmentation, overlay: Volume, *, pixels: int) -> bytes:
    """Draw a fused slice as a square PNG."""
    return _png(lambda axes: draw_fused(axes, panel, volume, segmentation, overlay), pixels)


def render_projection(panel: Panel, overlay: Volume, segmentation: Segmentation, *, pixels: int) -> bytes:
    """Draw a projection as a square PNG."""
    return _png(lambda axes: draw_projection(axes, panel, overlay, segmentation), pixels)


def _png(draw: Any, pixels: int) -> bytes:
    figure = Figure(figsize=(2.6, 2.6), dpi=pixels / 2.6, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    out = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
