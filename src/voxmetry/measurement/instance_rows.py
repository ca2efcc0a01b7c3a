"""One row an instance: the structure's parts as they were told apart, each measured like a lesion."""

from __future__ import annotations

from collections import Counter

import numpy as np

from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import InstanceMeasurement
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.measurement.lesions import Component, part_fields
from voxmetry.measurement.locator import Locator
from voxmetry.ops.boxes import label_boxes


def measure_instances(
    found: InstanceSegmentation, volume: Volume | None = None, *, organs: Segmentation | None = None
) -> tuple[InstanceMeasurement, ...]:
    """Measure each instance.

    Parameters
    ----------
    found
        The instances.
    volume
        The image on the same grid, for intensities.
    organs
        Label map on the same grid whose structures of kind 'organ' say where a lesion lies; it may be the instances'
        own.

    Returns
    -------
    tuple of InstanceMeasurement
        In the order of `found.detections`. The id of each is its structure's name and a number, from 1 in this order
        within the structure.

    Raises
    ------
    GeometryError
        If the image or the organs lie on another grid.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> from voxmetry.ops.instances import tell_apart
    >>> array = np.zeros((20, 20, 5), np.uint8)
    >>> array[2:12, 3:7, 2] = array[15, 15, 4] = 1
    >>> nodes = Segmentation(array, Geometry(np.eye(4), array.shape), LabelTable.from_names({1: "node"}))
    >>> [(x.id, x.n_voxels, round(x.long_axis_mm, 2), x.box_low_ras_mm) for x in measure_instances(tell_apart(nodes))]
    [('node-1', 40, 10.44, (1.5, 2.5, 1.5)), ('node-2', 1, 1.0, (14.5, 14.5, 3.5))]
    """
    geometry = found.geometry
    for other, what in ((volume, "instances and image"), (organs, "instances and organs")):
        if other is not None:
            geometry.require_same(other.geometry, what=what)
    boxes = label_boxes(found.array)
    labels = {label.name: label for label in found.labels}
    # An organ lies where it lies: only lesions are located.
    apart = {row.label for row in found.detections}
    locate = Locator(organs) if organs is not None and any(labels[name].kind == "lesion" for name in apart) else None
    numbers: Counter[str] = Counter()
    rows = []
    for row in found.detections:
        label, box = labels[row.label], boxes[row.value]
        numbers[row.label] += 1
        part = Component(np.asarray(found.array[box] == row.value), box, label)
        rows.append(
            InstanceMeasurement(
                id=f"{label.name}-{numbers[row.label]}",
                instance=row.value,
                score=row.score,
                box_low_ras_mm=row.box_ras_mm[0],
                box_high_ras_mm=row.box_ras_mm[1],
                **part_fields(part, geometry, volume, locate if label.kind == "lesion" else None),
            )
        )
    return tuple(rows)
