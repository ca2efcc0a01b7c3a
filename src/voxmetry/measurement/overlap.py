"""How far two label maps cover the same voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import release_pages
from voxmetry.core.segmentation import Segmentation

_CHUNK_VOXELS = 4_000_000


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one structure."""

    n_prediction: int
    n_reference: int
    n_both: int

    @classmethod
    def of_masks(cls, *, prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Self:
        """Count the voxels of two masks of the same shape.

        Examples
        --------
        >>> Overlap.of_masks(prediction=np.array([True, True]), reference=np.array([False, True])).dice
        0.6666666666666666
        """
        return cls(int(prediction.sum()), int(reference.sum()), int((prediction & reference).sum()))

    @property
    def dice(self) -> float:
        """2 |P and R| / (|P| + |R|), 0 to 1; nan if both are empty.

        References
        ----------
        Dice, 1945, doi:10.2307/1932409.
        """
        total = self.n_prediction + self.n_reference
        return 2 * self.n_both / total if total else math.nan

    @property
    def iou(self) -> float:
        """Intersection over union, |P and R| / |P or R|, 0 to 1; nan if both are empty."""
        union = self.n_prediction + self.n_reference - self.n_both
        return self.n_both / union if union else math.nan


def overlaps(*, prediction: Segmentation, reference: Segmentation, pairs: Sequence[tuple[int, int]]) -> list[Overlap]:
    """Count the voxels of several structures in one pass.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid.
    pairs
        Value in the prediction and value in the reference, one pair a structure; 0 stands for a structure that is
        not there. Any other value stands in one pair at most.

    Raises
    ------
    GeometryError
        If the grids differ.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> grid, table = Geometry(np.eye(4), (4, 1, 1)), LabelTable.from_names({1: "liver"})
    >>> a = Segmentation(np.array([1, 1, 1, 0], np.uint8).reshape(4, 1, 1), grid, table)
    >>> b = Segmentation(np.array([0, 0, 1, 1], np.uint8).reshape(4, 1, 1), grid, table)
    >>> overlaps(prediction=a, reference=b, pairs=[(1, 1)])[0]
    Overlap(n_prediction=3, n_reference=2, n_both=1)
    """
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    sizes = [int(np.iinfo(x.array.dtype).max) + 1 for x in (prediction, reference)]
    n_prediction, n_reference, n_both = (np.zeros(size, np.int64) for size in (*sizes, sizes[0]))
    # The reference's value that each value of the prediction is compared with.
    partner = np.zeros(sizes[0], np.int32)
    for a, b in pairs:
        partner[a] = b
    for p, r in _chunks(prediction.array, reference.array):
        n_prediction += np.bincount(p, minlength=sizes[0])
        n_reference += np.bincount(r, minlength=sizes[1])
        foreground = (p != 0) & (r != 0)
        p, r = p[foreground], r[foreground]
        n_both += np.bincount(p[partner[p] == r], minlength=sizes[0])
    # The background is counted along, and belongs to no structure.
    n_prediction[0] = n_reference[0] = 0
    return [Overlap(int(n_prediction[a]), int(n_reference[b]), int(n_both[a])) for a, b in pairs]


def _chunks(a: NDArray[Any], b: NDArray[Any]) -> Any:
    """Yield matching pieces of both arrays, flat, in the order in which the first lies in memory."""
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        a, b = a.T, b.T
    thick = max(1, _CHUNK_VOXELS // (a.shape[1] * a.shape[2]))
    for first in range(0, a.shape[0], thick):
        yield a[first : first + thick].ravel(), b[first : first + thick].ravel()
        release_pages(a)
        release_pages(b)
