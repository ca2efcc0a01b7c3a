"""Frames of a DICOM segmentation, encoded: their headers and their packed pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from voxmetry.core.labels import Label
from voxmetry.core.memory import release_pages
from voxmetry.io.dicom.objects.origin import (
    keep_encoded,
)
from voxmetry.io.dicom.objects.source import Source

_ITEM = struct.Struct("<HHI")
_SEQUENCE = struct.Struct("<HH2sHI")


@dataclass(frozen=True)
class SegmentOut:
    """One structure: its number, what it is, and the slices of an array (I, J, K) where its value stands."""

    number: int
    label: Label
    array: NDArray[Any]
    slices: frozenset[int]


def list_frames(segments: Sequence[SegmentOut], kind: str, keep_empty: bool) -> list[tuple[SegmentOut, int]]:
    """Return (segment, slice) of each frame; in a label map the first segment stands for all."""
    n_slices = segments[0].array.shape[2]
    if kind == "labelmap":
        used = range(n_slices) if keep_empty else sorted(frozenset().union(*(x.slices for x in segments)))
        return [(segments[0], k) for k in used]
    chosen = [range(n_slices) if keep_empty else sorted(x.slices) for x in segments]
    return [(x, k) for x, slices in zip(segments, _of_even_length(segments, chosen), strict=True) for k in slices]


def _of_even_length(segments: Sequence[SegmentOut], slices: Sequence[Sequence[int]]) -> list[list[int]]:
    """Add frames without a voxel until all frames together take an even number of bytes.

    DICOM pads pixel data to an even length (PS3.5 8.1.1), and OHIF 3.13 refuses a segmentation with a byte more than
    its frames take. An empty frame lies on a slice that others are on, or else next to one. Without enough of them no
    frame is added.
    """
    found = [list(each) for each in slices]
    n_slices = segments[0].array.shape[2]
    pixels = segments[0].array.shape[0] * segments[0].array.shape[1]
    used = sorted(set().union(*found))
    near = [*used, *range(used[-1] + 1, n_slices), *range(used[0] - 1, -1, -1)]
    spare = [(each, k) for k in near for each in found if k not in each]
    n = sum(map(len, found))
    # Sixteen frames take an even number of bytes, whatever their size.
    more = next(more for more in range(16) if -(-pixels * (n + more) // 8) % 2 == 0)
    for each, k in spare[:more] if more <= len(spare) else ():
        each.append(k)
    return [sorted(each) for each in found]


def describe_frames(dataset: Any, source: Source, frames: Sequence[tuple[int, int]]) -> None:
    """Put the per-frame groups in, encoded."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    used = {k: rank for rank, k in enumerate(sorted({k for _, k in frames}), start=1)}
    positions = source.positions
    by_slice = {k: (_derivation(source, k), _position(positions[k])) for k in used}
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


def _position(position: Sequence[float]) -> bytes:
    import pydicom

    item, holder = pydicom.Dataset(), pydicom.Dataset()
    item.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
    holder.PlanePositionSequence = [item]
    return _encoded(holder)


def _segment(number: int) -> bytes:
    import pydicom

    item, holder = pydicom.Dataset(), pydicom.Dataset()
    item.ReferencedSegmentNumber = number
    holder.SegmentIdentificationSequence = [item]
    return _encoded(holder)


def packed_size(frames: Sequence[tuple[SegmentOut, int]], highest: int, kind: str) -> int:
    """Return how many bytes `pack_frames` yields."""
    pixels = len(frames) * frames[0][0].array[:, :, 0].size
    size = pixels * (1 if highest <= 255 else 2) if kind == "labelmap" else -(-pixels // 8)
    return size + size % 2


def pack_frames(frames: Sequence[tuple[SegmentOut, int]], highest: int, kind: str) -> Iterator[bytes]:
    """Yield the pixels of all frames: bytes or words of a label map, or bits, the lowest first (PS3.5 8.1.1)."""
    rest = np.zeros(0, np.uint8)
    wide = np.uint8 if highest <= 255 else np.dtype("<u2")
    n = 0
    for x, k in frames:
        plane = x.array[:, :, k].T
        if kind == "labelmap":
            packed = np.ascontiguousarray(plane, wide).tobytes()
        else:
            bits = np.equal(plane, x.label.value).ravel().view(np.uint8)
            # A frame begins at the bit after the last one, within a byte where the pixels are no multiple of eight.
            bits = np.concatenate([rest, bits]) if rest.size else bits
            whole = bits.size // 8 * 8
            packed, rest = np.packbits(bits[:whole], bitorder="little").tobytes(), bits[whole:]
        n += len(packed)
        yield packed
        release_pages(x.array)
    last = np.packbits(rest, bitorder="little").tobytes()
    yield last + b"\0" * ((n + len(last)) % 2)
