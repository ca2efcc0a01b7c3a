"""NRRD files, `.nrrd` and `.nhdr`: read strictly, by the format's own definition.

Sizes, types and names are compared with what the data files hold before a voxel is read; what the header leaves open
is refused. The format: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.errors import FormatError, GeometryError, InputError
from voxmetry.io.stored import DataFiles, Stored, numbers, read_stored, whole_numbers
from voxmetry.io.unpack import beside, numbered, open_plain, regular_size

_HEADER_LIMIT = 1 << 22
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("text", "txt", "ascii"), "text"),
    "hex": "hex",
}
_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_SPATIAL_KINDS = {"domain", "space", "none", "???"}
_ONCE = {"dimension", "type", "sizes", "encoding", "endian", "space", "space directions", "space origin", "kinds"}
_SAME = {"lineskip": "line skip", "byteskip": "byte skip", "datafile": "data file"}


@dataclass(frozen=True)
class NrrdHeader:
    """What the header of a NRRD file says.

    Parameters
    ----------
    fields
        By name, in lower case.
    pairs
        Its key/value pairs, such as those of 3D Slicer.
    directions
        For each axis of the array, fastest first, its vector in LPS+ mm; None where it is no axis in space.
    stored
        How its voxels are stored.
    """

    fields: Mapping[str, str]
    pairs: Mapping[str, str]
    directions: tuple[tuple[float, float, float] | None, ...]
    geometry: Geometry
    stored: Stored


def read_nrrd(path: Path, *, mapped: bool = False) -> tuple[NDArray[Any], Geometry, Mapping[str, str]]:
    """Read a file with one number a voxel: its voxels (I, J, K), their grid, and the header's key/value pairs.

    Raises
    ------
    FormatError
        If it is damaged or contradicts itself.
    InputError
        If it holds several numbers a voxel.
    GeometryError
        If it does not say where its voxels lie.
    """
    header = read_nrrd_header(path)
    several = [(n, kind) for n, kind in zip(header.stored.sizes, header.directions, strict=True) if kind is None]
    if any(n != 1 for n, _ in several):
        raise InputError(
            found=f"{path.name} holds {max(n for n, _ in several)} numbers a voxel "
            f"({len(header.stored.sizes)} axes, shape {' x '.join(map(str, header.stored.sizes))})",
            expected="one real number a voxel, on three axes",
            fix="save one channel, layer or volume as an image of its own",
        )
    array = read_stored(header.stored, path.name, mapped=mapped)
    return array.reshape(header.geometry.shape, order="F"), header.geometry, header.pairs


def read_nrrd_layers(path: Path) -> tuple[NDArray[Any], Geometry, Mapping[str, str]]:
    """Read a file with several numbers a voxel: (n, I, J, K), the grid, and the header's key/value pairs.

    Raises
    ------
    VoxmetryError
        As `read_nrrd`; of a file without a fourth axis n is 1.
    """
    header = read_nrrd_header(path)
    array = read_stored(header.stored, path.name)
    place = next((index for index, kind in enumerate(header.directions) if kind is None), None)
    layers = array[np.newaxis] if place is None else np.moveaxis(array, place, 0)
    return layers, header.geometry, header.pairs


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read and check a header, and find the files of its voxels.

    Raises
    ------
    FormatError, InputError, GeometryError
        As `read_nrrd`.
    """
    size = regular_size(path, path.name)
    with open_plain(path, path.name) as file:
        start = file.read(_HEADER_LIMIT)
    if re.match(rb"NRRD000[1-5]\r?\n", start) is None:
        raise _damaged(path, "it does not begin with 'NRRD000' and a version from 1 to 5")
    end = re.search(rb"\r?\n\r?\n", start)
    if end is None and size > _HEADER_LIMIT:
        raise _damaged(path, f"its header does not end within {_HEADER_LIMIT} bytes")
    text = start[: end.start() if end else None].decode("utf-8", "replace")
    fields, pairs, files = _lines(text, path)
    sizes = _sizes(fields, path)
    directions, geometry = _geometry(fields, sizes, path)
    stored = _stored(fields, sizes, files, path, end.end() if end else None)
    return NrrdHeader(fields, pairs, directions, geometry, stored)


def _lines(text: str, path: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Take a header apart: fields, key/value pairs, and the names behind `data file: LIST`."""
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    lines = re.split(r"\r?\n", text)[1:]
    for number, line in enumerate(lines):
        if line.startswith("#") or not line.strip():
            continue
        # Whichever comes first: a value may hold the other's sign.
        match = re.match(r"([^:]+?):(=| )(.*)", line)
        if match is None:
            raise _damaged(path, f"line {number + 2} of its header is neither a field nor a key with a value")
        key, sign, value = match[1], match[2], match[3]
        if sign == "=":
            pairs[_unescaped(key)] = _unescaped(value)
            continue
        key, value = key.strip().lower(), value.strip()
        key = _SAME.get(key, key)
        if key in fields and key in (*_ONCE, *_SAME.values()) and fields[key] != value:
            raise _damaged(path, f"its header says {key!r} twice, differently")
        fields[key] = value
        if key == "data file" and value.upper().split()[:1] == ["LIST"]:
            return fields, pairs, [name for name in lines[number + 1 :] if name.strip()]
    return fields, pairs, []


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1] if found[1] == "\\" else found[0], text)


def _sizes(fields: Mapping[str, str], path: Path) -> tuple[int, ...]:
    dimension = whole_numbers(fields.get("dimension", ""))
    sizes = whole_numbers(fields.get("sizes", ""))
    if not sizes or dimension != (len(sizes),) or min(sizes) < 1:
        raise _damaged(path, "its header has no sizes that go with its dimension")
    if len(sizes) not in (3, 4):
        raise InputError(
            found=f"{path.name} has {len(sizes)} axes (shape {' x '.join(map(str, sizes))})",
            expected="one volume with three axes",
            fix="save one volume by itself; a single slice has a third axis of size 1",
        )
    return sizes


def _geometry(
    fields: Mapping[str, str], sizes: tuple[int, ...], path: Path
) -> tuple[tuple[tuple[float, float, float] | None, ...], Geometry]:
    signs = _TO_LPS.get(fields.get("space", "").lower())
    missing = [key for key in ("space directions", "space origin") if key not in fields]
    if signs is None:
        missing.append("space (left-posterior-superior, right-anterior-superior or left-anterior-superior)")
    if missing or signs is None:
        raise _no_place(path, f"no usable {', '.join(missing)}")
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if any(unit.strip().casefold() not in ("mm", "millimeter", "millimetre", "millimeters", "") for unit in units):
        raise _no_place(path, f"lengths in {' '.join(units)}, not in mm")
    directions = _vectors(fields["space directions"], path)
    origin = _vectors(fields["space origin"], path)
    spatial = [index for index, vector in enumerate(directions) if vector is not None]
    if len(directions) != len(sizes) or len(spatial) != 3 or len(origin) != 1 or origin[0] is None:
        raise _no_place(
            path,
            f"{len(spatial)} axes with a direction of {len(directions)} in 'space directions', for {len(sizes)} sizes",
        )
    kinds = fields.get("kinds", "").split() or ["???"] * len(sizes)
    odd = (
        [kinds[index] for index in spatial if kinds[index].lower() not in _SPATIAL_KINDS]
        if (len(kinds) == len(sizes))
        else kinds
    )
    if odd:
        raise _no_place(path, f"kinds {' '.join(kinds)} that do not go with its 'space directions'")
    affine: Float64 = np.eye(4)
    for column, index in enumerate(spatial):
        affine[:3, column] = np.multiply(directions[index] or (), signs)
    affine[:3, 3] = np.multiply(origin[0], signs)
    i, j, k = (sizes[index] for index in spatial)
    return directions, Geometry(swap_lps_ras(affine), (i, j, k))


def _vectors(text: str, path: Path) -> tuple[tuple[float, float, float] | None, ...]:
    found = re.findall(r"none|\([^()]*\)", text)
    if re.sub(r"none|\([^()]*\)|\s", "", text):
        raise _no_place(path, f"a vector that is none in {text[:60]!r}")
    vectors: list[tuple[float, float, float] | None] = []
    for vector in found:
        values = numbers(vector.strip("()").replace(",", " ")) if vector != "none" else None
        if vector != "none" and (values is None or len(values) != 3 or not np.isfinite(values).all()):
            raise _no_place(path, f"the vector {vector[:60]}, which is not three finite numbers")
        vectors.append((values[0], values[1], values[2]) if values else None)
    return tuple(vectors)


def _stored(
    fields: Mapping[str, str], sizes: tuple[int, ...], listed: list[str], path: Path, end: int | None
) -> Stored:
    kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if kind not in _TYPES or encoding not in _ENCODINGS:
        raise _damaged(path, f"voxels of type {kind[:20]!r} in the encoding {encoding[:20]!r} are not known")
    dtype = np.dtype(_TYPES[kind])
    endian = fields.get("endian", "").lower()
    if dtype.itemsize > 1 and _ENCODINGS[encoding] != "text":
        if endian not in ("little", "big"):
            raise _damaged(path, "it does not say the order of the bytes (endian)")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    skips = [whole_numbers(fields.get(key, "0")) for key in ("line skip", "byte skip")]
    if any(len(skip) != 1 for skip in skips) or skips[0][0] < 0 or skips[1][0] < -1:
        raise _damaged(path, "its 'line skip' or 'byte skip' is no number")
    lines, skipped = skips[0][0], skips[1][0]
    if skipped == -1 and _ENCODINGS[encoding] != "raw":
        raise _damaged(path, "'byte skip: -1' is for raw voxels only")
    files, subdimension, offset = _files(fields.get("data file"), listed, sizes, path, end)
    data = DataFiles(files, offset, lines, skipped, subdimension)
    return Stored(sizes, dtype, _ENCODINGS[encoding], data)


def _files(
    named: str | None, listed: list[str], sizes: tuple[int, ...], path: Path, end: int | None
) -> tuple[tuple[Path, ...], int, int]:
    """Return the files with the voxels, how many axes each one holds, and where they begin in it."""
    if named is None:
        if end is None:
            raise _damaged(path, "its header does not end with an empty line, so no voxels follow")
        return (path,), len(sizes), end
    words = named.split()
    if words[:1] and words[0].upper() == "LIST":
        subdimension = whole_numbers(" ".join(words[1:]) or str(len(sizes) - 1))
        if len(subdimension) != 1 or not 1 <= subdimension[0] <= len(sizes):
            raise _damaged(path, "its 'data file: LIST' has no usable number of axes")
        return tuple(beside(path, name.strip()) for name in listed), subdimension[0], 0
    pattern = re.fullmatch(r"(.*%.*?)((?:\s+-?\d{1,9}){3,4})", named)
    if pattern:
        low, high, step, *rest = (int(word) for word in pattern[2].split())
        subdimension = tuple(rest) or (len(sizes) - 1,)
        count = len(range(low, high + (1 if step > 0 else -1), step)) if step else 0
        if not 1 <= subdimension[0] <= len(sizes) or not 0 < count <= int(np.prod(sizes[1:], dtype=object)):
            raise _damaged(path, "its 'data file' does not number the files that its sizes need")
        found = numbered(path, pattern[1], range(low, high + (1 if step > 0 else -1), step))
        return found, subdimension[0], 0
    return (beside(path, named),), len(sizes), 0


def _no_place(path: Path, what: str) -> GeometryError:
    return GeometryError(
        found=f"the header of {path.name} has {what}",
        expected="the position, directions and spacing in mm of the voxels in the patient, on three axes",
        fix="save it again with a tool that keeps them; they cannot be guessed",
    )


def _damaged(path: Path, why: str) -> FormatError:
    return FormatError(
        found=f"{path.name} cannot be read: {why}",
        expected="a complete NRRD file",
        fix="copy or convert the file again from its source",
    )


def is_nrrd(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a NRRD file."""
    return Path(path).suffix.lower() in (".nrrd", ".nhdr")
