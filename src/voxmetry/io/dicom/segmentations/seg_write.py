"""DICOM segmentations out, by highdicom.

highdicom makes the object: patient, study, segments, shared groups, dimensions. The description of each frame is
encoded here, from parts that are made once a slice and once a segment: made frame by frame, those of 100 segments on
500 slices take minutes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from voxmetry.core.axes import find_move
from voxmetry.core.labels import Code, Label
from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import InputError, LabelError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.characters import UNICODE, fitted, fitted_apart
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
from voxmetry.io.dicom.read.headers import lenient
from voxmetry.io.dicom.segmentations.codes import ABNORMAL, ANATOMY, LATERALITY
from voxmetry.io.dicom.segmentations.seg_frames import (
    SegmentOut,
    describe_frames,
    list_frames,
    pack_frames,
    packed_size,
)
from voxmetry.io.mapped_array import zeros_on_disk

_CLASSIC = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
_CARRIED = (
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName"),
    *("InstitutionName", "InstitutionalDepartmentName", "InstitutionAddress", "AcquisitionDateTime"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    "PositionReferenceIndicator",
)
"""What the object repeats of the image beside patient and study: the scanner, as Contributing Equipment, and more."""
_LESION = Code(value="52988006", meaning="Lesion")
_MOST_BYTES = 2**32 - 2


def write_seg(
    segmentation: Segmentation | Sequence[Segmentation],
    source: Source,
    path: str | os.PathLike[str],
    *,
    origin: Origin,
    kind: Literal["binary", "labelmap"] = "binary",
    keep_empty_frames: bool = False,
    tracking: Mapping[str, str] | None = None,
    description: str = "Segmentation",
) -> Any:
    """Write a DICOM segmentation of a series.

    Parameters
    ----------
    segmentation
        On the series' grid, or the same voxels in another order of the axes. Several hold structures that overlap, as
        `read_layers` returns them; a label map cannot hold these.
    source
        Headers of the series: patient, study, frame of reference and the positions of slices are copied from it.
    path
        The file; written whole or not at all.
    origin
        Who made it.
    kind
        "binary": one bit a voxel, one frame a slice and segment, which most viewers read. "labelmap": one frame a
        slice (Label Map Segmentation Storage, 2024), smaller and quicker, for readers that know it.
    keep_empty_frames
        Whether slices without a voxel of a segment get a frame: larger, but some viewers take the n-th frame for the
        n-th slice.
    tracking
        Tracking UID by the label's name, for lesions that are followed over time.
    description
        Series Description.

    Returns
    -------
    Dataset
        What was written, without pixel data. Segment numbers are positions among the labels that are present (by their
        values, where structures overlap), and in a label map the label values. A name that is longer than a Segment
        Label can be is cut, and stands in full as the Segment Description.

    Raises
    ------
    GeometryError
        If the segmentation has other voxels than the series.
    LabelError
        If it is empty, or structures overlap in a label map.
    InputError
        If highdicom refuses the source's headers, or the file would exceed what DICOM can hold.
    OutputError
        If the file cannot be written.
    """
    layers = [segmentation] if isinstance(segmentation, Segmentation) else list(segmentation)
    arrays = [_on_slices(layer, source) for layer in layers]
    overlap = _overlap(arrays)
    found = _segments(layers, arrays, numbered=kind != "labelmap")
    segments = _one_map(found, overlap=overlap) if kind == "labelmap" and len(arrays) > 1 else found
    if not segments:
        raise LabelError(
            found="a segmentation without a voxel",
            expected="at least one structure, as a DICOM segmentation must hold a frame",
            fix="leave the file out",
        )
    names = fitted_apart([x.label.name for x in segments])
    described = [_description(x.label, x.number, names, origin, tracking or {}) for x in segments]
    with lenient():
        dataset = _skeleton(source, described, kind, origin, description)
        dataset.SegmentsOverlap = "YES" if overlap else "NO"
        settle(dataset, source)
        frames = list_frames(segments, kind, keep_empty_frames)
        describe_frames(dataset, source, [(0 if kind == "labelmap" else x.number, k) for x, k in frames])
        highest = max(x.number for x in segments)
        size = packed_size(frames, highest, kind)
        if size > _MOST_BYTES:
            raise InputError(
                found=f"a segmentation of {size / 1e9:.1f} GB",
                expected="at most 4.3 GB of pixels in one DICOM file",
                fix="leave out empty frames, or write a label map: --seg-kind labelmap, in voxmetry convert --to "
                "labelmap (kind='labelmap')",
            )
        with atomic_path(path) as temporary, _packed(frames, highest, kind, temporary.parent) as pixels:
            dataset.PixelData = pixels
            dataset.save_as(temporary)
            dataset.PixelData = b""
    return dataset


@contextlib.contextmanager
def _packed(frames: Sequence[tuple[SegmentOut, int]], highest: int, kind: str, folder: Path) -> Iterator[Any]:
    """Yield the pixels of all frames: in memory, or of label maps that lie in files in a file of their own."""
    if not any(is_mapped(x.array) for x, _ in frames):
        yield b"".join(pack_frames(frames, highest, kind))
        return
    with tempfile.TemporaryFile(prefix=".part-", dir=folder) as file:
        file.writelines(pack_frames(frames, highest, kind))
        file.seek(0)
        yield file


def _on_slices(segmentation: Segmentation, source: Source) -> NDArray[Any]:
    move = find_move(segmentation.geometry, source.geometry, what="the segmentation and the series")
    if not is_mapped(segmentation.array):
        # Fortran order lays each slice out in one piece.
        return np.asfortranarray(move(segmentation.array))
    moved = move(segmentation.array, zeros_on_disk)
    if moved.flags.f_contiguous:
        return moved
    laid = zeros_on_disk(moved.shape, moved.dtype)
    for k in range(moved.shape[2]):
        laid[:, :, k] = moved[:, :, k]
        release_pages(moved)
        release_pages(laid)
    return laid


def _overlap(arrays: Sequence[NDArray[Any]]) -> bool:
    if len(arrays) == 1:
        return False
    taken = arrays[0] > 0
    for array in arrays[1:]:
        if (taken & (array > 0)).any():
            return True
        taken |= array > 0
    return False


def _segments(layers: Sequence[Segmentation], arrays: Sequence[NDArray[Any]], *, numbered: bool) -> list[SegmentOut]:
    """Return the structures that have a voxel, numbered from 1 or by their values."""
    found = []
    for layer, array in zip(layers, arrays, strict=True):
        by_slice = []
        for k in range(array.shape[2]):
            by_slice.append(_values(array[:, :, k]))
            release_pages(array)
        for label in layer.labels:
            slices = frozenset(k for k, there in enumerate(by_slice) if label.value in there)
            if slices:
                found.append(SegmentOut(label.value, label, array, slices))
    if len(layers) > 1:
        found.sort(key=lambda x: x.label.value)
    return [replace(x, number=n) for n, x in enumerate(found, start=1)] if numbered else found


def _values(plane: NDArray[Any]) -> set[int]:
    return set((np.flatnonzero(np.bincount(plane.ravel(order="K"))[1:]) + 1).tolist())


def _one_map(segments: Sequence[SegmentOut], *, overlap: bool) -> list[SegmentOut]:
    """Put the layers of structures that do not overlap into one array."""
    if overlap or len({x.number for x in segments}) < len(segments):
        raise LabelError(
            found="structures that overlap, for a label map, which has one value a voxel",
            expected='a segmentation with one bit a voxel and segment (kind="binary")',
            fix="write that (--to seg), or say which structure a shared voxel goes to (--overlap first or last)",
        )
    merged = np.zeros(segments[0].array.shape, np.uint16, order="F")
    for x in segments:
        merged[x.array == x.label.value] = x.number
    return [replace(x, array=merged) for x in segments]


def _description(
    label: Label, number: int, names: Mapping[str, str], origin: Origin, tracking: Mapping[str, str]
) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    def coded(code: Code) -> Any:
        return CodedConcept(code.value, code.scheme, fitted(code.meaning))

    is_lesion = label.kind == "lesion"
    name = names[label.name]
    red, green, blue = (int(label.colour[start : start + 2], 16) for start in (1, 3, 5))
    segment = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=coded(label.category or (ABNORMAL if is_lesion else ANATOMY)),
        # Without a code of its own, a structure is what its kind says, and no more.
        segmented_property_type=coded(label.code or (_LESION if is_lesion else ANATOMY)),
        algorithm_type=origin.how.upper(),
        algorithm_identification=origin.identification,
        tracking_uid=tracking.get(label.name),
        tracking_id=name if label.name in tracking else None,
        display_color=CIELabColor.from_rgb(red, green, blue),
        anatomic_regions=[coded(label.region)] if label.region else None,
    )
    if name != label.name:
        segment.SegmentDescription = fitted(label.name, 1024)
    side = LATERALITY.get(label.laterality or "")
    if side and label.region:
        # A cyst of the left kidney: the side is the kidney's.
        segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded(side)]
    modifiers = [code for code in (None if label.region else side, label.modifier) if code]
    if modifiers:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(code) for code in modifiers]
    return segment


def _skeleton(source: Source, segments: Sequence[Any], kind: str, origin: Origin, description: str) -> Any:
    """Let highdicom make the object for one slice; frames come later."""
    import highdicom
    from highdicom.seg import Segmentation as Seg

    columns, rows, _ = source.geometry.shape
    plane = source.frames[0].plane
    step = source.geometry.spacing_mm[2]
    shape = (1, rows, columns) if kind == "labelmap" else (1, rows, columns, len(segments))
    with headers_taken("segmentation", fix="repair the headers of the series, or write NIfTI instead"):
        dataset = Seg(
            source_images=[_one_slice(source)],
            pixel_array=np.zeros(shape, np.uint16 if kind == "labelmap" else np.uint8),
            segmentation_type=kind.upper(),
            segment_descriptions=segments,
            series_instance_uid=new_uid(),
            series_number=SERIES_NUMBERS["SEG"],
            sop_instance_uid=new_uid(),
            instance_number=1,
            omit_empty_frames=False,
            content_label="SEGMENTATION",
            pixel_measures=highdicom.PixelMeasuresSequence(plane.pixel_spacing, plane.thickness_mm or step, step),
            plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", plane.orientation),
            plane_positions=[highdicom.PlanePositionSequence("PATIENT", source.positions[0])],
            series_description=fitted(description),
            specific_character_set=UNICODE,
            content_creator_name=origin.person or None,
            **origin.equipment(),
        )
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence", "DerivationImageSequence"):
        # What one slice of one segment has in common stands with each frame here.
        if keyword in shared:
            delattr(shared, keyword)
    _state_sizes(shared.PixelMeasuresSequence[0], source)
    copy_identity(dataset, source)
    series = dataset.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = [_whole(source, index) for index in range(len(source.headers))]
    return dataset


def _one_slice(source: Source) -> Any:
    """Return a header of a classic slice, which is all that highdicom needs to see here."""
    first, plane = source.first, source.frames[0].plane
    columns, rows, _ = source.geometry.shape
    carried = {keyword: first[keyword].value for keyword in _CARRIED if first.get(keyword)}
    return without_identity(
        first,
        # By the class highdicom tells whether to look for functional groups.
        SOPClassUID=_CLASSIC.get(first.get("Modality", ""), first.SOPClassUID),
        Modality=first.get("Modality", "OT"),
        ImagePositionPatient=[format_number_as_ds(x) for x in plane.position],
        ImageOrientationPatient=[format_number_as_ds(x) for x in plane.orientation],
        PixelSpacing=[format_number_as_ds(x) for x in plane.pixel_spacing],
        SliceThickness=format_number_as_ds(source.thickness_mm or source.geometry.spacing_mm[2]),
        Rows=rows,
        Columns=columns,
        **carried,
    )


def _state_sizes(measures: Any, source: Source) -> None:
    """Write thickness and spacing as the series has them; of an unknown thickness the step, as one must be there.

    highdicom sees one slice, and would write a spacing of 1 mm.
    """
    measures.SliceThickness = format_number_as_ds(source.thickness_mm or source.geometry.spacing_mm[2])
    if source.step_mm is not None:
        measures.SpacingBetweenSlices = format_number_as_ds(source.step_mm)
    elif "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices


def _whole(source: Source, index: int) -> Any:
    import pydicom

    item = pydicom.Dataset()
    header = source.headers[index]
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item
