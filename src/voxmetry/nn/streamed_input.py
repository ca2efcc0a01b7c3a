"""Network input that is made as the window goes along a study: neither the study nor its input is held as a whole.

Blocks are those that `preprocess` resamples, and what their normalisation takes from the image is found beforehand in
passes over them, so that each voxel of the input is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from voxmetry.config import InputSpec, ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import release_pages
from voxmetry.core.volume import Volume
from voxmetry.nn.grids import along_same_axes, is_turned, model_grid, positions
from voxmetry.nn.normalisation import Scaling, fit
from voxmetry.nn.preprocess import (
    RESAMPLE_VALUES,
    Prepared,
    require_channels,
    resampled_blocks,
)
from voxmetry.nn.window import slab_axis
from voxmetry.ops.layout import memory_axes


@dataclass(frozen=True)
class Hold:
    """Where the network's input and the label map are held: none of it changes a label.

    Parameters
    ----------
    streamed
        The input is made slab by slab.
    on_disk
        The label map lies in a temporary file.
    """

    streamed: bool = False
    on_disk: bool = False


HELD, STREAMED, ON_DISK = Hold(), Hold(streamed=True), Hold(streamed=True, on_disk=True)


def why_held_whole(volumes: Sequence[Volume], spec: ModelSpec) -> str:
    """Say why a study's input cannot be made slab by slab; "" where it can."""
    first = volumes[0].geometry
    if spec.previous is not None:
        return "the second network of a cascade takes labels of the whole study"
    if spec.resampling.rule == "nnunet":
        return "nnU-Net's rule crops the study to its content, and resamples by splines through all of it"
    if is_turned(first, spec):
        return "the study is turned against the patient's axes"
    grid = model_grid(first, spec)
    if not all(along_same_axes(reorientation(v.geometry, spec.orientation)[1], grid) for v in volumes):
        return "the images of the study do not run along the same axes"
    axes = {stream_axis(volume, spec) for volume in volumes}
    if len(axes) > 1:
        return "the images of the study are stored along different axes"
    padded = tuple(max(pair) for pair in zip(grid.shape, spec.window.patch, strict=True))
    stored = reorientation(first, spec.orientation)[0].order.index(2)
    if axes != {slab_axis(padded, stored)}:
        # Windows would be summed in another order, and labels be those of a held input but for rounding.
        return "the window goes along another axis than the study's file"
    return ""


def stream_axis(volume: Volume, spec: ModelSpec) -> int:
    """Return the axis of the model's grid that runs slowest in a study's memory or file."""
    moved, _ = reorientation(volume.geometry, spec.orientation)
    return memory_axes(moved.forward(volume.array))[0]


def streamed_bytes(volumes: Sequence[Volume], spec: ModelSpec, section: int) -> int:
    """Return what a streamed input takes: the slices under a row of windows, and a block while it is made.

    Parameters
    ----------
    volumes, spec
        The study and the model.
    section
        Voxels of a slice of the model's grid.
    """
    axis = stream_axis(volumes[0], spec)
    slices = 0
    for volume in volumes:
        moved, _ = reorientation(volume.geometry, spec.orientation)
        shape = moved.forward(volume.array).shape
        slices = max(slices, int(np.prod(shape)) // shape[axis])
    # Two slices where one alone is as large as a block. Copies while it is interpolated, and normalised in float64.
    block = max(RESAMPLE_VALUES, 2 * slices, 2 * section)
    return 4 * spec.n_channels * section * spec.window.patch[axis] + 28 * block


class StreamedInput:
    """The network input of a study, of which some slices are there at once.

    Parameters
    ----------
    volumes
        The study. Whatever is mapped from a file is given back when it has been looked at.
    spec
        The model.
    grid
        The model's grid over the study.

    Raises
    ------
    InputError
        If all voxels of a channel that count have the same value.
    """

    def __init__(self, volumes: Sequence[Volume], spec: ModelSpec, grid: Geometry) -> None:
        self.axis = stream_axis(volumes[0], spec)
        self.shape = (1, len(volumes), *grid.shape)
        self._channels = [
            _Channel(self.axis, *_source(volume, item, spec, grid))
            for volume, item in zip(volumes, spec.inputs, strict=True)
        ]
        self._held = torch.empty(0)
        self._first = self._stop = 0

    def slices(self, start: int, stop: int) -> torch.Tensor:
        """Return the input (1, C, I, J, K), float32, cut to slices of its axis; it holds until the next call.

        Calls go forward along the axis; one that goes back begins anew.
        """
        along = self.axis + 1
        if start < self._first or self._held.ndim < 2 or self._held.shape[along] < stop - start:
            sizes = list(self.shape[1:])
            sizes[along] = stop - start
            # The old one first: both together would be the peak.
            self._held = torch.empty(0)
            self._held = torch.empty(sizes)
            self._first = self._stop = 0
            for channel in self._channels:
                channel.restart()
        kept = max(0, self._stop - start)
        step = start - self._first
        if step and kept:
            # In pieces that do not overlap, as in the ring.
            for at in range(0, kept, step):
                size = min(step, kept - at)
                self._held.narrow(along, at, size).copy_(self._held.narrow(along, at + step, size))
        self._first = start
        for channel, held in zip(self._channels, self._held, strict=True):
            channel.fill(held.narrow(self.axis, kept, max(0, stop - start - kept)), start + kept)
        self._stop = max(stop, start + kept)
        return self._held.narrow(along, 0, stop - start)[None]


def preprocess_streamed(volumes: Sequence[Volume], spec: ModelSpec) -> Prepared:
    """Make a study ready to be prepared slab by slab; see `preprocess`, and `why_held_whole` for what cannot be.

    Raises
    ------
    InputError
        As `preprocess`.
    """
    require_channels(volumes, spec)
    first = volumes[0].geometry
    grid = model_grid(first, spec)
    return Prepared(torch.empty(0), grid, first, streamed=StreamedInput(volumes, spec, grid))


Blocks = Callable[[], Iterator[tuple[int, torch.Tensor]]]
"""Goes through a channel from its first slice on: place and values, along memory."""


def _source(
    volume: Volume, item: InputSpec, spec: ModelSpec, grid: Geometry
) -> tuple[Blocks, tuple[Scaling, ...], tuple[int, ...]]:
    """Return the resampled blocks of a channel, its normalisation, and the axes that blocks have."""
    moved, oriented = reorientation(volume.geometry, spec.orientation)
    array, at = moved.forward(volume.array), positions(oriented, grid)
    blocks = partial(_released, array, at)
    steps = fit(lambda: ((values.numpy(), None) for _, values in blocks()), item)
    return blocks, steps, memory_axes(array)


def _released(array: np.ndarray, at: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Iterator[tuple[int, torch.Tensor]]:
    for block in resampled_blocks(array, at):
        release_pages(array)
        yield block


class _Channel:
    """Goes through the blocks of a channel once, forwards."""

    def __init__(self, axis: int, blocks: Blocks, steps: tuple[Scaling, ...], axes: tuple[int, ...]) -> None:
        self._axis, self._make, self._steps = axis, blocks, steps
        self._back = np.argsort(axes).tolist()
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._blocks = self._make()
        self._start, self._block = 0, torch.empty(0)

    def fill(self, into: torch.Tensor, start: int) -> None:
        """Copy the slices from `start` on into (I, J, K), forward of all that were asked for before."""
        stop = start + into.shape[self._axis]
        at = start
        while at < stop:
            while self._start + len(self._block) <= at:
                self._start, values = next(self._blocks)
                self._block = self._normalised(values) if self._start + len(values) > at else values
            part = self._block[at - self._start : stop - self._start]
            into.narrow(self._axis, at - start, len(part)).copy_(part.permute(self._back))
            at += len(part)

    def _normalised(self, values: torch.Tensor) -> torch.Tensor:
        array = values.numpy()
        for step in self._steps:
            array = step(array)
        return torch.from_numpy(array)
