"""The fully convolutional baseline: an encoder whose last three levels vote, without a decoder."""

from __future__ import annotations

import math

import torch
from torch import nn

from voxmetry.config.networks import FcnNetwork

Counts = tuple[int, int, int]


class Fcn(nn.Module):
    """FCN with skips, in 3-D: scores of the last three levels, each brought up to the one above it and added.

    With strides to 32 it is FCN-8s (Long, Shelhamer and Darrell 2015, arXiv 1411.4038): the scores of levels 32, 16 and
    8 are added and brought up by 8. Upsampling is learnt and begins as linear interpolation. In place of VGG's layers a
    level has convolutions with instance normalisation, as there are no weights to start from in 3-D.

    Parameters
    ----------
    spec
        Levels from full resolution downwards.
    n_inputs, n_outputs
        Channels in and out.
    """

    def __init__(self, spec: FcnNetwork, *, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        levels, before = [], n_inputs
        for channels, stride in zip(spec.channels, spec.strides, strict=True):
            layers: list[nn.Module] = [nn.MaxPool3d(stride, stride)] if stride != (1, 1, 1) else []
            for _ in range(spec.convolutions):
                layers += [
                    nn.Conv3d(before, channels, 3, padding=1),
                    nn.InstanceNorm3d(channels, affine=True),
                    nn.LeakyReLU(0.01, inplace=True),
                ]
                before = channels
            levels.append(nn.Sequential(*layers))
        self.levels = nn.ModuleList(levels)
        self.scores = nn.ModuleList(nn.Conv3d(channels, n_outputs, 1) for channels in spec.channels[-3:])
        finest = spec.strides[: len(spec.strides) - 2]
        i, j, k = (math.prod(stride[axis] for stride in finest) for axis in range(3))
        self.up = nn.ModuleList(
            Upsample(n_outputs, stride) for stride in (spec.strides[-1], spec.strides[-2], (i, j, k))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, n_outputs, I, J, K) for patches (B, n_inputs, I, J, K), divisible by the strides."""
        kept = []
        for level in self.levels:
            x = level(x)
            kept.append(x)
        fine, middle, coarse = (score(level) for score, level in zip(self.scores, kept[-3:], strict=True))
        up_coarse, up_middle, up_all = self.up
        total: torch.Tensor = up_all(up_middle(up_coarse(coarse) + middle) + fine)
        return total


class Upsample(nn.Module):
    """A transposed convolution, channel by channel, that begins as linear interpolation.

    Parameters
    ----------
    channels
        In and out.
    stride
        How many voxels become of one, along each axis.
    """

    def __init__(self, channels: int, stride: Counts) -> None:
        super().__init__()
        self.stride = stride
        kernel = (2 * stride[0] - stride[0] % 2, 2 * stride[1] - stride[1] % 2, 2 * stride[2] - stride[2] % 2)
        self.layer = nn.ConvTranspose3d(channels, channels, kernel, stride, groups=channels, bias=False)
        rows = [_triangle(size, by) for size, by in zip(kernel, stride, strict=True)]
        weight = torch.einsum("i,j,k->ijk", *rows)
        with torch.no_grad():
            self.layer.weight.copy_(weight.expand_as(self.layer.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, I, J, K) as (B, C, I * a, J * b, K * c)."""
        # Outermost voxels are repeated, as interpolation beyond the last centre would otherwise mix in zeros.
        pads = [n for s in reversed(self.stride) for n in ((1, 1) if s > 1 else (0, 0))]
        up = self.layer(nn.functional.pad(x, pads, mode="replicate") if any(pads) else x)
        for axis, s in enumerate(self.stride, start=2):
            if s > 1:
                up = up.narrow(axis, s + s // 2, x.shape[axis] * s)
        found: torch.Tensor = up
        return found


def _triangle(size: int, stride: int) -> torch.Tensor:
    """Return the weights by which a voxel is spread along one axis in linear interpolation."""
    if stride == 1:
        return torch.ones(1)
    centre = (size - 1) / 2
    return 1 - (torch.arange(size) - centre).abs() / stride
