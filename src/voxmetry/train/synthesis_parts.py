"""What synthesis is made of: random draws, turns, interpolated fields, blur and standardisation."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


class Draw:
    """Random tensors from one generator on its device."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device = generator, device

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return values within [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return values of mean 0 and standard deviation 1."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def chance(self, probability: float, *shape: int) -> torch.Tensor:
        """Return True with a probability."""
        return torch.rand(shape, generator=self.generator, device=self.device) < probability


def random_linear(draw: Draw, rotate_degrees: float, scale: float, shear: float, n: int) -> torch.Tensor:
    """Return random rotations, scales and shears, (n, 3, 3)."""
    angles = draw.uniform(-1, 1, n, 3) * math.radians(rotate_degrees)
    turned = torch.eye(3, device=draw.device).expand(n, 3, 3)
    for axis, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
        one = torch.eye(3, device=draw.device).repeat(n, 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        one[:, a, a], one[:, b, b], one[:, a, b], one[:, b, a] = cos, cos, -sin, sin
        turned = turned @ one
    sizes = 1 + draw.uniform(-scale, scale, n, 3)
    skew = torch.eye(3, device=draw.device) + torch.triu(draw.uniform(-shear, shear, n, 3, 3), 1)
    return turned @ torch.diag_embed(sizes) @ skew


def sample_field(field: torch.Tensor, voxels: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Interpolate a coarse field (C, a, b, c) over a map at places (3, I, J, K) in the map's voxels."""
    # align_corners=False: -1 and 1 are the outer edges of the first and the last voxel, of field and map alike.
    at = (2 * voxels + 1) / shape.view(3, 1, 1, 1) - 1
    grid = at.movedim(0, -1).flip(-1)[None]
    return functional.grid_sample(field[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def blur(image: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image (n, 1, I, J, K) along each axis by its own Gaussian, sigma (n, 3) in voxels."""
    n, reach = len(image), 2
    places = torch.arange(-reach, reach + 1, device=image.device)
    for axis in range(3):
        width = sigma[:, axis].clamp_min(0.05)
        kernel = torch.exp(-0.5 * (places / width[:, None]) ** 2)
        kernel = kernel / kernel.sum(1, keepdim=True)
        shape = [n, 1, 1, 1, 1]
        shape[2 + axis] = 2 * reach + 1
        padding = [0, 0, 0]
        padding[axis] = reach
        # One group an image: each has its own kernel.
        image = functional.conv3d(image.transpose(0, 1), kernel.view(shape), padding=padding, groups=n).transpose(0, 1)
    return image


def standardise(image: torch.Tensor) -> torch.Tensor:
    """Return images with mean 0 and standard deviation 1 over the voxels that are not 0, clipped as 'zscore' does."""
    flat = image.flatten(1)
    rows = []
    for one in flat:
        inside = one[one != 0]
        if inside.numel() < 2 or float(inside.max()) == float(inside.min()):
            rows.append(torch.zeros_like(one))
            continue
        part = inside[:: max(1, inside.numel() // 20_000)]
        low, high = torch.quantile(part, torch.tensor([0.005, 0.995], device=one.device))
        clipped = one.clamp(low, high)
        counted = clipped[one != 0]
        rows.append((clipped - counted.mean()) / counted.std().clamp_min(1e-6))
    return torch.stack(rows).view(image.shape)
