"""Which voxels of a label map belong to which instance: from its values, from a map beside it, or from its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.instances import MOST_INSTANCES
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import LabelError

Instances = NDArray[np.uint16]


def split_values(found: Segmentation, structure: str, table: LabelTable) -> tuple[Segmentation, Instances]:
    """Take each value of a label map for one instance of a structure.

    Parameters
    ----------
    found
        A label map whose values tell instances apart and mean nothing else.
    structure
        What they all are.
    table
        Where the structure's value is looked up.

    Returns
    -------
    Segmentation
        The structure, with the table.
    array
        (I, J, K) uint16, the values.

    Examples
    --------
    >>> from voxmetry.core.geometry import Geometry
    >>> array = np.array([0, 3, 3, 9], np.uint8).reshape(4, 1, 1)
    >>> numbered = Segmentation(array, Geometry(np.eye(4), (4, 1, 1)), LabelTable.from_names({3: "a", 9: "b"}))
    >>> whole, instances = split_values(numbered, "vertebra", LabelTable.from_names({1: "vertebra"}))
    >>> whole.array.ravel().tolist(), instances.ravel().tolist()
    ([0, 1, 1, 1], [0, 3, 3, 9])
    """
    value = table[structure].value
    array = np.where(found.array > 0, value, 0).astype(np.uint16 if value > 255 else np.uint8)
    return Segmentation(array, found.geometry, table), found.array.astype(np.uint16)


def require_within(instances: Segmentation, label: Segmentation) -> Instances:
    """Return the values of an instance map that lies beside a label map.

    Raises
    ------
    GeometryError
        If they lie on different grids.
    LabelError
        If an instance has voxels of two structures, or of none: then the two maps are not of one case.
    """
    label.geometry.require_same(instances.geometry, what="the label map and its instance map")
    array: Instances = instances.array.astype(np.uint16)
    inside = array > 0
    pairs = np.unique(array[inside].astype(np.int64) * (MOST_INSTANCES + 1) + label.array[inside])
    values, kinds = np.divmod(pairs, MOST_INSTANCES + 1)
    again, counts = np.unique(values, return_counts=True)
    mixed = sorted({*again[counts > 1].tolist(), *values[kinds == 0].tolist()})
    if mixed:
        raise LabelError(
            found=f"instances {mixed[:10]} with voxels of two structures, or of none",
            expected="each instance within one structure of the label map",
            fix="pass the instance map that belongs to this label map, without voxels outside of it",
        )
    return array


def components_of(label: Segmentation, names: Sequence[str]) -> Instances:
    """Return the connected components (26 neighbours) of some structures, numbered on: (I, J, K) uint16.

    Raises
    ------
    LabelError
        If there are more than a map of instances holds.
    """
    from scipy import ndimage

    found = np.zeros(label.array.shape, np.uint16)
    total = 0
    for name in names:
        parts, count = ndimage.label(label.mask(name), np.ones((3, 3, 3)))
        if total + count > MOST_INSTANCES:
            raise LabelError(
                found=f"more than {MOST_INSTANCES} connected components of {', '.join(names)}",
                expected="as many instances as uint16 has values",
                fix="remove specks from the label map, or name fewer structures under network.things",
            )
        found = np.where(parts > 0, parts + total, found).astype(np.uint16)
        total += count
    return found
