"""NRRD (`.nrrd`, `.nhdr`) and MetaImage (`.mha`, `.mhd`) by way of SimpleITK, which speaks LPS+ and (K, J, I)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Unit, Volume
from voxmetry.errors import FormatError, GeometryError, InputError
from voxmetry.io import label_header
from voxmetry.io.atomic import atomic_path, output_error
from voxmetry.io.memory import require_memory

_HEADER_LIMIT = 1 << 20
_CHUNK = 1 << 20
_NRRD_SPACES = {
    *("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"),
}


def read_itk(path: str | os.PathLike[str], *, unit: Unit = "1") -> Volume:
    """Read an image in its native type.

    Parameters
    ----------
    path
        A `.nrrd`, `.nhdr`, `.mha` or `.mhd` file with one three-dimensional image of real numbers.
    unit
        What its values mean; these formats do not say.

    Raises
    ------
    FormatError
        If the file is not of its format, is damaged or ends too early.
    InputError
        If it holds no image of three dimensions, or several numbers a voxel, or voxels that are not finite.
    GeometryError
        If its header does not say where the voxels lie.
    """
    array, geometry, _ = _read(Path(path))
    return Volume(array, geometry, unit)


def read_itk_labels(path: str | os.PathLike[str]) -> tuple[NDArray[Any], Geometry, LabelTable | None]:
    """Read a label map as it is stored: the array (I, J, K), its grid, and the table in its header, if there is one.

    Raises
    ------
    FormatError, InputError, GeometryError
        As `read_itk`.
    LabelError
        If the table in the header is damaged.
    """
    array, geometry, fields = _read(Path(path))
    name = Path(path).name
    table = label_header.from_json(fields.get(label_header.FIELD, ""), name)
    return array, geometry, label_header.from_slicer(fields, name) if table is None else table


def write_itk(x: Volume | Segmentation, path: str | os.PathLike[str]) -> None:
    """Write an image, or a label map with its label table in the header.

    A `.nrrd` label map also carries the fields by which 3D Slicer names its segments (save it as `.seg.nrrd`).
    A `.mhd` file gets its `.zraw` beside it.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    target = Path(path)
    image = _to_itk(x)
    if target.suffix.lower() != ".mhd":
        with atomic_path(target) as temporary:
            _write(image, temporary, target)
        return
    # The header names its data file, so both are written under their own names in a folder aside.
    with _folder_aside(target) as folder:
        _write(image, folder / target.name, target)
        for produced in sorted(folder.iterdir(), key=lambda entry: entry.name == target.name):
            with atomic_path(target.with_name(produced.name)) as temporary:
                produced.replace(temporary)


@contextlib.contextmanager
def _folder_aside(target: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    except OSError as error:
        raise output_error(target, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _to_itk(x: Volume | Segmentation) -> Any:
    array = x.array.astype(np.float32) if x.array.dtype == np.float16 else x.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = swap_lps_ras(x.geometry.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    if isinstance(x, Segmentation):
        image.SetMetaData(label_header.FIELD, label_header.to_json(x.labels))
        for key, value in label_header.to_slicer(x.labels).items():
            image.SetMetaData(key, value)
    return image


def _write(image: Any, path: Path, target: Path) -> None:
    try:
        with _quiet():
            sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        # SimpleITK does not hand the system's reason on; a full disk is by far the most common one.
        raise output_error(target, OSError(errno.EIO, "the writer failed, as on a full disk")) from error


def _read(path: Path) -> tuple[NDArray[Any], Geometry, dict[str, str]]:
    _check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _quiet():
            reader.ReadImageInformation()
            _check_kind(reader, path.name)
            require_memory(_bytes(reader), path.name)
            image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path.name, "its header or its voxels cannot be decoded") from error
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    keys = (key for key in image.GetMetaDataKeys() if key.isascii())
    fields = {key: image.GetMetaData(key) for key in keys if key == label_header.FIELD or key.startswith("Segment")}
    return array, Geometry(swap_lps_ras(affine), array.shape), fields


def _bytes(reader: Any) -> int:
    """How large the voxels are in memory, by the reader's header."""
    one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelIDValue())
    return int(np.prod(reader.GetSize(), dtype=object)) * int(one.GetSizeOfPixelComponent())


def _check_kind(reader: Any, name: str) -> None:
    if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise InputError(
            found=f"{name} holds {reader.GetNumberOfComponents()} numbers a voxel, or complex ones",
            expected="one real number a voxel",
            fix="save one channel, or the magnitude, as an image of its own",
        )
    if reader.GetDimension() != 3:
        raise InputError(
            found=f"{name} has {reader.GetDimension()} axes (shape {' x '.join(map(str, reader.GetSize()))})",
            expected="one volume with three axes",
            fix="save one volume by itself; a single slice has a third axis of size 1",
        )


def _check_header(path: Path) -> None:
    """Refuse what SimpleITK would fill in: without position and directions it makes them up."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_LIMIT)
    except OSError as error:
        raise InputError(
            found=f"{path.name} cannot be read: {error.strerror or type(error).__name__}",
            expected="a file that exists and may be read",
            fix="check the path and the permissions",
        ) from error
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        missing = _missing_in_nrrd(start, path)
    else:
        missing = _missing_in_meta(start, path)
    if missing:
        raise GeometryError(
            found=f"the header of {path.name} has no usable {', '.join(missing)}",
            expected="the position, directions and spacing of the voxels in the patient",
            fix="save it again with a tool that keeps them; they cannot be guessed",
        )


def _missing_in_nrrd(start: bytes, path: Path) -> list[str]:
    if not start.startswith(b"NRRD"):
        raise _damaged(path.name, "it does not begin with 'NRRD'")
    end = re.search(rb"\r?\n\r?\n", start)
    text = start[: end.start() if end else None].decode("utf-8", "replace")
    fields = dict(re.findall(r"^([a-z ]+): *(.+?)\s*$", text, re.MULTILINE))
    data = fields.get("data file", fields.get("datafile"))
    if fields.get("encoding", "").lower() in ("gzip", "gz"):
        _check_stream(
            path.with_name(data) if data else path, 0 if data else end.end() if end else len(start), path.name
        )
    missing = [key for key in ("space directions", "space origin") if key not in fields]
    if fields.get("space", "").lower() not in _NRRD_SPACES:
        missing.append("space (left-posterior-superior, right-anterior-superior or left-anterior-superior)")
    return missing


def _missing_in_meta(start: bytes, path: Path) -> list[str]:
    match = re.search(rb"^ElementDataFile *= *(.+?)\r?\n", start, re.MULTILINE)
    if match is None:
        raise _damaged(path.name, "its header has no 'ElementDataFile'")
    text = start[: match.end()].decode("utf-8", "replace")
    fields = dict(re.findall(r"^(\w+) *= *(.+?)\s*$", text, re.MULTILINE))
    if fields.get("CompressedData", "").lower() == "true":
        data = match[1].decode("utf-8", "replace")
        is_local = data.upper() == "LOCAL"
        _check_stream(path if is_local else path.with_name(data), match.end() if is_local else 0, path.name)
    choices = (("TransformMatrix", "Orientation", "Rotation"), ("Offset", "Position", "Origin"), ("ElementSpacing",))
    return [keys[0] for keys in choices if not any(key in fields for key in keys)]


def _check_stream(path: Path, offset: int, name: str) -> None:
    """Read compressed voxels to their checksum, which SimpleITK does not: it returns what it could unpack."""
    unpacker = zlib.decompressobj(wbits=47)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while not unpacker.eof and (chunk := file.read(_CHUNK)):
                unpacker.decompress(chunk)
    except (OSError, zlib.error) as error:
        raise _damaged(name, f"its compressed voxels are broken ({type(error).__name__})") from error
    if not unpacker.eof:
        raise _damaged(name, "its compressed voxels end too early")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal; what matters is raised."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _damaged(name: str, why: str) -> FormatError:
    return FormatError(
        found=f"{name} cannot be read: {why}",
        expected="a complete NRRD or MetaImage file",
        fix="copy or convert the file again from its source",
    )
