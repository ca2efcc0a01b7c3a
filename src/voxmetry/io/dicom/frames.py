"""From one header to its frames: where each lies and how its stored values become real ones.

A classic file holds one frame, described by the data set itself; an enhanced file holds many, described by the
functional groups (DICOM PS3.3 C.7.6.16), each either shared or per frame.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxmetry.errors import SeriesError
from voxmetry.io.dicom.grid import Plane
from voxmetry.io.dicom.headers import number, numbers, text, whole

_NOTES = {
    "AcquisitionNumber": "Acquisition Number",
    "TemporalPositionIdentifier": "Temporal Position",
    "EchoTime": "Echo Time",
    "InversionTime": "Inversion Time",
    "TriggerTime": "Trigger Time",
    "DiffusionBValue": "b-value",
    "ImageType": "Image Type",
}
_FRAME_NOTES = {
    ("FrameContentSequence", "StackID"): "Stack ID",
    ("FrameContentSequence", "TemporalPositionIndex"): "Temporal Position",
    ("MREchoSequence", "EffectiveEchoTime"): "Echo Time",
    ("MRDiffusionSequence", "DiffusionBValue"): "b-value",
    ("MRImageFrameTypeSequence", "FrameType"): "Frame Type",
    ("CTImageFrameTypeSequence", "FrameType"): "Frame Type",
}


@dataclass(frozen=True)
class Frame:
    """One slice of a file."""

    plane: Plane
    file: int
    """Index of its file among those of the series."""
    index: int
    """Index of the frame in its file."""
    slope: float
    intercept: float
    rescale_type: str | None


def frames_of(dataset: Any, name: str, file: int = 0) -> list[Frame]:
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
        groups = dataset.PerFrameFunctionalGroupsSequence
        if len(groups) != count:
            raise _refusal(f"{name} has {count} frames and {len(groups)} descriptions of frames", name)
        shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
        return [_enhanced(dataset, _Groups(group, shared[0]), name, file, index) for index, group in enumerate(groups)]
    if count > 1:
        raise _refusal(f"{name} has {count} frames without a position for each", name)
    return [_classic(dataset, name, file)]


@dataclass(frozen=True)
class _Groups:
    """The functional groups of one frame: its own first, then those that all frames share."""

    own: Any
    shared: Any

    def item(self, sequence: str) -> Any:
        for groups in (self.own, self.shared):
            if groups is not None and sequence in groups and len(groups[sequence].value):
                return groups[sequence].value[0]
        return {}


def _classic(dataset: Any, name: str, file: int) -> Frame:
    plane = Plane(
        name=name,
        position=_needed(dataset, "ImagePositionPatient", "Image Position (Patient)", 3, name),
        orientation=_needed(dataset, "ImageOrientationPatient", "Image Orientation (Patient)", 6, name),
        pixel_spacing=_needed(dataset, "PixelSpacing", "Pixel Spacing", 2, name),
        **_common(dataset, name),
        thickness_mm=number(dataset, "SliceThickness"),
        step_mm=number(dataset, "SpacingBetweenSlices"),
        uid=text(dataset, "SOPInstanceUID"),
        notes={label: value for key, label in _NOTES.items() if (value := text(dataset, key))},
    )
    return Frame(plane, file, 0, *_rescale(dataset, name))


def _enhanced(dataset: Any, groups: _Groups, name: str, file: int, index: int) -> Frame:
    measures = groups.item("PixelMeasuresSequence")
    position, orientation = groups.item("PlanePositionSequence"), groups.item("PlaneOrientationSequence")
    label = f"frame {index + 1} of {name}"
    notes = {what: text(groups.item(sequence), key) for (sequence, key), what in _FRAME_NOTES.items()}
    plane = Plane(
        name=label,
        position=_needed(position, "ImagePositionPatient", "Image Position (Patient)", 3, label),
        orientation=_needed(orientation, "ImageOrientationPatient", "Image Orientation (Patient)", 6, label),
        pixel_spacing=_needed(measures, "PixelSpacing", "Pixel Spacing", 2, label),
        **_common(dataset, name),
        thickness_mm=number(measures, "SliceThickness"),
        step_mm=number(measures, "SpacingBetweenSlices"),
        uid=f"{text(dataset, 'SOPInstanceUID') or name} {index}",
        notes={what: value for what, value in notes.items() if value},
    )
    return Frame(plane, file, index, *_rescale(groups.item("PixelValueTransformationSequence"), label))


def _common(dataset: Any, name: str) -> dict[str, Any]:
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if not rows or not columns:
        raise _refusal(f"{name} has no Rows or Columns", name)
    return {"rows": rows, "columns": columns, "frame_uid": text(dataset, "FrameOfReferenceUID")}


def _rescale(item: Any, name: str) -> tuple[float, float, str | None]:
    """Return slope, intercept and type; 1 and 0 where neither is given, as MR images do."""
    if text(item, "RescaleSlope") is None and text(item, "RescaleIntercept") is None:
        return 1.0, 0.0, None
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    if slope is None or intercept is None or slope == 0:
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
    folder = os.path.commonpath([str(Path(file).parent) for file in files])
    return [Path(file).relative_to(folder).as_posix() for file in files]
