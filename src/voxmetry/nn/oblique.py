"""Studies whose grid is turned against the patient: onto the patient's axes for the network, and back.

A network that was trained on upright images takes a turned grid for a turned patient. Such a study is interpolated
onto a grid along the patient's axes that covers it, and each of its own voxels then takes the scores of the eight
model voxels round it: between two grids that are turned, positions no longer go along one axis after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from voxmetry.core.geometry import Geometry
from voxmetry.nn.slabs import Slab

LOT = 250_000
"""Voxels that are looked up at once; each takes some 300 bytes on the way."""


@dataclass(frozen=True, eq=False)
class Lot:
    """Some voxels of the study, and where they lie on the model's grid.

    Parameters
    ----------
    voxels
        i, j and k of each in the study's array, (n,).
    low
        (n, 3) int64, the model voxel before it along each axis, counted from the slab's first.
    share
        (n, 3) float32, the weight of the next.
    """

    voxels: tuple[np.ndarray, np.ndarray, np.ndarray]
    low: torch.Tensor
    share: torch.Tensor

    def part(self, chosen: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Return `low` and `share` of some of them, axis by axis."""
        return self.low[chosen].unbind(1), self.share[chosen].unbind(1)


class Places:
    """Hands out the voxels of a study in the order in which slabs of the model's grid reach them, each once.

    Parameters
    ----------
    grid
        The model's grid.
    native
        The study's own grid, turned in any way. Voxels beyond the model's grid are held at its outermost.
    """

    def __init__(self, grid: Geometry, native: Geometry) -> None:
        self._shape, self._size = native.shape, grid.shape
        self._to_grid = np.linalg.solve(grid.affine, native.affine)
        self._done = -math.inf

    def reached(self, slab: Slab) -> Iterator[Lot]:
        """Yield the voxels that lie between two slices of the slab and that no slab before it had."""
        # A voxel on the last slice is left to the next slab, which has that slice too.
        until = math.inf if slab.stop == self._size[slab.axis] else float(slab.stop - 1)
        lead = int(np.argmax(np.abs(self._to_grid[slab.axis, :3])))
        others = [axis for axis in range(3) if axis != lead]
        begins, ends = (self._edges(slab.axis, lead, others, bound) for bound in (self._done, until))
        if self._to_grid[slab.axis, lead] < 0:
            begins, ends = ends, begins
        self._done = until
        counts = np.maximum(0, ends - begins)
        for rows in _runs(counts):
            along = np.repeat(begins[rows] - np.cumsum(counts[rows]) + counts[rows], counts[rows])
            along += np.arange(len(along))
            first, second = np.divmod(np.repeat(np.arange(rows.start, rows.stop), counts[rows]), self._shape[others[1]])
            voxels: list[np.ndarray] = [along] * 3
            voxels[others[0]], voxels[others[1]] = first, second
            yield self._lot((voxels[0], voxels[1], voxels[2]), slab)

    def _edges(self, axis: int, lead: int, others: list[int], bound: float) -> np.ndarray:
        """Return, for each line of voxels along `lead`, the first one at or behind `bound` in the line's direction."""
        size, step = self._shape[lead], self._to_grid[axis, lead]
        if math.isinf(bound):
            end = size if (bound > 0) == (step > 0) else 0
            return np.full(self._shape[others[0]] * self._shape[others[1]], end, dtype=np.int64)
        u, v = (np.arange(self._shape[other]) * self._to_grid[axis, other] for other in others)
        at = (bound - self._to_grid[axis, 3] - (u[:, None] + v[None, :])).ravel() / step
        edge = np.ceil(at) if step > 0 else np.floor(at) + 1
        return np.clip(edge, 0, size).astype(np.int64)

    def _lot(self, voxels: tuple[np.ndarray, np.ndarray, np.ndarray], slab: Slab) -> Lot:
        low = np.empty((len(voxels[0]), 3), dtype=np.int64)
        share = np.empty(low.shape, dtype=np.float32)
        for axis, row in enumerate(self._to_grid[:3]):
            at = voxels[0] * row[0] + voxels[1] * row[1] + voxels[2] * row[2] + row[3]
            start, stop = (slab.start, slab.stop) if axis == slab.axis else (0, self._size[axis])
            at = np.clip(at, start, stop - 1) - start
            low[:, axis] = at
            share[:, axis] = at - low[:, axis]
        device = slab.sums.device
        return Lot(voxels, torch.from_numpy(low).to(device), torch.from_numpy(share).to(device))


def _runs(counts: np.ndarray) -> Iterator[slice]:
    """Cut lines of voxels into runs of about `LOT` voxels; lines without any are left out at the ends of a run."""
    total = np.concatenate([[0], np.cumsum(counts)])
    start = 0
    while start < len(counts) and total[start] < total[-1]:
        stop = max(start + 1, int(np.searchsorted(total, total[start] + LOT, side="right")) - 1)
        if total[stop] > total[start]:
            yield slice(start, stop)
        start = stop


def sample(
    array: np.ndarray,
    source: Geometry,
    target: Geometry,
    *,
    outside: float | None = None,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> np.ndarray:
    """Sample an array (I, J, K) on any grid, float32, some slices of the result at a time.

    Parameters
    ----------
    array, source
        Values and their grid.
    target
        The grid of the result.
    outside
        Value of what lies outside the source's voxels; at its edge the two are blended. None holds its outermost.
    mode
        "bilinear" is linear along three axes.
    """
    # The value outside is 0 to torch, whichever it is here. `array` is read-only, which torch cannot express.
    values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))[None, None].sub_(outside or 0)
    padding = "border" if outside is None else "zeros"
    to_source = np.linalg.solve(source.affine, target.affine)
    # torch counts positions from -1 to 1 at the outermost voxel edges, and names the last axis first.
    scale, shift = 2 / np.array(source.shape), 1 / np.array(source.shape) - 1
    j, k = np.arange(target.shape[1])[:, None], np.arange(target.shape[2])[None, :]
    result = np.empty(target.shape, dtype=np.float32)
    depth = max(1, LOT // (target.shape[1] * target.shape[2]))
    for start in range(0, target.shape[0], depth):
        i = np.arange(start, min(start + depth, target.shape[0]))[:, None, None]
        places = [
            torch.from_numpy((row[0] * i + row[1] * j + row[2] * k + row[3]) * scale[axis] + shift[axis])
            for axis, row in enumerate(to_source[:3])
        ]
        where = torch.stack(places[::-1], dim=-1).float()[None]
        found = torch.nn.functional.grid_sample(values, where, mode=mode, padding_mode=padding, align_corners=False)
        result[start : start + depth] = found[0, 0].add_(outside or 0).numpy()
    return result
