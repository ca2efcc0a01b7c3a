"""Sums of window scores in a ring buffer one patch deep: what is held does not grow with the length of the volume."""

from __future__ import annotations

import math

import torch

from voxmetry.config import WindowSpec
from voxmetry.nn.slabs import Slab, Streaming, cut, on_device
from voxmetry.nn.window_weights import blending_weights


class RingOverflow(Exception):  # noqa: N818  (it is caught, never shown)
    """Scores are too large for a ring of this type."""


class RingBuffer:
    """Sums of the slices that windows still reach, one patch deep, and one slice more for the slab before."""

    def __init__(
        self,
        n_outputs: int,
        shape: tuple[int, ...],
        axis: int,
        window: WindowSpec,
        how: Streaming,
        device: torch.device,
    ) -> None:
        self.patch, self.axis, self.network_device = window.patch, axis, device
        place = device if how.device is None else torch.device(how.device)
        sizes = list(shape)
        sizes[axis] = self.patch[axis] + 1
        self.sums = torch.zeros((n_outputs, *sizes), dtype=how.dtype, device=place)
        self.weights = torch.zeros(sizes, dtype=torch.float32, device=place)
        self.blend = blending_weights(window).to(place)
        # Windows that share a voxel, along each axis: the last one may lie closer to the one before.
        shared = math.ceil(1 / (1 - window.overlap)) + 1
        self.most = torch.finfo(how.dtype).max / (float(self.blend.max()) * shared**3)
        """Larger scores might not fit."""
        self.first = 0
        """Slice that lies in slot 1; slot 0 holds the one before."""

    def add(self, scores: torch.Tensor, corner: tuple[int, ...]) -> None:
        """Add the scores (n_outputs, *patch) of one window."""
        place = [*corner]
        place[self.axis] += 1 - self.first
        # Not `non_blocking`: a copy from a device to the host returns before it has arrived, and is read at once.
        scores = scores.to(self.sums.device)
        sums = cut(self.sums, tuple(place), self.patch)
        if self.sums.dtype == torch.float32:
            sums.addcmul_(scores, self.blend)
        elif on_device(sums):
            sums.copy_(torch.addcmul(sums.float(), scores, self.blend))
        else:
            # Class by class, so that the products stay in the processor's cache.
            for own, score in zip(sums, scores, strict=True):
                own.copy_(torch.addcmul(own.float(), score, self.blend))
        cut(self.weights, tuple(place), self.patch).add_(self.blend)

    def finished(self, stop: int) -> Slab:
        """Return the slices before `stop`, with the one that the last slab ended on."""
        skip = 1 if self.first == 0 else 0
        size = stop - self.first + 1 - skip
        start = self.first - 1 + skip
        return Slab(
            self.axis,
            start,
            self.first,
            self.sums.narrow(self.axis + 1, skip, size),
            self.weights.narrow(self.axis, skip, size),
        )

    def advance(self, stop: int) -> None:
        """Forget all slices before `stop` but the last one."""
        step = stop - self.first
        for values, axis in ((self.sums, self.axis + 1), (self.weights, self.axis)):
            kept = values.shape[axis] - step
            # In pieces that do not overlap, each a copy of whole stretches of memory.
            for start in range(0, kept, step):
                size = min(step, kept - start)
                values.narrow(axis, start, size).copy_(values.narrow(axis, start + step, size))
            values.narrow(axis, max(0, kept), values.shape[axis] - max(0, kept)).zero_()
        self.first = stop
