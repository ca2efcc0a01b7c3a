"""What a correction changed: each structure before and after it."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import numpy as np

from voxmetry.core.records.correction import StructureCorrection
from voxmetry.core.segmentation import Segmentation
from voxmetry.measurement.overlap import overlaps

ABSENT = "the structure is in neither label map: nothing to compare"


def measure_correction(*, before: Segmentation, after: Segmentation) -> tuple[StructureCorrection, ...]:
    """Compare a label map with its correction, structure by structure.

    Parameters
    ----------
    before, after
        On the same grid, with the same label table.

    Returns
    -------
    tuple of StructureCorrection
        One a label of the table, in its order.

    Raises
    ------
    GeometryError
        If the grids differ.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> grid, table = Geometry(np.diag([10.0, 10.0, 10.0, 1.0]), (4, 1, 1)), LabelTable.from_names({1: "liver"})
    >>> a, b = (np.array(x, np.uint8).reshape(4, 1, 1) for x in ([1, 1, 0, 0], [0, 1, 1, 1]))
    >>> row, = measure_correction(before=Segmentation(a, grid, table), after=Segmentation(b, grid, table))
    >>> row.volume_before_ml, row.volume_after_ml, row.dice, row.added_ml, row.removed_ml
    (2.0, 3.0, 0.4, 2.0, 1.0)
    """
    before.geometry.require_same(after.geometry, what="the label map and its correction")
    pairs = [(label.value, label.value) for label in before.labels]
    counts = overlaps(prediction=before, reference=after, pairs=pairs)
    ml = before.geometry.voxel_ml
    rows = []
    for label, count in zip(before.labels, counts, strict=True):
        n_before, n_after, n_both = count.n_prediction, count.n_reference, count.n_both
        rows.append(
            StructureCorrection(
                label=label.name,
                value=label.value,
                status=_status(n_before, n_after, n_both),
                volume_before_ml=n_before * ml,
                volume_after_ml=n_after * ml,
                volume_difference_ml=(n_after - n_before) * ml,
                dice=count.dice if n_before or n_after else math.nan,
                added_ml=(n_after - n_both) * ml,
                removed_ml=(n_before - n_both) * ml,
                reason="" if n_before or n_after else ABSENT,
            )
        )
    return tuple(rows)


def _status(n_before: int, n_after: int, n_both: int) -> Literal["unchanged", "changed", "added", "removed", "absent"]:
    if not n_before and not n_after:
        return "absent"
    if not n_before:
        return "added"
    if not n_after:
        return "removed"
    return "unchanged" if n_before == n_after == n_both else "changed"


def digest_of_labels(segmentation: Segmentation) -> str:
    """Return the SHA-256 of the voxels of a label map, whatever file it came from and however that was packed.

    Of the shape and the values as little-endian uint16, the last axis changing fastest.
    """
    digest = hashlib.sha256(repr(segmentation.array.shape).encode())
    for slab in segmentation.array:
        digest.update(np.ascontiguousarray(slab, "<u2").tobytes())
    return digest.hexdigest()
