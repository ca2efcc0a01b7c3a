"""What the sliding window hands out, and how it goes along a volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

DEVICE_FACTOR = 20
"""On a GPU this many times more values are looked at at once than fit a processor's cache."""


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished scores of a few slices. Views of the ring: they hold until the next slab is asked for.

    Parameters
    ----------
    axis
        The spatial axis (0, 1 or 2) that slabs follow each other along.
    start
        Index of the first slice along `axis`.
    fresh
        Index of the first slice that no earlier slab held. All slabs but the first repeat one slice, for whoever
        interpolates between slices.
    sums
        (n_outputs, I, J, K) scores times weights, with `axis` cut to this slab.
    weights
        (I, J, K) sums of weights; 0 where all windows were skipped.
    """

    axis: int
    start: int
    fresh: int
    sums: torch.Tensor
    weights: torch.Tensor

    @property
    def stop(self) -> int:
        """Index behind the last slice along `axis`."""
        return self.start + self.sums.shape[self.axis + 1]

    def outputs(self, n: int) -> Slab:
        """Return the same slab with the first `n` outputs only."""
        return self if len(self.sums) == n else Slab(self.axis, self.start, self.fresh, self.sums[:n], self.weights)

    def split(self, depth: int) -> Iterator[Slab]:
        """Cut into slabs of `depth` fresh slices, each with the slice before it."""
        for fresh in range(self.fresh, self.stop, depth):
            start = max(self.start, fresh - 1)
            size = min(fresh + depth, self.stop) - start
            sums = self.sums.narrow(self.axis + 1, start - self.start, size)
            yield Slab(self.axis, start, fresh, sums, self.weights.narrow(self.axis, start - self.start, size))


@dataclass(frozen=True)
class Streaming:
    """How windows are run; none of it changes the scores but `dtype`.

    Parameters
    ----------
    axis
        Axis that slabs follow each other along; None takes the one with the smallest cross-section.
    batch
        Patches run at once.
    dtype
        Of the ring.
    device
        Where the ring lives; None: where the network runs.
    image_device
        Where the prepared image lives while windows are cut from it; None: where the network runs.
    full_groups
        Whether a last group of fewer windows is filled up to `batch` with copies, for a network that is recorded or
        compiled for one size.
    reuse
        Whether windows that hold one value are run once; see `constant_windows`.
    streamed
        Whether the input is made slab by slab; see `streamed_input`. Slabs follow each other along its axis then.
    labels_on_disk
        Whether the label map lies in a temporary file.
    """

    axis: int | None = None
    batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str | None = None
    image_device: str | None = None
    full_groups: bool = False
    reuse: bool = False
    streamed: bool = False
    labels_on_disk: bool = False

    def __str__(self) -> str:
        kind, place = str(self.dtype).removeprefix("torch."), self.device or "the network's memory"
        text = f"slabs along axis {self.axis}, {self.batch} window(s) at once, ring buffer in {kind} in {place}"
        text = text if self.image_device is None else f"{text}, image in {self.image_device}"
        text = f"{text}, input made slab by slab" if self.streamed else text
        return f"{text}, label map in a temporary file" if self.labels_on_disk else text


def on_device(values: torch.Tensor) -> bool:
    """Whether values lie on a GPU, where few large steps are quicker than many that fit a processor's cache."""
    return values.device.type != "cpu"


def cut(values: torch.Tensor, corner: tuple[int, ...], patch: tuple[int, int, int]) -> torch.Tensor:
    """Return the window at a corner, cut from the last three axes of values, as a view."""
    for axis, (start, size) in enumerate(zip(corner, patch, strict=True), start=-3):
        values = values.narrow(axis, start, size)
    return values
