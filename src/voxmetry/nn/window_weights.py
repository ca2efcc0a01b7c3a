"""Where windows lie and how much each of their voxels counts, as nnU-Net v2 and MONAI have it.

The two place windows differently, and a network that sees another patch returns other scores: an imported model keeps
the rule that it was trained and judged with.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from voxmetry.config import WindowSpec

SIGMA_SHARE = 1 / 8
"""Standard deviation of the Gaussian as a share of the patch."""

MONAI_LEAST = 1e-3
"""MONAI's smallest weight."""

PEAK = 10.0
"""nnU-Net's largest weight; it adds in half precision, where this keeps the products in range."""


def even_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Return the first voxel of each window along one axis, evenly spread from edge to edge.

    Parameters
    ----------
    size, patch
        Voxels of the (padded) volume and of the patch.
    overlap
        Share that neighbours overlap by, at least.

    Examples
    --------
    >>> even_starts(110, 64, 0.5), even_starts(64, 64, 0.5)
    ([0, 23, 46], [0])
    """
    room = size - patch
    if room <= 0:
        return [0]
    if patch == 1:
        # A network that works slice by slice: each once.
        return list(range(size))
    count = math.ceil(room / (patch * (1 - overlap))) + 1
    return [int(np.round(room / (count - 1) * index)) for index in range(count)]


def nnunet_importance(patch: tuple[int, int, int]) -> torch.Tensor:
    """Return the weight of each voxel of a patch, (I, J, K) float32: nnU-Net's Gaussian, rounded to half precision.

    A point at voxel `size // 2`, blurred and cut at four standard deviations; what half precision rounds to 0 counts
    as the smallest number that it does not.

    Examples
    --------
    >>> weights = nnunet_importance((8, 8, 8))
    >>> float(weights.max()), tuple(int(i) for i in (weights == 10).nonzero()[0])
    (10.0, (4, 4, 4))
    """
    lines = []
    for size in patch:
        line = np.zeros(size)
        line[size // 2] = 1
        lines.append(gaussian_filter1d(line, size * SIGMA_SHARE, mode="constant", cval=0))
    weights = np.einsum("i,j,k->ijk", *lines)
    weights /= weights.max() / PEAK
    half = torch.from_numpy(weights).to(torch.float16)
    half[half == 0] = half[half > 0].min()
    return half.float()


def monai_importance(patch: tuple[int, ...]) -> torch.Tensor:
    """Return the weight of each voxel of a patch as MONAI's `SlidingWindowInferer` has it with mode "gaussian".

    The product over the axes of exp(-x^2 / (2 sigma^2)), x from the patch's middle and sigma an eighth of its size;
    nowhere below 0.001. MONAI is not imported for it: that takes as long as a small study.

    Parameters
    ----------
    patch
        (I, J, K).

    Returns
    -------
    Tensor
        (I, J, K) float32.

    Examples
    --------
    >>> monai_importance((3, 1, 1))[:, 0, 0]
    tensor([0.0286, 1.0000, 0.0286])
    """
    weights = torch.ones(())
    for size in patch:
        x = torch.arange(-(size - 1) / 2, (size - 1) / 2 + 1, dtype=torch.float32)
        weights = weights[..., None] * torch.exp(x**2 / (-2 * (size * SIGMA_SHARE) ** 2))
    return weights.clamp_min(max(float(weights.min()), MONAI_LEAST))


def blending_weights(window: WindowSpec) -> torch.Tensor:
    """Return how much each voxel of a patch counts, (I, J, K) float32; see `config.WindowSpec`."""
    if window.blending == "constant":
        return torch.ones(window.patch)
    if window.placement == "nnunet":
        return nnunet_importance(window.patch)
    return monai_importance(window.patch)
