"""The picture of a registration, to be looked at before lesions are matched by it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.pictures.figures import draw_panel
from voxmetry.report.pictures.panels import find_structures, overview_panels
from voxmetry.report.pictures.window import display_window

_SQUARES = 8
_ROWS = (
    "Follow-up, outlines of its structures",
    "Baseline moved onto it; dashed: follow-up",
    "Squares of one and the other: edges must run on",
)


def render_registration(
    *, baseline: Volume, current: Volume, segmentation: Segmentation, earlier: Segmentation
) -> bytes:
    """Draw follow-up, baseline and a checkerboard of both, in three planes, as one PNG.

    Parameters
    ----------
    baseline
        The baseline image, resampled onto the grid of the follow-up by the transform.
    current
        The follow-up image.
    segmentation, earlier
        The structures of the follow-up and of the baseline on the same grid; both with the values of the follow-up.
    """
    panels = overview_panels(current, find_structures(segmentation))
    shades = [display_window(volume) for volume in (current, baseline)]
    mixed = Volume(_checkerboard(_scaled(current, shades[0]), _scaled(baseline, shades[1])), current.geometry)
    figure = Figure(figsize=(7.8, 8.4), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(3, 3)
    rows = ((current, segmentation, None, shades[0]), (baseline, earlier, segmentation, shades[1]))
    for line, (image, drawn, reference, shade) in zip(grid, (*rows, (mixed, None, None, (0.0, 1.0))), strict=True):
        for axes, panel in zip(line, panels, strict=True):
            draw_panel(axes, replace(panel, window=shade), image, drawn, reference)
    for line, text in zip(grid, _ROWS, strict=True):
        line[0].set_title(text, fontsize=9, loc="left")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.965, bottom=0.01, wspace=0.03, hspace=0.1)
    canvas.draw()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _scaled(volume: Volume, window: tuple[float, float]) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = (volume.array.astype(np.float32) - window[0]) / (window[1] - window[0])
    return np.clip(grey, 0, 1)


def _checkerboard(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = [np.arange(n) * _SQUARES // max(n, 1) for n in a.shape]
    odd = (squares[0][:, None, None] + squares[1][:, None] + squares[2]) % 2
    return np.where(odd == 1, b, a)
