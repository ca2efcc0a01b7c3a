"""RT structure sets out: outlines traced slice by slice, holes joined to their outline by a channel of no width."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from voxmetry.core.axes import find_move
from voxmetry.core.geometry import Float64, swap_lps_ras
from voxmetry.core.labels import Label
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import LabelError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.characters import fitted, fitted_apart
from voxmetry.io.dicom.objects.origin import Origin, keep_encoded, new_object, settle
from voxmetry.io.dicom.objects.source import Source
from voxmetry.io.dicom.read.headers import lenient
from voxmetry.io.dicom.segmentations.contours import keyhole, trace
from voxmetry.io.dicom.segmentations.rtstruct import RTSTRUCT_CLASS

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_DECIMALS = 4
"""Coordinates are written to a tenth of a micrometre, far below the half voxel from an outline to a voxel centre."""


def write_rtstruct(
    segmentation: Segmentation | Sequence[Segmentation],
    source: Source,
    path: str | os.PathLike[str],
    *,
    origin: Origin,
    description: str = "Structures",
) -> Any:
    """Write an RT structure set of a series.

    Parameters
    ----------
    segmentation
        On the series' grid, or the same voxels in another order of the axes. Several hold structures that overlap, as
        `read_layers` returns them.
    source
        Headers of the series.
    path
        The file; written whole or not at all.
    origin
        Who made it.
    description
        Series Description.

    Returns
    -------
    Dataset
        What was written. ROI numbers are 1 to N in the order of the labels: OHIF 3.13 takes colours by them, and gives
        numbers with gaps others than the file has.

    Raises
    ------
    GeometryError
        If the segmentation has other voxels than the series.
    LabelError
        If it is empty.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Outlines run halfway between the voxels inside and outside (marching squares at 0.5), so that each voxel centre is
    on the right side of them: a reader that fills by centres gets the same voxels back. Structures without a voxel
    are left out.
    """
    layers = [segmentation] if isinstance(segmentation, Segmentation) else list(segmentation)
    labels = [label for layer in layers for label in layer.labels]
    with lenient():
        dataset = new_object(source, origin, sop_class=RTSTRUCT_CLASS, modality="RTSTRUCT", description=description)
        _structure_set(dataset, source, description, origin)
        keep_encoded(dataset, implicit=True)
        names = fitted_apart([label.name for label in labels])
        for layer in layers:
            move = find_move(layer.geometry, source.geometry, what="the segmentation and the series")
            array = np.asfortranarray(move(layer.array))
            for label in layer.labels:
                contours = [
                    _contour(points, source, k, number)
                    for number, (k, points) in enumerate(_outlines(array == label.value, source), start=1)
                ]
                if contours:
                    _add(dataset, label, names[label.name], contours, source, origin)
        if not dataset.ROIContourSequence:
            raise LabelError(
                found="a segmentation without a voxel",
                expected="at least one structure",
                fix="leave the file out",
            )
        settle(dataset, source, implicit=True)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return dataset


def _outlines(mask: NDArray[np.bool_], source: Source) -> list[tuple[int, Float64]]:
    """Return (slice, points in LPS+ mm) of all outlines of a mask (I, J, K)."""
    found = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        columns, rows = np.flatnonzero(mask[:, :, k].any(axis=1)), np.flatnonzero(mask[:, :, k].any(axis=0))
        corner = np.array([columns[0], rows[0]])
        crop = mask[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1, k]
        for outline, holes in trace(crop):
            points = keyhole(outline, holes) + corner
            indices = np.column_stack([points, np.full(len(points), k)])
            found.append((k, swap_lps_ras(source.geometry.to_mm(indices))))
    return found


def _structure_set(dataset: Any, source: Source, description: str, origin: Origin) -> None:
    now = datetime.datetime.now().astimezone()
    dataset.StructureSetLabel = "Voxmetry"
    dataset.StructureSetName = fitted(description)
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = source.first.get("PositionReferenceIndicator", "")
    dataset.OperatorsName = origin.person
    frame, study, series = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID = source.first.SeriesInstanceUID
    series.ContourImageSequence = [source.reference(k) for k in range(len(source.frames))]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, source.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(dataset, keyword, [])
    dataset.ApprovalStatus = "UNAPPROVED"


def _contour(points: Float64, source: Source, k: int, number: int) -> Any:
    item = pydicom.Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = [source.reference(k)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    text = "\\".join(f"{x:.{_DECIMALS}f}" for x in np.ravel(points).tolist()).encode("ascii")
    text += b" " * (len(text) % 2)
    keep_encoded(item, implicit=True)
    # Encoded here: pydicom would make an object of each number, many times slower.
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)
    return item


def _add(dataset: Any, label: Label, name: str, contours: list[Any], source: Source, origin: Origin) -> None:
    from highdicom.sr import CodedConcept

    roi, drawn, observation = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    number = len(dataset.StructureSetROISequence) + 1
    roi.ROINumber = drawn.ReferencedROINumber = observation.ReferencedROINumber = number
    observation.ObservationNumber = number
    roi.ReferencedFrameOfReferenceUID = source.first.FrameOfReferenceUID
    roi.ROIName = name
    if name != label.name:
        roi.ROIDescription = fitted(label.name, 1024)
    roi.ROIGenerationAlgorithm = origin.how.upper()
    if origin.algorithm:
        roi.ROIGenerationDescription = fitted(f"{origin.algorithm} {origin.version}")
    drawn.ROIDisplayColor = [int(label.colour[start : start + 2], 16) for start in (1, 3, 5)]
    keep_encoded(drawn, implicit=True)
    drawn.ContourSequence = contours
    # Target volumes are a decision of the person who plans; a measured lesion is none by itself.
    observation.RTROIInterpretedType = "ORGAN" if label.kind == "organ" else ""
    observation.ROIInterpreter = origin.person
    if label.code:
        code = CodedConcept(label.code.value, label.code.scheme, fitted(label.code.meaning))
        observation.RTROIIdentificationCodeSequence = [code]
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)
    dataset.RTROIObservationsSequence.append(observation)
