"""How much memory a study will take, before it is taken: the plan that fits, or a refusal that says what is needed.

All figures are resident bytes of this process; what the network itself needs is found by `nn.network_cost`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from voxmetry.config import ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.memory import free_bytes, resident_bytes
from voxmetry.core.volume import Volume
from voxmetry.errors import InferenceError
from voxmetry.nn.constant_windows import has_constant_windows
from voxmetry.nn.corner_scores import CHUNK_VALUES
from voxmetry.nn.device_memory import DEVICE_WINDOW, Room, fit_device
from voxmetry.nn.grids import along_same_axes, is_turned, model_grid
from voxmetry.nn.network_cost import NetworkCost
from voxmetry.nn.oblique import LOT
from voxmetry.nn.preprocess import RESAMPLE_VALUES
from voxmetry.nn.restore import SLAB_VALUES
from voxmetry.nn.runtime import RuntimeChoice
from voxmetry.nn.slabs import DEVICE_FACTOR, Streaming
from voxmetry.nn.streamed_input import HELD, ON_DISK, STREAMED, Hold, stream_axis, streamed_bytes, why_held_whole
from voxmetry.nn.uncertainty_maps import BLOCK_VALUES
from voxmetry.nn.window import slab_axis
from voxmetry.ops.parts import SLAB_VOXELS

NETWORK_FACTOR = {
    ("cpu", "float32"): 1.35,
    ("cpu", "bf16"): 1.35,
    ("openvino", "float32"): 0.85,
    ("openvino", "bf16"): 0.5,
}
"""Measured resident memory of a window over the bytes of its tensors; see benchmarks/RESULTS.md."""

MAP_COPIES = 6
"""Of a block of interpolated scores while maps are made of it, as measured."""

TURNED_LOT_BYTES = 300 * LOT
"""What a lot of turned voxels takes while it is looked up."""

MEASURING_BYTES = 6
"""A voxel of a slab, while structures are measured and their components numbered, as measured; more for wide images, of
which the voxels of a structure are taken out."""
PLANE_BYTES = 64
"""The same, of a plane of a study of several slabs."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a study will be run, and what that takes.

    Parameters
    ----------
    how
        Direction, batch, and type and place of the ring.
    parts
        Bytes by what they are for, at the moment that takes most.
    limit
        Bytes that this process may hold.
    """

    how: Streaming
    parts: Mapping[str, int]
    limit: int

    @property
    def needed(self) -> int:
        """Predicted peak of this process in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.parts.items())
        return f"plan: {self.needed / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB ({parts}); {self.how}"


def plan_memory(
    volumes: Sequence[Volume],
    spec: ModelSpec,
    cost: NetworkCost,
    choice: RuntimeChoice,
    *,
    memory_gb: float | None,
    maps: bool = False,
    measured: bool = False,
    clicks: bool = False,
    whole: bool = False,
) -> MemoryPlan:
    """Choose the quickest way that fits.

    Parameters
    ----------
    volumes
        As they were read.
    spec, cost
        The model, and what one window of it costs.
    choice
        Where the network runs.
    memory_gb
        The most that this process may hold in 10^9 bytes; None takes what the system has left for it.
    maps
        Whether maps are written as well, see `nn.uncertainty_maps`.
    measured
        Whether the result is measured in this process afterwards, while the model stays loaded.
    clicks
        Whether channels of clicks lie beside the images.
    whole
        Whether the input must be held as a whole, as networks that tell instances apart need it; so do clicks.

    Raises
    ------
    InferenceError
        If the smallest plan does not fit; the message says how much it needs.

    Notes
    -----
    Direction and type of the ring are those without maps: asking for a map changes no label.
    """
    base = resident_bytes() or 0
    if memory_gb is not None:
        limit = int(memory_gb * 1e9)
    else:
        free = free_bytes()
        limit = sys.maxsize if free is None else base + free
    # A network whose products carry eight bits, or eleven, has scores that a ring in float16 holds.
    dtypes = [torch.float32, torch.float16] if choice.precision == "float32" else [torch.float16]
    reuse = [True, False] if has_constant_windows(volumes[0], spec) else [False]
    why = "clicks and instances look at the whole of it" if whole or clicks else why_held_whole(volumes, spec)
    holds = [HELD] if why else [HELD, STREAMED, ON_DISK]
    make = partial(_plan, volumes, spec, cost, choice, base=base, limit=limit, measured=measured, clicks=clicks)
    plans = [make(dtype, keep, hold, maps=False) for dtype in dtypes for hold in holds for keep in reuse]
    chosen = next((plan for plan in plans if plan.needed <= limit), plans[-1])
    if maps:
        plans = [make(chosen.how.dtype, keep, hold, maps=True) for hold in holds for keep in reuse]
        chosen = next((plan for plan in plans if plan.needed <= limit), plans[-1])
    if chosen.needed <= limit:
        return chosen
    parts = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in chosen.parts.items())
    raise InferenceError(
        found=f"{limit / 1e9:.2f} GB of memory for {spec.name} on {volumes[0].geometry.shape} voxels",
        expected=f"{chosen.needed / 1e9:.2f} GB: {parts}" + (f"; the input is held whole, as {why}" if why else ""),
        fix="close other programs; raise --memory-gb (memory_gb=8) if it was given; or "
        f"{'leave out --maps (maps=()), ' if maps else ''}crop the image, or take a model with larger voxels or fewer "
        "classes",
    )


def fallback(how: Streaming, device: str) -> Streaming:
    """Return the way to run when memory runs out all the same.

    On a GPU one window at once, image and ring on the host: the same labels. Where it was so already, or on the host, a
    ring of half the size: the same labels but where two classes are within the rounding of float16.
    """
    if device in ("cuda", "mps") and (how.batch > 1 or how.device is None or how.image_device is None):
        return replace(how, batch=1, device="cpu", image_device="cpu")
    return replace(how, batch=1, dtype=torch.float16, device="cpu")


def _plan(
    volumes: Sequence[Volume],
    spec: ModelSpec,
    cost: NetworkCost,
    choice: RuntimeChoice,
    dtype: torch.dtype,
    reuse: bool,
    hold: Hold,
    *,
    base: int,
    limit: int,
    maps: bool,
    measured: bool,
    clicks: bool,
) -> MemoryPlan:
    device = choice.device
    native = volumes[0].geometry
    grid = model_grid(native, spec)
    padded = [max(pair) for pair in zip(grid.shape, spec.window.patch, strict=True)]
    stored = reorientation(native, spec.orientation)[0].order.index(2)
    axis = stream_axis(volumes[0], spec) if hold.streamed else slab_axis(tuple(padded), stored)
    section = int(np.prod([size for index, size in enumerate(padded) if index != axis]))
    n_native, n_grid, n_patch = (int(np.prod(shape)) for shape in (native.shape, padded, spec.window.patch))
    ring = section * (spec.window.patch[axis] + 1) * (spec.n_classes * dtype.itemsize + 4)
    images = 2 if spec.window.mirror_axes or spec.members > 1 else 0
    on_host = device in ("cpu", "openvino")
    output = spec.n_classes * n_patch * 4
    thin = min(SLAB_VALUES, spec.n_classes * section * spec.window.patch[axis])
    labels = n_native * (1 if max(spec.labels.values) < 256 else 2)
    in_memory = 0 if hold.on_disk else labels
    kept = spec.n_classes * n_patch * dtype.itemsize if reuse else 0
    room = Room(1, "cpu", "cpu")
    network = _network_bytes(cost, choice, output=output, images=images)
    tensor = 4 * (spec.n_channels + (spec.n_classes if clicks else 0)) * n_grid
    if hold.streamed:
        tensor = streamed_bytes(volumes, spec, section)
    if not on_host:
        wide, scores = section * spec.window.patch[axis], images * output
        room = _device_room(
            spec, cost, device, section=wide, labels=labels, ring=ring + kept, images=scores, tensor=tensor
        )
    running = {
        "so far": base,
        "network input": tensor,
        "ring": ring + kept if room.ring == "cpu" else 0,
        "network": network if on_host else 0,
        "labels": in_memory,
        "interpolation": int(3 * thin + 8 * CHUNK_VALUES + 8 * n_native * min(1.0, thin / (spec.n_classes * n_grid))),
        "maps": _maps_bytes(native.shape, spec) if maps else 0,
    }
    preparing = {"so far": base, "network input": tensor}
    preparing["preprocessing"] = 0 if hold.streamed else _preparing_bytes(volumes, spec, n_grid)
    drawing = {"so far": base, "network input": tensor, "images again": 4 * spec.n_channels * n_grid if clicks else 0}
    # OpenVINO keeps the room of its tensors for the next study; torch gives it back.
    staying = network if device == "openvino" else 0
    after = _after_bytes(volumes, spec, base=base, tensor=tensor, labels=in_memory, staying=staying, measured=measured)
    parts = max((running, preparing, drawing, *after), key=lambda parts: sum(parts.values()))
    how = _streaming(axis, room, choice, dtype, hold, reuse=reuse)
    return MemoryPlan(how, parts, limit)


def _streaming(
    axis: int, room: Room, choice: RuntimeChoice, dtype: torch.dtype, hold: Hold, *, reuse: bool
) -> Streaming:
    device, on_host = choice.device, choice.device in ("cpu", "openvino")
    return Streaming(
        axis,
        room.batch,
        dtype,
        device=None if on_host or room.ring == device else room.ring,
        image_device=None if on_host or (room.image == device and not hold.streamed) else "cpu",
        full_groups=choice.execution in ("graph", "compile"),
        reuse=reuse,
        streamed=hold.streamed,
        labels_on_disk=hold.on_disk,
    )


def _network_bytes(cost: NetworkCost, choice: RuntimeChoice, *, output: int, images: int) -> int:
    """Return what one window takes on the host, with the images of its scores that are averaged."""
    kind = (choice.device, choice.precision)
    # What OpenVINO's network returns is in float32, of which the factor of bf16 counts half.
    more = output / 2 if kind == ("openvino", "bf16") else 0
    return int(cost.live_bytes * NETWORK_FACTOR.get(kind, 1.0) + images * output + more)


def _after_bytes(
    volumes: Sequence[Volume],
    spec: ModelSpec,
    *,
    base: int,
    tensor: int,
    labels: int,
    staying: int,
    measured: bool,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return what post-processing and what measuring take, when the network is done."""
    shape = volumes[0].geometry.shape
    n_native = int(np.prod(shape))
    at_once = min(n_native, SLAB_VOXELS)
    # Of several slabs a copy of the labels is as large as they are.
    copy, planes = (labels, PLANE_BYTES * n_native // min(shape)) if at_once < n_native else (0, 0)
    cleaning = {
        "so far": base,
        "network input": tensor,
        "labels": labels,
        "post-processing": 6 * at_once + copy if spec.clean else 0,
    }
    measuring = {
        "so far": base,
        "network": staying,
        "labels": labels,
        "measurements": max(MEASURING_BYTES, 2 + volumes[0].array.itemsize) * at_once + planes if measured else 0,
    }
    return cleaning, measuring


def _device_room(
    spec: ModelSpec, cost: NetworkCost, device: str, *, section: int, labels: int, ring: int, images: int, tensor: int
) -> Room:
    """Return how many windows run at once on a device, and where ring and image lie."""
    wide = min(SLAB_VALUES * DEVICE_FACTOR, spec.n_classes * section)
    beside = 4 * wide + min(8 * CHUNK_VALUES * DEVICE_FACTOR, 16 * wide) + 4 * labels
    return fit_device(
        cost.gflop,
        window=int(cost.live_bytes * DEVICE_WINDOW + images),
        ring=ring + beside,
        image=tensor,
        device=device,
    )


def _maps_bytes(shape: tuple[int, int, int], spec: ModelSpec) -> int:
    """Return what a block of interpolated scores takes, in the copies from scores to what is stored."""
    return MAP_COPIES * 4 * max(BLOCK_VALUES, (spec.n_classes + 1) * shape[0] * shape[1])


def _preparing_bytes(volumes: Sequence[Volume], spec: ModelSpec, n_grid: int) -> int:
    """Return what preprocessing takes beside its result: a channel is normalised in copies, float64 for z-scores."""
    scored = any(item.normalise.method in ("zscore", "minmax") for item in spec.inputs)
    if spec.resampling.rule == "nnunet":
        return (28 if scored else 15) * max(int(np.prod(volume.geometry.shape)) for volume in volumes)
    if is_turned(volumes[0].geometry, spec):
        # Normalised on the study's own voxels, which are held in float32 once more while they are turned.
        n_native = int(np.prod(volumes[0].geometry.shape))
        return (30 if scored else 12) * n_native + TURNED_LOT_BYTES
    apart = any(not along_same_axes(v.geometry, volumes[0].geometry) for v in volumes)
    whole = max(int(np.prod(volume.geometry.shape)) for volume in volumes) * 8 if apart else 0
    return (30 if scored else 12) * n_grid + whole + 4 * RESAMPLE_VALUES
