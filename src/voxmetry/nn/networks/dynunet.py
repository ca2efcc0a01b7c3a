"""The network: MONAI's DynUNet, built from a `NetworkSpec` and nothing else."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.nets import DynUNet
from torch import nn

from voxmetry.config import NetworkSpec

DEEP_SUPERVISION_WEIGHT = 0.5
"""Each coarser output counts half as much as the one above it (Isensee 2021, doi 10.1038/s41592-020-01008-z)."""


def build_unet(spec: NetworkSpec, *, n_inputs: int, n_classes: int) -> nn.Module:
    """Build the network with random weights.

    Parameters
    ----------
    spec
        Levels from full resolution downwards.
    n_inputs, n_classes
        Channels in and out; the classes include the background.

    Returns
    -------
    Module
        A DynUNet, inside a `SpaceToDepth` where the specification asks for it.
        Takes (B, n_inputs, I, J, K) with I, J, K divisible by `spec.divisor`. In evaluation mode it returns logits
        (B, n_classes, I, J, K); in training mode with deep supervision (B, 1 + deep_supervision, n_classes, I, J, K).
    """
    block = spec.space_to_depth
    voxels = math.prod(block)
    unet = DynUNet(
        spatial_dims=3, in_channels=n_inputs * voxels, out_channels=n_classes * voxels, **dynunet_arguments(spec)
    )
    return unet if voxels == 1 else SpaceToDepth(unet, block)


class SpaceToDepth(nn.Module):
    """A network that sees each block of voxels as one voxel of more channels, and whose outputs are taken apart again.

    Channels are ordered by input or class first, then by the place in the block.

    Parameters
    ----------
    unet
        Takes and returns (B, channels x block, I / a, J / b, K / c).
    block
        a, b, c.
    """

    def __init__(self, unet: nn.Module, block: tuple[int, int, int]) -> None:
        super().__init__()
        self.unet, self.block = unet, block

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return scores for patches (B, C, I, J, K), each axis divisible by the block.

        In training mode with deep supervision a tuple: the coarser outputs follow, each on its own grid, as nothing is
        gained from interpolating them before the loss.
        """
        x = to_depth(x, self.block)
        if not (self.training and isinstance(self.unet, DynUNet) and self.unet.deep_supervision):
            return self._apart(self.unet(x))
        finest = self.unet.output_block(self.unet.skip_layers(x))
        return (self._apart(finest), *(self._apart(coarse) for coarse in self.unet.heads))

    def _apart(self, x: torch.Tensor) -> torch.Tensor:
        return to_space(x, self.block)


def to_depth(x: torch.Tensor, block: tuple[int, int, int]) -> torch.Tensor:
    """Return (B, C, I, J, K) with each block of voxels as one voxel of C x a x b x c channels."""
    a, b, c = block
    n, channels, i, j, k = x.shape
    x = x.reshape(n, channels, i // a, a, j // b, b, k // c, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(n, channels * a * b * c, i // a, j // b, k // c)


def to_space(x: torch.Tensor, block: tuple[int, int, int]) -> torch.Tensor:
    """Undo `to_depth`."""
    a, b, c = block
    n, channels, i, j, k = x.shape
    classes = channels // (a * b * c)
    x = x.reshape(n, classes, a, b, c, i, j, k).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, classes, i * a, j * b, k * c)


def dynunet_arguments(spec: NetworkSpec) -> dict[str, Any]:
    """Return the arguments of MONAI's DynUNet other than its channels, as plain values."""
    return {
        "kernel_size": [list(kernel) for kernel in spec.kernels],
        "strides": [list(stride) for stride in spec.strides],
        "upsample_kernel_size": [list(stride) for stride in spec.strides[1:]],
        "filters": list(spec.channels),
        "dropout": spec.dropout or None,
        "norm_name": ["INSTANCE", {"affine": True}],
        "deep_supervision": spec.deep_supervision > 0,
        "deep_supr_num": max(1, spec.deep_supervision),
        "res_block": spec.residual,
    }


def split_outputs(outputs: torch.Tensor | tuple[torch.Tensor, ...], *, levels: int) -> list[tuple[float, torch.Tensor]]:
    """Pair each output of the network in training mode with its weight; the weights sum to 1.

    Parameters
    ----------
    outputs
        (B, n_classes, I, J, K); with deep supervision (B, 1 + levels, n_classes, I, J, K), or a tuple of outputs on
        grids that grow coarser.
    levels
        `NetworkSpec.deep_supervision`.
    """
    parts = outputs
    if isinstance(outputs, torch.Tensor):
        parts = outputs.unbind(1) if levels else (outputs,)
    weights = [DEEP_SUPERVISION_WEIGHT**level for level in range(levels + 1)]
    return [(weight / sum(weights), output) for weight, output in zip(weights, parts, strict=True)]
