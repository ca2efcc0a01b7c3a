"""Random changes to the samples of a batch, all samples that share one together, on the device of the network.

Space first (mirror, turn, scale, bend), then what a scanner would do (blur, low resolution, bias field, noise), then
what a display would do (contrast, scale); see `draws` for what is drawn. Each change is the one that MONAI's transform
of the same name makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from voxmetry.config import ModelSpec, TrainSettings
from voxmetry.errors import ConfigError
from voxmetry.train.draws import BIAS_DEGREE, Change

ROOM = 0.2
"""Share of a patch's length that is cut out beside it, on both sides, before it is turned."""
BLUR_REACH = 4.0
"""Standard deviations that the blur's kernel reaches to either side."""


def margin(length: int) -> int:
    """Return the voxels beside a patch of this length that a turn may bring into it."""
    return math.ceil(ROOM * length)


@dataclass(frozen=True, eq=False)
class Region:
    """What a sample is made from.

    Parameters
    ----------
    image
        (C, I, J, K), at least as large as the patch.
    label
        (L, I, J, K): class indices, then zones where the case has some, then instances where it tells them apart.
    change
        What is done to them.
    absent
        (zones, classes): what was not looked for in each zone of the label's second channel; None: everything was.
    tells_apart
        Whether the label's last channel holds instances.
    """

    image: np.ndarray
    label: np.ndarray
    change: Change
    absent: torch.Tensor | None = None
    tells_apart: bool = False

    def with_channels(self, n: int) -> Region:
        """Return it with n channels of labels: zones of zeros where it has none."""
        if len(self.label) == n:
            return self
        last = len(self.label) - self.tells_apart
        none = np.zeros((n - len(self.label), *self.label.shape[1:]), self.label.dtype)
        return replace(self, label=np.concatenate([self.label[:last], none, self.label[last:]]))


def augment(
    regions: Sequence[Region], patch: tuple[int, int, int], *, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change regions as each one's draws say.

    Parameters
    ----------
    regions
        With as many channels each.
    patch
        Voxels of what comes out.
    device
        Where it comes out.

    Returns
    -------
    image, label
        (B, C, *patch) float32 and (B, L, *patch) int64.
    """
    first, device = regions[0], torch.device(device)
    image = torch.empty((len(regions), len(first.image), *patch), device=device)
    label = torch.empty((len(regions), len(first.label), *patch), dtype=torch.int64, device=device)
    moved = [row for row, region in enumerate(regions) if region.change.moves]
    for row in sorted(set(range(len(regions))) - set(moved)):
        for target, array in ((image, regions[row].image), (label, regions[row].label)):
            target[row] = torch.from_numpy(_mirror_and_cut(array, regions[row].change, patch)).to(device)
    if moved:
        _move([regions[row] for row in moved], moved, image, label)
    degrade(image, [region.change for region in regions])
    return image, label


def _mirror_and_cut(array: np.ndarray, change: Change, patch: tuple[int, int, int]) -> np.ndarray:
    at: list[slice] = [slice(None)]
    for length, size, start, flip in zip(array.shape[1:], patch, change.start, change.flips, strict=True):
        low = length - start - size if flip else start
        at.append(slice(low, low + size))
    part = np.flip(array[tuple(at)], tuple(1 + axis for axis, flip in enumerate(change.flips) if flip))
    return np.ascontiguousarray(part)


def _move(regions: Sequence[Region], rows: Sequence[int], image: torch.Tensor, label: torch.Tensor) -> None:
    """Interpolate regions into rows of image (linear) and label (nearest neighbour), edges held."""
    patch = tuple(image.shape[2:])
    # No image is larger than the room for a turn, so that the shape, and with it the rounding, is that of any batch.
    shape = tuple(
        max(size + 2 * margin(size), *(region.image.shape[axis] for region in regions))
        for axis, size in enumerate(patch, start=1)
    )
    grid = _grid(regions, shape, patch, image.device)
    for target, name, mode in ((image, "image", "bilinear"), (label, "label", "nearest")):
        stack = torch.from_numpy(np.stack([_at_least(getattr(region, name), shape) for region in regions]))
        stack = stack.to(image.device).float()  # exact for labels up to 2^24
        # Edges are held by the padding to a common shape as well.
        found = functional.grid_sample(stack, grid, mode=mode, padding_mode="border", align_corners=True)
        target[list(rows)] = found.to(target.dtype)


def _at_least(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat the last voxels along each axis until an array has a shape."""
    if array.shape[1:] == shape:
        return array
    return np.pad(array, [(0, 0), *((0, m - n) for n, m in zip(array.shape[1:], shape, strict=True))], mode="edge")


def _grid(
    regions: Sequence[Region], shape: tuple[int, ...], patch: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """Return where each voxel of the patches lies in its region, (B, *patch, 3) as `grid_sample` wants it."""
    size, most = np.array(patch), np.maximum(np.array(shape) - 1, 1)
    linear, constant = [], []
    for region in regions:
        change, length = region.change, np.array(region.image.shape[1:])
        turn = np.eye(3) if change.linear is None else change.linear
        turn = np.where(change.flips, -1.0, 1.0)[:, None] * turn
        middle = (length - 1) / 2
        # From voxels of the patch to those of the region, then to -1 ... 1, innermost axis first.
        linear.append((turn * 2 / most[:, None])[::-1])
        constant.append(((turn @ (np.array(change.start) - middle) + middle) * 2 / most - 1)[::-1])
    turns, places = (torch.tensor(np.stack(part), dtype=torch.float32, device=device) for part in (linear, constant))
    i, j, k = (torch.arange(n, dtype=torch.float32, device=device) for n in size.tolist())
    # Rows of three numbers a voxel of the innermost axis, so that one sum over long rows makes the grid.
    along_k = k[:, None] * turns[:, None, :, 2]
    along_i = (i[:, None] * turns[:, None, :, 0] + places[:, None])[:, :, None] + along_k[:, None]
    along_j = (j[:, None] * turns[:, None, :, 1])[:, :, None].expand(-1, -1, len(k), -1)
    grid = along_i.flatten(2)[:, :, None] + along_j.flatten(2)[:, None]
    grid = grid.view(len(regions), *patch, 3)
    bent = [row for row, region in enumerate(regions) if region.change.elastic is not None]
    if bent:
        nodes = np.stack([np.asarray(regions[row].change.elastic) for row in bent]) * (2 / most).reshape(3, 1, 1, 1)
        shifts = torch.tensor(nodes[:, ::-1].copy(), dtype=torch.float32, device=device)
        shifts = functional.interpolate(shifts, size=patch, mode="trilinear", align_corners=True)
        grid[bent] += shifts.movedim(1, -1)
    return grid


def degrade(image: torch.Tensor, changes: Sequence[Change]) -> None:
    """Change the values of images (B, C, I, J, K) in place."""
    steps: list[tuple[str, Callable[[torch.Tensor, Sequence[Change]], torch.Tensor]]] = [
        ("blur", blur),
        ("zoom", low_resolution),
        ("bias", bias_field),
        ("noise_sd", noise),
        ("gamma", contrast),
        ("factor", lambda part, drawn: part * _column([change.factor for change in drawn], part)),
    ]
    for name, step in steps:
        rows = [row for row, change in enumerate(changes) if getattr(change, name) is not None]
        if rows:
            image[rows] = step(image[rows], [changes[row] for row in rows])


def _column(values: Sequence[float | None], like: torch.Tensor) -> torch.Tensor:
    """Return one number a sample, to be broadcast."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1, 1)


def blur(image: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Blur along each axis by a Gaussian that is integrated over each voxel; zeros lie beyond the edges."""
    for axis in range(3):
        kernel = gaussians([(change.blur or (0.5,) * 3)[axis] for change in changes]).to(image.device, image.dtype)
        reach = kernel.shape[1] // 2
        dim, length = 2 + axis, image.shape[2 + axis]
        found = image * kernel[:, reach].view(-1, 1, 1, 1, 1)
        # Sums of shifted images: the same to the last bit in whatever batch, and on a processor faster than `conv3d`.
        for step in range(1, min(reach, length - 1) + 1):
            weight = kernel[:, reach + step].view(-1, 1, 1, 1, 1)
            found.narrow(dim, step, length - step).addcmul_(image.narrow(dim, 0, length - step), weight)
            found.narrow(dim, 0, length - step).addcmul_(image.narrow(dim, step, length - step), weight)
        image = found
    return image


def gaussians(sigmas: Sequence[float]) -> torch.Tensor:
    """Return a kernel for each standard deviation in voxels, (n, 2 * reach + 1) float64, with zeros round the shorter.

    Each is made by itself, so that it is the same to the last bit whatever the others are.
    """
    tails = [int(max(sigma * BLUR_REACH, 0.5) + 0.5) for sigma in sigmas]
    kernels = torch.zeros((len(sigmas), 2 * max(tails) + 1), dtype=torch.float64)
    for row, sigma, tail in zip(kernels, sigmas, tails, strict=True):
        places, scale = torch.arange(-tail, tail + 1, dtype=torch.float64), math.sqrt(0.5) / sigma
        one = 0.5 * (torch.erf(scale * (places + 0.5)) - torch.erf(scale * (places - 0.5)))
        row[max(tails) - tail : max(tails) + tail + 1] = one / one.sum()
    return kernels


def low_resolution(image: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Average to fewer voxels and interpolate back: the image stays in its place."""
    size = image.shape[2:]
    rows = []
    for one, change in zip(image.split(1), changes, strict=True):
        fewer = [max(1, int(np.round(n * float(change.zoom or 1)))) for n in size]
        coarse = functional.interpolate(one, size=fewer, mode="area")
        rows.append(functional.interpolate(coarse, size=size, mode="trilinear", align_corners=False))
    return torch.cat(rows)


def bias_field(image: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Multiply by the exponential of a sum of Legendre polynomials over -1 ... 1 along each axis."""
    table = torch.tensor(np.stack([np.asarray(change.bias) for change in changes]), dtype=image.dtype)
    table = table.to(image.device)
    bases = []
    for length in image.shape[2:]:
        x = torch.linspace(-1, 1, length, dtype=image.dtype, device=image.device)
        bases.append(torch.stack([torch.ones_like(x), x, (3 * x * x - 1) / 2]))
    n = BIAS_DEGREE + 1
    over_k = (table[..., None] * bases[2]).sum(-2)  # (B, 3, 3, K)
    over_jk = (over_k[:, :, :, None] * bases[1][None, None, :, :, None]).sum(2)  # (B, 3, J, K)
    field = torch.zeros((len(image), *image.shape[2:]), dtype=image.dtype, device=image.device)
    for degree in range(n):
        field.addcmul_(over_jk[:, degree, None], bases[0][degree].view(1, -1, 1, 1))
    return image * field.exp_()[:, None]


def noise(image: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Add white noise, each sample's from its own seed."""
    rows = []
    for one, change in zip(image, changes, strict=True):
        generator = torch.Generator(device=image.device).manual_seed(change.seed)
        drawn = torch.empty_like(one).normal_(0, float(change.noise_sd or 0), generator=generator)
        rows.append(drawn.add_(one))
    return torch.stack(rows)


def contrast(image: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Raise values, as shares of each sample's range, to a power."""
    low = image.amin((1, 2, 3, 4), keepdim=True)
    span = image.amax((1, 2, 3, 4), keepdim=True) - low
    share = ((image - low) / (span + 1e-7)).clamp_min_(0)
    return share.pow_(_column([change.gamma for change in changes], image)) * span + low


def mirrored_classes(settings: TrainSettings) -> tuple[int, torch.Tensor] | None:
    """Return the axis from left to right, and what each class index becomes by a flip along it; None: none changes."""
    if not settings.augment.swap_on_flip:
        return None
    names, order = settings.model.labels.names, torch.arange(256)
    for pair in settings.augment.swap_on_flip:
        one, other = (1 + names.index(name) for name in pair)
        order[one], order[other] = other, one
    return left_right_axis(settings.model), order


def left_right_axis(spec: ModelSpec) -> int:
    """Return the axis of the model's grid that runs from left to right.

    Raises
    ------
    ConfigError
        If the model takes axes as they are stored, so that none is known to.
    """
    found = spec.left_right_axis
    if found is None:
        raise ConfigError(
            found=f"augment.swap_on_flip with the orientation {spec.orientation}",
            expected="an orientation that names the patient's axes, such as RAS",
            fix="name them, or remove swap_on_flip",
        )
    return found
