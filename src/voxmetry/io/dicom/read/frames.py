"""From one header to its frames: where each lies and how its stored values become real ones.

A classic file holds one frame, described by the data set itself; an enhanced file holds many, described by the
functional groups (DICOM PS3.3 C.7.6.16), each either shared or per frame; a Siemens mosaic holds all slices of a volume
tiled in one picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.grid import SlicePlane
from voxmetry.io.dicom.read.headers import number, numbers, text, valid_name, whole
from voxmetry.io.dicom.read.moments import both_of, moment_of
from voxmetry.io.dicom.read.mosaic import is_mosaic, tiles_of
from voxmetry.io.dicom.read.notes import (
    classic_notes,
    dimensions_of,
    file_notes,
    frame_dimensions,
    frame_notes,
    instance_number,
)
from voxmetry.io.dicom.read.real_world import RealWorld, real_world_of

_REAL_WORLD = "RealWorldValueMappingSequence"


@dataclass(frozen=True)
class Frame:
    """One slice of a file."""

    plane: SlicePlane
    file: int
    """Index of its file among those of the series."""
    index: int
    """Index of the frame, or of the tile of a mosaic, in its file."""
    slope: float
    intercept: float
    rescale_type: str | None
    time_s: float | None = None
    """When it was acquired, in seconds after some midnight; None where the header does not say."""
    rescaled: bool = True
    """Whether the header holds a slope and an intercept."""
    real_world: tuple[RealWorld, ...] = ()
    """What its stored values stand for, as far as the header says it."""
    dimensions: tuple[tuple[str, int], ...] = ()
    """Name and index of each dimension of an enhanced file that is not the place."""
    number: int | None = None
    """Instance Number of a classic file."""


def frames_of(dataset: Elements, name: str, file: int = 0) -> list[Frame]:
    """Describe each frame of a file.

    Parameters
    ----------
    dataset
        The header.
    name
        The file's name relative to the folder, for messages.
    file
        Index of the file among those of the series.

    Raises
    ------
    SeriesError
        If an element that the geometry needs is absent or malformed.
    """
    count = whole(dataset, "NumberOfFrames") or 1
    if "PerFrameFunctionalGroupsSequence" in dataset:
        try:
            groups = dataset.items("PerFrameFunctionalGroupsSequence")
            shared = dataset.items("SharedFunctionalGroupsSequence")
        except ValueError as error:
            raise _refusal(f"the functional groups of {name} cannot be parsed: {error}", name) from error
        if len(groups) != count:
            raise _refusal(f"{name} has {count} frames and {len(groups)} descriptions of frames", name)
        common = _Groups(shared[0] if shared else None, None)
        whole_file = _File(name, file, file_notes(dataset), dimensions_of(dataset))
        return [_enhanced(dataset, _Groups(group, common), whole_file, index) for index, group in enumerate(groups)]
    if count > 1:
        raise _refusal(f"{name} has {count} frames without a position for each", name)
    if is_mosaic(dataset):
        return _mosaic(dataset, name, file)
    return [_classic(dataset, name, file)]


@dataclass(frozen=True)
class _File:
    """What the frames of an enhanced file share."""

    name: str
    index: int
    notes: dict[str, str]
    dimensions: tuple[str | None, ...]


class _Groups:
    """The functional groups of one frame: its own first, then those that all frames share."""

    def __init__(self, own: Elements | None, shared: _Groups | None) -> None:
        self._own = own
        self._shared = shared
        self._found: dict[str, Any] = {}

    def item(self, sequence: str) -> Any:
        if sequence not in self._found:
            own = self._own.items(sequence) if self._own is not None else []
            self._found[sequence] = own[0] if own else self._shared.item(sequence) if self._shared else {}
        return self._found[sequence]

    def items(self, sequence: str) -> list[Elements]:
        own = self._own.items(sequence) if self._own is not None else []
        return own or (self._shared.items(sequence) if self._shared else [])


def _classic(dataset: Elements, name: str, file: int) -> Frame:
    plane = SlicePlane(
        name=name,
        position=_needed(dataset, "ImagePositionPatient", "Image Position (Patient)", 3, name),
        orientation=_needed(dataset, "ImageOrientationPatient", "Image Orientation (Patient)", 6, name),
        pixel_spacing=_needed(dataset, "PixelSpacing", "Pixel Spacing", 2, name),
        **_common(dataset, name),
        thickness_mm=number(dataset, "SliceThickness"),
        step_mm=number(dataset, "SpacingBetweenSlices"),
        uid=text(dataset, "SOPInstanceUID"),
        notes=classic_notes(dataset),
    )
    return Frame(
        plane,
        file,
        0,
        *_rescale(dataset, name),
        _time(dataset),
        _is_rescaled(dataset),
        _real_world(dataset, name),
        number=instance_number(dataset),
    )


def _real_world(holder: Any, name: str) -> tuple[RealWorld, ...]:
    try:
        return real_world_of(holder.items(_REAL_WORLD))
    except ValueError as error:
        raise _refusal(f"the Real World Value Mapping of {name} cannot be parsed: {error}", name) from error


def _mosaic(dataset: Elements, name: str, file: int) -> list[Frame]:
    """Describe the tiles of a mosaic as the slices that they are."""
    try:
        tiles = tiles_of(dataset)
    except ValueError as error:
        what = "a Siemens mosaic" if "MOSAIC" in (text(dataset, "ImageType") or "") else "a grid of United Imaging"
        raise _refusal(f"{name} is {what}, and {error}", name) from error
    orientation = _needed(dataset, "ImageOrientationPatient", "Image Orientation (Patient)", 6, name)
    spacing = _needed(dataset, "PixelSpacing", "Pixel Spacing", 2, name)
    scale, time_s, notes = _rescale(dataset, name), _time(dataset), classic_notes(dataset)
    if instance := text(dataset, "InstanceNumber"):
        notes["Instance Number"] = instance
    frames = []
    for index, position in enumerate(tiles.positions):
        plane = SlicePlane(
            name=f"tile {index + 1} of {name}",
            position=position,
            orientation=orientation,
            pixel_spacing=spacing,
            rows=tiles.rows,
            columns=tiles.columns,
            frame_uid=text(dataset, "FrameOfReferenceUID"),
            thickness_mm=number(dataset, "SliceThickness"),
            step_mm=number(dataset, "SpacingBetweenSlices"),
            uid=f"{text(dataset, 'SOPInstanceUID') or name} {index}",
            notes=notes,
        )
        frames.append(Frame(plane, file, index, *scale, time_s, _is_rescaled(dataset)))
    return frames


def _enhanced(dataset: Elements, groups: _Groups, file: _File, index: int) -> Frame:
    name = file.name
    label = f"frame {index + 1} of {name}"
    try:
        measures = groups.item("PixelMeasuresSequence")
        position, orientation = groups.item("PlanePositionSequence"), groups.item("PlaneOrientationSequence")
        content = groups.item("FrameContentSequence")
        values = groups.item("PixelValueTransformationSequence")
        notes = file.notes | frame_notes(groups.item)
    except ValueError as error:
        raise _refusal(f"the description of {label} cannot be parsed: {error}", name) from error
    plane = SlicePlane(
        name=label,
        position=_needed(position, "ImagePositionPatient", "Image Position (Patient)", 3, label),
        orientation=_needed(orientation, "ImageOrientationPatient", "Image Orientation (Patient)", 6, label),
        pixel_spacing=_needed(measures, "PixelSpacing", "Pixel Spacing", 2, label),
        **_common(dataset, name),
        thickness_mm=number(measures, "SliceThickness"),
        step_mm=number(measures, "SpacingBetweenSlices"),
        uid=f"{text(dataset, 'SOPInstanceUID') or name} {index}",
        notes=notes,
    )
    return Frame(
        plane,
        file.index,
        index,
        *_rescale(values, label),
        _frame_time(content),
        _is_rescaled(values),
        _real_world(groups, label),
        frame_dimensions(file.dimensions, content),
    )


def _time(dataset: Elements) -> float | None:
    moment = moment_of(dataset, "Acquisition")
    return None if moment is None else moment.seconds


def _frame_time(content: Any) -> float | None:
    moment = both_of(text(content, "FrameAcquisitionDateTime"), None, "Frame Acquisition DateTime")
    return None if moment is None else moment.seconds


def _common(dataset: Elements, name: str) -> dict[str, Any]:
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        raise _refusal(f"{name} has no usable Rows or Columns", name)
    return {"rows": rows, "columns": columns, "frame_uid": text(dataset, "FrameOfReferenceUID")}


def _is_rescaled(item: Any) -> bool:
    return text(item, "RescaleSlope") is not None or text(item, "RescaleIntercept") is not None


def _rescale(item: Any, name: str) -> tuple[float, float, str | None]:
    """Return slope, intercept and type; 1 and 0 where neither is given, as MR images do."""
    if not _is_rescaled(item):
        if "RescaleSlope" in item and item.get("RescaleSlope") is not None:
            raise _refusal(f"Rescale Slope of {name} is no number", name)
        return 1.0, 0.0, None
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    if slope is None or intercept is None or slope == 0 or not abs(slope) + abs(intercept) < float("inf"):
        raise _refusal(f"Rescale Slope and Rescale Intercept of {name} are not two numbers, or the slope is 0", name)
    return slope, intercept, text(item, "RescaleType")


def _needed(item: Any, keyword: str, words: str, count: int, name: str) -> tuple[float, ...]:
    values = numbers(item, keyword, count)
    if values is None:
        raise _refusal(f"{name} has no usable {words}", name)
    return values


def _refusal(found: str, name: str) -> SeriesError:
    return SeriesError(
        found=found,
        expected="position, orientation, spacing and scaling of every frame",
        fix=f"export the series again from its source, or leave {name} out",
    )


def names_of(files: Sequence[str]) -> list[str]:
    """Return the files' names relative to the folder that holds them all: a longer path may name a patient.

    Examples
    --------
    >>> names_of(["/data/doe/a/1.dcm", "/data/doe/b/1.dcm"]), names_of(["/data/doe/1.dcm"])
    (['a/1.dcm', 'b/1.dcm'], ['1.dcm'])
    """
    folder = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120  (ten thousand of them)
    # A file at the root of the tree keeps its name: what follows the folder is a separator, or nothing of it.
    start = len(folder) + (0 if folder.endswith(os.sep) or not folder else 1)
    return [valid_name(Path(file[start:]).as_posix()) for file in files]
