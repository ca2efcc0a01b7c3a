"""The sliding window: network scores for a volume of any size, slab by slab.

Windows run along one axis of the model's grid. Their scores are summed in a ring that is one patch deep, so that what
is held does not grow with the length of the volume; a slab that no later window reaches is handed out and forgotten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from voxmetry.config import WindowSpec
from voxmetry.errors import InferenceError
from voxmetry.nn.constant_windows import ConstantWindows
from voxmetry.nn.fewer_windows import FewerWindows, first_windows, quarter
from voxmetry.nn.mirroring import Run, averaged
from voxmetry.nn.ring_buffer import RingBuffer, RingOverflow
from voxmetry.nn.slabs import Slab, Streaming, cut
from voxmetry.nn.window_weights import even_starts

if TYPE_CHECKING:
    from voxmetry.nn.streamed_input import StreamedInput

SMALLER_RING = 1.25
"""A ring that is larger by no more than this is worth having labels written along memory."""


RunAt = Callable[[torch.Tensor, list[tuple[int, ...]]], torch.Tensor]
"""The same, told where the patches lie."""


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
    image: torch.Tensor | StreamedInput,
    window: WindowSpec,
    *,
    n_outputs: int,
    how: Streaming = Streaming(),  # noqa: B008  (frozen)
    skip_up_to: float | None = None,
    explain: Callable[[torch.Tensor], str] | None = None,
    device: str | None = None,
    constant: ConstantWindows | None = None,
    begin: Callable[[list[tuple[int, ...]]], None] | None = None,
    fewer: FewerWindows | None = None,
) -> Iterator[Slab]:
    """Run the network over overlapping patches, blend them with a Gaussian, and hand out slabs as they are finished.

    Parameters
    ----------
    run
        The network, mirroring and ensemble included: see `mirroring.averaged`.
    image
        (1, C, I, J, K) float32. Smaller than the patch, it is padded as `window.padding` says. One that is streamed
        goes along its own axis.
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
    device
        Where the network runs; None: where the image is. Windows of an image that lies elsewhere are sent there.
    constant
        Keeps the scores of windows that hold one value, so that they are run once; None runs all.
    begin
        Called with the corners, on the padded grid, of the windows that are run next.
    fewer
        Says which windows are run; None runs all.

    Yields
    ------
    Slab
        From the first to the last slice along `Streaming.axis`.

    Raises
    ------
    InferenceError
        If a score is not finite; the window is named.
    """
    shape = tuple(image.shape[2:])
    axis = smallest_section(shape) if how.axis is None else how.axis
    at_once = min(shape[axis], window.patch[axis])
    first = _slices(image, axis, 0, at_once)
    pads, before = _pads(shape, window)
    padded = tuple(max(size, patch) for size, patch in zip(shape, window.patch, strict=True))
    starts = [window_starts(*sizes, window) for sizes in zip(padded, window.patch, strict=True)]
    place = first.device if device is None else torch.device(device)
    ring = RingBuffer(n_outputs, padded, axis, window, how, place)
    rows = starts[axis]
    n_quarter = math.prod(
        len(window_starts(*sizes, quarter(window))) for sizes in zip(padded, window.patch, strict=True)
    )
    for row, start in enumerate(rows):
        columns = [*starts[:axis], [start], *starts[axis + 1 :]]
        part = Row(_padded(_slices(image, axis, start, start + at_once), pads, window), axis, start)
        corners = _worth_running(list(itertools.product(*columns)), part, window.patch, skip_up_to)
        run_some = partial(_run_row, _told(run, begin), part, ring, how, explain, constant)
        if fewer is None:
            run_some(corners)
        else:
            most = fewer.most(len(corners), n_quarter, math.prod(map(len, starts)))
            _run_fewer(run_some, corners, first_windows(starts, axis, row), ring, fewer, most)
        stop = rows[row + 1] if row + 1 < len(rows) else padded[axis]
        yield _unpad(ring.finished(stop), before, shape)
        ring.advance(stop)


def padded_windows(image: torch.Tensor, window: WindowSpec) -> Iterator[torch.Tensor]:
    """Yield each window (C, *patch) of an image (1, C, I, J, K), padded as for scores, in order along its axes."""
    shape = tuple(image.shape[2:])
    padded = _padded(image, _pads(shape, window)[0], window)
    sizes = zip(padded.shape[2:], window.patch, strict=True)
    for corner in itertools.product(*(window_starts(size, patch, window) for size, patch in sizes)):
        yield cut(padded[0], corner, window.patch)


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


def smallest_section(shape: tuple[int, ...]) -> int:
    """Return the axis with the smallest cross-section, which is the longest; the first of equals."""
    return max(range(3), key=lambda axis: (shape[axis], -axis))


def slab_axis(shape: tuple[int, ...], stored: int) -> int:
    """Return the axis that slabs follow each other along.

    `stored` is the one that runs slowest in the study's memory and files, along which labels and maps are written in
    one piece: it is taken unless the ring along another would be smaller by more than a quarter.

    Examples
    --------
    >>> slab_axis((273, 273, 265), 2), slab_axis((512, 512, 40), 2)
    (2, 0)
    """
    best = smallest_section(shape)
    return stored if shape[best] <= SMALLER_RING * shape[stored] else best


def _count_outputs(run: Run, tensor: torch.Tensor, window: WindowSpec) -> int:
    """Return the number of output channels; the network says so on one patch of zeros."""
    channels = tensor.new_zeros((1, tensor.shape[1], *window.patch))
    return int(run(channels).shape[1])


def _pads(shape: tuple[int, ...], window: WindowSpec) -> tuple[list[tuple[int, int]], tuple[int, int, int]]:
    """Return the padding on both sides of what is smaller than the patch, and the one before each axis by itself."""
    pads = []
    for size, wanted in zip(shape, window.patch, strict=True):
        missing = max(wanted - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    return pads, (pads[0][0], pads[1][0], pads[2][0])


def _padded(tensor: torch.Tensor, pads: list[tuple[int, int]], window: WindowSpec) -> torch.Tensor:
    if not any(map(any, pads)):
        return tensor
    mode = "constant" if window.padding == "zeros" else "replicate"
    return torch.nn.functional.pad(tensor, [n for pair in reversed(pads) for n in pair], mode=mode)


def _slices(image: torch.Tensor | StreamedInput, axis: int, start: int, stop: int) -> torch.Tensor:
    """Return the slices of an image under a row of windows."""
    if isinstance(image, torch.Tensor):
        return image.narrow(axis + 2, start, stop - start)
    return image.slices(start, stop)


@dataclass(frozen=True, eq=False)
class Row:
    """The slices of the padded image that a row of windows is cut from.

    Parameters
    ----------
    tensor
        (1, C, I, J, K), one patch deep along `axis`.
    axis, start
        Where its first slice lies.
    """

    tensor: torch.Tensor
    axis: int
    start: int

    def cut(self, corner: tuple[int, ...], patch: tuple[int, int, int]) -> torch.Tensor:
        """Return the window (C, *patch) at a corner, counted from the whole image's."""
        place = [*corner]
        place[self.axis] -= self.start
        return cut(self.tensor[0], tuple(place), patch)


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
    corners: list[tuple[int, ...]], row: Row, patch: tuple[int, int, int], skip_up_to: float | None
) -> list[tuple[int, ...]]:
    if skip_up_to is None:
        return corners
    return [corner for corner in corners if bool((row.cut(corner, patch)[0] > skip_up_to).any())]


def _run_fewer(
    run_some: Callable[[list[tuple[int, ...]]], None],
    corners: list[tuple[int, ...]],
    first: set[tuple[int, ...]],
    ring: RingBuffer,
    fewer: FewerWindows,
    most: int,
) -> None:
    """Run some windows of a row, then those whose middle holds what was found, as long as there are any."""
    run_some([corner for corner in corners if corner in first])
    rest = [corner for corner in corners if corner not in first]
    left = most - (len(corners) - len(rest))
    while rest and left > 0:
        wanted = fewer.wanted(ring, rest, left)
        if not wanted:
            return
        run_some(wanted)
        left -= len(wanted)
        rest = [corner for corner in rest if corner not in set(wanted)]


def _run_row(
    run: RunAt,
    row: Row,
    ring: RingBuffer,
    how: Streaming,
    explain: Callable[[torch.Tensor], str] | None,
    constant: ConstantWindows | None,
    corners: list[tuple[int, ...]],
) -> None:
    """Add the scores of a row of windows to the ring, in their order as far as they are not run in groups."""
    waiting: list[tuple[int, ...]] = []

    def run_waiting() -> None:
        if waiting:
            patches = _cut_group(row, waiting, how, ring.patch).to(ring.network_device)
            _run_group(run, patches, waiting, ring, explain)
            waiting.clear()

    values: list[tuple[float, ...] | None] = [None] * len(corners)
    if constant:
        values = constant.values([row.cut(corner, ring.patch) for corner in corners])
    for corner, value in zip(corners, values, strict=True):
        known = constant.known(value) if constant else None
        if constant is not None and known is not None:
            if how.batch == 1:
                run_waiting()
            constant.reused += 1
            ring.add(known, corner)
        elif constant is not None and value is not None and constant.wanted(value):
            run_waiting()
            patches = _cut_group(row, [corner], how, ring.patch).to(ring.network_device)
            scores = _run_group(run, patches, [corner], ring, explain)[0]
            constant.learn(value, scores.to(ring.sums.device))
        else:
            waiting.append(corner)
            if len(waiting) == how.batch:
                run_waiting()
    run_waiting()


def _told(run: Run, begin: Callable[[list[tuple[int, ...]]], None] | None) -> RunAt:
    """Return a function of patches and their corners."""

    def run_at(patches: torch.Tensor, corners: list[tuple[int, ...]]) -> torch.Tensor:
        if begin is not None:
            begin(corners)
        return run(patches)

    return run_at


def _cut_group(row: Row, corners: list[tuple[int, ...]], how: Streaming, patch: tuple[int, int, int]) -> torch.Tensor:
    """Return the windows (B, C, *patch) at some corners, filled up with the last one where groups must be full."""
    extra = how.batch - len(corners) if how.full_groups else 0
    return torch.stack([row.cut(corner, patch) for corner in [*corners, *corners[-1:] * extra]])


def _run_group(
    run: RunAt,
    patches: torch.Tensor,
    corners: list[tuple[int, ...]],
    ring: RingBuffer,
    explain: Callable[[torch.Tensor], str] | None,
) -> torch.Tensor:
    """Run a group of windows and add their scores; return them (B, n_outputs, *patch), which hold until the next."""
    scores = run(patches, list(corners))[: len(corners)]
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
    return scores
