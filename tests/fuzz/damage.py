"""Ways to damage the bytes and the elements of DICOM files, whatever they hold."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable

import pydicom

from .harness import Files, Mutation

WRONG = ("0", "-1", "65535", "1e400", "nan", "", "abc", "1\\2", "0.000001", "999999999999")
ELEMENTS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "ImageType", "EchoTime"),
    *("AcquisitionNumber", "InstanceNumber", "FrameOfReferenceUID", "SpecificCharacterSet", "SeriesDescription"),
)
SIZES = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
)


KEYWORDS = (*ELEMENTS, *SIZES)


def pick(r: random.Random, files: Files) -> bytearray:
    data = files[r.choice(sorted(files))]
    if not data:
        data += b"\0"
    return data


def header_end(data: bytearray) -> int:
    place = data.find(b"\xe0\x7f\x10\x00")
    return place if place > 0 else len(data)


def flip_in_header(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    for _ in range(r.choice((1, 1, 2, 8))):
        data[r.randrange(max(1, header_end(data)))] ^= 1 << r.randrange(8)


def flip_anywhere(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    for _ in range(r.choice((1, 4, 32))):
        data[r.randrange(len(data))] = r.randrange(256)


def truncate(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    del data[r.randrange(len(data)) if r.random() < 0.5 else r.randrange(header_end(data)) :]
    if not data:
        data += b"\0"


def blank(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = r.randrange(len(data))
    end = min(len(data), at + r.choice((16, 512, 8192)))
    data[at:end] = bytes(end - at)


def insert(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = r.randrange(max(1, header_end(data)))
    data[at:at] = r.randbytes(r.choice((1, 2, 8, 100)))


def lie_about_length(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    places = [at for keyword in (*KEYWORDS, "PixelData") if (at := data.find(tag_bytes(keyword))) > 0]
    if places:
        at = r.choice(places)
        value = r.choice((0, 1, 2, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, r.randrange(1 << 16)))
        if r.random() < 0.5:
            data[at + 6 : at + 8] = struct.pack("<H", value & 0xFFFF)
        else:
            data[at + 8 : at + 12] = struct.pack("<I", value)


def tag_bytes(keyword: str) -> bytes:
    tag = pydicom.tag.Tag(keyword)
    return struct.pack("<HH", tag.group, tag.element)


def rewritten(change: Callable[[random.Random, pydicom.Dataset], None], *, most: bool = False) -> Mutation:
    """Turn a change of a data set into one of some of the files."""

    def mutate(r: random.Random, files: Files) -> None:
        names = sorted(files)
        for name in names if most and r.random() < 0.5 else [r.choice(names)]:
            with contextlib.suppress(Exception):  # what is damaged already may not be writable: then it stays so
                data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(bytes(files[name])))
                change(r, data)
                out = pydicom.filebase.DicomBytesIO()
                data.save_as(out)
                files[name][:] = out.getvalue()

    return mutate


def nest(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(tag_bytes("Modality"))
    if at > 0:
        head = tag_bytes("ReferencedImageSequence") + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        depth = r.choice((1, 3, 15, 17, 200, 5000))
        tail = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * (depth if r.random() < 0.7 else 0)
        data[at:at] = head * depth + tail


def double_tag(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(tag_bytes(r.choice(KEYWORDS)))
    if at > 0 and at + 8 < len(data):
        length = struct.unpack_from("<H", data, at + 6)[0]
        copy = bytearray(data[at : at + 8 + length])
        if len(copy) > 8 and r.random() < 0.6:
            copy[r.randrange(8, len(copy))] ^= 1
        data[at:at] = copy


def lie_about_syntax(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(b"1.2.840.10008.1.2", 132, 800)
    if at > 0:
        end = at + r.choice((17, 19, 20, 22))
        data[at:end] = r.choice(
            (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.5\0")
        )[: end - at]


BYTES: dict[str, Mutation] = {
    "flip in header": flip_in_header,
    "flip anywhere": flip_anywhere,
    "truncate": truncate,
    "blank": blank,
    "insert": insert,
    "lying length": lie_about_length,
    "nested sequences": nest,
    "doubled tag": double_tag,
    "lying syntax": lie_about_syntax,
}
"""What needs no understanding of the file."""
