"""The network: MONAI's DynUNet, built from a `NetworkSpec` and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DynUNet

from voxmetry.config import NetworkSpec

DEEP_SUPERVISION_WEIGHT = 0.5
"""Each coarser output counts half as much as the one above it (Isensee 2021, doi 10.1038/s41592-020-01008-z)."""


def build_unet(spec: NetworkSpec, *, n_inputs: int, n_classes: int) -> DynUNet:
    """Build the network with random weights.

    Parameters
    ----------
    spec
        Levels from full resolution downwards.
    n_inputs, n_classes
        Channels in and out; the classes include the background.

    Returns
    -------
    DynUNet
        Takes (B, n_inputs, I, J, K) with I, J, K divisible by `spec.divisor`. In evaluation mode it returns logits
        (B, n_classes, I, J, K); in training mode with deep supervision (B, 1 + deep_supervision, n_classes, I, J, K).
    """
    return DynUNet(spatial_dims=3, in_channels=n_inputs, out_channels=n_classes, **dynunet_arguments(spec))


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


def split_outputs(outputs: torch.Tensor, *, levels: int) -> list[tuple[float, torch.Tensor]]:
    """Pair each output of the network in training mode with its weight; the weights sum to 1.

    Parameters
    ----------
    outputs
        (B, n_classes, I, J, K), or (B, 1 + levels, n_classes, I, J, K) with deep supervision.
    levels
        `NetworkSpec.deep_supervision`.
    """
    if levels == 0:
        return [(1.0, outputs)]
    weights = [DEEP_SUPERVISION_WEIGHT**level for level in range(levels + 1)]
    return [(weight / sum(weights), output) for weight, output in zip(weights, outputs.unbind(1), strict=True)]
