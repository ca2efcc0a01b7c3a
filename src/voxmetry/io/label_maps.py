"""One label map out of one file: NIfTI, NRRD or MetaImage, its values and their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.core.segmentation import Segmentation, values_present
from voxmetry.errors import FormatError, InputError, LabelError
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.suffixes import ITK, NIFTI, PAIRS, suffix_of
from voxmetry.io.unpack import regular_size

_FEWEST_GREYS, _SAME_NEIGHBOURS = 32, 0.35
"""A map without a table is an image where it has so many values, and half of them so few neighbours of their own."""
_ROUNDING = 1e-3
"""A label stored as a real number, or through a header's slope, may be off by this much."""


def read_label_map(
    source: Path, labels: LabelTable | None, *, as_labels: bool = False, mapped: bool = False
) -> Segmentation:
    """Read a label map; `labels`, `as_labels` and `mapped` as for `read_segmentation`.

    Raises
    ------
    LabelError
        If the values are no labels, or the table does not name all of them.
    InputError, FormatError, GeometryError
        As `read_volume`.
    """
    with naming_file(source.name):
        array, geometry, stored = _read_labels(source, mapped=mapped)
    values = _as_labels(array, source.name)
    table = stored if labels is None else labels
    if table is None:
        present = sorted(values_present(values) - {0})
        if not as_labels and looks_like_image(values, len(present)):
            raise _no_labels(source.name, f"{len(present)} values without a label table, like an image")
        table = LabelTable.from_names({value: f"label_{value}" for value in present})
    with naming_file(source.name):
        return Segmentation(values, geometry, table)


def looks_like_image(values: NDArray[Any], n_values: int) -> bool:
    """Whether whole numbers are grey values rather than labels: many, and seldom the same in neighbouring voxels.

    Parameters
    ----------
    values
        (I, J, K).
    n_values
        How many different ones there are, without 0.
    """
    if n_values < _FEWEST_GREYS:
        return False
    n = int(np.iinfo(values.dtype).max) + 1
    pairs, same = np.zeros((3, n), np.int64), np.zeros((3, n), np.int64)
    before: NDArray[Any] | None = None
    for plane in _planes(values):
        above = plane if before is None else before
        beside = ((plane[:-1], plane[1:]), (plane[:, :-1], plane[:, 1:]), (above, plane))
        for axis, (first, second) in enumerate(beside[:2] if before is None else beside):
            inside = (first != 0) & (second != 0)
            pairs[axis] += np.bincount(first[inside], minlength=n)
            same[axis] += np.bincount(first[inside & (first == second)], minlength=n)
        before = np.array(plane)
        release_pages(values)
    counted = [(mine[all_ > 0] / all_[all_ > 0]) for mine, all_ in zip(same, pairs, strict=True) if all_.any()]
    return min((float(np.median(shares)) for shares in counted), default=1.0) < _SAME_NEIGHBOURS


def _planes(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view (I, J, K) whose planes along its first axis lie together in memory."""
    return array.T if array.flags.f_contiguous else array


def read_stored_labels(path: str | os.PathLike[str]) -> tuple[NDArray[Any], Geometry]:
    """Read a label map's values as they are stored, (I, J, K), whatever they mean, and its grid.

    Raises
    ------
    InputError, FormatError, GeometryError
        As `voxmetry.read_segmentation`.
    """
    source = existing(path)
    with naming_file(source.name):
        array, geometry, _ = _read_labels(source)
    return array, geometry


def _read_labels(source: Path, *, mapped: bool = False) -> tuple[NDArray[Any], Geometry, LabelTable | None]:
    suffix = suffix_of(source)
    if source.is_file() and suffix in (*NIFTI, *PAIRS):
        from voxmetry.io.nifti import read_nifti_labels

        return read_nifti_labels(source, mapped=mapped)
    if source.is_file() and suffix in ITK:
        from voxmetry.io.itk import read_itk_labels

        return read_itk_labels(source, mapped=mapped)
    raise FormatError(
        found=f"{source.name} is no label map that can be read",
        expected=f"a file that ends in {', '.join((*NIFTI, *ITK))}",
        fix="convert the label map to NIfTI or NRRD first",
    )


def existing(path: str | os.PathLike[str]) -> Path:
    """Return a path that is there and no pipe or device; else raise `InputError`."""
    source = Path(path)
    if not source.exists():
        raise InputError(
            found=f"nothing at {source.name or source}",
            expected="a NIfTI, NRRD or MetaImage file, or a DICOM file or folder",
            fix="check the path",
        )
    if not source.is_dir():
        # Before anything opens it: a pipe would block for ever.
        regular_size(source, source.name)
    return source


@contextlib.contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Put the file's name before an error that comes from the nouns, which know no files."""
    try:
        yield
    except InputError as error:
        if name in error.found:
            raise
        raise type(error)(found=f"{name}: {error.found}", expected=error.expected, fix=error.fix) from error


def _as_labels(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Cast to uint8 or uint16 without changing a value by more than rounding did, or refuse."""
    low = high = 0.0
    for plane in _planes(array):
        if array.dtype.kind == "f" and not (
            np.isfinite(plane).all() and np.abs(plane - np.rint(plane)).max() <= _ROUNDING
        ):
            raise _no_labels(name, "fractions, NaN or infinite values")
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        release_pages(array)
    low, high = round(low), round(high)
    if low < 0:
        raise _no_labels(name, f"negative values (down to {low:g})")
    if high > 65535:
        raise _no_labels(name, f"values up to {high:g}")
    kind = np.dtype(np.uint8 if high <= 255 else np.uint16)
    return array if array.dtype == kind else _cast(array, kind)


def _cast(array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Round an array to another type, plane by plane, into a temporary file where it lies in a file itself."""
    stored = _planes(array)
    cast = zeros_on_disk(stored.shape[::-1], kind).T if is_mapped(array) else np.empty(stored.shape, kind)
    for new, plane in zip(cast, stored, strict=True):
        new[...] = np.rint(plane)
        release_pages(array)
        release_pages(cast)
    return cast.T if stored is not array else cast


def _no_labels(name: str, what: str) -> LabelError:
    return LabelError(
        found=f"{name} holds {what}",
        expected="a label map: whole numbers from 0 (background) to 65535",
        fix="pass the label map, not the image; probabilities need a threshold first; a label map of many small "
        "structures needs --as-labels, or as_labels=True in Python",
    )
