"""An image that knows where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import Unit
from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import release_pages
from voxmetry.core.notebook import grid_facts, slices, table
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import InputError

ONLY_CT_BELOW_HU = -500.0
"""An image whose darkest voxel is below this holds Hounsfield units: MR magnitude and PET are never negative."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image on a grid.

    Parameters
    ----------
    array
        (I, J, K), real numbers, all finite. Kept as a read-only view, not copied.
    geometry
        The grid; its shape is the array's.
    unit
        "HU", "SUVbw", "SUVlbm", "SUVbsa", "Bq/mL", or "1" where the values have no absolute meaning.
    source
        The DICOM series that it was read from, or None.

    Raises
    ------
    InputError
        If the array's shape is not the geometry's, its values are not real numbers, or some are NaN or infinite.
    """

    array: NDArray[Any]
    geometry: Geometry
    unit: Unit = "1"
    source: SeriesInfo | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape != self.geometry.shape:
            raise InputError(
                found=f"an array of shape {array.shape} for a grid of shape {self.geometry.shape}",
                expected="the same shape (I, J, K)",
                fix="pass the geometry that belongs to this array",
            )
        if array.dtype.kind not in "iuf":
            raise InputError(
                found=f"voxels of type {array.dtype}",
                expected="integers or floating-point numbers",
                fix="convert complex, colour or boolean data to one real number a voxel first",
            )
        if self.unit not in get_args(Unit):
            raise InputError(
                found=f"the unit {self.unit!r}", expected=f"one of {get_args(Unit)}", fix="name the unit of the voxels"
            )
        if array.dtype.kind == "f":
            bad = _count_not_finite(array)
            if bad:
                raise InputError(
                    found=f"{bad} of {array.size} voxels are NaN or infinite",
                    expected="a finite number in each voxel",
                    fix="replace them by the value of the background, for example with numpy.nan_to_num, "
                    "and save the image again",
                )
        view = array.view()
        view.setflags(write=False)
        object.__setattr__(self, "array", view)

    def __repr__(self) -> str:
        return f"Volume({self.array.dtype}, unit {self.unit!r}, {self.geometry!r})"

    def _repr_html_(self) -> str:
        i, j, k = self.geometry.shape
        low, high = float(self.array.min()), float(self.array.max())
        facts = {"image": str(self.array.dtype), **grid_facts(self.geometry), "unit": self.unit, "lowest": low}
        window = (-160.0, 240.0) if self.unit == "HU" else None
        picture = slices(self.array, self.geometry, (i // 2, j // 2, k // 2), window=window)
        return picture + table([facts | {"highest": high}])


def _count_not_finite(array: NDArray[Any]) -> int:
    """Count them slab by slab along memory: an image may be larger than that."""
    bad = 0
    for slab in array.T if array.flags.f_contiguous else array:
        bad += slab.size - int(np.count_nonzero(np.isfinite(slab)))
        release_pages(array)
    return bad
