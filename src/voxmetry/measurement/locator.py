"""Where a lesion lies: in which organ, or how far from the nearest one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import is_mapped
from voxmetry.core.segmentation import Segmentation
from voxmetry.ops.surface import surface_parts

MOST_BORDER_VOXELS = 10_000_000
"""Border voxels of organs that a lesion in a map from a file is located by: 1.3 GB."""


class Locator:
    """Finds the organ that a set of voxels, (N, 3) indices, lies in or nearest to.

    Of a label map that lies in a file `too_large` says that its organs have too many border voxels to be searched.
    """

    def __init__(self, organs: Segmentation) -> None:
        from scipy.spatial import cKDTree

        self.organs = organs
        self.values = np.array([label.value for label in organs.labels if label.kind == "organ"])
        # From outside all organs the nearest voxel of one is always a border voxel.
        found: dict[int, list[NDArray[Any]]] = {int(value): [] for value in self.values}
        total, most = 0, MOST_BORDER_VOXELS if is_mapped(organs.array) else math.inf
        for value, part, _ in surface_parts(organs.array, "border voxels"):
            if value in found and total <= most:
                found[value].append(part)
                total += len(part)
        self.too_large = total > most
        present = [value for value, parts in found.items() if parts and not self.too_large]
        self.at = np.repeat(present, [sum(map(len, found[value])) for value in present])
        index = np.concatenate([np.zeros(0, np.int64), *(part for value in present for part in found[value])])
        where = np.stack(np.unravel_index(index, [n + 2 for n in organs.geometry.shape]), axis=1) - 1
        self.tree = cKDTree(organs.geometry.to_mm(where), balanced_tree=False) if present else None

    def __call__(self, voxels: NDArray[np.intp]) -> tuple[str | None, float]:
        """Return the organ and its distance in mm, 0 inside; None and nan where there is no organ."""
        if self.tree is None:
            return None, math.nan
        under = self.organs.array[tuple(voxels.T)]
        under = under[np.isin(under, self.values)]
        if under.size:
            return self.organs.labels.by_value(int(np.bincount(under).argmax())).name, 0.0
        distance, nearest = self.tree.query(self.organs.geometry.to_mm(voxels))
        value = int(self.at[nearest[distance.argmin()]])
        return self.organs.labels.by_value(value).name, float(distance.min())
