"""A label map whose things are told apart one by one: semantic map, instance map, and a row an instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Detection
from voxmetry.core.segmentation import Segmentation, values_present
from voxmetry.errors import LabelError

MOST_INSTANCES = 65535
"""As many as uint16 has values beside 0."""
UNCERTAIN = 0.5
"""An instance with a lower score is more likely none, and said to be uncertain."""
PANOPTIC_BASE = 65536
"""A panoptic value is the structure's label value times this, plus the instance's value, which is 0 in stuff."""


@dataclass(frozen=True, eq=False)
class InstanceSegmentation:
    """Labels on a grid, and which voxels of them belong to which instance.

    Parameters
    ----------
    segmentation
        What each voxel is (the semantic map).
    array
        (I, J, K) uint16, on the same grid: the instance that a voxel belongs to; 0 where it belongs to none, as the
        background and stuff. Kept as a read-only view, not copied.
    detections
        One for each value that the array holds. Values need not follow one another.

    Raises
    ------
    LabelError
        If the array is of another type or shape, a value has no row or a row no voxel, or an instance has a voxel that
        the semantic map gives to another structure.

    Examples
    --------
    >>> array = np.zeros((6, 4, 4), np.uint16)
    >>> array[0:2], array[2:4] = 1, 2
    >>> semantic = Segmentation((array > 0).astype(np.uint8), Geometry(np.eye(4), (6, 4, 4)),
    ...     LabelTable.from_names({1: "vertebra"}))
    >>> rows = [Detection(value=n, label="vertebra", score=0.9, box_ras_mm=((0, 0, 0), (1, 1, 1))) for n in (1, 2)]
    >>> found = InstanceSegmentation(semantic, array, rows)
    >>> len(found), int(found.panoptic().max())
    (2, 65538)
    """

    segmentation: Segmentation
    array: NDArray[Any]
    detections: Sequence[Detection]

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        require_instance_values(array)
        if array.shape != self.geometry.shape:
            raise LabelError(
                found=f"an instance map of shape {array.shape} for a grid of shape {self.geometry.shape}",
                expected="the same shape (I, J, K)",
                fix="pass the instance map that belongs to this label map",
            )
        object.__setattr__(self, "detections", tuple(self.detections))
        self._require_rows(array)
        view = array.view()
        view.setflags(write=False)
        object.__setattr__(self, "array", view)

    def _require_rows(self, array: NDArray[Any]) -> None:
        values = [row.value for row in self.detections]
        present = values_present(array) - {0}
        if len(set(values)) < len(values) or set(values) != present:
            wrong = sorted({*(set(values) ^ present), *(x for x in values if values.count(x) > 1)})
            raise LabelError(
                found=f"instances {wrong[:10]} with a row and no voxel, no row, or two rows",
                expected="one row for each value in the instance map",
                fix="leave out instances without a voxel, and pass the rows that belong to this map",
            )
        label_of = np.zeros(MOST_INSTANCES + 1, np.uint16)
        for row in self.detections:
            label_of[row.value] = self.labels[row.label].value
        inside = array > 0
        other = self.segmentation.array[inside] != label_of[array[inside]]
        if other.any():
            raise LabelError(
                found=f"{int(other.sum())} voxels of instances that the label map gives to another structure",
                expected="an instance's voxels within its structure",
                fix="paint the instances into the label map, or cut them to it",
            )

    @property
    def geometry(self) -> Geometry:
        """The grid."""
        return self.segmentation.geometry

    @property
    def labels(self) -> LabelTable:
        """The structures."""
        return self.segmentation.labels

    def __len__(self) -> int:
        return len(self.detections)

    def mask(self, value: int) -> NDArray[np.bool_]:
        """Return one instance as booleans, (I, J, K)."""
        mask: NDArray[np.bool_] = self.array == value
        return mask

    def panoptic(self) -> NDArray[np.uint32]:
        """Return both maps in one, (I, J, K): label value x 65536 + instance value, and 0 in the background."""
        both: NDArray[np.uint32] = self.segmentation.array.astype(np.uint32) * np.uint32(PANOPTIC_BASE) + self.array
        return both


def require_instance_values(array: NDArray[Any]) -> None:
    """Raise `LabelError` unless an array can be an instance map: three axes of uint16."""
    if array.dtype != np.uint16:
        raise LabelError(
            found=f"an instance map of type {array.dtype}",
            expected=f"uint16, as many as {MOST_INSTANCES} instances",
            fix="number the instances from 1, and cast them",
        )
