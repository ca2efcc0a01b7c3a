"""From volumes as they were read to the tensor that the network takes: orient, resample, normalise.

Training and inference call the same `preprocess`, so that a network never meets input prepared in another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from voxmetry.config import InputSpec, ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn import nnunet_preprocess as nnunet
from voxmetry.nn.grids import (
    along_same_axes,
    edge_grid,
    interpolate,
    is_turned,
    model_grid,
    positions,
    target_spacing,
)
from voxmetry.nn.normalisation import fit, is_fixed
from voxmetry.nn.oblique import sample
from voxmetry.ops.layout import memory_axes
from voxmetry.ops.resample import AIR_HU

if TYPE_CHECKING:
    from voxmetry.nn.memory import MemoryPlan
    from voxmetry.nn.streamed_input import StreamedInput

_MOST_CLASSES = 255
RESAMPLE_VALUES = 2_000_000
"""Voxels that are resampled at once: 8 MB of float32, which stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Network input and the two grids that it came through.

    Parameters
    ----------
    tensor
        (1, C, I, J, K) float32 on `grid`.
    grid
        The model's grid over the first volume's field of view.
    native
        The first volume's own grid, on which the result is wanted.
    plan
        How it is to be run within the memory there is; None where nobody asked.
    volumes
        The study as it was read, for an engine that prepares it itself; else empty.
    streamed
        Makes the input slab by slab, where it is not held as a whole: then `tensor` is empty.
    """

    tensor: torch.Tensor
    grid: Geometry
    native: Geometry
    plan: MemoryPlan | None = None
    volumes: tuple[Volume, ...] = ()
    streamed: StreamedInput | None = None


def preprocess(volumes: Sequence[Volume], spec: ModelSpec, previous: Segmentation | None = None) -> Prepared:
    """Orient, resample and normalise the channels of one study.

    Parameters
    ----------
    volumes
        One volume a channel, in the order of `spec.inputs`. The first sets the grid; others may lie on grids of their
        own in the same frame of reference and are resampled onto it.
    spec
        The model.
    previous
        Labels of the first network of a cascade on the first volume's grid, for the second one (`spec.previous`).

    Raises
    ------
    InputError
        If the number of volumes is not that of the model's inputs, two lie in different frames of reference, a channel
        holds one value only, or labels of a previous stage are missing or lie on another grid.
    """
    require_channels(volumes, spec)
    _require_previous(previous, volumes[0].geometry, spec)
    first = volumes[0]
    if spec.resampling.rule == "nnunet":
        return _preprocess_nnunet(volumes, spec, previous)
    grid = model_grid(first.geometry, spec)
    if is_turned(first.geometry, spec):
        return _preprocess_turned(volumes, spec, grid)
    channels = []
    for volume, item in zip(volumes, spec.inputs, strict=True):
        channels.append(normalise(resample_to(volume.array, volume.geometry, grid, spec.orientation), item))
    tensor = torch.from_numpy(np.stack(channels)[None])
    return Prepared(tensor, grid, first.geometry)


def require_channels(volumes: Sequence[Volume], spec: ModelSpec) -> None:
    """Raise `InputError` unless there is one volume for each input of the model, in one frame of reference."""
    if len(volumes) != len(spec.inputs):
        raise InputError(
            found=f"{len(volumes)} volumes",
            expected=f"{len(spec.inputs)}: " + ", ".join(f"{item.name} ({item.modality})" for item in spec.inputs),
            fix="pass one volume for each input of the model, in this order",
        )
    # A volume that names no frame fits to each.
    if len({volume.geometry.frame_uid for volume in volumes} - {None, ""}) > 1:
        raise InputError(
            found="two input volumes in different frames of reference",
            expected="channels of one study that share a frame of reference",
            fix="register one to the other first; their positions cannot be compared as they are",
        )


def _require_previous(previous: Segmentation | None, geometry: Geometry, spec: ModelSpec) -> None:
    if (previous is None) != (spec.previous is None):
        raise InputError(
            found=f"{spec.name}, the second network of a cascade, without labels of the first"
            if previous is None
            else f"labels of a previous stage for {spec.name}, which takes none",
            expected="the model of kind composite that runs both, or a network that needs no other one's labels",
            fix="name the folder above it, whose model.yaml is of kind composite",
        )
    if previous is not None and previous.geometry.difference(geometry) is not None:
        raise InputError(
            found="labels of the previous stage on another grid than the study's",
            expected="the first volume's own grid",
            fix="run both stages on the same volumes",
        )


def _preprocess_nnunet(volumes: Sequence[Volume], spec: ModelSpec, previous: Segmentation | None) -> Prepared:
    """Crop, normalise on the study's own voxels, and resample edge to edge; see `config.Resampling`."""
    first = volumes[0]
    together = [first, *(_on_grid_of(first, volume) for volume in volumes[1:])]
    arrays, labels, cropped = nnunet.crop(together, spec, previous.array if previous else None)
    masked = any(item.normalise.method == "zscore" and item.normalise.nonzero for item in spec.inputs)
    mask = nnunet.inside_mask(arrays) if masked or labels is not None else None
    if mask is not None and labels is not None:
        mask |= labels > 0  # nnU-Net calls outside only what has no label either
    channels = []
    for array, item in zip(arrays, spec.inputs, strict=True):
        channels.append(nnunet.resample_edges(normalise(array, item, mask=mask), cropped, spec))
    tensor = np.stack(channels)
    if labels is not None and mask is not None and spec.previous is not None:
        structures = nnunet.resample_structures(labels, mask, spec.previous.values, cropped, spec)
        tensor = np.concatenate([tensor, structures])
    grid = edge_grid(cropped, target_spacing(cropped, spec))
    return Prepared(torch.from_numpy(tensor[None]), grid, first.geometry)


def _preprocess_turned(volumes: Sequence[Volume], spec: ModelSpec, grid: Geometry) -> Prepared:
    """Normalise on the study's own voxels, then bring them onto the patient's axes.

    In this order, so that the corners of the upright grid that the study does not reach have no part in its mean.
    """
    first = volumes[0]
    channels = []
    for volume, item in zip(volumes, spec.inputs, strict=True):
        array = normalise(_on_grid_of(first, volume).array, item)
        channels.append(sample(array, first.geometry, grid, outside=_nothing(item)))
    return Prepared(torch.from_numpy(np.stack(channels)[None]), grid, first.geometry)


def _nothing(item: InputSpec) -> float:
    """Return what an input has where there is no image: air of CT, no uptake of PET, else 0, the mean."""
    if not is_fixed(item) or item.modality not in ("CT", "PT"):
        return 0.0
    return float(normalise(np.array([AIR_HU if item.modality == "CT" else 0.0], dtype=np.float32), item)[0])


def _on_grid_of(first: Volume, volume: Volume) -> Volume:
    if np.allclose(first.geometry.affine, volume.geometry.affine) and first.geometry.shape == volume.geometry.shape:
        return volume
    stored = reorientation(first.geometry, "IJK")[1]
    orientation = first.geometry.axcodes
    array = resample_to(volume.array, volume.geometry, stored, orientation)
    return Volume(array, first.geometry, volume.unit)


def preprocess_labels(segmentation: Segmentation, spec: ModelSpec) -> np.ndarray:
    """Bring a label map onto the model's grid by nearest neighbour, as class indices (I, J, K) uint8.

    The class index is 0 for the background, else the place of the label in the model's table, counted from 1; the
    label's value may be any number.

    Raises
    ------
    ConfigError
        If the table has more than 255 structures, which is all that a class index holds.
    """
    if len(spec.labels) > _MOST_CLASSES:
        raise ConfigError(
            found=f"{len(spec.labels)} structures to train on",
            expected=f"at most {_MOST_CLASSES} in one model",
            fix="train two models of some of the structures each",
        )
    classes = np.zeros(max(spec.labels.values) + 1, dtype=np.uint8)
    for index, value in enumerate(spec.labels.values, start=1):
        classes[value] = index
    return on_model_grid(classes[segmentation.array], segmentation.geometry, spec)


def on_model_grid(array: np.ndarray, source: Geometry, spec: ModelSpec) -> np.ndarray:
    """Bring uint8 or uint16 (I, J, K) onto the model's grid by nearest neighbour; 0 where it leaves the source."""
    grid = model_grid(source, spec)
    if is_turned(source, spec):
        return sample(array, source, grid, outside=0, mode="nearest").astype(array.dtype)
    moved, oriented = reorientation(source, spec.orientation)
    i, j, k = (np.floor(at + 0.5).astype(np.intp) for at in positions(oriented, grid))
    return np.ascontiguousarray(moved.forward(array)[np.ix_(i, j, k)])


def resample_to(array: np.ndarray, source: Geometry, grid: Geometry, orientation: str) -> np.ndarray:
    """Sample an array (I, J, K) linearly on `grid`, float32; beyond the source's edge its outermost voxels are held.

    Where only order and direction of the axes differ, voxels are moved and none is interpolated.
    """
    moved, oriented = reorientation(source, orientation)
    if along_same_axes(oriented, grid):
        return _resample_along_axes(moved.forward(array), positions(oriented, grid))
    return sample(array, source, grid)


def _resample_along_axes(array: np.ndarray, at: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    result = np.empty([len(places) for places in at], dtype=np.float32)
    filled = result.transpose(memory_axes(array))
    for start, values in resampled_blocks(array, at):
        filled[start : start + len(values)] = values.numpy()
    return result


def resampled_blocks(
    array: np.ndarray, at: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Interpolate along each axis, some slices at a time: float32 copies of a whole study are larger than itself.

    Yields
    ------
    start, values
        Slices from `start` on, float32, along the axes as they lie in memory (`memory_axes`), the innermost last. Only
        what is left of the study by then is turned round.
    """
    axes = memory_axes(array)
    stored, places = array.transpose(axes), [at[axis] for axis in axes]
    depth = max(1, RESAMPLE_VALUES // (stored.shape[1] * stored.shape[2]))
    start = 0
    while start < len(places[0]):
        low = int(np.floor(places[0][start]))
        stop = max(start + 1, int(np.searchsorted(places[0], low + depth - 1, side="right")))
        high = int(np.ceil(places[0][stop - 1])) + 1
        values = torch.from_numpy(np.array(stored[low:high], dtype=np.float32, order="C"))
        # The middle axis first, whose rows are copied whole; the innermost, voxel by voxel, when least is left.
        values = interpolate(interpolate(values, places[1], 1), places[0][start:stop] - low, 0)
        yield start, interpolate(values, places[2], 2)
        start = stop


def normalise(array: np.ndarray, item: InputSpec, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Turn intensities (I, J, K) into network input, float32; see `config.Normalise`.

    Parameters
    ----------
    array
        One channel.
    item
        What to do to it, step by step.
    mask
        The voxels that count where only those that are not zero do; None: those that are not zero.

    Raises
    ------
    InputError
        If all voxels that count have the same value.
    """
    found = array
    for step in fit(lambda: [(array, mask)], item):
        found = step(found, mask)
    return found
