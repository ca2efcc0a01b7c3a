"""The sliding window: network scores for a volume of any size, slab by slab.

Windows run along one axis of the model's grid. Their scores are summed in a ring that is one patch deep, so that what
is held does not grow with the length of the volume; a slab that no later window reaches is handed out and forgotten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from voxmetry.config import WindowSpec
from voxmetry.errors import InferenceError
from voxmetry.nn.window_weights import even_starts, monai_importance, nnunet_importance


class RingOverflow(Exception):  # noqa: N818  (it is caught, never shown)
    """Scores are too large for a ring of this type."""


Run = Callable[[torch.Tensor], torch.Tensor]
"""Patches (B, C, *patch) float32 to scores (B, n_outputs, *patch)."""


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
        Where the ring lives; None: where the volume does.
    """

    axis: int | None = None
    batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str | None = None

    def __str__(self) -> str:
        kind, place = str(self.dtype).removeprefix("torch."), self.device or "the network's memory"
        return f"slabs along axis {self.axis}, {self.batch} window(s) at once, ring in {kind} in {place}"


def window_starts(size: int, patch: int, window: WindowSpec) -> list[int]:
    """Return the first voxel of each window along one axis; see `config.WindowSpec.placement`.

    Examples
    --------
    >>> window = WindowSpec(patch=(40, 40, 40))
    >>> window_starts(90, 40, window), window_starts(30, 40, window)
    ([0, 20, 40, 50], [0])
    """
    if size <= patch:
        return [0]
    if window.placement == "nnunet":
        return even_starts(size, patch, window.overlap)
    step = max(1, int(patch * (1 - window.overlap)))
    count = math.ceil((size - patch) / step) + 1
    return [min(index * step, size - patch) for index in range(count)]


def stream_scores(
    run: Run,
    tensor: torch.Tensor,
    window: WindowSpec,
    *,
    n_outputs: int,
    how: Streaming = Streaming(),
    skip_up_to: float | None = None,
    explain: Callable[[torch.Tensor], str] | None = None,
) -> Iterator[Slab]:
    """Run the network over overlapping patches, blend them with a Gaussian, and hand out slabs as they are finished.

    Parameters
    ----------
    run
        The network, mirroring and ensemble included: see `blend.averaged`.
    tensor
        (1, C, I, J, K) float32. Smaller than the patch, it is padded with 0, which is the mean after normalisation.
    window
        Patch and overlap.
    n_outputs
        Channels that `run` returns.
    how
        Batch, ring and direction.
    skip_up_to
        Windows whose first channel is nowhere above this are not run; their voxels get weight 0.
    explain
        Called with a patch (1, C, *patch) whose scores are not finite, to say where in the network that began.

    Yields
    ------
    Slab
        From the first to the last slice along `Streaming.axis`.

    Raises
    ------
    InferenceError
        If a score is not finite; the window is named.
    """
    shape = tuple(tensor.shape[2:])
    axis = smallest_section(shape) if how.axis is None else how.axis
    tensor, before = _pad(tensor, window.patch)
    padded = tuple(tensor.shape[2:])
    starts = [window_starts(*sizes, window) for sizes in zip(padded, window.patch, strict=True)]
    ring = _Ring(n_outputs, padded, axis, window, how, tensor.device)
    rows = starts[axis]
    for row, start in enumerate(rows):
        columns = [*starts[:axis], [start], *starts[axis + 1 :]]
        corners = _worth_running(list(itertools.product(*columns)), tensor, window.patch, skip_up_to)
        for group in range(0, len(corners), how.batch):
            _run_group(run, tensor, corners[group : group + how.batch], ring, explain)
        stop = rows[row + 1] if row + 1 < len(rows) else padded[axis]
        yield _unpad(ring.finished(stop), before, shape)
        ring.advance(stop)


def window_scores(run: Run, tensor: torch.Tensor, window: WindowSpec, *, batch: int = 1) -> torch.Tensor:
    """Return the scores of a whole volume, as training needs them to validate on small cases.

    Parameters
    ----------
    run
        Patches (B, C, *patch) to logits; a module in evaluation mode on the tensor's device is one.
    tensor
        (1, C, I, J, K) float32.
    window
        Patch, overlap and the axes to mirror along.
    batch
        Patches run at once.

    Returns
    -------
    Tensor
        (1, n_classes, I, J, K) float32 logits on the tensor's device, averaged over the mirror images.

    Raises
    ------
    InferenceError
        If a score is not finite.
    """
    both = averaged([run], window.mirror_axes)
    with torch.inference_mode():
        n_outputs = _count_outputs(run, tensor, window)
        parts, axis = [], 0
        for slab in stream_scores(both, tensor, window, n_outputs=n_outputs, how=Streaming(batch=batch)):
            axis = slab.axis + 1
            new = slice(slab.fresh - slab.start, None)
            mean = slab.sums / slab.weights
            parts.append(mean.movedim(axis, 0)[new].movedim(0, axis))
        return torch.cat(parts, dim=axis)[None]


def averaged(
    members: list[Run] | tuple[Run, ...],
    mirror_axes: tuple[int, ...],
    *,
    watch: Callable[[int, torch.Tensor], None] | None = None,
) -> Run:
    """Make one function of several networks and mirror images: the mean of their scores, patch by patch.

    Parameters
    ----------
    members
        Networks with the same outputs.
    mirror_axes
        Spatial axes; each combination of them is one image.
    watch
        Called with the place of each member and the sum of its scores over the mirror images, (B, n, I, J, K).
    """
    turns = mirror_turns(mirror_axes)
    if len(members) == 1 and len(turns) == 1:
        return members[0]

    def run(patches: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        own: torch.Tensor | None = None
        for (place, member), turn in itertools.product(enumerate(members), turns):
            scores = torch.flip(member(torch.flip(patches, turn)), turn).float()
            if total is not None:
                total.add_(scores)
            else:
                total = scores if watch is None else scores.clone()
            if watch is not None:
                own = scores if own is None else own.add_(scores)
                if turn == turns[-1]:
                    watch(place, own)
                    own = None
        if total is None:
            raise ValueError("no members")
        return total.div_(len(members) * len(turns))

    return run


def blending_weights(window: WindowSpec) -> torch.Tensor:
    """Return how much each voxel of a patch counts, (I, J, K) float32; see `config.WindowSpec`."""
    if window.blending == "constant":
        return torch.ones(window.patch)
    if window.placement == "nnunet":
        return nnunet_importance(window.patch)
    return monai_importance(window.patch)


def mirror_turns(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the tensor axes to flip for each mirror image, the unmirrored one first.

    Examples
    --------
    >>> mirror_turns((0, 2))
    [(), (2,), (4,), (2, 4)]
    """
    turns: list[tuple[int, ...]] = [()]
    for axis in axes:
        turns += [(*turn, axis + 2) for turn in turns]
    return turns


def smallest_section(shape: tuple[int, ...]) -> int:
    """Return the axis with the smallest cross-section, which is the longest; the first of equals."""
    return max(range(3), key=lambda axis: (shape[axis], -axis))


def _count_outputs(run: Run, tensor: torch.Tensor, window: WindowSpec) -> int:
    """Return the number of output channels; the network says so on one patch of zeros."""
    channels = tensor.new_zeros((1, tensor.shape[1], *window.patch))
    return int(run(channels).shape[1])


def _pad(tensor: torch.Tensor, patch: tuple[int, int, int]) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Pad what is smaller than the patch with 0 on both sides; return the padding before each axis too."""
    pads, before = [], []
    for size, wanted in zip(tensor.shape[2:], patch, strict=True):
        missing = max(wanted - size, 0)
        before.append(missing // 2)
        pads.append((missing // 2, missing - missing // 2))
    if any(map(any, pads)):
        tensor = torch.nn.functional.pad(tensor, [n for pair in reversed(pads) for n in pair])
    return tensor, (before[0], before[1], before[2])


def _unpad(slab: Slab, before: tuple[int, int, int], shape: tuple[int, ...]) -> Slab:
    sums, weights, start = slab.sums, slab.weights, slab.start
    for axis in range(3):
        skip = max(0, before[axis] - (start if axis == slab.axis else 0))
        end = shape[axis] + before[axis] - (start if axis == slab.axis else 0)
        size = min(end, sums.shape[axis + 1]) - skip
        sums, weights = sums.narrow(axis + 1, skip, size), weights.narrow(axis, skip, size)
    start = max(0, start - before[slab.axis])
    return Slab(slab.axis, start, max(start, slab.fresh - before[slab.axis]), sums, weights)


def _worth_running(
    corners: list[tuple[int, ...]], tensor: torch.Tensor, patch: tuple[int, int, int], skip_up_to: float | None
) -> list[tuple[int, ...]]:
    if skip_up_to is None:
        return corners
    return [corner for corner in corners if bool((_cut(tensor[0, 0], corner, patch) > skip_up_to).any())]


def _cut(values: torch.Tensor, corner: tuple[int, ...], patch: tuple[int, int, int]) -> torch.Tensor:
    for axis, (start, size) in enumerate(zip(corner, patch, strict=True), start=-3):
        values = values.narrow(axis, start, size)
    return values


def _run_group(
    run: Run,
    tensor: torch.Tensor,
    corners: list[tuple[int, ...]],
    ring: _Ring,
    explain: Callable[[torch.Tensor], str] | None,
) -> None:
    patches = torch.stack([_cut(tensor[0], corner, ring.patch) for corner in corners])
    scores = run(patches)
    # Largest and smallest find any NaN or infinity at a fraction of the cost of looking at each value.
    largest = float(torch.maximum(*(end.abs() for end in torch.aminmax(scores))))
    if not math.isfinite(largest):
        for index, corner in enumerate(corners):
            if not bool(torch.isfinite(scores[index]).all()):
                where = explain(patches[index : index + 1]) if explain else ""
                raise InferenceError(
                    found=f"the network returned scores that are not finite in the window at voxel {corner}{where}",
                    expected="finite scores",
                    fix="run on another device or in float32; if it stays, the weights are damaged",
                )
    if largest > ring.most:
        raise RingOverflow
    for corner, score in zip(corners, scores, strict=True):
        ring.add(score, corner)


class _Ring:
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
        self.patch, self.axis = window.patch, axis
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
        scores = scores.to(self.sums.device, non_blocking=True)
        sums = _cut(self.sums, tuple(place), self.patch)
        if self.sums.dtype == torch.float32:
            sums.addcmul_(scores, self.blend)
        else:
            # Class by class, so that the products stay in the processor's cache.
            for own, score in zip(sums, scores, strict=True):
                own.copy_(torch.addcmul(own.float(), score, self.blend))
        _cut(self.weights, tuple(place), self.patch).add_(self.blend)

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
            slots = values.movedim(axis, 0)
            for slot in range(len(slots) - step):
                slots[slot] = slots[slot + step]
            slots[max(0, len(slots) - step) :] = 0
        self.first = stop
