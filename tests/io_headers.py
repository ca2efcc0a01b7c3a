"""NRRD and MetaImage files written field by field, for tests of what their headers may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZES = (11, 9, 7)
VOXELS = np.arange(np.prod(SIZES), dtype="<i2").reshape(SIZES, order="F") - 200
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "11 9 7",
    "space directions": "(2,0,0) (0,2.5,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(10,-5,7)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 -5 7",
    "ElementSpacing": "2 2.5 3",
    "DimSize": "11 9 7",
    "ElementType": "MET_SHORT",
}


def raw(array: np.ndarray = VOXELS) -> bytes:
    """The voxels' bytes, the fastest axis first."""
    return array.tobytes(order="F")


def nrrd(path: Path, voxels: bytes = b"", *, tail: str = "", **fields: str | None) -> Path:
    """Write a header of NRRD's with changed fields (None leaves one out; '_' stands for a space) and what follows."""
    changed = {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}" for key, value in {**NRRD, **changed}.items() if value is not None]
    path.write_bytes(("NRRD0004\n" + "\n".join(lines) + "\n" + tail).encode() + (b"\n" + voxels if voxels else b""))
    return path


def meta(path: Path, voxels: bytes = b"", *, data: str = "LOCAL", tail: str = "", **fields: str | None) -> Path:
    """Write a header of MetaImage's with changed fields, and what follows."""
    lines = [f"{key} = {value}" for key, value in {**META, **fields}.items() if value is not None]
    path.write_bytes(("\n".join([*lines, f"ElementDataFile = {data}"]) + "\n" + tail).encode() + voxels)
    return path
