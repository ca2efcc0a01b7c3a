"""From volumes as they were read to the tensor that the network takes: orient, resample, normalise.

Training and inference call the same `preprocess`, so that a network never meets input prepared in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from voxmetry.config import InputSpec, ModelSpec, Normalise
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.nn.grids import interpolate, model_grid, positions, reorientation


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
    """

    tensor: torch.Tensor
    grid: Geometry
    native: Geometry


def preprocess(volumes: Sequence[Volume], spec: ModelSpec) -> Prepared:
    """Orient, resample and normalise the channels of one study.

    Parameters
    ----------
    volumes
        One volume a channel, in the order of `spec.inputs`. The first sets the grid; others may lie on grids of their
        own in the same frame of reference and are resampled onto it.
    spec
        The model.

    Raises
    ------
    InputError
        If the number of volumes is not that of the model's inputs, two lie in different frames of reference, or a
        channel holds one value only.
    """
    if len(volumes) != len(spec.inputs):
        raise InputError(
            found=f"{len(volumes)} volumes",
            expected=f"{len(spec.inputs)}: " + ", ".join(f"{item.name} ({item.modality})" for item in spec.inputs),
            fix="pass one volume for each input of the model, in this order",
        )
    first = volumes[0]
    grid = model_grid(first.geometry, spec)
    channels = []
    for volume, item in zip(volumes, spec.inputs, strict=True):
        _require_same_frame(first.geometry, volume.geometry)
        channels.append(normalise(resample_to(volume.array, volume.geometry, grid, spec.orientation), item))
    tensor = torch.from_numpy(np.stack(channels)[None])
    return Prepared(tensor, grid, first.geometry)


def preprocess_labels(segmentation: Segmentation, spec: ModelSpec) -> np.ndarray:
    """Bring a label map onto the model's grid by nearest neighbour, as class indices (I, J, K) uint8.

    The class index is 0 for the background, else the place of the label in the model's table, counted from 1; the
    label's value may be any number.
    """
    grid = model_grid(segmentation.geometry, spec)
    classes = np.zeros(max(spec.labels.values) + 1, dtype=np.uint8)
    for index, value in enumerate(spec.labels.values, start=1):
        classes[value] = index
    moved, oriented = reorientation(segmentation.geometry, spec.orientation)
    i, j, k = (np.floor(at + 0.5).astype(np.intp) for at in positions(oriented, grid))
    return np.ascontiguousarray(classes[moved.forward(segmentation.array)[np.ix_(i, j, k)]])


def resample_to(array: np.ndarray, source: Geometry, grid: Geometry, orientation: str) -> np.ndarray:
    """Sample an array (I, J, K) linearly on `grid`, float32; beyond the source's edge its outermost voxels are held.

    Where only order and direction of the axes differ, voxels are moved and none is interpolated.
    """
    moved, oriented = reorientation(source, orientation)
    # A copy even where nothing changes: a volume's array is read-only, which torch cannot express and warns of.
    values = torch.from_numpy(np.array(moved.forward(array), dtype=np.float32, order="C"))
    if np.allclose(oriented.directions, grid.directions, atol=1e-9):
        for axis, at in enumerate(positions(oriented, grid)):
            values = interpolate(values, at, axis)
        return values.numpy()
    image = MetaTensor(values[None], affine=torch.from_numpy(np.array(oriented.affine)))
    resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False)
    result = resample(image, dst_affine=torch.from_numpy(np.array(grid.affine)), spatial_size=grid.shape)
    return np.asarray(result.numpy()[0], dtype=np.float32)


def normalise(array: np.ndarray, item: InputSpec) -> np.ndarray:
    """Turn intensities (I, J, K) into network input, float32; see `config.Normalise`.

    Raises
    ------
    InputError
        If all voxels that count have the same value.
    """
    how = item.normalise
    if how.method == "window":
        return ((np.clip(array, how.low, how.high) - how.mean) / how.sd).astype(np.float32)
    return _zscore(array, how, item.name)


def _zscore(array: np.ndarray, how: Normalise, name: str) -> np.ndarray:
    counted = array[array != 0] if how.nonzero else array.ravel()
    low, high = np.percentile(counted, how.percentiles) if counted.size else (0.0, 0.0)
    if not low < high:
        raise InputError(
            found=f"input {name!r} holds a single value in all voxels that count",
            expected="an image with contrast",
            fix="look at the image: it may be empty, masked out, or a frame that was decoded to zeros",
        )
    clipped = np.clip(array, low, high).astype(np.float64)
    inside = clipped[array != 0] if how.nonzero else clipped
    return ((clipped - inside.mean()) / inside.std()).astype(np.float32)


def _require_same_frame(first: Geometry, other: Geometry) -> None:
    if first.frame_uid and other.frame_uid and first.frame_uid != other.frame_uid:
        raise InputError(
            found="two input volumes in different frames of reference",
            expected="channels of one study that share a frame of reference",
            fix="register one to the other first; their positions cannot be compared as they are",
        )
