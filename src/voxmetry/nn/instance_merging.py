"""Instances of many windows become those of a study: found by several windows, each is kept once.

Two boxes of different windows are one instance where they agree on what both windows see: each is cut to the part that
the windows share, and there their IoU is above a threshold. So an instance that a window's edge cuts through is joined
with its other part, and neighbours that touch stay apart. Scores are brought together as in weighted box clustering
(Jaeger et al. 2018, arXiv 1811.08661): a window that sees an instance and does not find it lowers its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Place: TypeAlias = tuple[slice, slice, slice]

SEEN = 0.7
"""Share of an instance's box that a window must see to be asked whether it found it."""


@dataclass(frozen=True, eq=False)
class WindowInstance:
    """An instance as one window found it.

    Parameters
    ----------
    box
        (6,) lowest and highest corner, in voxels of the model's grid, on edges.
    score
        0 to 1.
    thing
        The place of its structure in `MaskRcnn.things`.
    window
        Which window found it.
    place
        Where `mask` lies in the model's grid.
    mask
        (i, j, k) uint8, the probability of each voxel times 255.
    """

    box: Float
    score: float
    thing: int
    window: int
    place: Place
    mask: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MergedInstance:
    """An instance of the study, on the model's grid.

    Parameters
    ----------
    score
        0 to 1.
    thing
        The place of its structure in `MaskRcnn.things`.
    place
        Where `mask` lies in the model's grid.
    mask
        (i, j, k) float32, the probability of each voxel.
    """

    score: float
    thing: int
    place: Place
    mask: NDArray[np.float32]


def merge(
    found: Sequence[WindowInstance], windows: Float, weights: NDArray[np.float32], *, min_iou: float
) -> list[MergedInstance]:
    """Bring the instances of all windows together.

    Parameters
    ----------
    found
        Of all windows.
    windows
        (W, 6) lowest and highest corner of each, in voxels of the model's grid.
    weights
        How much each voxel of a window counts, (I, J, K) of the patch.
    min_iou
        Of boxes that are one instance, where both windows see.

    Returns
    -------
    list of MergedInstance
        The highest score first.
    """
    merged = []
    for members in clusters(found, windows, min_iou=min_iou):
        own = [found[place] for place in members]
        box = joint_box(own, windows)
        score = joint_score(own, windows, box)
        place, mask = joint_mask(own, windows, weights)
        merged.append(MergedInstance(score, own[0].thing, place, mask))
    return sorted(merged, key=lambda instance: -instance.score)


def clusters(found: Sequence[WindowInstance], windows: Float, *, min_iou: float) -> list[list[int]]:
    """Return which of the windows' instances are one, of each window one at most; the highest score of each first."""
    order = sorted(range(len(found)), key=lambda place: -found[place].score)
    boxes = np.array([found[place].box for place in range(len(found))]).reshape(-1, 6)
    own = np.array([found[place].window for place in range(len(found))], np.int64)
    things = np.array([found[place].thing for place in range(len(found))], np.int64)
    free = np.ones(len(found), bool)
    groups = []
    for seed in order:
        if not free[seed]:
            continue
        members, waiting = [], [seed]
        free[seed] = False
        while waiting:
            member = waiting.pop(0)
            members.append(member)
            taken = own[[*members, *waiting]]
            there = np.flatnonzero(free & (things == things[seed]) & ~np.isin(own, taken))
            shared = shared_iou(boxes[member], windows[own[member]], boxes[there], windows[own[there]])
            for place in np.argsort(-shared, kind="stable"):
                candidate = int(there[place])
                if shared[place] > min_iou and own[candidate] not in own[[*members, *waiting]]:
                    free[candidate] = False
                    waiting.append(candidate)
        groups.append(members)
    return groups


def shared_iou(box: Float, window: Float, boxes: Float, windows: Float) -> Float:
    """Return the IoU of a box with others, each pair cut to what both of its windows see: (N,).

    Parameters
    ----------
    box, window
        (6,) each.
    boxes, windows
        (N, 6) each.

    Examples
    --------
    >>> left, right = np.array([0.0, 0, 0, 10, 10, 10]), np.array([[6.0, 0, 0, 16, 10, 10]])
    >>> part, whole = np.array([2.0, 2, 2, 10, 8, 8]), np.array([[6.0, 2, 2, 14, 8, 8]])
    >>> shared_iou(part, left, whole, right).tolist()
    [1.0]
    """
    low, high = np.maximum(window[:3], windows[:, :3]), np.minimum(window[3:], windows[:, 3:])
    first = np.maximum(box[:3], low), np.minimum(box[3:], high)
    second = np.maximum(boxes[:, :3], low), np.minimum(boxes[:, 3:], high)
    both = _volume(np.maximum(first[0], second[0]), np.minimum(first[1], second[1]))
    either = _volume(*first) + _volume(*second) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def joint_box(own: Sequence[WindowInstance], windows: Float) -> Float:
    """Return one box of several: of each side the mean, by score, over the windows that do not cut it off there."""
    boxes = np.array([instance.box for instance in own])
    edges = windows[[instance.window for instance in own]]
    scores = np.array([instance.score for instance in own])
    cut = np.abs(boxes - edges) < 0.5
    box = np.empty(6)
    for side in range(6):
        whole = ~cut[:, side]
        if whole.any():
            box[side] = np.average(boxes[whole, side], weights=scores[whole])
        else:
            box[side] = boxes[:, side].min() if side < 3 else boxes[:, side].max()
    return box


def joint_score(own: Sequence[WindowInstance], windows: Float, box: Float) -> float:
    """Return the mean score, each window weighing by the share of the box that it sees.

    A window that sees `SEEN` of the box, and found nothing there, has the score 0.
    """
    low, high = np.maximum(windows[:, :3], box[:3]), np.minimum(windows[:, 3:], box[3:])
    share = _volume(low, high) / max(float(_volume(box[None, :3], box[None, 3:])[0]), 1e-9)
    mine = [instance.window for instance in own]
    missed = np.flatnonzero(share >= SEEN)
    missed = missed[~np.isin(missed, mine)]
    scores = np.array([instance.score for instance in own])
    weights = np.maximum(share[mine], 1e-3)
    return float((weights * scores).sum() / (weights.sum() + share[missed].sum()))


def joint_mask(
    own: Sequence[WindowInstance], windows: Float, weights: NDArray[np.float32]
) -> tuple[Place, NDArray[np.float32]]:
    """Return the mean mask over the windows that see a voxel, and where it lies; each weighs by its place in them."""
    low = np.min([[part.start for part in instance.place] for instance in own], axis=0)
    high = np.max([[part.stop for part in instance.place] for instance in own], axis=0)
    total, weight = np.zeros(high - low, np.float32), np.zeros(high - low, np.float32)
    for instance in own:
        corner, end = (windows[instance.window][part].astype(int) for part in (slice(0, 3), slice(3, 6)))
        start, stop = np.maximum(low, corner), np.minimum(high, end)
        inside = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        weight[inside] += weights[tuple(slice(a, b) for a, b in zip(start - corner, stop - corner, strict=True))]
        at = tuple(slice(part.start - n, part.stop - n) for part, n in zip(instance.place, low, strict=True))
        of_window = tuple(slice(part.start - n, part.stop - n) for part, n in zip(instance.place, corner, strict=True))
        total[at] += weights[of_window] * (instance.mask.astype(np.float32) / 255)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return (i, j, k), np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _volume(low: Float, high: Float) -> Float:
    found: Float = np.prod(np.maximum(high - low, 0), axis=1)
    return found
