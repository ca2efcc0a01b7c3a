"""How far the parts of two maps share voxels, and which hit which: what matching and detection rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import Hits

Ids: TypeAlias = NDArray[np.uint32]
Float64: TypeAlias = NDArray[np.float64]


class PartOverlaps(NamedTuple):
    """Voxels of each part of the prediction (P,) and of the reference (R,), and of the N pairs that share some."""

    prediction: NDArray[np.int64]
    reference: NDArray[np.int64]
    pairs: NDArray[np.int64]
    """(N, 2), places in the two, from 0."""
    both: NDArray[np.int64]
    """(N,)"""

    @property
    def iou(self) -> Float64:
        """(N,); all other pairs have 0."""
        union = self.prediction[self.pairs[:, 0]] + self.reference[self.pairs[:, 1]] - self.both
        return self.both / union


def part_overlaps(ours: Ids, theirs: Ids) -> PartOverlaps:
    """Count the voxels that parts numbered from 1 share, (I, J, K) each."""
    shared = (ours > 0) & (theirs > 0)
    together = np.column_stack([ours[shared], theirs[shared]]).astype(np.int64) - 1
    pairs, both = np.unique(together, axis=0, return_counts=True)
    n_prediction, n_reference = (np.bincount(ids.ravel())[1:].astype(np.int64) for ids in (ours, theirs))
    return PartOverlaps(n_prediction, n_reference, pairs, both)


@dataclass(frozen=True)
class HitRules:
    """When a prediction hits an instance of the reference, for average precision and FROC.

    Parameters
    ----------
    ious
        Least IoU, each a rule of its own.
    centre_mm
        Largest distance of the two centroids. None takes the radius of the sphere of the reference's volume.
    """

    ious: tuple[float, ...] = (0.5, 0.75)
    centre_mm: float | None = None

    @property
    def centre_name(self) -> str:
        """What the rule of centres is called."""
        return "centre in radius" if self.centre_mm is None else f"centre {self.centre_mm:g} mm"


def hits_of(
    counts: PartOverlaps,
    scores: Sequence[float],
    centres: tuple[Float64, Float64],
    voxel_ml: float,
    rules: HitRules,
) -> tuple[Hits, ...]:
    """Say which predictions hit, by each rule.

    Predictions take their turn from the most to the least certain; each takes the best of the instances that it hits
    and that are still free: that of the largest IoU, or of the nearest centre. A second hit of an instance is a false
    one. Predictions of one score, or without any, take their turn by how good their best hit is.

    Parameters
    ----------
    counts
        The parts and their overlaps.
    scores
        (P,), nan where a prediction has none.
    centres
        Of the prediction's parts (P, 3) and of the reference's (R, 3), in mm.
    voxel_ml
        Volume of a voxel.
    rules
        What hits.

    References
    ----------
    Everingham et al., 2010, doi:10.1007/s11263-009-0275-4 (one hit an object, by score); Setio et al., 2017,
    doi:10.1016/j.media.2017.06.015 (the centre within the radius).
    """
    n, m = len(counts.prediction), len(counts.reference)
    known = tuple(float(x) for x in scores)
    rank = [-math.inf if math.isnan(x) else x for x in known]
    iou = np.zeros((n, m))
    iou[counts.pairs[:, 0], counts.pairs[:, 1]] = counts.iou
    found = [Hits(rule=f"IoU {least:g}", scores=known, hits=_turns(iou, iou >= least, rank)) for least in rules.ious]
    apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2) if n and m else np.zeros((n, m))
    radius = (3 * 1000 * counts.reference * voxel_ml / (4 * math.pi)) ** (1 / 3)
    limit = np.full(m, rules.centre_mm) if rules.centre_mm is not None else radius
    found.append(Hits(rule=rules.centre_name, scores=known, hits=_turns(-apart, apart <= limit, rank)))
    return tuple(found)


def _turns(worth: Float64, allowed: NDArray[np.bool_], rank: Sequence[float]) -> tuple[bool, ...]:
    """Let each prediction take the best free instance in its turn."""
    n, m = worth.shape
    if not m:
        return tuple([False] * n)
    worth = np.where(allowed, worth, -np.inf)
    best = worth.max(axis=1)
    free = np.ones(m, bool)
    hits: list[bool] = [False] * n
    for place in sorted(range(n), key=lambda p: (-rank[p], -float(best[p]))):
        mine = np.where(free, worth[place], -np.inf)
        chosen = int(mine.argmax())
        if mine[chosen] > -np.inf:
            hits[place], free[chosen] = True, False
    return tuple(hits)
