"""DICOM segmentations in: binary, fractional and label map, with overlapping segments and frames left out.

Reference: DICOM PS3.3 A.51 (Segmentation), A.90 (Label Map Segmentation) and C.8.20.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, GeometryError, LabelError, ReadingWarning
from voxmetry.io.dicom.read.decode import decode_frame, is_encapsulated
from voxmetry.io.dicom.read.grid import tolerance_mm
from voxmetry.io.dicom.read.headers import (
    PARSING_ERRORS,
    lenient,
    number,
    numbers,
    parsing,
    read_all,
    text,
    transfer_syntax_uid,
    whole,
)
from voxmetry.io.dicom.read.kinds import shown
from voxmetry.io.dicom.segmentations.codes import labels_of
from voxmetry.io.lattice import OFF_LATTICE, Move, find_move
from voxmetry.io.overlapping import Layers

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

_DECODING_ERRORS = (*PARSING_ERRORS, RuntimeError, OSError, MemoryError)


@dataclass(frozen=True)
class _Frame:
    """One frame: its place in LPS+ mm and the segment that it belongs to (0: a label map holds all)."""

    index: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    step_mm: float | None
    """Spacing Between Slices."""
    thickness_mm: float | None
    segment: int


def read_seg(
    path: Path, *, grid: Geometry | None = None, threshold: float = 0.5
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Read a DICOM segmentation.

    Parameters
    ----------
    path
        The file.
    grid
        The image's grid; without it the frames' own is taken, from the lowest to the highest frame.
    threshold
        A fractional segment holds the voxels at or above this share of the maximum.

    Returns
    -------
    tuple of Segmentation
        One where no segments overlap, else as few as hold them. Label values are segment numbers.
    tuple of str
        The pairs of segments that overlap.

    Raises
    ------
    FormatError
        If it is no segmentation of a patient, or is damaged.
    GeometryError
        If the frames lie on no common grid, or on another than `grid`.
    LabelError
        If a frame names a segment that the file does not describe.

    Warns
    -----
    ReadingWarning
        If no image is given, and the positions of the frames contradict Spacing Between Slices.
    """
    dataset = read_all(path, path.name)
    with lenient(), parsing(path.name):
        frames = _frames(dataset, path.name)
        table = labels_of(dataset, path.name)
        own, slots = _own_grid(frames, dataset, path.name, grid)
    if grid is None:
        _warn_of_step(frames, own.spacing_mm[2], path.name)
    with lenient():
        move = find_move(own, grid) if grid else None
        layers = _Placed(own, move, grid or own, path.name)
        if text(dataset, "SegmentationType") == "LABELMAP":
            return (_label_map(dataset, slots, table, layers, path.name),), ()
        return _segments(dataset, frames, slots, table, layers, threshold, path.name)


@dataclass(frozen=True)
class _Placed:
    """The frames' own grid, and how it lies in the one that was asked for."""

    own: Geometry
    move: Move | None
    target: Geometry
    name: str

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        return self.move(array) if self.move else array


def _label_map(dataset: Any, slots: Sequence[int], table: LabelTable, placed: _Placed, name: str) -> Segmentation:
    if len(set(slots)) < len(slots):
        raise FormatError(
            found=f"{name} is a label map with {len(slots)} frames at {len(set(slots))} places",
            expected="one frame at each place",
            fix="export the segmentation again; if its segments have frames of their own, it is none of type LABELMAP",
        )
    array = np.zeros(placed.own.shape, np.uint16 if dataset.BitsAllocated > 8 else np.uint8, order="F")
    for k, frame in zip(slots, _pixels(dataset, range(len(slots)), name), strict=True):
        array[:, :, k] = frame.T
    padding = whole(dataset, "PixelPaddingValue")
    if padding:
        array[array == padding] = 0
    return Segmentation(placed.put(array), placed.target, table)


def _segments(
    dataset: Any,
    frames: Sequence[_Frame],
    slots: Sequence[int],
    table: LabelTable,
    placed: _Placed,
    threshold: float,
    name: str,
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Place the frames segment by segment, so that only one segment is in memory beside the result."""
    least = 1.0
    if text(dataset, "SegmentationType") == "FRACTIONAL":
        most = whole(dataset, "MaximumFractionalValue") or 0
        if most <= 0:
            raise FormatError(
                found=f"{name} is fractional, without Maximum Fractional Value",
                expected="the value that stands for a whole voxel",
                fix="export the segmentation again",
            )
        least = threshold * most
    unknown = sorted({frame.segment for frame in frames} - set(table.values))
    if unknown:
        raise LabelError(
            found=f"{name} has frames of the segments {unknown[:10]}, which it does not describe",
            expected=f"segments among {list(table.values)}",
            fix="export the segmentation again",
        )
    layers = Layers(placed.own, name)
    for label in table:
        mine = [frame.index for frame in frames if frame.segment == label.value]
        pixels = _pixels(dataset, mine, name)
        layers.add(label, [_piece(slots[i], least <= frame.T) for i, frame in zip(mine, pixels, strict=True)])
    moved = tuple(Segmentation(placed.put(x.array), placed.target, x.labels) for x in layers.all())
    return moved, layers.pairs


def _piece(k: int, mask: NDArray[np.bool_]) -> tuple[tuple[Any, ...], NDArray[np.bool_]]:
    """Crop a slice (I, J) to what is in it: most of a frame is empty."""
    i, j = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not i.size:
        return (slice(0, 0), slice(0, 0), k), mask[:0, :0]
    box = (slice(int(i[0]), int(i[-1]) + 1), slice(int(j[0]), int(j[-1]) + 1))
    return (*box, k), mask[box].copy()


def _pixels(dataset: Any, indices: Sequence[int], name: str) -> Iterator[NDArray[Any]]:
    """Yield the named frames, shape (rows, columns)."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import iter_pixels

    if not indices:
        return
    try:
        if is_encapsulated(transfer_syntax_uid(dataset)):
            for index in indices:
                code = get_frame(dataset.PixelData, index, number_of_frames=dataset.NumberOfFrames)
                yield decode_frame(code, dataset, name)
        # Bits are taken straight from the bytes: eight times quicker than frame by frame through the decoder.
        elif dataset.BitsAllocated == 1:
            yield from _bits(dataset, indices)
        else:
            for frame in iter_pixels(dataset, indices=list(indices)):
                yield frame.reshape(dataset.Rows, dataset.Columns)
    except _DECODING_ERRORS as error:
        raise FormatError(
            found=f"{name}: its pixels cannot be decoded ({type(error).__name__}); the file may be cut off",
            expected="as many pixels as the header says",
            fix="copy or export the file again from its source",
        ) from error


def _bits(dataset: Any, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of one bit a pixel, the first in the lowest bit (PS3.5 8.1.1); frames need not begin at a byte."""
    raw = np.frombuffer(dataset.PixelData, np.uint8)
    rows, columns = dataset.Rows, dataset.Columns
    size = rows * columns
    if raw.size * 8 < size * int(dataset.NumberOfFrames):
        raise EOFError("pixel data ends early")
    for index in indices:
        first, skip = divmod(index * size, 8)
        bits = np.unpackbits(raw[first : first + (skip + size + 7) // 8], bitorder="little")
        yield bits[skip : skip + size].reshape(rows, columns)


def _frames(dataset: Any, name: str) -> list[_Frame]:
    count = whole(dataset, "NumberOfFrames") or 0
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    size = [whole(dataset, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated")]
    if min(size) <= 0:
        raise FormatError(
            found=f"{name} has no usable Rows, Columns or Bits Allocated",
            expected="all three, which say how many pixels a frame has",
            fix="export the segmentation again",
        )
    if not count or len(groups) != count or "PixelData" not in dataset:
        raise FormatError(
            found=f"{name} has {count} frames and {len(groups)} descriptions of frames",
            expected="a segmentation in the patient's frame of reference, with a position for each frame",
            fix="export the segmentation again; those of slides, projections and photographs are not read",
        )
    kind = text(dataset, "SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise FormatError(
            found=f"{name}: Segmentation Type {kind or 'absent'}",
            expected="BINARY, FRACTIONAL or LABELMAP",
            fix="export the segmentation again",
        )
    return [_frame(index, own, shared, kind == "LABELMAP", name) for index, own in enumerate(groups)]


def _frame(index: int, own: Any, shared: Any, is_label_map: bool, name: str) -> _Frame:
    def item(sequence: str) -> Any:
        found = own.get(sequence) or shared.get(sequence)
        return found[0] if found else {}

    position = numbers(item("PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = numbers(item("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    measures = item("PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing", 2)
    segment = 0 if is_label_map else whole(item("SegmentIdentificationSequence"), "ReferencedSegmentNumber")
    if position is None or orientation is None or spacing is None or segment is None or min(spacing) <= 0:
        raise FormatError(
            found=f"frame {index + 1} of {name} has no usable position, orientation, pixel spacing or segment number",
            expected="all four, shared or for each frame",
            fix="export the segmentation again; those of slides, projections and photographs are not read",
        )
    step, thickness = (_above_zero(measures, keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness"))
    return _Frame(index, position, orientation, spacing, step, thickness, segment)


def _above_zero(item: Any, keyword: str) -> float | None:
    value = number(item, keyword)
    return value if value is not None and 0 < value < np.inf else None


def _own_grid(
    frames: Sequence[_Frame], dataset: Any, name: str, grid: Geometry | None
) -> tuple[Geometry, tuple[int, ...]]:
    """Return the grid from the lowest to the highest frame, and the slice of each frame on it."""
    first = frames[0]
    odd = [
        f"frame {x.index + 1}"
        for x in frames
        if np.abs(np.subtract(x.orientation, first.orientation)).max() > 2e-4
        or np.abs(np.subtract(x.spacing, first.spacing)).max() > 1e-4 * min(first.spacing)
    ]
    if odd:
        raise GeometryError(
            found=f"{name}: {shown(odd)} with another orientation or pixel spacing than the first",
            expected="one grid",
            fix="export the segmentation for one series",
        )
    row, column = np.reshape(first.orientation, (2, 3)).astype(np.float64)
    normal = np.cross(row, column)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    lowest = int(heights.argmin())
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    snapped = _on_image(affine, normal, positions, grid) if grid is not None else None
    if snapped is not None:
        affine, slots = snapped
    else:
        step, slots = _steps(heights - heights[lowest], first, normal, grid, name)
        affine[:3, 2] = normal * step
        # From all frames, so that the rounding of one position does not move the others.
        origins = positions - np.outer(slots, affine[:3, 2])
        affine[:3, 3] = np.median(origins, axis=0)
        off = np.linalg.norm(origins - affine[:3, 3], axis=1)
        if off.max() > tolerance_mm(step):
            raise GeometryError(
                found=f"frame {int(off.argmax()) + 1} of {name} lies {off.max():.3g} mm off the grid of the others",
                expected=f"frames one above the other, a whole number of steps apart (to {tolerance_mm(step):.3g} mm)",
                fix="pass the image that was segmented, so that its slices say where frames may lie, "
                "or resample the segmentation onto a regular grid",
            )
    shape = (int(dataset.Columns), int(dataset.Rows), int(slots.max()) + 1)
    return Geometry(swap_lps_ras(affine), shape, text(dataset, "FrameOfReferenceUID")), tuple(slots.tolist())


def _on_image(
    affine: Float64, normal: Float64, positions: Float64, grid: Geometry
) -> tuple[Float64, NDArray[np.intp]] | None:
    """Put frames on the slices of the image that they belong to; None where they are none of its slices.

    Positions of both are rounded in headers. What counts as a slice's place for the image does so for a frame of it.
    """
    ijk = grid.to_ijk(swap_lps_ras(positions))
    nearest = np.rint(ijk)
    off = np.linalg.norm(grid.to_mm(nearest) - swap_lps_ras(positions), axis=1)
    directions = np.column_stack([affine[:3, 0], affine[:3, 1], normal])
    steps = np.linalg.solve(grid.affine[:3, :3], swap_lps_ras(directions.T).T)
    axes = np.abs(steps).argmax(axis=0)
    along = grid.spacing_mm[int(axes[2])]
    whole = np.zeros((3, 3))
    whole[axes, range(3)] = np.sign(steps[axes, range(3)])
    # In the plane a pixel is a pixel of the image: over a whole row the two may part by a twentieth of one.
    parts = np.abs(steps[:, :2] - whole[:, :2]).max() * max(grid.shape)
    if sorted(axes.tolist()) != [0, 1, 2] or parts > OFF_LATTICE or off.max() > tolerance_mm(along):
        return None
    found = np.eye(4)
    found[:3, :3] = swap_lps_ras((grid.affine[:3, :3] @ whole).T).T
    places = nearest[:, axes[2]] * whole[axes[2], 2]
    lowest = int(places.argmin())
    found[:3, 3] = swap_lps_ras(grid.to_mm(nearest[lowest]))
    return found, (places - places[lowest]).astype(np.intp)


def _steps(
    heights: Float64, first: _Frame, normal: Float64, grid: Geometry | None, name: str
) -> tuple[float, NDArray[np.intp]]:
    """Return the step in mm, and how many lie below each frame.

    The step is the image's; without one the positions decide it, with what the header says for frames that were left
    out: see `_stated_steps`. It is fitted to all positions by least squares.
    """
    if grid is not None:
        along = np.abs(swap_lps_ras(normal) @ grid.directions)
        image_mm = grid.spacing_mm[int(along.argmax())]
        return image_mm, np.rint(heights / image_mm).astype(np.intp)
    gaps = np.diff(np.unique(np.round(heights, 3)))
    gaps = gaps[gaps > 0.01]
    if not gaps.size:
        stated = first.step_mm or first.thickness_mm
        if not stated:
            raise GeometryError(
                found=f"{name} has one slice and no Slice Thickness",
                expected="a thickness, or the image that was segmented",
                fix="pass the image",
            )
        return stated, np.zeros(len(heights), np.intp)
    usual = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for step in (*_stated_steps(gaps, first), usual):
        fitted = _fitted(gaps, step)
        if fitted is not None:
            return fitted, np.rint(heights / fitted).astype(np.intp)
    smallest = float(gaps.min())
    return smallest, np.rint(heights / smallest).astype(np.intp)


def _warn_of_step(frames: Sequence[_Frame], step_mm: float, name: str) -> None:
    stated = frames[0].step_mm
    if stated and abs(step_mm - stated) > tolerance_mm(step_mm):
        warnings.warn(
            f"{name}: Spacing Between Slices says {stated:.4g} mm, and its frames lie {step_mm:.4g} mm apart: their "
            "positions were taken",
            ReadingWarning,
            stacklevel=4,
        )


def _stated_steps(gaps: Float64, first: _Frame) -> list[float]:
    """Return the steps that a header states and the gaps between frames confirm.

    A stated step is confirmed by gaps that have no larger step in common: frames at 0, 2 and 5 mm are a millimetre
    apart, with frames left out, those at 0, 3 and 6 mm are not. A single gap confirms a Spacing Between Slices unless
    the slices are as thick as the gap is wide. Slice Thickness is no step, and a single gap never confirms it.
    """
    confirmed = []
    for stated, is_step in ((first.step_mm, True), (first.thickness_mm, False)):
        if stated is None or _fitted(gaps, stated) is None:
            continue
        shared = int(np.gcd.reduce(np.rint(gaps / stated).astype(np.int64)))
        thick = (first.thickness_mm or 0.0) >= gaps.min() - tolerance_mm(float(gaps.min()))
        if shared == 1 or (len(gaps) == 1 and is_step and not thick):
            confirmed.append(stated)
    return confirmed


def _fitted(gaps: Float64, step: float) -> float | None:
    """Return a step that is near to this one and fits all gaps, each a whole number of it; None where none does."""
    slots = np.concatenate([[0], np.cumsum(np.maximum(np.rint(gaps / step), 1))])
    places = np.concatenate([[0.0], np.cumsum(gaps)])
    centred = slots - slots.mean()
    fitted = float(centred @ places / (centred @ centred))
    off = np.abs(places - places.mean() - fitted * centred).max()
    return fitted if off <= tolerance_mm(fitted) else None
