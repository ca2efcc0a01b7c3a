"""A label map that knows where it is and what its values mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.errors import LabelError


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels on a grid.

    Parameters
    ----------
    array
        (I, J, K), uint8 or uint16, 0 is background. Kept as a read-only view, not copied.
    geometry
        The grid; its shape is the array's.
    labels
        Names, colours and codes of all values that the array may hold.

    Raises
    ------
    LabelError
        If the array is of another type or shape, or holds a value that the table does not name.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: LabelTable

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.dtype not in (np.uint8, np.uint16):
            raise LabelError(
                found=f"a label map of type {array.dtype}",
                expected="uint8 or uint16",
                fix="round and cast the labels; a label map holds whole numbers from 0",
            )
        if array.shape != self.geometry.shape:
            raise LabelError(
                found=f"a label map of shape {array.shape} for a grid of shape {self.geometry.shape}",
                expected="the same shape (I, J, K)",
                fix="pass the geometry that belongs to this label map",
            )
        unknown = sorted(_values(array) - {0, *self.labels.values})
        if unknown:
            raise LabelError(
                found=f"values {unknown[:10]} in the label map",
                expected=f"0 and the values of the label table: {list(self.labels.values)}",
                fix="pass the label table that belongs to this label map",
            )
        view = array.view()
        view.setflags(write=False)
        object.__setattr__(self, "array", view)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return one structure as booleans, shape (I, J, K).

        Raises
        ------
        LabelError
            If the table has no such name.
        """
        mask: NDArray[np.bool_] = self.array == self.labels[name].value
        return mask

    def __repr__(self) -> str:
        return f"Segmentation({len(self.labels)} labels, {self.geometry!r})"


def _values(array: NDArray[Any]) -> set[int]:
    """Return all values present, slab by slab: bincount of a whole map would take eight bytes a voxel."""
    seen = np.zeros(int(np.iinfo(array.dtype).max) + 1, dtype=bool)
    slabs = array.T if array.flags.f_contiguous else array
    for slab in slabs:
        seen[slab] = True
    return set(np.flatnonzero(seen).tolist())
