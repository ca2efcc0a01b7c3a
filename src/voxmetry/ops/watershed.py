"""Cut a mask where it is narrow: the watershed of its distance map in mm."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.ops.components import components

NECK = 0.8
"""Two parts are cut where the way between them is narrower than this share of the narrower part."""
_NOISE = 0.5
"""Of a voxel's size, the cube root of its volume: a smaller difference comes from the grid, not from the shape."""
_HALF = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))
"""One of each pair of opposite neighbours."""


def watershed(mask: NDArray[np.bool_], geometry: Geometry, *, neck: float = NECK) -> NDArray[np.uint32]:
    """Return the numbered parts of a mask, cut where it is narrow.

    Every voxel has a distance to the border of the mask. Two parts meet where this distance is largest
    along their common border: half the width of the neck. They stay one where it is above `neck` times the largest
    distance inside the smaller of them, or less than half a voxel below that. What counts is this ratio, so that large
    and small instances are cut alike.

    Parameters
    ----------
    mask
        (I, J, K); the border of the array is no border of the mask, which may go on beyond it.
    geometry
        Any crop of the grid; its spacing gives distances in mm. Where its axes are not square to one another, the
        distances are those of a grid whose axes are.
    neck
        In 0..1. 0 cuts nothing but separate components; 1 cuts at each narrowing.

    Returns
    -------
    array
        (I, J, K), 1 to N in the parts and 0 outside.

    References
    ----------
    Beucher and Meyer, 1993, in Mathematical Morphology in Image Processing, 433-481 (watershed from markers);
    Najman and Schmitt, 1996, doi:10.1109/34.546254 (merging by the height of the pass).
    """
    import edt
    from skimage.morphology import local_maxima
    from skimage.segmentation import watershed as flood

    solid = np.ascontiguousarray(mask)
    # The border lies half a voxel before the centre of the next voxel outside.
    distance = edt.edt(solid, anisotropy=geometry.spacing_mm) - min(geometry.spacing_mm) / 2
    seeds, sizes = components(local_maxima(distance, connectivity=3) & solid, 26)
    if len(sizes) < 2:
        return components(solid, 26)[0]
    # Breadth first from the seeds, so that each voxel goes to the part that it is downhill of.
    basins = flood(-distance, seeds.astype(np.int32), connectivity=np.ones((3, 3, 3)), mask=solid)
    root = _merged(basins, distance, neck, _NOISE * (1000 * geometry.voxel_ml) ** (1 / 3))
    numbers = np.unique(root[1:], return_inverse=True)[1] + 1
    merged: NDArray[np.uint32] = np.append(0, numbers).astype(np.uint32)[basins]
    return merged


def _merged(basins: NDArray[Any], distance: NDArray[np.float32], neck: float, noise: float) -> NDArray[np.intp]:
    """Return for each basin, from 0, the one that it belongs to once all passes that are no necks are opened.

    Passes are looked at from the highest down, as water would rise.
    """
    n = int(basins.max())
    peak = np.zeros(n + 1)
    np.maximum.at(peak, basins.ravel(), distance.ravel())
    parent = np.arange(n + 1)

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = int(parent[number])
        return number

    for a, b, height in _passes(basins, distance):
        one, other = sorted((root(a), root(b)), key=lambda number: peak[number])
        if one != other and (height > neck * peak[one] or peak[one] - height < noise):
            parent[one] = other
    return np.array([root(number) for number in range(n + 1)])


def _passes(basins: NDArray[Any], distance: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Return each pair of basins that touch, and the largest distance on their border, from high to low."""
    n = int(basins.max()) + 1
    keys, heights = [], []
    for step in _HALF:
        here = tuple(slice(max(0, -s), size - max(0, s)) for s, size in zip(step, basins.shape, strict=True))
        there = tuple(slice(max(0, s), size + min(0, s)) for s, size in zip(step, basins.shape, strict=True))
        a, b = basins[here], basins[there]
        border = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[border], b[border]), np.maximum(a[border], b[border])
        keys.append(low.astype(np.int64) * n + high)
        heights.append(np.minimum(distance[here][border], distance[there][border]))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    height = np.zeros(len(pairs))
    np.maximum.at(height, place, np.concatenate(heights))
    order = np.argsort(-height, kind="stable")
    return [(int(pairs[k] // n), int(pairs[k] % n), float(height[k])) for k in order]
