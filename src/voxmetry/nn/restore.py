"""From scores on the model's grid to labels on the study's own grid, slab by slab.

A voxel's score is a weighted mean of those of the eight model voxels round it. Where one class is the largest at all
eight, it is the largest of the mean as well, whatever the weights; the same holds for regions, which are above a
threshold or not. So scores are interpolated only where neighbours disagree: at the surfaces of structures. The answer
is that of interpolating everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from voxmetry.config import ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import release_pages
from voxmetry.core.segmentation import Segmentation
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.nn.corner_scores import MIXED, CornerScores
from voxmetry.nn.grids import is_turned, restoring_positions
from voxmetry.nn.oblique import Lot, Places
from voxmetry.nn.slabs import DEVICE_FACTOR, Slab, on_device

SLAB_VALUES = 20_000_000
"""Scores that labels are chosen from at once: 80 MB of float32, whatever the number of classes. Each lot looks at one
slice of the lot before again."""


class Restorer:
    """Takes slabs of scores in their order and fills the label map.

    Parameters
    ----------
    grid
        The model's grid, as `nn.grids.model_grid(native, spec)` gives it.
    native
        The study's own grid.
    spec
        The model.
    on_disk
        Whether the label map lies in a temporary file, where it is too large for memory.

    Raises
    ------
    OutputError
        If there is no room for that file.
    """

    def __init__(self, grid: Geometry, native: Geometry, spec: ModelSpec, *, on_disk: bool = False) -> None:
        self._native, self._labels = native, spec.labels
        dtype = np.uint8 if max(spec.labels.values) < 256 else np.uint16
        self._values = np.array([0, *(spec.regions or spec.labels.values)], dtype=dtype)
        # As images lie in memory: what compares the two walks along both.
        make = zeros_on_disk if on_disk else partial(np.zeros, order="F")
        self._array: np.ndarray = make(native.shape, dtype)
        # Labels of slabs on a GPU gather there, and come over once.
        self._gathered: torch.Tensor | None = None
        self._how = Decision(regions=spec.regions is not None, softmax=spec.activation == "softmax")
        self._places = Places(grid, native) if is_turned(native, spec) else None
        if self._places is None:
            moved, oriented = reorientation(native, spec.orientation)
            at, box = restoring_positions(grid, oriented, spec)
            self._covered = moved.forward(self._array)[box]
            self._axes = [Axis.between(*pair) for pair in zip(at, grid.shape, strict=True)]
            self._done = 0

    def feed(self, slab: Slab) -> None:
        """Choose the labels of all native voxels that this slab reaches."""
        for thin in thin_slabs(slab):
            if self._places is None:
                self._feed_along_axes(thin)
            else:
                self._feed_turned(thin, self._places)
        release_pages(self._array)

    def _feed_along_axes(self, slab: Slab) -> None:
        rows = reached_rows(self._axes, slab, self._done)
        if rows.stop > rows.start:
            axes = [*self._axes]
            axes[slab.axis] = axes[slab.axis].part(rows, slab.start)
            classes = choose_classes(slab.sums, slab.weights, axes, self._how)
            box: list[slice] = [slice(None)] * 3
            box[slab.axis] = rows
            if on_device(classes):
                self._gather(classes, tuple(box))
            else:
                self._covered[tuple(box)] = self._values[classes.numpy()]
        self._done = rows.stop

    def _gather(self, classes: torch.Tensor, box: tuple[slice, ...]) -> None:
        kind = torch.uint8 if self._values.dtype == np.uint8 else torch.int32
        if self._gathered is None:
            self._gathered = torch.zeros(self._covered.shape, dtype=kind, device=classes.device)
        values = torch.from_numpy(self._values.astype(np.int32)).to(classes.device, kind)
        self._gathered[box] = values[classes.int()]

    def _feed_turned(self, slab: Slab, places: Places) -> None:
        cells = self._how.of_slab(slab.sums)
        for axis in range(3):
            cells = _agreed(cells, axis)
        scores = CornerScores.of(cells, slab.sums, slab.weights, (True, True, True), softmax=self._how.softmax)
        for lot in places.reached(slab):
            classes = choose_lot(cells, scores, lot, self._how)
            self._array[lot.voxels] = self._values[classes.cpu().numpy()]

    def finish(self) -> Segmentation:
        """Return the label map on the study's own grid, after the last slab."""
        if self._gathered is not None:
            self._covered[...] = self._gathered.cpu().numpy()
            self._gathered = None
        return Segmentation(self._array, self._native, self._labels)


@dataclass(frozen=True, eq=False)
class Axis:
    """Where the target's voxels lie along one axis of the source: between two voxels, which may be the same one.

    Parameters
    ----------
    low, high
        (n,) int64, rising: the source voxels on both sides.
    share
        (n,) float32: the weight of `high`.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @classmethod
    def between(cls, at: np.ndarray, size: int) -> Axis:
        """Make it from positions in source voxels within [0, size - 1]."""
        low = np.minimum(np.floor(at).astype(np.int64), size - 1)
        share = (at - low).astype(np.float32)
        return cls(low, np.where(share > 0, low + 1, low), share)

    def part(self, rows: slice, start: int) -> Axis:
        """Cut to some target voxels, counting source voxels from `start`."""
        return Axis(self.low[rows] - start, self.high[rows] - start, self.share[rows])

    @property
    def blends(self) -> bool:
        """Whether any target voxel lies between two source voxels."""
        return bool(self.share.any())


def thin_slabs(slab: Slab) -> Iterator[Slab]:
    """Cut a slab so that `SLAB_VALUES` scores are looked at at once; more on a GPU."""
    values = SLAB_VALUES * DEVICE_FACTOR if on_device(slab.sums) else SLAB_VALUES
    return slab.split(max(1, values // slab.sums.select(slab.axis + 1, 0).numel()))


def reached_rows(axes: Sequence[Axis], slab: Slab, done: int) -> slice:
    """Return the target's slices from `done` on that lie between slices which the slab holds."""
    end = int(np.searchsorted(axes[slab.axis].high, slab.stop, side="left"))
    return slice(done, max(done, end))


@dataclass(frozen=True)
class Decision:
    """How scores become a class.

    Parameters
    ----------
    regions
        The class is the last region whose logit is above 0, counted from 1, or 0. Else it is the largest score.
    softmax
        Scores are turned into probabilities before they are interpolated.
    """

    regions: bool = False
    softmax: bool = False

    def of_slab(self, sums: torch.Tensor) -> torch.Tensor:
        """Return the class of each voxel, int16 (I, J, K), of scores (n, I, J, K) times any positive weights.

        torch's own argmax over the first axis returns int64 and is slower on the CPU.
        """
        found = torch.zeros(sums.shape[1:], dtype=torch.int16, device=sums.device)
        if self.regions:
            if on_device(sums):
                order = torch.arange(1, len(sums) + 1, dtype=torch.int16, device=sums.device)
                return torch.where(sums > 0, order[:, None, None, None], 0).amax(0)
            for index, scores in enumerate(sums, start=1):
                found = torch.where(scores > 0, index, found)
            return found
        if on_device(sums):
            # One step in place of two a class; of equals it takes the first, as the loop does.
            return sums.argmax(0).to(torch.int16)
        best = sums[0].clone()
        for index in range(1, len(sums)):
            found = torch.where(sums[index] > best, index, found)
            torch.maximum(best, sums[index], out=best)
        return found

    def of_rows(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the class of each row of scores (n_voxels, n)."""
        if not self.regions:
            return scores.argmax(dim=1)
        order = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        return torch.where(scores > 0, order, 0).amax(dim=1)


def choose_classes(
    sums: torch.Tensor,
    weights: torch.Tensor,
    axes: list[Axis],
    how: Decision = Decision(),
) -> torch.Tensor:
    """Return the class that the interpolated scores give each target voxel, int16.

    Parameters
    ----------
    sums
        (n_classes, I, J, K) scores times weights.
    weights
        (I, J, K); where it is 0 all scores count as 0, and the background wins.
    axes
        The target's voxels along i, j, k.
    how
        From scores to a class.
    """
    cells = how.of_slab(sums)
    for axis, place in enumerate(axes):
        if place.blends:
            cells = _agreed(cells, axis)
    found = cells
    for axis, place in enumerate(axes):
        found = found.index_select(axis, torch.from_numpy(place.low).to(found.device))
    if bool((cells == MIXED).any()):
        _interpolate_mixed(found, cells, sums, weights, axes, how)
    return found


def _agreed(cells: torch.Tensor, axis: int) -> torch.Tensor:
    """Keep the class of each voxel that its next neighbour along an axis shares; the last has none to differ from."""
    size = cells.shape[axis]
    here, there = cells.narrow(axis, 0, size - 1), cells.narrow(axis, 1, size - 1)
    both = torch.where(here == there, here, MIXED)
    return torch.cat([both, cells.narrow(axis, size - 1, 1)], dim=axis)


def choose_lot(cells: torch.Tensor, scores: CornerScores, lot: Lot, how: Decision) -> torch.Tensor:
    """Return the class of voxels that lie anywhere in a slab, int16 (n,).

    Parameters
    ----------
    cells
        The class that the eight model voxels from each one on agree on, or MIXED.
    scores
        Of these voxels, where they do not agree.
    lot
        The voxels.
    how
        From scores to a class.
    """
    found = cells[tuple(lot.low.unbind(1))]
    _fill_mixed(found, scores, how, lot.part)
    return found


def _interpolate_mixed(
    found: torch.Tensor,
    cells: torch.Tensor,
    sums: torch.Tensor,
    weights: torch.Tensor,
    axes: list[Axis],
    how: Decision,
) -> None:
    """Fill in the class where `found` is MIXED, from the scores of the eight voxels round it."""
    device = sums.device
    scores = CornerScores.of(cells, sums, weights, [place.blends for place in axes], softmax=how.softmax)
    lows, shares = ([torch.from_numpy(getattr(place, name)).to(device) for place in axes] for name in ("low", "share"))

    def where(chunk: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        rest, k = chunk // found.shape[2], chunk % found.shape[2]
        ijk = (rest // found.shape[1], rest % found.shape[1], k)
        low, share = ([values[at] for values, at in zip(table, ijk, strict=True)] for table in (lows, shares))
        return low, share

    _fill_mixed(found.view(-1), scores, how, where)


def _fill_mixed(
    found: torch.Tensor,
    scores: CornerScores,
    how: Decision,
    where: Callable[[torch.Tensor], tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]],
) -> None:
    """Choose the class where `found` (n,) is MIXED; `where` says in which cell voxels lie, and where in it."""
    for chunk in (found == MIXED).nonzero()[:, 0].split(scores.chunk):
        found[chunk] = how.of_rows(scores.interpolated(*where(chunk))).to(found.dtype)
