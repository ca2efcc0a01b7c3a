"""How far two label maps cover the same voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.ops.boxes import boxes_of, join

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
    # The reference's value that each value of the prediction is held against.
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


def boundary_iou_mm(*, prediction: Segmentation, reference: Segmentation, label: str, width_mm: float) -> float:
    """Return the intersection over union of the inner rims of one structure, 0 to 1.

    The rim of a mask is its voxels whose centre is at most `width_mm` from the centre of the nearest voxel outside
    the mask; what lies outside the grid counts as outside. It asks more of large structures than the IoU does.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid, both with a structure named `label`.
    width_mm
        Width of the rim. With less than the largest spacing some faces have no rim.

    Returns
    -------
    float
        nan if both rims are empty.

    Raises
    ------
    GeometryError
        If the grids differ or are sheared.
    ConfigError
        If the width is not above 0.

    References
    ----------
    Cheng et al., 2021, doi:10.1109/CVPR46437.2021.01508.
    """
    from voxmetry.ops.surface import require_right_angles

    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    require_right_angles(prediction.geometry)
    if not (width_mm > 0 and math.isfinite(width_mm)):
        raise ConfigError(found=f"a rim of {width_mm} mm", expected="a width above 0", fix="pass a length in mm")
    values = (prediction.labels[label].value, reference.labels[label].value)
    boxes = [boxes_of(x).get(value) for x, value in zip((prediction, reference), values, strict=True)]
    present = [box for box in boxes if box is not None]
    if not present:
        return math.nan
    box = join(present)
    a, b = (
        _rim(x.array[box] == value, prediction.geometry.spacing_mm, width_mm)
        for x, value in zip((prediction, reference), values, strict=True)
    )
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan


def _rim(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], width_mm: float) -> NDArray[np.bool_]:
    import edt

    padded = np.ascontiguousarray(np.pad(mask, 1))
    depth = edt.edt(padded, anisotropy=spacing_mm, parallel=1)[1:-1, 1:-1, 1:-1]
    # edt counts in float32.
    rim: NDArray[np.bool_] = mask & (depth <= width_mm * (1 + 1e-6))
    return rim


def _chunks(a: NDArray[Any], b: NDArray[Any]) -> Any:
    """Yield matching pieces of both arrays, flat, in the order in which the first lies in memory."""
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        a, b = a.T, b.T
    thick = max(1, _CHUNK_VOXELS // (a.shape[1] * a.shape[2]))
    for first in range(0, a.shape[0], thick):
        yield a[first : first + thick].ravel(), b[first : first + thick].ravel()
