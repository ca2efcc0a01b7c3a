"""NRRD (`.nrrd`, `.nhdr`) and MetaImage (`.mha`, `.mhd`): read here, written by SimpleITK, in LPS+ and (K, J, I)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from voxmetry.core.base import Unit
from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import is_text, visible
from voxmetry.core.volume import Volume
from voxmetry.errors import OutputError
from voxmetry.io import label_header, slicer_header
from voxmetry.io.atomic import atomic_path, output_error
from voxmetry.io.metaimage import read_metaimage
from voxmetry.io.nrrd import is_nrrd, read_nrrd
from voxmetry.io.segment_header import table_in


def read_itk(path: str | os.PathLike[str], *, unit: Unit = "1", mapped: bool = False) -> Volume:
    """Read an image in its native type.

    Parameters
    ----------
    path
        A `.nrrd`, `.nhdr`, `.mha` or `.mhd` file with one three-dimensional image of real numbers.
    unit
        What its values mean; these formats do not say.
    mapped
        See `voxmetry.read_volume`.

    Raises
    ------
    FormatError
        If the file is not of its format, is damaged or ends too early.
    InputError
        If it holds no image of three dimensions, or several numbers a voxel, or voxels that are not finite.
    GeometryError
        If its header does not say where the voxels lie.
    """
    array, geometry, _ = _read(Path(path), mapped=mapped)
    return Volume(array, geometry, unit)


def read_itk_labels(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> tuple[NDArray[Any], Geometry, LabelTable | None]:
    """Read a label map as it is stored: the array (I, J, K), its grid, and the table in its header, if there is one.

    `mapped` as for `read_itk`.

    Raises
    ------
    FormatError, InputError, GeometryError
        As `read_itk`.
    LabelError
        If the table in the header is damaged.
    """
    array, geometry, fields = _read(Path(path), mapped=mapped)
    name = Path(path).name
    table = label_header.from_json(fields.get(label_header.FIELD, ""), name)
    return array, geometry, table_in(fields, name) if table is None else table


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
    if target.suffix.lower() == ".mhd" and not is_text(str(target)):
        raise OutputError(
            found=f"{visible(target.name)} has a name, or lies in a folder with one, that is not UTF-8",
            expected="a name that the header can hold: it names the file of the voxels",
            fix="write a .mha file, which is one file, or choose another name",
        )
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
        for key, value in slicer_header.to_slicer([x.labels]).items():
            image.SetMetaData(key, value)
    return image


def _write(image: Any, path: Path, target: Path) -> None:
    if not is_text(str(path)):
        # Written under another name first: ITK takes text alone, and ends the process at anything else.
        with tempfile.TemporaryDirectory(prefix="voxmetry-") as folder:
            plain = Path(folder) / f"image{path.suffix}"
            _write(image, plain, target)
            shutil.copyfile(plain, path)
        return
    try:
        with _quiet():
            sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        # SimpleITK does not hand the system's reason on; a full disk is by far the most common one.
        raise output_error(target, OSError(errno.EIO, "the writer failed, as on a full disk")) from error


def _read(path: Path, *, mapped: bool = False) -> tuple[NDArray[Any], Geometry, Mapping[str, str]]:
    return read_nrrd(path, mapped=mapped) if is_nrrd(path) else read_metaimage(path, mapped=mapped)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal; what matters is raised."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
