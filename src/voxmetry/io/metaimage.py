"""MetaImage files, `.mha` and `.mhd`: read strictly, by the format's own definition.

ITK's reader fills in what a header leaves out, hands names to a C formatting function, and returns memory that was
never written where a file holds too little; none of it happens here. The format:
https://itk.org/Wiki/MetaIO/Documentation
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.errors import FormatError, GeometryError, InputError
from voxmetry.io.stored import DataFiles, Stored, numbers, read_stored, whole_numbers
from voxmetry.io.unpack import beside, numbered, open_plain

_HEADER_LIMIT = 1 << 22
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    # Four bytes in MetaIO, whatever a C long is.
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_ALIASES = {
    **dict.fromkeys(("Orientation", "Rotation"), "TransformMatrix"),
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_ONCE = {
    *("ObjectType", "NDims", "DimSize", "ElementType", "ElementSpacing", "TransformMatrix", "Offset"),
    *("BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "HeaderSize", "ElementNumberOfChannels"),
}
_COSINE_TOLERANCE = 1e-3


def read_metaimage(path: Path, *, mapped: bool = False) -> tuple[NDArray[Any], Geometry, Mapping[str, str]]:
    """Read a file with one number a voxel: its voxels (I, J, K), their grid, and all fields of its header.

    Raises
    ------
    FormatError
        If it is damaged or contradicts itself.
    InputError
        If it holds another number of axes than three, or several numbers a voxel.
    GeometryError
        If it does not say where its voxels lie.
    """
    with open_plain(path, path.name) as file:
        start = file.read(_HEADER_LIMIT)
    match = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*(\r?\n|\r?\Z)", start, re.MULTILINE)
    if match is None:
        raise _damaged(path, "its header has no 'ElementDataFile'")
    fields = _fields(start[: match.start()].decode("utf-8", "replace"), path)
    sizes = _sizes(fields, path)
    geometry = _geometry(fields, sizes, path)
    stored = _stored(fields, sizes, path, match, start)
    return read_stored(stored, path.name, mapped=mapped), geometry, fields


def _fields(text: str, path: Path) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in re.split(r"\r?\n", text):
        key, sign, value = line.partition("=")
        key, value = key.strip(), value.strip()
        key = _ALIASES.get(key, key)
        if not line.strip():
            continue
        if not sign or not key:
            raise _damaged(path, f"its header has a line that is no field: {line[:40]!r}")
        if key in _ONCE and fields.get(key, value) != value:
            raise _damaged(path, f"its header says {key!r} twice, differently")
        fields[key] = value
    kind = fields.get("ObjectType", "Image")
    if kind != "Image":
        raise _damaged(path, f"it holds an object of type {kind[:20]!r}, not an image")
    return fields


def _sizes(fields: Mapping[str, str], path: Path) -> tuple[int, int, int]:
    sizes, dimension = whole_numbers(fields.get("DimSize", "")), whole_numbers(fields.get("NDims", ""))
    if not sizes or dimension != (len(sizes),) or min(sizes) < 1:
        raise _damaged(path, "its header has no DimSize that goes with its NDims")
    channels = fields.get("ElementNumberOfChannels", "1")
    if whole_numbers(channels) != (1,):
        raise InputError(
            found=f"{path.name} holds {channels[:20]} numbers a voxel, or complex ones",
            expected="one real number a voxel",
            fix="save one channel, or the magnitude, as an image of its own",
        )
    if len(sizes) != 3:
        raise InputError(
            found=f"{path.name} has {len(sizes)} axes (shape {' x '.join(map(str, sizes))})",
            expected="one volume with three axes",
            fix="save one volume by itself; a single slice has a third axis of size 1",
        )
    return (sizes[0], sizes[1], sizes[2])


def _geometry(fields: Mapping[str, str], sizes: tuple[int, int, int], path: Path) -> Geometry:
    found = {key: numbers(fields.get(key, "")) for key in ("TransformMatrix", "Offset", "ElementSpacing")}
    wanted = {"TransformMatrix": 9, "Offset": 3, "ElementSpacing": 3}
    missing = [
        key for key, n in wanted.items() if len(found[key] or ()) != n or not np.isfinite(found[key] or ()).all()
    ]
    if missing:
        raise _no_place(path, f"no usable {', '.join(missing)}")
    unit = fields.get("DistanceUnits", "mm").casefold()
    if unit not in ("mm", "?", "unknown"):
        raise _no_place(path, f"lengths in {unit[:20]}, not in mm")
    spacing = np.array(found["ElementSpacing"])
    # The direction of the first axis comes first.
    directions = np.array(found["TransformMatrix"]).reshape(3, 3).T
    if (spacing <= 0).any() or np.abs(np.linalg.norm(directions, axis=0) - 1).max() > _COSINE_TOLERANCE:
        raise _no_place(path, "a spacing that is not above 0, or directions that are not of length 1")
    affine: Float64 = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = found["Offset"]
    i, j, k = (float(mm) for mm in spacing)
    return Geometry(swap_lps_ras(affine), sizes, stated_spacing_mm=(i, j, k))


def _stored(
    fields: Mapping[str, str], sizes: tuple[int, int, int], path: Path, match: re.Match[bytes], start: bytes
) -> Stored:
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise _damaged(path, f"its ElementType {kind[:20]!r} is not known")
    for key, usual in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and numbers(fields[key]) != (usual,):
            raise _damaged(path, f"its voxels are scaled ({key} = {fields[key][:20]}), which readers do not agree on")
    is_binary, is_packed = _flag(fields, "BinaryData", path, default=True), _flag(fields, "CompressedData", path)
    big = _flag(fields, "BinaryDataByteOrderMSB", path)
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    encoding = "packed" if is_packed else "raw" if is_binary else "text"
    skip = whole_numbers(fields.get("HeaderSize", "0"))
    if len(skip) != 1 or skip[0] < -1 or (skip[0] == -1 and encoding != "raw"):
        raise _damaged(path, "its HeaderSize is not one that goes with its voxels")
    named = match[1].decode("utf-8", "replace")
    if named.upper() in ("LOCAL", "LOCAL "):
        return Stored(sizes, dtype, encoding, DataFiles((path,), match.end(), skipped=0))
    files, axes = _files(named, start[match.end() :], sizes, path)
    offset, skipped = (0, -1) if skip[0] == -1 else (skip[0], 0)
    return Stored(sizes, dtype, encoding, DataFiles(files, offset, skipped=skipped, axes=axes))


def _files(named: str, rest: bytes, sizes: tuple[int, int, int], path: Path) -> tuple[tuple[Path, ...], int]:
    words = named.split()
    if words[:1] and words[0].upper() == "LIST":
        axes = whole_numbers(re.sub(r"[dD]$", "", " ".join(words[1:]))) if words[1:] else (2,)
        if len(axes) != 1 or not 1 <= axes[0] <= 3:
            raise _damaged(path, "its 'ElementDataFile = LIST' has no usable number of axes")
        names = [line.strip() for line in rest.decode("utf-8", "replace").splitlines() if line.strip()]
        return tuple(beside(path, name) for name in names), axes[0]
    pattern = re.fullmatch(r"(.*%.*?)((?:\s+-?\d{1,9}){2,3})", named)
    if pattern:
        low, high, *more = (int(word) for word in pattern[2].split())
        step = more[0] if more else 1
        if step < 1 or not 0 < len(range(low, high + 1, step)) <= sizes[2]:
            raise _damaged(path, "its 'ElementDataFile' does not number the files that its sizes need")
        return numbered(path, pattern[1], range(low, high + 1, step)), 2
    return (beside(path, named),), 3


def _flag(fields: Mapping[str, str], key: str, path: Path, *, default: bool = False) -> bool:
    """Read True or False as MetaIO does, by the first letter."""
    value = fields.get(key, str(default)).strip()[:1].upper()
    if value not in ("T", "F", "1", "0"):
        raise _damaged(path, f"its {key} is neither True nor False")
    return value in ("T", "1")


def _no_place(path: Path, what: str) -> GeometryError:
    return GeometryError(
        found=f"the header of {path.name} has {what}",
        expected="the position, directions and spacing in mm of the voxels in the patient",
        fix="save it again with a tool that keeps them; they cannot be guessed",
    )


def _damaged(path: Path, why: str) -> FormatError:
    return FormatError(
        found=f"{path.name} cannot be read: {why}",
        expected="a complete MetaImage file",
        fix="copy or convert the file again from its source",
    )
