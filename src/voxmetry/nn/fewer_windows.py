"""Fewer windows for a fast run: some of the full run's, and those whose middle holds what these find.

What a network says of a place hangs on where its windows lie: windows in other places give another answer, however many
they are. So a fast run takes windows of the full one and no others. Windows that overlap by a half look at each place
eight times; at first every second one along each axis is run, in the rows between them those between. Together they
look at each place once at least, mostly twice. Then those are run in whose middle something was found: there the full
run's answer is theirs above all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from voxmetry.config import FAST_OVERLAP, ModelSpec, WindowSpec
from voxmetry.config.networks import MaskRcnnNetwork
from voxmetry.nn.ring_buffer import RingBuffer
from voxmetry.nn.slabs import cut

Corner = tuple[int, ...]

LEAST_OVERLAP, MOST_OVERLAP = 0.5, 0.6
"""Of models that take fewer windows: with less there are gaps between every second one, with more too few are left
out."""

MOST_WINDOWS = 1.25
"""The most windows that are run, over those of a run whose windows overlap by `FAST_OVERLAP`."""


def takes_fewer_windows(spec: ModelSpec) -> bool:
    """Whether fast runs of a model take fewer of its windows; others of them overlap by less."""
    tells_instances = isinstance(spec.network, MaskRcnnNetwork)
    return LEAST_OVERLAP <= spec.window.overlap <= MOST_OVERLAP and not tells_instances


@dataclass(frozen=True, eq=False)
class FewerWindows:
    """Which windows of a row are run.

    Parameters
    ----------
    classes
        From sums of scores (n_outputs, I, J, K) to the class of each voxel, 0 where nothing was found.
    n_outputs
        How many of the ring's outputs that takes.
    """

    classes: Callable[[torch.Tensor], torch.Tensor]
    n_outputs: int

    def most(self, n_row: int, n_quarter: int, n_full: int) -> int:
        """Return how many of a row's windows may be run, by the windows of a run that overlaps by a quarter."""
        return math.ceil(n_row * min(1.0, MOST_WINDOWS * n_quarter / n_full))

    def found_in(self, ring: RingBuffer, corner: Corner) -> int:
        """Return how many voxels in the middle half of a window hold something, by the scores so far."""
        place = [*corner]
        place[ring.axis] += 1 - ring.first
        sums = cut(ring.sums[: self.n_outputs], tuple(place), ring.patch)
        for axis, size in enumerate(ring.patch, start=1):
            half = max(1, size // 2)
            sums = sums.narrow(axis, (size - half) // 2, half)
        return int((self.classes(sums) > 0).sum())

    def wanted(self, ring: RingBuffer, corners: Sequence[Corner], most: int) -> list[Corner]:
        """Return, in their order, those whose middle holds something; where they are too many, those with most."""
        counts = {corner: self.found_in(ring, corner) for corner in corners}
        holding = sorted((corner for corner in corners if counts[corner]), key=lambda corner: -counts[corner])
        chosen = set(holding[:most])
        return [corner for corner in corners if corner in chosen]


def first_windows(starts: Sequence[Sequence[int]], axis: int, row: int) -> set[Corner]:
    """Return the corners of the windows of a row that are run whatever they find.

    Parameters
    ----------
    starts
        First voxels of windows along i, j, k.
    axis
        The one that rows follow each other along.
    row
        Which row.

    Examples
    --------
    >>> starts = [[0, 4, 8], [0, 4, 6], [0, 4, 8, 12]]
    >>> sorted(first_windows(starts, 2, 0))
    [(0, 0, 0), (0, 6, 0), (8, 0, 0), (8, 6, 0)]
    >>> sorted(first_windows(starts, 2, 1))
    [(4, 4, 4)]
    """
    # The first row and the last one are looked at by no other that fills its gaps.
    between = row % 2 == 1 and row < len(starts[axis]) - 1
    chosen = []
    for own, along in enumerate(starts):
        last = len(along) - 1
        if own == axis:
            chosen.append([along[row]])
        elif between:
            chosen.append([start for place, start in enumerate(along) if place % 2 == 1 or not last])
        else:
            chosen.append([start for place, start in enumerate(along) if place % 2 == 0 or place == last])
    return set(itertools.product(*chosen))


def quarter(window: WindowSpec) -> WindowSpec:
    """Return windows that overlap by `FAST_OVERLAP`."""
    return window.model_copy(update={"overlap": FAST_OVERLAP})
