"""NIfTI-1 and NIfTI-2: single files, `.nii` and `.nii.gz`, and pairs, `.hdr` and `.img`."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import math
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from voxmetry.core.base import Unit
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError, OutputError
from voxmetry.io import label_header
from voxmetry.io.atomic import atomic_path
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.memory import fits_memory, mapped_voxels
from voxmetry.io.nifti_affine import grid_of, place_affine
from voxmetry.io.unpack import BROKEN_STREAM, SPARE_BYTES, Unpacked, fill, finish, native, open_plain, room_for

PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
"""Suffixes of images that are two files; either one may be named."""

_SCANNER, _ALIGNED = 1, 2
_COMMENT = 6
_LONGEST = 32767
_BUFFER = 1 << 17
_CHUNK = 1 << 24
_EXTENSIONS_LIMIT = 1 << 28
_DICOM, _CIFTI = 2, 32
"""Codes of header extensions that hold whole objects of their own, and no label table."""
# nibabel reports each header field that it mends; the refusals here say what matters.
_SILENT = logging.Logger(__name__)
_SILENT.addHandler(logging.NullHandler())


def read_nifti(path: str | os.PathLike[str], *, unit: Unit = "1", mapped: bool = False) -> Volume:
    """Read an image.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file with one three-dimensional image of real numbers.
    unit
        What its values mean; NIfTI does not say.
    mapped
        See `voxmetry.read_volume`.

    Returns
    -------
    Volume
        Native type where the header's scaling is 1 and 0. Else float32, or float64 where the stored type has more
        digits than float32 (32-bit integers and larger, float64).

    Raises
    ------
    FormatError
        If the file is no NIfTI file, is damaged or ends too early.
    InputError
        If it holds no image of three dimensions, colour or complex numbers, or voxels that are not finite.
    GeometryError
        If its header has no usable affine.
    """
    array, geometry, _ = _read(Path(path), mapped=mapped)
    return Volume(array, geometry, unit)


def read_nifti_grid(path: str | os.PathLike[str]) -> tuple[Geometry, np.dtype[Any]]:
    """Read where an image's voxels lie and how they are stored, from its header alone.

    Raises
    ------
    FormatError, InputError, GeometryError
        As `read_nifti`, as far as the header shows it.
    """
    source = Path(path)
    with _opened(_header_of(source)) as file:
        header = _header(file, source.name)
        shape = _shape(header, source.name)
        return grid_of(header, shape, source.name), _dtype(header, source.name)


def read_nifti_labels(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> tuple[NDArray[Any], Geometry, LabelTable | None]:
    """Read a label map as it is stored: the array (I, J, K), its grid, and the table in its header, if there is one.

    `mapped` as for `read_nifti`.

    Raises
    ------
    FormatError, InputError, GeometryError
        As `read_nifti`.
    LabelError
        If the table in the header is damaged.
    """
    array, geometry, header = _read(Path(path), mapped=mapped)
    return array, geometry, _table(header, Path(path).name)


def write_nifti(x: Volume | Segmentation, path: str | os.PathLike[str]) -> None:
    """Write an image, or a label map with its label table in the header.

    The affine that is read back is the geometry's to the last bit where it came from a NIfTI file. The codes say
    'scanner' for an image from DICOM and 'aligned' for anything else. See docs/concepts/coordinates.md.

    Raises
    ------
    OutputError
        If the file cannot be written, or NIfTI cannot hold an image of this size.
    """
    target = Path(path)
    array = x.array.astype(np.float32) if x.array.dtype == np.float16 else x.array
    if max(array.shape) > _LONGEST:
        raise OutputError(
            found=f"an image of shape {array.shape} for {target.name}",
            expected=f"at most {_LONGEST} voxels along each axis, which is all that NIfTI-1 can hold",
            fix="save it as .nrrd or .mha",
        )
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    place_affine(header, x.geometry, _SCANNER if isinstance(x, Volume) and x.source is not None else _ALIGNED)
    if isinstance(x, Segmentation):
        text = label_header.to_json(x.labels)
        header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text.encode("ascii")))
    with atomic_path(target) as temporary, _open_for_writing(temporary) as file:
        header.write_to(file)
        # A slab at a time along k: an array in C order would otherwise be copied as a whole.
        for k in range(array.shape[2]):
            file.write(array[:, :, k].tobytes(order="F"))
            release_pages(array)


@contextlib.contextmanager
def _open_for_writing(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            yield raw
            return
        # Neither name nor time inside: the same image gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
            yield packed  # type: ignore[misc]


def _read(path: Path, *, mapped: bool = False) -> tuple[NDArray[Any], Geometry, Any]:
    with _opened(_header_of(path)) as file:
        header = _header(file, path.name)
        shape = _shape(header, path.name)
        geometry = grid_of(header, shape, path.name)
        if header.is_single:
            array = _voxels(file, header, shape, path.name, mapped=mapped)
            return _scaled(array, header, path.name, mapped=mapped), geometry, header
    with _opened(_voxels_of(path)) as file:
        array = _voxels(file, header, shape, path.name, mapped=mapped)
        return _scaled(array, header, path.name, mapped=mapped), geometry, header


def _header_of(path: Path) -> Path:
    """Return the file of a pair that has the header, where the other one was named."""
    name = path.name.lower()
    if not name.endswith((".img", ".img.gz")):
        return path
    return _partner(path, "hdr")


def _voxels_of(path: Path) -> Path:
    return path if path.name.lower().endswith((".img", ".img.gz")) else _partner(path, "img")


def _partner(path: Path, kind: str) -> Path:
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    stem = name.rpartition(".")[0]
    tried = [path.with_name(f"{stem}.{end}") for end in (kind, kind.upper(), f"{kind}.gz")]
    found = [other for other in tried if other.exists()]
    if not found:
        raise FormatError(
            found=f"{path.name} is one of a pair, and {tried[0].name} is not beside it",
            expected="header and voxels, .hdr and .img, in one folder",
            fix="copy both",
        )
    return found[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacking it where it is packed, and say in words why it cannot be read."""
    try:
        with open_plain(path, path.name) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield io.BufferedReader(Unpacked(raw, "gzip"), _BUFFER) if packed else raw
    except OSError as error:
        if error.errno is None:
            raise _damaged(path.name, f"its compression is broken ({error})") from error
        raise InputError(
            found=f"{path.name} cannot be read: {error.strerror or type(error).__name__}",
            expected="a file that exists and may be read",
            fix="check the path and the permissions",
        ) from error
    except (EOFError, BROKEN_STREAM) as error:
        raise _damaged(path.name, f"its compression is broken ({error})") from error


def _header(file: IO[bytes], name: str) -> Any:
    start = file.read(540)
    file.seek(0)
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    pair = nib.Nifti2Pair.header_class if 540 in sizes else nib.Nifti1Pair.header_class
    magic = start[4:7] if 540 in sizes else start[344:347]
    is_pair = magic in (b"ni1", b"ni2")
    if len(start) >= 348 and {348, 540} & sizes and magic not in (b"n+1", b"n+2", b"ni1", b"ni2"):
        raise FormatError(
            found=f"{name} has a header without the mark of NIfTI: it is of Analyze 7.5, or damaged",
            expected="a NIfTI file, .nii, .nii.gz or a pair .hdr and .img",
            fix="convert it from its source again: Analyze does not say which side of the patient is which",
        )
    _check_offset(start, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = (pair if is_pair else kind).from_fileobj(file, check=False)
        header.check_fix(logger=_SILENT, error_level=40)
    except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
        raise _damaged(name, f"its header is not one of NIfTI ({error})") from error
    if is_pair and not name.lower().endswith(PAIRS):
        raise FormatError(
            found=f"{name} is the header of a pair, without its voxels",
            expected="a NIfTI file that holds both, or the pair .hdr and .img",
            fix="name the header .hdr and put its .img beside it",
        )
    return header


def _check_offset(start: bytes, name: str) -> None:
    """Refuse a place of the voxels that is none before anything between is read."""
    if len(start) < 348:
        raise _damaged(name, "it ends within its header")
    for order in "<>":
        size = struct.unpack(order + "i", start[:4])[0]
        if size == 348:
            offset = float(struct.unpack(order + "f", start[108:112])[0])
        elif size == 540 and len(start) >= 176:
            offset = float(struct.unpack(order + "q", start[168:176])[0])
        else:
            continue
        if not (math.isfinite(offset) and 0 <= offset <= _EXTENSIONS_LIMIT and offset == int(offset)):
            raise _damaged(name, f"its voxels begin at byte {offset:g} (vox_offset)")


def _shape(header: Any, name: str) -> tuple[int, int, int]:
    if not 1 <= int(header["dim"][0]) <= 7:
        raise _damaged(name, f"its header has {int(header['dim'][0])} axes, where NIfTI has 1 to 7")
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise InputError(
            found=f"{name} holds {int(np.prod(shape[3:]))} volumes (shape {' x '.join(map(str, shape))})",
            expected="one volume with three axes",
            fix="save the one that you mean by itself, for example the first with nibabel: "
            "nib.save(img.slicer[..., 0], 'first.nii.gz')",
        )
    if len(shape) < 3:
        raise InputError(
            found=f"{name} has {len(shape)} axes (shape {' x '.join(map(str, shape))})",
            expected="three axes; a single slice has a third axis of size 1",
            fix="save it with a third axis, whose voxel size in mm is the slice thickness",
        )
    return shape  # type: ignore[return-value]


def _dtype(header: Any, name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except HeaderDataError as error:
        raise _damaged(name, f"its data type is unknown ({error})") from error
    if dtype.kind not in "iuf":
        what = {"V": "colour (RGB)", "c": "complex numbers"}.get(dtype.kind, f"type {dtype}")
        raise InputError(
            found=f"{name} holds voxels of {what}",
            expected="one real number a voxel",
            fix="save one channel, or the magnitude, as an image of its own",
        )
    return dtype


def _voxels(file: IO[bytes], header: Any, shape: tuple[int, int, int], name: str, *, mapped: bool) -> NDArray[Any]:
    """Read the voxels into an array in Fortran order, and the file to its end, where gzip keeps its checksum."""
    dtype = _dtype(header, name)
    offset = int(header.get_data_offset())
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    packed = isinstance(file, io.BufferedReader) and isinstance(file.raw, Unpacked)
    size = os.fstat(file.fileno()).st_size
    # Deflate packs 1032 bytes into one at the very best.
    _check_size(1032 * size + _CHUNK if packed else size, offset + needed, name)
    if mapped and not packed and size - offset - needed <= SPARE_BYTES:
        there = mapped_voxels(file, shape, dtype, offset, name)
        if there is not None:
            return there
    array = room_for(shape, dtype, name, mapped=mapped)
    file.seek(offset)
    done = fill(array, file)
    if done < needed:
        raise _damaged(name, f"it ends after {done} of {needed} bytes of voxels")
    if not finish(file, SPARE_BYTES):
        raise FormatError(
            found=f"{name} cannot be read: its file holds more voxels than its header says",
            expected="sizes and type in the header that are those of the voxels",
            fix="copy or convert the file again from its source; with other sizes the voxels would be in wrong places",
        )
    return native(array)


def _check_size(most: int, needed: int, name: str) -> None:
    """Refuse before room is made for an image that the file cannot hold, as after damage to the sizes in its header."""
    if needed > most:
        raise _damaged(name, f"its bytes are too few for the {needed} that its header asks for")


def _is_unscaled(header: Any, name: str) -> bool:
    slope, inter = _scaling(header, name)
    return slope is None or (slope == 1 and inter == 0)


def _scaling(header: Any, name: str) -> tuple[float | None, float | None]:
    # Not a number means "none" by custom; nibabel takes infinity for that as well, which nobody writes on purpose.
    if np.isinf(header["scl_slope"]):
        raise _damaged(name, "its scaling is not usable (the slope is infinite)")
    try:
        return header.get_slope_inter()  # type: ignore[no-any-return]
    except HeaderDataError as error:
        raise _damaged(name, f"its scaling is not usable ({error})") from error


def _scaled(array: NDArray[Any], header: Any, name: str, *, mapped: bool) -> NDArray[Any]:
    slope, inter = _scaling(header, name)
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if _is_unscaled(header, name):
        return array
    wide = array.dtype.itemsize >= 4 and array.dtype != np.float32
    kind = np.dtype(np.float64 if wide else np.float32)
    # What was too large to be held is so when it is scaled.
    large = is_mapped(array) or (mapped and not fits_memory(array.size * kind.itemsize))
    scaled = zeros_on_disk(array.shape, kind) if large else np.empty(array.shape, kind, order="F")
    # What overflows becomes infinite, which no image may hold.
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(array.shape[2]):
            scaled[:, :, k] = array[:, :, k] * np.float64(slope) + np.float64(inter)
            release_pages(array)
            release_pages(scaled)
    return scaled


def _table(header: Any, name: str) -> LabelTable | None:
    for extension in getattr(header, "extensions", ()):
        if extension.get_code() in (_DICOM, _CIFTI):
            continue
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        text = text.strip("\0")
        for read in (label_header.from_json, label_header.from_caret):
            table = read(text, name)
            if table is not None:
                return table
    return None


def _damaged(name: str, why: str) -> FormatError:
    return FormatError(
        found=f"{name} cannot be read as NIfTI: {why}",
        expected="a complete NIfTI file, .nii or .nii.gz",
        fix="copy or convert the file again from its source",
    )
