"""DICOM segmentations in: binary, fractional and label map, with overlapping segments and frames left out.

Reference: DICOM PS3.3 A.51 (Segmentation), A.90 (Label Map Segmentation) and C.8.20.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.axes import find_move
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, LabelError
from voxmetry.io.dicom.read.decode import decode_frame, is_encapsulated
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
from voxmetry.io.dicom.segmentations.codes import labels_of
from voxmetry.io.dicom.segmentations.seg_grid import PlacedFrames, SegFrame, own_grid, warn_of_step
from voxmetry.io.overlapping import Layers, Piece

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

_DECODING_ERRORS = (*PARSING_ERRORS, RuntimeError, OSError, MemoryError)


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
        own, slots = own_grid(frames, dataset, path.name, grid)
    if grid is None:
        warn_of_step(frames, own.spacing_mm[2], path.name)
    with lenient():
        move = find_move(own, grid) if grid else None
        layers = PlacedFrames(own, move, grid or own, path.name)
        if text(dataset, "SegmentationType") == "LABELMAP":
            return (_label_map(dataset, slots, table, layers, path.name),), ()
        return _segments(dataset, frames, slots, table, layers, threshold, path.name)


def _label_map(dataset: Any, slots: Sequence[int], table: LabelTable, placed: PlacedFrames, name: str) -> Segmentation:
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
    frames: Sequence[SegFrame],
    slots: Sequence[int],
    table: LabelTable,
    placed: PlacedFrames,
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
        pieces = [_piece(slots[i], least <= frame.T) for i, frame in zip(mine, pixels, strict=True)]
        layers.add(label, _one_a_place(pieces, label.name, name))
    moved = tuple(Segmentation(placed.put(x.array), placed.target, x.labels) for x in layers.all())
    return moved, layers.pairs


def _one_a_place(pieces: Sequence[Piece], segment: str, name: str) -> list[Piece]:
    """Return the frames of a segment that hold something; refuse two at one place that differ."""
    found: dict[int, Piece] = {}
    for place, mask in pieces:
        if not mask.size:
            continue
        box, other = found.setdefault(place[2], (place, mask))
        if box[:2] != place[:2] or not np.array_equal(other, mask):
            raise FormatError(
                found=f"{name} has several frames of the segment {segment} at one place, which differ",
                expected="one frame of a segment at each place",
                fix="export the segmentation of each time point, or of each part, by itself",
            )
    return list(found.values())


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


def _frames(dataset: Any, name: str) -> list[SegFrame]:
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


def _frame(index: int, own: Any, shared: Any, is_label_map: bool, name: str) -> SegFrame:
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
    return SegFrame(index, position, orientation, spacing, step, thickness, segment)


def _above_zero(item: Any, keyword: str) -> float | None:
    value = number(item, keyword)
    return value if value is not None and 0 < value < np.inf else None
