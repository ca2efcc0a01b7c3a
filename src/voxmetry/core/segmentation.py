"""A label map that knows where it is and what its values mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.memory import release_pages
from voxmetry.core.notebook import grid_facts, slices, table
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
        unknown = sorted(values_present(array) - {0, *self.labels.values})
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

    def _repr_html_(self) -> str:
        shown = [np.flatnonzero(self.array.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        middle = [
            int(found[len(found) // 2]) if len(found) else n // 2
            for found, n in zip(shown, self.array.shape, strict=True)
        ]
        counts = np.bincount(self.array.ravel(), minlength=max(self.labels.values, default=0) + 1)
        rows = [
            {
                "value": label.value,
                "label": label.name,
                "kind": label.kind,
                "volume_ml": float(counts[label.value] * self.geometry.voxel_ml),
            }
            for label in self.labels
            if counts[label.value]
        ]
        colours = {label.value: label.rgb for label in self.labels}
        picture = (
            slices(self.array, self.geometry, (middle[0], middle[1], middle[2]), colours=colours) if colours else ""
        )
        facts = {"label map": str(self.array.dtype), **grid_facts(self.geometry), "labels": len(self.labels)}
        return picture + table([facts]) + table(rows)


def values_present(array: NDArray[Any]) -> set[int]:
    """Return all values present, slab by slab: bincount of a whole map would take eight bytes a voxel."""
    seen = np.zeros(int(np.iinfo(array.dtype).max) + 1, dtype=bool)
    slabs = array.T if array.flags.f_contiguous else array
    for slab in slabs:
        seen[slab] = True
        release_pages(array)
    return set(np.flatnonzero(seen).tolist())
