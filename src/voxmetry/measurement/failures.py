"""Why predictions fail: what is taken for what, where the boundary is off, and what the errors go along with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import Number, Record
from voxmetry.core.records import CaseComparison, Comparison
from voxmetry.core.segmentation import Segmentation

BACKGROUND = "background"
Side: TypeAlias = Literal["right", "left", "anterior", "posterior", "superior", "inferior"]
SIDES: tuple[Side, ...] = get_args(Side)
FACTORS = ("volume_reference_ml", "voxel_ml", "slice_mm", "intensity_mean")
LEAST_CASES = 5
"""A rank correlation of fewer cases says nothing."""


class Offset(Record):
    """How far the predicted boundary lies outside (+) or inside (-) the reference's, on one side of a structure."""

    label: str
    side: Side
    mean_mm: Number
    n_voxels: int
    """Boundary voxels of the prediction on this side, over all cases."""
    outside_share: Number
    """Share of them that lie outside the reference."""


class Factor(Record):
    """One property of the cases against their Dice."""

    label: str
    factor: str
    n: int
    spearman: Number
    """Spearman's rank correlation of the property with Dice; nan where the property or Dice is the same in all."""
    p_value: Number
    reason: str = ""


class CaseProperties(Record):
    """What the errors of a case may go along with."""

    case: str
    label: str
    dice: Number
    volume_reference_ml: float
    voxel_ml: float
    slice_mm: float
    """Largest of the three spacings."""
    intensity_mean: Number
    """Of the image inside the reference's structure."""


class Failures(Record):
    """All of it, over the cases of one model."""

    classes: tuple[str, ...]
    confusion_ml: tuple[tuple[float, ...], ...]
    """Rows: class in the reference; columns: class in the prediction; both in the order of `classes`."""
    offsets: tuple[Offset, ...]
    properties: tuple[CaseProperties, ...]
    factors: tuple[Factor, ...]


class FailureCounter:
    """Collects the failures of one case after the other.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> grid = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), (6, 5, 4))
    >>> table = LabelTable.from_names({1: "liver"})
    >>> truth, found = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    >>> truth[1:4, 1:4, 1:3] = found[1:5, 1:4, 1:3] = 1
    >>> counter = FailureCounter()
    >>> counter.add(Segmentation(found, grid, table), Segmentation(truth, grid, table), [("liver", 1, 1)])
    >>> [(row.side, row.mean_mm) for row in counter.offsets() if row.side == "right"]
    [('right', 0.5)]
    """

    def __init__(self) -> None:
        self._confusion: dict[tuple[str, str], float] = {}
        self._offsets: dict[tuple[str, Side], list[float]] = {}
        self._properties: list[CaseProperties] = []
        self._classes: dict[str, None] = {BACKGROUND: None}

    def add(
        self, prediction: Segmentation, reference: Segmentation, structures: Sequence[tuple[str, int, int | None]]
    ) -> None:
        """Count one case.

        Parameters
        ----------
        prediction, reference
            Label maps on the same grid.
        structures
            Name, value in the prediction, and value in the reference or None where its table does not have it.
        """
        prediction.geometry.require_same(reference.geometry, what="prediction and reference")
        self._classes |= dict.fromkeys(name for name, _, _ in structures)
        names = [BACKGROUND, *(name for name, _, _ in structures)]
        ours = _classes(prediction.array, [value for _, value, _ in structures])
        theirs = _classes(reference.array, [value for _, _, value in structures])
        n = len(names)
        counts = np.bincount((theirs.astype(np.int64) * n + ours).ravel(), minlength=n * n).reshape(n, n)
        for row, column in zip(*np.nonzero(counts), strict=True):
            key = (names[row], names[column])
            volume = float(counts[row, column]) * prediction.geometry.voxel_ml
            self._confusion[key] = self._confusion.get(key, 0.0) + volume
        for place, name in enumerate(names[1:], start=1):
            for side, values in boundary_offsets(ours == place, theirs == place, reference).items():
                self._offsets.setdefault((name, side), []).extend(values)

    def add_properties(self, case: CaseComparison, reference: Segmentation, image: NDArray[np.generic] | None) -> None:
        """Note what the errors of a case may go along with; `image` lies on the reference's grid."""
        for row in case.comparisons:
            if row.status not in ("both", "missed") or row.value_reference is None:
                continue
            inside = reference.array == row.value_reference
            self._properties.append(
                CaseProperties(
                    case=case.case,
                    label=row.label,
                    dice=row.dice,
                    volume_reference_ml=row.volume_reference_ml,
                    voxel_ml=reference.geometry.voxel_ml,
                    slice_mm=max(reference.geometry.spacing_mm),
                    intensity_mean=float(image[inside].mean()) if image is not None else math.nan,
                )
            )

    def offsets(self) -> tuple[Offset, ...]:
        """Return the boundary's offsets by structure and side."""
        found = []
        for (name, side), values in self._offsets.items():
            x = np.asarray(values)
            found.append(
                Offset(
                    label=name,
                    side=side,
                    mean_mm=float(x.mean()) if len(x) else math.nan,
                    n_voxels=len(x),
                    outside_share=float((x > 0).mean()) if len(x) else math.nan,
                )
            )
        return tuple(found)

    def result(self) -> Failures:
        """Return all that was counted."""
        classes = tuple(self._classes)
        return Failures(
            classes=classes,
            confusion_ml=tuple(tuple(self._confusion.get((a, b), 0.0) for b in classes) for a in classes),
            offsets=self.offsets(),
            properties=tuple(self._properties),
            factors=tuple(factors(self._properties)),
        )


def structures_of(rows: Sequence[Comparison]) -> list[tuple[str, int, int | None]]:
    """Return name and values of each structure that was compared, for `FailureCounter.add`."""
    return [(row.label, row.value, row.value_reference) for row in rows]


def boundary_offsets(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], grid: Segmentation) -> dict[Side, list[float]]:
    """Measure how far each boundary voxel of a prediction lies outside (+) or inside (-) the reference's boundary.

    Parameters
    ----------
    ours, theirs
        (I, J, K), one structure in the prediction and in the reference.
    grid
        Whose geometry they have.

    Returns
    -------
    dict
        Signed distances in mm by the side of the structure: the patient direction that the voxel lies furthest along,
        seen from the reference's centroid in units of its extent. Empty if one of the masks is. A distance runs from
        the centre of a boundary voxel of the prediction to that of the reference's nearest boundary voxel, so that a
        boundary in its right place is 0.
    """
    import edt

    if not ours.any() or not theirs.any():
        return {}
    box = _box(ours | theirs)
    ours, theirs = ours[box], theirs[box]
    spacing = grid.geometry.spacing_mm
    border = _border(ours)
    inner = _border(theirs)
    # Distance to the reference's own border voxels, signed by which side of it a voxel lies.
    to_border = edt.edt(~inner, anisotropy=spacing, black_border=False)
    signed = np.where(theirs, -to_border, to_border)[border]
    points = np.argwhere(border) @ grid.geometry.affine[:3, :3].T
    body = np.argwhere(theirs) @ grid.geometry.affine[:3, :3].T
    half = np.maximum((body.max(0) - body.min(0)) / 2, min(spacing))
    towards = (points - body.mean(0)) / half
    axis = np.abs(towards).argmax(1)
    positive = towards[np.arange(len(axis)), axis] > 0
    found: dict[Side, list[float]] = {}
    for place, side in enumerate(SIDES):
        chosen = (axis == place // 2) & (positive == (place % 2 == 0))
        if chosen.any():
            found[side] = signed[chosen].astype(float).tolist()
    return found


def factors(properties: Sequence[CaseProperties]) -> list[Factor]:
    """Rank-correlate Dice with each property, structure by structure."""
    from scipy.stats import spearmanr

    found = []
    for label in dict.fromkeys(row.label for row in properties):
        for name in FACTORS:
            pairs = [(float(getattr(row, name)), row.dice) for row in properties if row.label == label]
            x = np.array([pair for pair in pairs if all(map(math.isfinite, pair))]).reshape(-1, 2)
            reason = ""
            if len(x) < LEAST_CASES:
                reason = f"{len(x)} cases are too few"
            elif np.ptp(x[:, 0]) == 0 or np.ptp(x[:, 1]) == 0:
                reason = "the same in all cases"
            test = spearmanr(x[:, 0], x[:, 1]) if not reason else None
            found.append(
                Factor(
                    label=label,
                    factor=name,
                    n=len(x),
                    spearman=float(test.statistic) if test is not None else math.nan,
                    p_value=float(test.pvalue) if test is not None else math.nan,
                    reason=reason,
                )
            )
    return found


def _classes(array: NDArray[np.generic], values: Sequence[int | None]) -> NDArray[np.uint8]:
    classes = np.zeros(array.shape, np.uint8)
    for place, value in enumerate(values, start=1):
        if value is not None:
            classes[array == value] = place
    return classes


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    from scipy.ndimage import find_objects

    (box,) = find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask with a face on its outside; the grid's edge is no outside."""
    from scipy.ndimage import binary_erosion

    border: NDArray[np.bool_] = mask & ~binary_erosion(mask, border_value=1)
    return border
