"""Features inside boxes: each box is sampled on a regular grid of its own (RoIAlign, in 3-D).

He et al. 2017, arXiv 1703.06870. Boxes are (x0, y0, z0, x1, y1, z1) in voxels of the patch, on its edges: the voxel i
reaches from i to i + 1. Samples are linear between voxel centres, so that a field that is linear in the coordinates
comes back as it is, but for the half voxel at the patch's border, where the outermost voxels are held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

Triple = tuple[int, int, int]


def sample_points(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Return the centres of the cells that `size` cells an axis divide each box into: (N, size, size, size, 3).

    Examples
    --------
    >>> points = sample_points(torch.tensor([[0.0, 0, 0, 4, 4, 4]]), 2)
    >>> points[0, 0, 1, 1].tolist()
    [1.0, 3.0, 3.0]
    """
    share = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    low, length = boxes[:, :3], boxes[:, 3:] - boxes[:, :3]
    axes = [low[:, axis, None] + share[None] * length[:, axis, None] for axis in range(3)]
    i, j, k = (
        axis.reshape(-1, *(size if place == at else 1 for at in range(3))).expand(-1, size, size, size)
        for place, axis in enumerate(axes)
    )
    return torch.stack([i, j, k], dim=-1)


def sample_at(field: torch.Tensor, points: torch.Tensor, *, mode: str = "bilinear") -> torch.Tensor:
    """Sample a field (C, I, J, K) at points (N, a, b, c, 3) in its own voxels, on edges: (N, C, a, b, c)."""
    n, a, b, c, _ = points.shape
    lengths = torch.tensor(field.shape[1:], device=points.device, dtype=points.dtype)
    # grid_sample takes the last axis first, and -1 and 1 as the outermost edges.
    grid = (2 * points / lengths - 1).flip(-1).reshape(1, n * a, b, c, 3)
    found = functional.grid_sample(field[None], grid, mode=mode, padding_mode="border", align_corners=False)
    return found[0].reshape(len(field), n, a, b, c).transpose(0, 1)


def roi_align(
    levels: Sequence[torch.Tensor], strides: Sequence[Triple], boxes: Sequence[torch.Tensor], size: int
) -> torch.Tensor:
    """Sample the features of boxes, each from the level on which one sample is about one voxel.

    Parameters
    ----------
    levels
        (B, C, I, J, K) each, finest first.
    strides
        Voxels of the patch that one voxel of each level is long.
    boxes
        For each of the B images (N, 6).
    size
        Samples along each axis.

    Returns
    -------
    Tensor
        (sum of N, C, size, size, size), images and boxes in their order; float32.
    """
    rows = []
    for image, own in enumerate(boxes):
        chosen = choose_level(own, strides, size)
        found = levels[0].new_zeros((len(own), levels[0].shape[1], size, size, size), dtype=torch.float32)
        for place, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            at = torch.nonzero(chosen == place).flatten()
            if len(at):
                scale = torch.tensor(stride, device=own.device, dtype=torch.float32)
                points = sample_points(own[at].float(), size) / scale
                found = found.index_copy(0, at, sample_at(level[image].float(), points))
        rows.append(found)
    return torch.cat(rows)


def choose_level(boxes: torch.Tensor, strides: Sequence[Triple], size: int) -> torch.Tensor:
    """Return for each box (N, 6) the level whose voxel is nearest in size to one of `size` cells an axis: (N,) int64.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0, 0, 14, 14, 14], [0, 0, 0, 60, 60, 60]])
    >>> choose_level(boxes, [(2, 2, 2), (4, 4, 4), (8, 8, 8)], 7).tolist()
    [0, 2]
    """
    cell = torch.log2((boxes[:, 3:] - boxes[:, :3]).clamp_min(1e-3).float() / size).mean(1)
    voxel = torch.tensor([[float(s) for s in stride] for stride in strides], device=boxes.device).log2().mean(1)
    return (cell[:, None] - voxel[None]).abs().argmin(1)
