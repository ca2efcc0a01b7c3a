"""Slices with outlines: structures, lesions with their measured axes, and a prediction compared with a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from voxmetry.core.labels import Label
from voxmetry.core.records import Lesion
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import clean
from voxmetry.core.volume import Volume
from voxmetry.errors import LabelError
from voxmetry.plot.base import new_figure
from voxmetry.report.comparison.pictures import AGREED, EXTRA, MISSED, draw_error, error_panels
from voxmetry.report.pictures.figures import draw_panel
from voxmetry.report.pictures.panels import Panel, find_structures, overview_panels, structure_panels
from voxmetry.report.pictures.planning import lesion_panels

_INCHES = 2.8
MOST_KEYS = 8
"""Structures that are named below the pictures; with more, their colours repeat and a key would mislead."""


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
    figure = new_figure(3 * _INCHES, _INCHES + 0.55)
    for axes, panel in zip(figure.subplots(1, 3), panels, strict=True):
        draw_panel(axes, panel, volume, segmentation, reference)
        _title(axes, panel)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.12, wspace=0.03)
    if len(shown) <= MOST_KEYS:
        _name(figure, shown)
    return figure


def lesions(volume: Volume, segmentation: Segmentation, rows: Sequence[Lesion], *, most: int = 6) -> Figure:
    """Draw each lesion in three planes, the axial one with the long and the short axis that were measured in it.

    Parameters
    ----------
    volume
        The image, (I, J, K).
    segmentation
        The labels that the lesions were measured in.
    rows
        What `voxmetry.measurement.lesions` returned.
    most
        How many are drawn at most, the largest ones first.

    Returns
    -------
    matplotlib.figure.Figure
        One row of three axes for each lesion.

    Raises
    ------
    GeometryError
        If the image and the labels are not of one grid.
    LabelError
        If there is no lesion to draw.

    Examples
    --------
    >>> import numpy as np
    >>> from voxmetry import Geometry, LabelTable, Segmentation, Volume
    >>> from voxmetry.measurement.lesions import lesions as measure_lesions
    >>> grid = Geometry(np.diag([1.0, 1.5, 3.0, 1.0]), (30, 20, 10))
    >>> labels = np.zeros(grid.shape, np.uint8)
    >>> labels[5:12, 4:9, 3:7] = 1
    >>> labels[20:23, 12:15, 3:5] = 1
    >>> segmentation = Segmentation(labels, grid, LabelTable.from_names({1: "tumour"}))
    >>> found = measure_lesions(segmentation, labels=["tumour"])
    >>> len(lesions(Volume(labels * 50.0, grid), segmentation, found).axes)
    6
    """
    volume.geometry.require_same(segmentation.geometry, what="the image and the segmentation")
    shown = sorted(rows, key=lambda lesion: -lesion.volume_ml)[:most]
    if not shown:
        raise LabelError(
            found="no lesion to draw",
            expected="at least one row of voxmetry.measurement.lesions",
            fix="look at the slices of the image instead: voxmetry.plot.slices",
        )
    figure = new_figure(3 * _INCHES, len(shown) * (_INCHES + 0.35))
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for line, lesion in zip(grid, shown, strict=True):
        for axes, panel in zip(line, lesion_panels(volume, lesion), strict=True):
            draw_panel(axes, panel, volume, segmentation)
            _title(axes, panel)
        size = f"{lesion.long_axis_mm:.1f} x {lesion.short_axis_mm:.1f} mm axial"
        said = f"{clean(lesion.id)}: {lesion.volume_ml:.3g} mL, {size}"
        line[0].set_title("")
        line[0].set_title(said, fontsize=9, loc="left", parse_math=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.32 / figure.get_figheight(), bottom=0.01, wspace=0.03)
    return figure


def compare(
    volume: Volume | None, *, prediction: Segmentation, reference: Segmentation, label: str | None = None
) -> Figure:
    """Draw where a prediction is wrong: in each plane the slice with the most wrong voxels of one structure.

    Agreement is grey, missed blue, invented red; the prediction is outlined in yellow, the reference in dashed white.

    Parameters
    ----------
    volume
        The image, (I, J, K); None for a black ground.
    prediction, reference
        Label maps on one grid, matched by the names of their labels.
    label
        The structure; None takes the one with the most wrong voxels.

    Raises
    ------
    GeometryError
        If the grids differ.
    LabelError
        If `label` is not in both tables, the tables share no name, or neither mask has a voxel of it.

    Examples
    --------
    >>> import numpy as np
    >>> from voxmetry import Geometry, LabelTable, Segmentation
    >>> grid = Geometry(np.diag([1.0, 1.5, 3.0, 1.0]), (30, 20, 10))
    >>> labels = np.zeros(grid.shape, np.uint8)
    >>> labels[5:12, 4:9, 3:7] = 1
    >>> one = Segmentation(labels, grid, LabelTable.from_names({1: "liver"}))
    >>> other = Segmentation(np.roll(labels, 2, 0), grid, one.labels)
    >>> compare(None, prediction=other, reference=one).axes[0].get_title()
    'Axial 5 / 10'
    """
    prediction.geometry.require_same(reference.geometry, what="the prediction and the reference")
    if volume is not None:
        volume.geometry.require_same(reference.geometry, what="the image and the reference")
    name = label or _most_wrong(prediction, reference)
    ours, theirs = prediction.mask(name), reference.mask(name)
    if not (ours.any() or theirs.any()):
        raise LabelError(
            found=f"no voxel of {name!r} in either label map",
            expected="a structure that is in at least one",
            fix="name another structure, or leave label out",
        )
    figure = new_figure(3 * _INCHES, _INCHES + 0.55)
    panels = error_panels(ours, theirs, reference.geometry, volume)
    for axes, panel in zip(figure.subplots(1, 3), panels, strict=True):
        draw_error(axes, panel, ours, theirs, reference.geometry, volume)
        _title(axes, panel)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.12, wspace=0.03)
    both = int(ours.sum()) + int(theirs.sum())
    words = f"{clean(name)}: Dice {2 * int((ours & theirs).sum()) / both:.3f}"
    figure.text(0.015, 0.05, words, fontsize=8.5, va="center", parse_math=False)
    for x, colour, text in ((0.55, AGREED, "both"), (0.66, MISSED, "missed"), (0.79, EXTRA, "invented")):
        figure.text(x, 0.05, "■", color=colour, fontsize=10, va="center")
        figure.text(x + 0.022, 0.05, text, fontsize=8.5, va="center")
    return figure


def _most_wrong(prediction: Segmentation, reference: Segmentation) -> str:
    names = [name for name in reference.labels.names if name in prediction.labels.names]
    if not names:
        raise LabelError(
            found="two label tables without a common name",
            expected="the same structures by the same names",
            fix="rename the labels of one of them",
        )
    return max(names, key=lambda name: int((prediction.mask(name) ^ reference.mask(name)).sum()))


def _title(axes: Axes, panel: Panel) -> None:
    axes.set_title(f"{panel.plane.capitalize()} {panel.index + 1} / {panel.n_slices}", fontsize=9)


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
        figure.text(x + 0.022, y, clean(label.name), fontsize=8.5, va="center", parse_math=False)
