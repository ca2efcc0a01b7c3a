"""What may tell two slices at one place apart: echo, diffusion, time, type of image, and the standard's own dimensions.

A classic file says it in its data set and in makers' private elements, a frame of an enhanced file in its functional
groups (DICOM PS3.3 C.8.13.5, C.8.15.3) and in the index of each dimension (PS3.3 C.7.6.17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_description, keyword_for_tag

from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, number, text

CLASSIC = {
    "AcquisitionNumber": "Acquisition Number",
    "TemporalPositionIdentifier": "Temporal Position",
    "EchoTime": "Echo Time",
    "EchoNumbers": "Echo Number",
    "InversionTime": "Inversion Time",
    "FlipAngle": "Flip Angle",
    "TriggerTime": "Trigger Time",
    "NominalPercentageOfCardiacPhase": "Cardiac Phase",
    "DiffusionBValue": "b-value",
    "DiffusionGradientOrientation": "Gradient Direction",
    "DiffusionDirectionality": "Diffusion Directionality",
    "ComplexImageComponent": "Complex Component",
    "ASLContext": "ASL Context",
    "ImageType": "Image Type",
    "ConvolutionKernel": "Convolution Kernel",
    "KVP": "KVP",
    "ContrastBolusAgent": "Contrast Agent",
    "AcquisitionContrast": "Acquisition Contrast",
}
"""Elements of a classic data set, and what each is called."""

_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
_GE_OFFSET = 100_000


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "\\".join(_plain(x) for x in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_of_ge(value: Any) -> str:
    """Return GE's b-value: the first of several, above which software since 2012 adds a number of 1e9 as a mark."""
    first = int(float(value[0] if isinstance(value, list) else value))
    return str(first % _GE_OFFSET)


def _component_of_ge(value: Any) -> str:
    return _GE_COMPONENTS[int(value)] if 0 <= int(value) < len(_GE_COMPONENTS) else str(int(value))


@dataclass(frozen=True)
class _Private:
    group: int
    creator: str
    elements: tuple[int, ...]
    """Several are the components of one vector."""
    vr: str
    label: str
    words: Callable[[Any], str] = _plain


_PRIVATE = (
    _Private(0x0019, "SIEMENS MR HEADER", (0x0C,), "IS", "b-value"),
    _Private(0x0019, "SIEMENS MR HEADER", (0x0E,), "FD", "Gradient Direction"),
    _Private(0x2001, "Philips Imaging DD 001", (0x03,), "FL", "b-value"),
    _Private(0x2001, "Philips Imaging DD 001", (0x08,), "IS", "Phase Number"),
    _Private(0x2005, "Philips MR Imaging DD 001", (0x11,), "CS", "Complex Component"),
    _Private(0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2), "FL", "Gradient Direction"),
    _Private(0x2005, "Philips MR Imaging DD 005", (0x13,), "IS", "Gradient Number"),
    _Private(0x2005, "Philips MR Imaging DD 005", (0x29,), "CS", "ASL Context"),
    _Private(0x0043, "GEMS_PARM_01", (0x39,), "IS", "b-value", _first_of_ge),
    _Private(0x0043, "GEMS_PARM_01", (0x2F,), "SS", "Complex Component", _component_of_ge),
    _Private(0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD), "DS", "Gradient Direction"),
    _Private(0x0065, "Image Private Header", (0x09,), "FD", "b-value"),
    _Private(0x0065, "Image Private Header", (0x37,), "FD", "Gradient Direction"),
    _Private(0x0065, "Image Private Header", (0x2C,), "IS", "Repetition"),
)
"""Where makers file what the standard has an element for since; used where that is absent."""

_MR_TYPE, _CONTENT = "MRImageFrameTypeSequence", "FrameContentSequence"
_CARDIAC, _DIFFUSION = "CardiacSynchronizationSequence", "MRDiffusionSequence"
_TYPES = (_MR_TYPE, "CTImageFrameTypeSequence", "PETFrameTypeSequence", "XRay3DFrameTypeSequence")
_FRAME: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Stack ID", (_CONTENT,), "StackID"),
    ("Acquisition Number", (_CONTENT,), "FrameAcquisitionNumber"),
    ("Temporal Position", (_CONTENT,), "TemporalPositionIndex"),
    ("Time Offset", ("TemporalPositionSequence",), "TemporalPositionTimeOffset"),
    ("Echo Time", ("MREchoSequence",), "EffectiveEchoTime"),
    ("Inversion Time", ("MRModifierSequence",), "InversionTimes"),
    ("Flip Angle", ("MRTimingAndRelatedParametersSequence",), "FlipAngle"),
    ("Trigger Time", (_CARDIAC,), "NominalCardiacTriggerDelayTime"),
    ("Cardiac Phase", (_CARDIAC,), "NominalPercentageOfCardiacPhase"),
    ("Respiratory Phase", ("RespiratorySynchronizationSequence",), "NominalPercentageOfRespiratoryPhase"),
    ("b-value", (_DIFFUSION,), "DiffusionBValue"),
    ("Diffusion Directionality", (_DIFFUSION,), "DiffusionDirectionality"),
    ("Gradient Direction", (_DIFFUSION, "DiffusionGradientDirectionSequence"), "DiffusionGradientOrientation"),
    ("Gradient Direction", (_DIFFUSION,), "DiffusionGradientOrientation"),
    ("ASL Context", ("MRArterialSpinLabelingSequence",), "ASLContext"),
    ("Velocity Encoding", ("MRVelocityEncodingSequence",), "VelocityEncodingDirection"),
    *(("Frame Type", (sequence,), "FrameType") for sequence in _TYPES),
    *(("Complex Component", (sequence,), "ComplexImageComponent") for sequence in _TYPES),
    ("Acquisition Contrast", (_MR_TYPE,), "AcquisitionContrast"),
    ("Convolution Kernel", ("CTReconstructionSequence",), "ConvolutionKernel"),
    ("KVP", ("CTXRayDetailsSequence",), "KVP"),
    ("Contrast Agent", ("ContrastBolusUsageSequence",), "ContrastBolusAgentAdministered"),
)
"""What it is called, the sequences that lead to it, and the element; of several of one name the first that is there."""
_CONVERTED = "UnassignedPerFrameConvertedAttributesSequence"
_ALL_FRAMES_CONVERTED = "UnassignedSharedConvertedAttributesSequence"
"""Where objects that were converted from classic ones keep what has no functional group (PS3.3 C.7.6.16.2.25)."""

_PLACES = frozenset(
    (
        *("InStackPositionNumber", "ImagePositionPatient", "PlanePositionSequence", "SliceLocation"),
        *("ImageOrientationPatient", "PlaneOrientationSequence", "ImagePositionVolume", "PlanePositionVolumeSequence"),
    )
)
"""Dimensions along which the slices of one volume follow each other."""
_LABELS = {keyword: label for label, _, keyword in _FRAME} | {"TemporalPositionTimeOffset": "Time Offset"}


def classic_notes(dataset: Elements) -> dict[str, str]:
    """Return what a classic header says, by what it is called."""
    notes = {label: value for key, label in CLASSIC.items() if (value := text(dataset, key))}
    for each in _PRIVATE:
        if each.label in notes:
            continue
        try:
            values = [dataset.private(each.group, each.creator, element, each.vr) for element in each.elements]
            if all(value is not None and not isinstance(value, bytes) for value in values):
                notes[each.label] = each.words(values[0] if len(values) == 1 else [float(x) for x in values])
        except PARSING_ERRORS:
            continue
    return notes


def file_notes(dataset: Elements) -> dict[str, str]:
    """Return what tells the files of a series apart, each of which holds a whole volume."""
    kept = (("InstanceNumber", "Instance Number"), ("AcquisitionNumber", "Acquisition Number"))
    return {label: value for keyword, label in kept if (value := text(dataset, keyword))}


def frame_notes(group: Callable[[str], Any]) -> dict[str, str]:
    """Return what the functional groups of a frame say, by what it is called.

    Parameters
    ----------
    group
        Returns the one item of a functional group by the keyword of its sequence; something empty where it is absent.

    Raises
    ------
    ValueError
        If a sequence is none.
    """
    notes: dict[str, str] = {}
    for label, path, keyword in _FRAME:
        if label not in notes and (value := text(_inside(group(path[0]), path[1:]), keyword)):
            notes[label] = value
    for sequence in (_CONVERTED, _ALL_FRAMES_CONVERTED):
        item = group(sequence)
        notes = {label: value for key, label in CLASSIC.items() if (value := text(item, key))} | notes
    return notes


def _inside(item: Any, path: Sequence[str]) -> Any:
    for sequence in path:
        items = item.items(sequence) if isinstance(item, Elements) else []
        if not items:
            return {}
        item = items[0]
    return item


def dimensions_of(dataset: Elements) -> tuple[str | None, ...]:
    """Return what each dimension of an enhanced file is called; None for those along which slices follow each other.

    Notes
    -----
    DICOM PS3.3 C.7.6.17: each item of the Dimension Index Sequence points at the element that the dimension runs
    through, and Dimension Index Values of a frame holds one index for each.
    """
    names: list[str | None] = []
    try:
        for place, item in enumerate(dataset.items("DimensionIndexSequence")):
            names.append(_dimension(item, place))
    except PARSING_ERRORS:
        return ()
    return tuple(names)


def _dimension(item: Elements, place: int) -> str | None:
    tags = item.tags("DimensionIndexPointer")
    tag = tags[0] if tags else 0
    keyword = keyword_for_tag(tag)
    if keyword in _PLACES:
        return None
    if keyword in _LABELS:
        return _LABELS[keyword]
    if keyword:
        return str(dictionary_description(tag))
    return text(item, "DimensionDescriptionLabel") or f"Dimension {place + 1}"


def frame_dimensions(names: Sequence[str | None], content: Any) -> tuple[tuple[str, int], ...]:
    """Return the index of a frame in each dimension that is not its place; empty where their number is another."""
    if not names or not isinstance(content, Elements):
        return ()
    try:
        value = content.get("DimensionIndexValues")
    except PARSING_ERRORS:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) != len(names) or not all(isinstance(x, int) for x in values):
        return ()
    return tuple((name, int(x)) for name, x in zip(names, values, strict=True) if name is not None)


def instance_number(dataset: Elements) -> int | None:
    """Return Instance Number, which counts the files of a series."""
    value = number(dataset, "InstanceNumber")
    return int(value) if value is not None and value.is_integer() else None
