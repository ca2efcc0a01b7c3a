"""DICOM segmentations out, by highdicom.

highdicom makes the object: patient, study, segments, shared groups, dimensions. The description of each frame is
encoded here, from parts that are made once a slice and once a segment: made frame by frame, those of 100 segments on
500 slices take minutes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.labels import Code, Label
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import InputError, LabelError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.origin import SERIES_NUMBERS, Origin, headers_taken, keep_encoded, new_uid
from voxmetry.io.dicom.objects.source import Source
from voxmetry.io.dicom.read.headers import lenient
from voxmetry.io.dicom.segmentations.codes import ABNORMAL, ANATOMY, LATERALITY
from voxmetry.io.lattice import find_move

_CLASSIC = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
_OF_FRAMES = ("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_LESION = Code(value="52988006", meaning="Lesion")
_ITEM = struct.Struct("<HHI")
_SEQUENCE = struct.Struct("<HH2sHI")
_MOST_BYTES = 2**32 - 2


def write_seg(
    segmentation: Segmentation,
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
        On the series' grid, or the same voxels in another order of the axes.
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
        What was written, without pixel data. Segment numbers are positions among the labels that are present, and in
        a label map the label values.

    Raises
    ------
    GeometryError
        If the segmentation has other voxels than the series.
    LabelError
        If it is empty.
    InputError
        If highdicom refuses the source's headers, or the file would exceed what DICOM can hold.
    OutputError
        If the file cannot be written.
    """
    move = find_move(segmentation.geometry, source.geometry, what="the segmentation and the series")
    # Fortran order lays each slice out in one piece.
    array = np.asfortranarray(move(segmentation.array))
    values = [_values(array[:, :, k]) for k in range(array.shape[2])]
    present = [label for label in segmentation.labels if any(label.value in found for found in values)]
    if not present:
        raise LabelError(
            found="a segmentation without a voxel",
            expected="at least one structure, as a DICOM segmentation must hold a frame",
            fix="leave the file out",
        )
    numbers = {x.value: x.value if kind == "labelmap" else n for n, x in enumerate(present, start=1)}
    segments = [_description(x, numbers[x.value], origin, tracking or {}) for x in present]
    with lenient():
        dataset = _skeleton(source, segments, kind, origin, description)
        frames = _frames(values, numbers, kind, keep_empty_frames)
        _describe_frames(dataset, source, frames)
        pixels = _packed(array, frames, numbers, kind)
        if len(pixels) > _MOST_BYTES:
            raise InputError(
                found=f"a segmentation of {len(pixels) / 1e9:.1f} GB",
                expected="at most 4.3 GB of pixels in one DICOM file",
                fix='leave out empty frames, or write a label map (kind="labelmap")',
            )
        dataset.PixelData = pixels
        with atomic_path(path) as temporary:
            dataset.save_as(temporary)
    dataset.PixelData = b""
    return dataset


def _description(label: Label, number: int, origin: Origin, tracking: Mapping[str, str]) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    def coded(code: Code) -> Any:
        return CodedConcept(code.value, code.scheme, code.meaning[:64])

    is_lesion = label.kind == "lesion"
    red, green, blue = (int(label.colour[start : start + 2], 16) for start in (1, 3, 5))
    segment = SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=coded(label.category or (ABNORMAL if is_lesion else ANATOMY)),
        # Without a code of its own, a structure is what its kind says, and no more.
        segmented_property_type=coded(label.code or (_LESION if is_lesion else ANATOMY)),
        algorithm_type=origin.how.upper(),
        algorithm_identification=origin.identification,
        tracking_uid=tracking.get(label.name),
        tracking_id=label.name[:64] if label.name in tracking else None,
        display_color=CIELabColor.from_rgb(red, green, blue),
        anatomic_regions=[coded(label.region)] if label.region else None,
    )
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
            plane_positions=[highdicom.PlanePositionSequence("PATIENT", plane.position)],
            series_description=description[:64],
            **origin.equipment(),
        )
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence", "DerivationImageSequence"):
        # What one slice of one segment has in common stands with each frame here.
        if keyword in shared:
            delattr(shared, keyword)
    series = dataset.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = [_whole(source, index) for index in range(len(source.headers))]
    return dataset


def _one_slice(source: Source) -> Any:
    """Return the first header as that of a classic slice, which is all that highdicom needs to see here."""
    import pydicom
    from pydicom.datadict import tag_for_keyword

    plane = source.frames[0].plane
    columns, rows, _ = source.geometry.shape
    classic = {
        # By the class highdicom tells whether to look for functional groups.
        "SOPClassUID": _CLASSIC.get(source.first.get("Modality", ""), source.first.SOPClassUID),
        "ImagePositionPatient": list(plane.position),
        "ImageOrientationPatient": list(plane.orientation),
        "PixelSpacing": list(plane.pixel_spacing),
        "SliceThickness": plane.thickness_mm or source.geometry.spacing_mm[2],
        "Rows": rows,
        "Columns": columns,
    }
    header = pydicom.Dataset()
    # Elements are shared with the source, and setting a value would change it there: what differs is left out first.
    left_out = {tag_for_keyword(keyword) for keyword in (*classic, *_OF_FRAMES)}
    header.update({tag: source.first.get_item(tag) for tag in source.first.keys() - left_out})
    for keyword, value in classic.items():
        setattr(header, keyword, value)
    header.file_meta = source.first.file_meta
    return header


def _whole(source: Source, index: int) -> Any:
    import pydicom

    item = pydicom.Dataset()
    header = source.headers[index]
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _values(plane: NDArray[Any]) -> set[int]:
    return set((np.flatnonzero(np.bincount(plane.ravel(order="K"))[1:]) + 1).tolist())


def _frames(
    values: Sequence[set[int]], numbers: Mapping[int, int], kind: str, keep_empty: bool
) -> list[tuple[int, int]]:
    """Return (segment number, slice) of each frame; the number is 0 in a label map."""
    if kind == "labelmap":
        return [(0, k) for k, found in enumerate(values) if keep_empty or found]
    return sorted(
        (number, k)
        for value, number in numbers.items()
        for k, found in enumerate(values)
        if keep_empty or value in found
    )


def _describe_frames(dataset: Any, source: Source, frames: Sequence[tuple[int, int]]) -> None:
    """Put the per-frame groups in, encoded."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    used = {k: rank for rank, k in enumerate(sorted({k for _, k in frames}), start=1)}
    by_slice = {k: (_derivation(source, k), _position(source, k)) for k in used}
    by_segment = {number: _segment(number) for number in {number for number, _ in frames} if number}
    items = []
    for number, k in frames:
        index = [number, used[k]] if number else [used[k]]
        # Frame Content Sequence (0020,9111) with Dimension Index Values (0020,9157), UL.
        values = struct.pack(f"<HH2sH{len(index)}I", 0x0020, 0x9157, b"UL", 4 * len(index), *index)
        content = _item(values)
        content = _SEQUENCE.pack(0x0020, 0x9111, b"SQ", 0, len(content)) + content
        derivation, position = by_slice[k]
        items.append(_item(derivation + content + position + by_segment.get(number, b"")))
    value = b"".join(items)
    tag = Tag("PerFrameFunctionalGroupsSequence")
    dataset.NumberOfFrames = len(frames)
    keep_encoded(dataset, implicit=False)
    dataset[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _item(content: bytes) -> bytes:
    return _ITEM.pack(0xFFFE, 0xE000, len(content)) + content


def _encoded(dataset: Any) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def _derivation(source: Source, k: int) -> bytes:
    """Encode that a frame was segmented from slice `k`: PS3.16 CID 7203 113076 and CID 7202 121322."""
    import pydicom
    from highdicom.sr import CodedConcept

    image = source.reference(k)
    image.PurposeOfReferenceCodeSequence = [
        CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    item, holder = pydicom.Dataset(), pydicom.Dataset()
    item.SourceImageSequence = [image]
    item.DerivationCodeSequence = [CodedConcept("113076", "DCM", "Segmentation")]
    holder.DerivationImageSequence = [item]
    return _encoded(holder)


def _position(source: Source, k: int) -> bytes:
    import pydicom
    from pydicom.valuerep import format_number_as_ds

    item, holder = pydicom.Dataset(), pydicom.Dataset()
    item.ImagePositionPatient = [format_number_as_ds(float(x)) for x in source.frames[k].plane.position]
    holder.PlanePositionSequence = [item]
    return _encoded(holder)


def _segment(number: int) -> bytes:
    import pydicom

    item, holder = pydicom.Dataset(), pydicom.Dataset()
    item.ReferencedSegmentNumber = number
    holder.SegmentIdentificationSequence = [item]
    return _encoded(holder)


def _packed(array: NDArray[Any], frames: Sequence[tuple[int, int]], numbers: Mapping[int, int], kind: str) -> bytes:
    """Return the pixels of all frames: bytes or words of a label map, or bits, the lowest first (PS3.5 8.1.1)."""
    if kind == "labelmap":
        wide = np.uint8 if max(numbers) <= 255 else np.dtype("<u2")
        raw = b"".join(np.ascontiguousarray(array[:, :, k].T, wide).tobytes() for _, k in frames)
    else:
        raw = b"".join(_bits(array, frames, numbers))
    return raw + b"\0" * (len(raw) % 2)


def _bits(array: NDArray[Any], frames: Sequence[tuple[int, int]], numbers: Mapping[int, int]) -> Iterator[bytes]:
    values = {number: value for value, number in numbers.items()}
    rest = np.zeros(0, np.uint8)
    for number, k in frames:
        bits = np.equal(array[:, :, k].T, values[number]).ravel().view(np.uint8)
        # A frame begins at the bit after the last one, within a byte where the pixels are no multiple of eight.
        bits = np.concatenate([rest, bits]) if rest.size else bits
        whole = bits.size // 8 * 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    yield np.packbits(rest, bitorder="little").tobytes()
