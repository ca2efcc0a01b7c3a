"""Which pictures a report has, and what each of them shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.records import Point
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.boxes import boxes_of
from voxmetry.ops.layout import PlaneMask, sections
from voxmetry.report.pictures.planes import (
    PLANES,
    Box,
    PlaneName,
    View,
    ViewPlane,
    largest_slice,
    plane_of,
    square_view,
)
from voxmetry.report.pictures.window import Window, display_window

MARGIN_MM = 12.0
OVERVIEW_MARGIN_MM = 30.0
LEAST_VIEW_MM = 40.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: a slice, the part of it that is seen, and how its values become grey."""

    plane: PlaneName
    index: int
    """Slice along the plane's array axis, from 0."""
    n_slices: int
    view_mm: View
    window: Window
    values: tuple[int, ...] = ()
    """Label values that are outlined strongly; all where empty."""
    axes: tuple[tuple[Point, Point], ...] = ()
    """Measured lines that are drawn, by their ends in RAS+ mm."""
    numbers: tuple[tuple[int, str], ...] = ()
    """Values with the number that is written inside them."""


@dataclass(frozen=True)
class Structure:
    """Where a structure lies: its bounding box, and its number of voxels in each slice along each array axis."""

    value: int
    box: Box
    areas: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def find_structures(segmentation: Segmentation) -> dict[int, Structure]:
    """Find the bounding box and the cross-sections of each value that is present, in one pass over the array."""
    found = {}
    for value, box in boxes_of(segmentation).items():
        found[value] = Structure(value, box, sections(PlaneMask(segmentation.array[box], value)))
    return found


def structure_panels(volume: Volume, structure: Structure, *, median: float = float("nan")) -> tuple[Panel, ...]:
    """Three slices through the largest cross-sections of a structure.

    Parameters
    ----------
    volume
        The image.
    structure
        Where the structure lies.
    median
        Median image value in the structure, which the window of a CT depends on.
    """
    window = display_window(volume, median)
    panels = []
    for plane in _planes(volume.geometry):
        index = structure.box[plane.normal].start + largest_slice(structure.areas[plane.normal])
        bounds = plane.bounds_mm(structure.box)
        # A third of the structure on each side keeps the neighbourhood that shows whether an outline is plausible.
        margin = max(MARGIN_MM, _size(bounds) / 3)
        panels.append(_panel(plane, index, bounds, margin, window, volume, (structure.value,)))
    return tuple(panels)


def overview_panels(volume: Volume, structures: Mapping[int, Structure]) -> tuple[Panel, ...]:
    """Three slices that together show most of all structures; the middle of the image where there is none.

    A slice counts, for each structure, the share of that structure's largest cross-section that it shows, so that small
    structures weigh as much as large ones.
    """
    window = display_window(volume)
    whole: Box = (slice(0, volume.array.shape[0]), slice(0, volume.array.shape[1]), slice(0, volume.array.shape[2]))
    box = union([structure.box for structure in structures.values()]) if structures else whole
    panels = []
    for plane in _planes(volume.geometry):
        scores = np.zeros(volume.geometry.shape[plane.normal])
        for structure in structures.values():
            section = structure.areas[plane.normal]
            scores[structure.box[plane.normal]] += section / section.max()
        bounds = plane.bounds_mm(box)
        margin = max(OVERVIEW_MARGIN_MM, _size(bounds) / 2)
        panels.append(_panel(plane, largest_slice(scores), bounds, margin, window, volume, tuple(structures)))
    return tuple(panels)


def _size(bounds: View) -> float:
    left, right, top, bottom = bounds
    return max(right - left, bottom - top)


def union(boxes: list[Box]) -> Box:
    """Return the smallest box with all boxes in it."""
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return (i, j, k)


def _planes(geometry: Geometry) -> tuple[ViewPlane, ...]:
    return tuple(plane_of(geometry, name) for name in PLANES)


def _panel(
    plane: ViewPlane,
    index: int,
    bounds: View,
    margin_mm: float,
    window: Window,
    volume: Volume,
    values: tuple[int, ...],
) -> Panel:
    return Panel(
        plane=plane.name,
        index=index,
        n_slices=volume.geometry.shape[plane.normal],
        view_mm=square_view(plane, bounds, margin_mm=margin_mm, least_mm=LEAST_VIEW_MM),
        window=window,
        values=values,
    )
