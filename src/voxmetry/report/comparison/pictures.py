"""Pictures of where a prediction is wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.boxes import label_boxes
from voxmetry.ops.layout import sections
from voxmetry.report.pictures.figures import BACKGROUND, draw_panel
from voxmetry.report.pictures.panels import LEAST_VIEW_MM, MARGIN_MM, Panel
from voxmetry.report.pictures.planes import PLANES, largest_slice, plane_of, square_view
from voxmetry.report.pictures.window import display_window

MISSED, EXTRA, AGREED = "#56B4E9", "#D55E00", "#9AA0A6"
"""Only in the reference, only in the prediction, in both: colours that any colour vision tells apart."""
PIXELS = 336

_ONE = LabelTable.from_names({1: "structure"})
_OUTLINE = LabelTable(labels=(_ONE.labels[0].model_copy(update={"colour": "#F0E442"}),))


def error_panels(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], geometry: Geometry, image: Volume | None = None
) -> tuple[Panel, ...]:
    """Choose, in each of three planes, the slice with the most wrong voxels.

    Parameters
    ----------
    ours, theirs
        (I, J, K), one structure in prediction and reference; at least one has a voxel.
    geometry
        Their grid.
    image
        The image, for its grey values.
    """
    wrong = ours ^ theirs
    either = ours | theirs
    (box,) = label_boxes(either.view(np.uint8)).values()
    scores = sections(wrong if wrong.any() else either)
    panels = []
    for name in PLANES:
        plane = plane_of(geometry, name)
        bounds = plane.bounds_mm(box)
        panels.append(
            Panel(
                plane=name,
                index=largest_slice(scores[plane.normal]),
                n_slices=geometry.shape[plane.normal],
                view_mm=square_view(plane, bounds, margin_mm=MARGIN_MM / 2, least_mm=LEAST_VIEW_MM / 2),
                window=(0.0, 1.0) if image is None else display_window(image),
                values=(1,),
            )
        )
    return tuple(panels)


def render_error(
    panel: Panel,
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    geometry: Geometry,
    image: Volume | None = None,
    *,
    pixels: int = PIXELS,
) -> bytes:
    """Draw one slice as a square PNG: agreement grey, missed blue, invented red, with both outlines.

    Without an image the ground is black.
    """
    figure = Figure(figsize=(2.6, 2.6), dpi=pixels / 2.6, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    draw_error(figure.add_axes((0.0, 0.0, 1.0, 1.0)), panel, ours, theirs, geometry, image)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    out = io.BytesIO()
    small = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def draw_error(
    axes: Axes,
    panel: Panel,
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    geometry: Geometry,
    image: Volume | None = None,
) -> None:
    """Draw onto axes what `render_error` renders: `ours` outlined in yellow, `theirs` in dashed white."""
    ground = image or Volume(np.broadcast_to(np.uint8(0), geometry.shape), geometry)
    prediction = Segmentation(ours.astype(np.uint8), geometry, _OUTLINE)
    reference = Segmentation(theirs.astype(np.uint8), geometry, _OUTLINE)
    draw_panel(axes, panel, ground, prediction, reference)
    _tint(axes, panel, ours, theirs, geometry, 0.45 if image is not None else 0.85)


def _tint(
    axes: Axes, panel: Panel, ours: NDArray[np.bool_], theirs: NDArray[np.bool_], geometry: Geometry, alpha: float
) -> None:
    """Lay the colours between the image and the outlines, and leave the view as it is."""
    plane = plane_of(geometry, panel.plane)
    mine, other = (plane.picture(mask, panel.index) for mask in (ours, theirs))
    colours: NDArray[Any] = np.zeros((*mine.shape, 4), np.float32)
    colours[mine & other] = to_rgba(AGREED, alpha * 0.6)
    colours[mine & ~other] = to_rgba(EXTRA, alpha)
    colours[other & ~mine] = to_rgba(MISSED, alpha)
    height, width = plane.size_mm
    across, up = axes.get_xlim(), axes.get_ylim()
    axes.imshow(colours, extent=(0, width, height, 0), interpolation="nearest", zorder=0.5)
    axes.set_xlim(across)
    axes.set_ylim(up)
