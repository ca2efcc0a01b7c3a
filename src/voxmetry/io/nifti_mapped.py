"""NIfTI files that are filled in place, for images too large to hold: fractions of a known range in 16 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.io.mapped_array import reserve
from voxmetry.io.nifti_affine import place_affine

STEPS = 65535
"""Largest stored value; it stands for the top of the range."""

_ALIGNED = 2


@dataclass(frozen=True)
class MappedNifti:
    """An uncompressed NIfTI-1 file of real numbers from 0 to `top`, stored as unsigned 16-bit integers with a slope.

    NIfTI has no type of 16-bit floating point; this one is as small and its steps are even, `top` / 65535.

    Parameters
    ----------
    path
        The file.
    shape
        (I, J, K), or (I, J, K, n) for n images on one grid.
    top
        What the largest stored value stands for.
    """

    path: Path
    shape: tuple[int, ...]
    top: float

    @classmethod
    def create(cls, path: Path, geometry: Geometry, *, n: int | None, top: float) -> MappedNifti:
        """Write the header and reserve the room on the disk; all values are 0.

        Parameters
        ----------
        path
            A new file, `.nii`.
        geometry
            The grid of each image.
        n
            How many images; None for one without a fourth axis.
        top
            Upper end of the range.

        Raises
        ------
        OSError
            If the file cannot be made, or the disk has no room for all of it.
        """
        made = cls(path, geometry.shape if n is None else (*geometry.shape, n), top)
        header = nib.Nifti1Header()
        header.set_data_shape(made.shape)
        header.set_data_dtype(np.dtype("<u2"))
        header.set_xyzt_units("mm")
        header.set_slope_inter(top / STEPS, 0)
        place_affine(header, geometry, _ALIGNED)
        header["vox_offset"] = header.single_vox_offset
        with path.open("wb") as file:
            header.write_to(file)
            reserve(file.fileno(), header.single_vox_offset + 2 * math.prod(made.shape))
        return made

    def images(self) -> Iterator[NDArray[np.uint16]]:
        """Open the images (I, J, K) of stored values for writing, one after the other, mapped from the disk.

        Letting an image go gives its pages back to the system, which would else count as this process's memory.
        """
        each = self.shape[:3]
        start = int(nib.Nifti1Header.single_vox_offset)
        for index in range(math.prod(self.shape[3:])):
            offset = start + index * 2 * math.prod(each)
            yield np.memmap(self.path, np.dtype("<u2"), "r+", offset=offset, shape=each, order="F")
