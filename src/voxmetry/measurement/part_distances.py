"""Surface distances of matched instances, all pairs of a structure in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import MOST_INSTANCES
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import GeometryError
from voxmetry.measurement.distance import hausdorff_distance_mm, surface_distances
from voxmetry.measurement.part_overlaps import Ids


def hd95_of_pairs(
    ours: Ids, theirs: Ids, matched: NDArray[np.int64], geometry: Geometry
) -> dict[tuple[int, int], float]:
    """Return the 95 % Hausdorff distance in mm of matched instances.

    Parameters
    ----------
    ours, theirs
        (I, J, K), instances numbered from 1.
    matched
        (N, 2), places of each pair in the two, from 0; each place at most once.
    geometry
        The grid of the two.

    Returns
    -------
    dict
        By the two numbers of a pair. Empty on a grid whose axes do not stand at right angles, where surfaces have no
        distances.
    """
    if not len(matched) or len(matched) > MOST_INSTANCES:
        return {}
    table = LabelTable.from_names({n: str(n) for n in range(1, len(matched) + 1)})
    maps = []
    for ids, places in zip((ours, theirs), matched.T, strict=True):
        number = np.zeros(int(ids.max()) + 1, np.uint16)
        number[places + 1] = np.arange(1, len(matched) + 1)
        maps.append(Segmentation(number[ids], geometry, table))
    try:
        found = surface_distances(prediction=maps[0], reference=maps[1], pairs=[(v, v) for v in table.values])
    except GeometryError:
        return {}
    pairs = [(int(p) + 1, int(r) + 1) for p, r in matched]
    return {pair: hausdorff_distance_mm(d, percentile=95.0) for pair, d in zip(pairs, found, strict=True)}
