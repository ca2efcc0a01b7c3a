"""From the sizes of instances to what Mask R-CNN is planned with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxmetry.errors import ConfigError
from voxmetry.train.fingerprint import StructureFacts

ANCHORS = 3
"""Shapes of the boxes that proposals start from."""
VOXELS_OF_A_BOX = 4.0
"""Voxels that the smallest boxes have along an axis on the level that proposes them."""
SMALL, LARGE = 10.0, 95.0
"""Percentiles of sizes that the levels reach from and to."""
MOST_PYRAMID = 64


def plan_mask_rcnn(
    things: Sequence[StructureFacts],
    spacing: Sequence[float],
    levels: Sequence[tuple[list[int], list[int]]],
    channels: Sequence[int],
    reasons: dict[str, str],
) -> dict[str, object]:
    """Describe a network of kind 'maskrcnn'.

    Parameters
    ----------
    things
        The structures whose instances are told apart.
    spacing
        Of the model's grid, in mm.
    levels
        Stride and kernel of each level.
    channels
        Of each level.
    reasons
        Is told why, by dotted key.

    Raises
    ------
    ConfigError
        If the label maps tell no instances apart.
    """
    if not things:
        raise ConfigError(
            found="a data set whose label maps tell no instances apart",
            expected="instances to learn, for a network of kind 'maskrcnn'",
            fix="name instances_of or instances in the manifest, or take --network dynunet",
        )
    boxes = np.array([box for row in things for box in row.boxes_mm])
    sizes = np.cbrt(boxes.prod(axis=1))
    small, large = (float(x) for x in np.percentile(sizes, (SMALL, LARGE)))
    strides = np.cumprod([stride for stride, _ in levels], axis=0)
    voxel_mm = np.cbrt((strides * np.array(spacing)).prod(axis=1))
    first = max(1, int(np.abs(np.log2(voxel_mm * VOXELS_OF_A_BOX / small)).argmin()))
    count = max(1, min(len(levels) - first, math.ceil(math.log2(max(large / small, 1.0)))))
    anchors = anchor_shapes(boxes, small)
    reasons["model.network"] = (
        f"{reasons['model.network']}; Mask R-CNN, because label maps tell apart the instances of "
        f"{', '.join(row.name for row in things)}"
    )
    reasons["model.network.anchors_mm"] = (
        f"{len(anchors)} typical boxes of {len(boxes)} instances, of {small:.3g} to {large:.3g} mm across (10th to "
        "95th percentile), halved until they are at most twice the smallest"
    )
    reasons["model.network.proposal_levels"] = (
        f"from the level on which the smallest are about {VOXELS_OF_A_BOX:g} voxels long, one for each doubling of size"
    )
    reasons["model.network.pyramid_level"] = "masks and the semantic map come from one level finer than proposals"
    return {
        "kind": "maskrcnn",
        "encoder": "residual",
        "channels": list(channels),
        "strides": [stride for stride, _ in levels],
        "kernels": [kernel for _, kernel in levels],
        "things": [row.name for row in things],
        "anchors_mm": [[round(mm, 2) for mm in shape] for shape in anchors],
        "proposal_levels": list(range(first, first + count)),
        "pyramid_level": first - 1,
        "pyramid_channels": min(MOST_PYRAMID, 2 * channels[0]),
    }


def anchor_shapes(boxes: NDArray[np.float64], smallest: float) -> list[list[float]]:
    """Return typical lengths of boxes, each halved until its size is at most twice the smallest.

    The means of k-means on the logarithms, begun from quantiles of the size, so that the same boxes give the same
    shapes.

    Parameters
    ----------
    boxes
        (N, 3) lengths in mm.
    smallest
        Cube root of the volume of a small box, mm.

    Examples
    --------
    >>> anchor_shapes(np.array([[10.0, 20.0, 10.0]] * 4 + [[40.0, 80.0, 40.0]] * 4), 12.5)
    [[10.0, 20.0, 10.0]]
    """
    sizes = np.cbrt(boxes.prod(axis=1))
    halvings = np.floor(np.log2(np.maximum(sizes / smallest, 1.0)) + 1e-6)
    folded = np.log(boxes / 2.0 ** halvings[:, None])
    order = folded[np.argsort(folded.sum(axis=1), kind="stable")]
    middle = order[np.linspace(0, len(order) - 1, 2 * ANCHORS + 1).round().astype(int)[1::2]]
    for _ in range(50):
        nearest = np.linalg.norm(folded[:, None] - middle[None], axis=2).argmin(axis=1)
        middle = np.array([folded[nearest == n].mean(axis=0) for n in range(len(middle)) if (nearest == n).any()])
    shapes: list[list[float]] = np.round(np.exp(middle), 4).tolist()
    return shapes
