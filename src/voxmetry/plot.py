"""Pictures for a notebook or a paper, good without tuning.

Figures are matplotlib's own and need no `pyplot`: save one with `figure.savefig("slices.pdf")`; as the last line of a
notebook's cell it shows itself.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from voxmetry.core.labels import Label
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import LabelError
from voxmetry.report.figures import draw_panel
from voxmetry.report.panels import find_structures, overview_panels, structure_panels

__all__ = ["slices"]

_INCHES = 2.8
MOST_KEYS = 8
"""Structures that are named below the pictures; with more, their colours repeat and a key would mislead."""


class _Shown(Figure):
    """A figure that a notebook can show whichever backend is set, or none."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=110)
        return out.getvalue()


def slices(
    volume: Volume,
    segmentation: Segmentation | None = None,
    *,
    reference: Segmentation | None = None,
    label: str | None = None,
) -> Figure:
    """Draw an axial, a coronal and a sagittal slice with the outlines of a segmentation.

    Patient right is on the left of axial and coronal slices, anterior on the left of sagittal ones; letters name the
    nearest patient direction, and the aspect is that of the patient. An oblique grid is shown in its own axes.

    Parameters
    ----------
    volume
        The image, (I, J, K).
    segmentation
        Outlined in the colours of its labels. Without one, the middle slices are shown.
    reference
        Labels of the same values, outlined in dashed white.
    label
        Name of the structure to show, through its largest cross-sections. Without one, the slices that together show
        most of all structures.

    Returns
    -------
    matplotlib.figure.Figure
        Three axes in millimetres.

    Raises
    ------
    GeometryError
        If the image and the labels are not of one grid.
    LabelError
        If `label` is not in the table, or has no voxel.

    Examples
    --------
    >>> import numpy as np
    >>> from voxmetry import Geometry, LabelTable, Segmentation, Volume
    >>> grid = Geometry(np.diag([1.0, 1.5, 3.0, 1.0]), (30, 20, 10))
    >>> labels = np.zeros(grid.shape, np.uint8)
    >>> labels[5:12, 4:9, 3:7] = 1
    >>> segmentation = Segmentation(labels, grid, LabelTable.from_names({1: "liver"}))
    >>> figure = slices(Volume(labels * 50.0, grid), segmentation, label="liver")
    >>> [axes.get_title() for axes in figure.axes]
    ['Axial 5 / 10', 'Coronal 7 / 20', 'Sagittal 9 / 30']
    """
    for labels, what in ((segmentation, "the segmentation"), (reference, "the reference")):
        if labels is not None:
            volume.geometry.require_same(labels.geometry, what=f"the image and {what}")
    structures = find_structures(segmentation) if segmentation is not None else {}
    if label is None:
        panels = overview_panels(volume, structures)
        shown = [item for item in segmentation.labels if item.value in structures] if segmentation else []
    else:
        item = _label(segmentation, label)
        if segmentation is None or item.value not in structures:
            raise LabelError(
                found=f"no voxel of {label!r} in the segmentation",
                expected="a structure that is there",
                fix="leave label out to see the slices that show most of all structures",
            )
        median = float(np.median(volume.array[segmentation.array == item.value]))
        panels = structure_panels(volume, structures[item.value], median=median)
        shown = [item]
    figure = _Shown(figsize=(3 * _INCHES, _INCHES + 0.55), facecolor="white")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, 3), panels, strict=True):
        draw_panel(axes, panel, volume, segmentation, reference)
        axes.set_title(f"{panel.plane.capitalize()} {panel.index + 1} / {panel.n_slices}", fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.12, wspace=0.03)
    if len(shown) <= MOST_KEYS:
        _name(figure, shown)
    return figure


def _label(segmentation: Segmentation | None, name: str) -> Label:
    if segmentation is None:
        raise LabelError(
            found=f"the label {name!r} without a segmentation",
            expected="the segmentation that it belongs to",
            fix="pass segmentation= as well",
        )
    return segmentation.labels[name]


def _name(figure: Figure, shown: list[Label]) -> None:
    """Write the names of the structures below the pictures, each with its colour, four to a line."""
    for place, label in enumerate(shown):
        line, column = divmod(place, 4)
        x, y = 0.015 + 0.245 * column, 0.075 - 0.055 * line
        figure.text(x, y, "■", color=label.colour, fontsize=10, va="center")
        # A dollar sign in a name is no formula.
        figure.text(x + 0.022, y, label.name, fontsize=8.5, va="center", parse_math=False)
