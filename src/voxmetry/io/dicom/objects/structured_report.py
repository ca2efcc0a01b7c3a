"""Measurements as a DICOM structured report, TID 1500, by highdicom.

One measurement group a structure and a lesion; a further one of each, before them, has its diameters and the lines that
they were measured along.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxmetry.core.geometry import swap_lps_ras
from voxmetry.core.labels import Code, Label, LabelTable
from voxmetry.core.records import Lesion, Measurement, Part
from voxmetry.errors import InputError, LabelError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.characters import UNICODE, fitted
from voxmetry.io.dicom.objects.origin import (
    SERIES_NUMBERS,
    Origin,
    copy_identity,
    headers_taken,
    new_uid,
    settle,
    without_identity,
)
from voxmetry.io.dicom.objects.source import Source
from voxmetry.io.dicom.read.headers import lenient, text
from voxmetry.io.dicom.segmentations.codes import ABNORMAL, ANATOMY, LATERALITY

# (field of the record, name of the measurement, unit): PS3.16 CID 218, names from SNOMED CT, DCM and IBSI.
_SIZES = (
    ("volume_ml", ("DCM", "VolumeFromVoxelSummation"), ("ml", "milliliter")),
    ("max_diameter_mm", ("DCM", "Maximum3DDiameterOfAMesh"), ("mm", "millimeter")),
    ("long_axis_mm", ("SCT", "LongAxis"), ("mm", "millimeter")),
    ("short_axis_mm", ("SCT", "ShortAxis"), ("mm", "millimeter")),
)
_LINES = {
    Part: (("long_axis_mm", "LongAxis"), ("short_axis_mm", "ShortAxis")),
    Measurement: (("max_diameter_mm", "Maximum3DDiameterOfAMesh"),),
}
"""Diameters that are drawn: the field, and the name in CID 218.

OHIF 3.13 shows nothing of a report in which a structure has no coordinates. A lesion has those of its axes, and would
be drawn with a third line beside the two that its response is judged by.
"""
_INTENSITY = {
    "HU": (Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient"), ("[hnsf'U]", "Hounsfield unit")),
    "SUVbw": (
        Code(value="126401", scheme="DCM", meaning="SUVbw"),
        ("g/ml{SUVbw}", "Standardized Uptake Value body weight"),
    ),
    # The lean body mass that is worked out here is James' with the multiplier 128 (PS3.16, DCM 126415).
    "SUVlbm": (
        Code(value="126406", scheme="DCM", meaning="SUVlbm(James128)"),
        ("g/ml{SUVlbm(James128)}", "Standardized Uptake Value lean body mass (James 128 multiplier)"),
    ),
    "SUVbsa": (
        Code(value="126403", scheme="DCM", meaning="SUVbsa"),
        ("cm2/ml{SUVbsa}", "Standardized Uptake Value body surface area"),
    ),
    "Bq/mL": (
        Code(value="110821", scheme="DCM", meaning="Nuclear Medicine Tomographic Activity"),
        ("Bq/ml", "Becquerels/milliliter"),
    ),
}
_NO_UNIT = ("1", "no units")
_RELATIVE = {
    "MR": Code(value="110852", scheme="DCM", meaning="MR signal intensity"),
    "CT": _INTENSITY["HU"][0],
    "PT": _INTENSITY["Bq/mL"][0],
}
"""What values without an absolute meaning are of, by modality."""
_STORED_LBM = (
    Code(value="126402", scheme="DCM", meaning="SUVlbm"),
    ("g/ml{SUVlbm}", "Standardized Uptake Value lean body mass (James)"),
)
"""Of a series that is stored as SUV of type LBM: whose formula it is, the scanner knows."""
_DERIVATIONS = (
    ("intensity_mean", Code(value="373098007", meaning="Mean")),
    ("intensity_sd", Code(value="386136009", meaning="Standard Deviation")),
    ("intensity_min", Code(value="255605001", meaning="Minimum")),
    ("intensity_max", Code(value="56851009", meaning="Maximum")),
    ("intensity_median", Code(value="373099004", meaning="Median")),
)
_LESION = Code(value="52988006", meaning="Lesion")
_DIGITS = 10
_LONG = 1024


def write_report_sr(
    rows: Sequence[Measurement | Part],
    labels: LabelTable,
    seg: Any,
    source: Source,
    path: str | os.PathLike[str],
    *,
    origin: Origin,
    tracking: Mapping[str, str] | None = None,
    description: str = "Measurements",
) -> Any:
    """Write measurements as a structured report that refers to a DICOM segmentation.

    Parameters
    ----------
    rows
        One a structure or lesion; those whose name is no segment of `seg` are left out, as they have no voxel.
    labels
        Codes and laterality of the structures.
    seg
        What `write_seg` returned. Its segment labels are the names of the rows: `label` of a structure, `id` of a
        lesion.
    source
        Headers of the series.
    path
        The file; written whole or not at all.
    origin
        Who made the segmentation.
    tracking
        Tracking UID by name; new ones where absent.
    description
        Series Description.

    Returns
    -------
    Dataset
        What was written: a Comprehensive 3D SR. Numbers that are nan are left out, as TID 300 asks for a value.

    Raises
    ------
    LabelError
        If no row belongs to a segment.
    InputError
        If highdicom refuses the source's headers.
    OutputError
        If the file cannot be written.
    """
    import highdicom

    numbers = {_segment_name(item): int(item.SegmentNumber) for item in seg.SegmentSequence}
    uids = {
        _name(row): (tracking or {}).get(row.id if isinstance(row, Part) else row.label) or new_uid() for row in rows
    }
    with lenient():
        measured = [row for row in rows if _name(row) in numbers]
        # Viewers open a report at its first group, and take groups of one tracking UID for one measurement.
        drawn = [
            _diameters(row, labels, source, uids[_name(row)])
            for row in sorted(measured, key=lambda row: not isinstance(row, Part))
        ]
        groups: list[Any] = [group for group in drawn if group is not None]
        groups += [_group(row, labels, numbers[_name(row)], seg, source, uids[_name(row)]) for row in measured]
        if not groups:
            raise LabelError(
                found="no measurement of a segment of this segmentation",
                expected="rows that are named as the segments are",
                fix="measure the segmentation that was written",
            )
        with headers_taken("structured report", fix="repair the headers of the series"):
            dataset = highdicom.sr.Comprehensive3DSR(
                evidence=[without_identity(seg), *source.headers],
                content=_content(groups, origin),
                series_instance_uid=new_uid(),
                series_number=SERIES_NUMBERS["SR"],
                sop_instance_uid=new_uid(),
                instance_number=1,
                series_description=fitted(description),
                specific_character_set=UNICODE,
                **origin.equipment(),
            )
        copy_identity(dataset, source)
        settle(dataset, source)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return dataset


def _segment_name(item: Any) -> str:
    """Return a segment's name in full; the label is cut to 64 characters."""
    return str(item.get("SegmentDescription") or item.SegmentLabel)


def _name(row: Measurement | Part) -> str:
    """Return the name of a row as a segment has it."""
    return fitted(row.id if isinstance(row, Part) else row.label, _LONG)


def _content(groups: Sequence[Any], origin: Origin) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=new_uid(),
            name=fitted(origin.algorithm or "Voxmetry"),
            manufacturer_name="Voxmetry",
            model_name=fitted(origin.version or origin.software or "unknown"),
        ),
    )
    person = None
    if origin.person:
        person = sr.ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(name=origin.person),
        )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=person, observer_device_context=device),
        procedure_reported=sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _is_lesion(row: Measurement | Part, label: Label) -> bool:
    """Tell whether a row is of something abnormal: an instance of an organ, such as a vertebra, is not."""
    return isinstance(row, Lesion) or label.kind == "lesion"


def _group(row: Measurement | Part, labels: LabelTable, number: int, seg: Any, source: Source, uid: str) -> Any:
    from highdicom import sr

    label = labels[row.label]
    is_lesion = _is_lesion(row, label)
    modifiers = [code for code in (LATERALITY.get(label.laterality or ""), label.modifier) if code]
    sites = []
    place = label.region or (None if is_lesion else label.code)
    if place:
        # TID 1419 has room for one of each; the segment itself carries both modifiers.
        side = _coded(LATERALITY[label.laterality]) if label.laterality else None
        part = _coded(label.modifier) if label.modifier else None
        sites = [sr.FindingSite(anatomic_location=_coded(place), laterality=side, topographical_modifier=part)]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=_name(row)),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(source.first.SeriesInstanceUID),
        ),
        finding_type=_coded(label.code or (_LESION if is_lesion else ANATOMY)),
        finding_category=_coded(label.category or (ABNORMAL if is_lesion else ANATOMY))
        if modifiers or label.category or not label.code
        else None,
        finding_sites=sites or None,
        measurements=_measurements(row, source),
    )


def _diameters(row: Measurement | Part, labels: LabelTable, source: Source, uid: str) -> Any:
    """Return the diameters of a structure or lesion with the lines that they were measured along; None without any.

    A group of TID 1501, whose measurements (TID 300) are inferred from coordinates (TID 320): viewers draw these, and
    show nothing of a segment's volume. The group is of the same structure, by its tracking UID.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    found = []
    for field, name in _LINES[Part if isinstance(row, Part) else Measurement]:
        value = float(getattr(row, field))
        lines = _lines(row, field, source)
        if math.isfinite(value) and lines:
            found.append(
                sr.Measurement(
                    getattr(codes.cid218, name),
                    _rounded(value),
                    _unit("mm", "millimeter"),
                    referenced_coordinates=lines,
                )
            )
    if not found:
        return None
    label = labels[row.label]
    kind = (_LESION, ABNORMAL) if _is_lesion(row, label) else (ANATOMY, ANATOMY)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=_name(row)),
        finding_type=_coded(label.code or kind[0]),
        finding_category=_coded(label.category or kind[1]),
        measurements=found,
    )


def _lines(row: Measurement | Part, field: str, source: Source) -> list[Any]:
    """Return the line that a diameter was measured along, in the image that it lies in and in the patient.

    The image comes first: viewers that show one slice at a time draw what refers to it (SCOORD), and pass over what
    lies in the patient alone (SCOORD3D).
    """
    from highdicom import sr

    ends = np.array(getattr(row, f"{field.removesuffix('_mm')}_ends_ras_mm"))
    if not np.isfinite(ends).all():
        return []
    lines: list[Any] = []
    if (place := source.slice_of(ends)) is not None:
        image = source.reference(place[0])
        lines.append(
            sr.CoordinatesForMeasurement(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=place[1],
                source_image=sr.SourceImageForRegion(
                    image.ReferencedSOPClassUID,
                    image.ReferencedSOPInstanceUID,
                    [image.ReferencedFrameNumber] if "ReferencedFrameNumber" in image else None,
                ),
            )
        )
    lines.append(
        sr.CoordinatesForMeasurement3D(
            graphic_type=sr.GraphicTypeValues3D.POLYLINE,
            graphic_data=swap_lps_ras(ends),
            frame_of_reference_uid=source.first.FrameOfReferenceUID,
        )
    )
    return lines


def _measurements(row: Measurement | Part, source: Source) -> list[Any]:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    found = []
    for field, (_, keyword), unit in _SIZES:
        value = float(getattr(row, field, math.nan))
        if math.isfinite(value):
            found.append(sr.Measurement(getattr(codes.cid218, keyword), _rounded(value), _unit(*unit)))
    if row.intensity_unit is not None:
        name, unit = _intensity(row.intensity_unit, source)
        for field, derivation in _DERIVATIONS:
            value = float(getattr(row, field))
            if math.isfinite(value):
                found.append(sr.Measurement(_coded(name), _rounded(value), _unit(*unit), derivation=_coded(derivation)))
    return found


def _intensity(unit: str, source: Source) -> tuple[Code, tuple[str, str]]:
    """Return what was measured, and its unit.

    Raises
    ------
    InputError
        If there is no code for the unit: a report that leaves the intensities out without a word would mislead.
    """
    if unit == "SUVlbm" and text(source.first, "SUVType") == "LBM":
        return _STORED_LBM
    modality = text(source.first, "Modality")
    if unit == "1" and modality in _RELATIVE:
        return _RELATIVE[modality], _NO_UNIT
    if unit not in _INTENSITY:
        raise InputError(
            found=f"intensities in {unit}",
            expected=f"one of {', '.join(_INTENSITY)}, which have codes",
            fix="leave the structured report out: no --sr (sr=False)",
        )
    return _INTENSITY[unit]


def _rounded(value: float) -> float:
    # Numeric Value is a decimal string of 16 characters.
    return float(f"{value:.{_DIGITS}g}")


def _coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, fitted(code.meaning))


def _unit(value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, "UCUM", meaning)
