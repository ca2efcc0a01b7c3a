"""Resample and normalise on a GPU: the study goes over as it is stored, and the network's input stays there.

The steps are those of `preprocess`, in the same order; sums are in float64 there too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from voxmetry.config import InputSpec, ModelSpec, Normalise
from voxmetry.core.axes import reorientation
from voxmetry.core.volume import Volume
from voxmetry.nn.grids import along_same_axes, interpolate, is_turned, model_grid, positions
from voxmetry.nn.normalisation import Scaling, require_contrast
from voxmetry.nn.preprocess import RESAMPLE_VALUES, Prepared, require_channels
from voxmetry.nn.slabs import DEVICE_FACTOR
from voxmetry.ops.layout import memory_axes

SENT = (np.uint8, np.int16, np.int32, np.float32)
"""Types that go over as they are; others become float32 first."""


def preprocess_on(device: str, volumes: Sequence[Volume], spec: ModelSpec) -> Prepared | None:
    """Orient, resample and normalise a study on a device.

    Parameters
    ----------
    device
        "cuda": one that sums in float64.
    volumes, spec
        As for `preprocess`.

    Returns
    -------
    Prepared or None
        None where the study is turned against the grid, or the model resamples by nnU-Net's rule: that is done on the
        host.

    Raises
    ------
    InputError
        As `preprocess`.
    """
    require_channels(volumes, spec)
    first = volumes[0].geometry
    if spec.previous is not None or spec.resampling.rule == "nnunet" or is_turned(first, spec):
        return None
    grid = model_grid(first, spec)
    oriented = [reorientation(volume.geometry, spec.orientation) for volume in volumes]
    if not all(along_same_axes(turned, grid) for _, turned in oriented):
        return None
    channels = []
    for volume, (moved, turned), item in zip(volumes, oriented, spec.inputs, strict=True):
        channels.append(normalised(resampled(moved.forward(volume.array), positions(turned, grid), device), item))
    return Prepared(torch.stack(channels)[None], grid, first)


def resampled(array: np.ndarray, at: tuple[np.ndarray, np.ndarray, np.ndarray], device: str) -> torch.Tensor:
    """Interpolate linearly along each axis, (I, J, K) float32 on the device; some slices go over at once."""
    axes = memory_axes(array)
    stored, places = array.transpose(axes), [at[axis] for axis in axes]
    result = torch.empty([len(place) for place in places], device=device)
    depth = max(1, RESAMPLE_VALUES * DEVICE_FACTOR // (stored.shape[1] * stored.shape[2]))
    start = 0
    while start < len(places[0]):
        low = int(np.floor(places[0][start]))
        stop = max(start + 1, int(np.searchsorted(places[0], low + depth - 1, side="right")))
        high = int(np.ceil(places[0][stop - 1])) + 1
        part = np.array(stored[low:high], order="C")
        part = part if part.dtype in SENT else part.astype(np.float32)
        values = torch.from_numpy(part).to(device).float()
        values = interpolate(interpolate(values, places[1], 1), places[0][start:stop] - low, 0)
        result[start:stop] = interpolate(values, places[2], 2)
        start = stop
    return result.permute(*np.argsort(axes).tolist()).contiguous()


def normalised(image: torch.Tensor, item: InputSpec) -> torch.Tensor:
    """Turn intensities (I, J, K) float32 into network input; see `config.Normalise`.

    Raises
    ------
    InputError
        If all voxels that count have the same value.
    """
    for how in (item.normalise, *item.then):
        image = _fit(image, how, item.name)(image)
    return image


def _fit(image: torch.Tensor, how: Normalise, name: str) -> Scaling:
    """Find what a step takes from the image, as `normalisation.fit` does in blocks."""
    if how.method in ("window", "shift"):
        return Scaling(how)
    if how.method == "minmax":
        low, high = float(image.min()), float(image.max())
        require_contrast(low, high, name)
        return Scaling(how, low, high)
    counted = image[image != 0] if how.nonzero else image.flatten()
    low, high = percentiles(counted, how.percentiles) if counted.numel() else (0.0, 0.0)
    require_contrast(low, high, name)
    inside = counted.clamp(low, high).double()
    return Scaling(how, low, high, float(inside.mean()), float(inside.std(correction=0)))


def percentiles(values: torch.Tensor, wanted: Sequence[float]) -> tuple[float, float]:
    """Return two percentiles, linear between neighbours as numpy's are; torch's own take 16 million values at most."""
    ordered = values.sort().values
    found = []
    for share in wanted:
        place = share / 100 * (len(ordered) - 1)
        below = int(place)
        a, b = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
        found.append(a + (b - a) * (place - below))
    return found[0], found[1]
