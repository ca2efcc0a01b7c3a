"""Tell the instances of a structure apart without a network: by connected components, or by watershed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import MOST_INSTANCES, InstanceSegmentation
from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.records import Detection
from voxmetry.core.segmentation import Segmentation, values_present
from voxmetry.errors import LabelError
from voxmetry.io.instances import own_labels
from voxmetry.ops.boxes import Box, boxes_of, grow, label_boxes
from voxmetry.ops.components import components
from voxmetry.ops.watershed import NECK, watershed

Method: TypeAlias = Literal["components", "watershed"]
Corners: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]


def tell_apart(
    segmentation: Segmentation,
    method: Method = "components",
    *,
    labels: Sequence[str] = (),
    min_volume_ml: float = 0.0,
    neck: float = NECK,
) -> InstanceSegmentation:
    """Tell the instances of structures apart.

    Parameters
    ----------
    segmentation
        The label map.
    method
        'components': what hangs together by a face, an edge or a corner is one instance. 'watershed': a component is
        cut where it is narrow, so that instances that touch are told apart; see `voxmetry.ops.watershed`.
    labels
        Structures with instances. None given: those of kind 'lesion', or all where there is none of that kind.
    min_volume_ml
        Smaller parts are no instances; they stay in the label map.
    neck
        For 'watershed'.

    Returns
    -------
    InstanceSegmentation
        Numbered from 1, structure by structure in the table's order, of each the largest first; of equal ones the most
        inferior, posterior, left one first. There are no scores.

    Raises
    ------
    LabelError
        If a name is unknown, or there are more than 65,535 instances.

    Examples
    --------
    >>> from voxmetry import LabelTable
    >>> array = np.zeros((20, 9, 9), np.uint8)
    >>> array[1:8, 1:8, 1:8] = array[12:19, 1:8, 1:8] = 1
    >>> array[8:12, 4, 4] = 1
    >>> barbell = Segmentation(array, Geometry(np.eye(4), array.shape), LabelTable.from_names({1: "node"}))
    >>> len(tell_apart(barbell)), len(tell_apart(barbell, "watershed"))
    (1, 2)
    """
    chosen = structures_with_instances(segmentation, labels)
    boxes = boxes_of(segmentation)
    array = np.zeros(segmentation.geometry.shape, np.uint16, order="F" if _is_fortran(segmentation.array) else "C")
    rows: list[Detection] = []
    for label in chosen:
        if label.value not in boxes:
            continue
        # With what is outside of it, as distances are measured to it; beyond the image nothing is known to be outside.
        box = grow(boxes[label.value], segmentation.geometry.shape)
        mask = segmentation.array[box] == label.value
        cut = method == "watershed"
        parts = watershed(mask, segmentation.geometry, neck=neck) if cut else components(mask, 26)[0]
        found = in_order(parts, segmentation.geometry, box)
        sizes = np.bincount(parts.ravel())
        found = [number for number in found if sizes[number] * segmentation.geometry.voxel_ml >= min_volume_ml]
        require_room(len(rows) + len(found))
        value_of = np.zeros(len(sizes), np.uint16)
        value_of[found] = np.arange(len(rows) + 1, len(rows) + len(found) + 1)
        array[box] += value_of[parts]
        rows += [Detection(value=int(value_of[number]), label=label.name, box_ras_mm=_NOWHERE) for number in found]
    return with_boxes(segmentation, array, rows)


def structures_with_instances(segmentation: Segmentation, labels: Sequence[str] = ()) -> tuple[Label, ...]:
    """Return the structures that are told apart: those that are named, else lesions, else all.

    Raises
    ------
    LabelError
        If a name is unknown.
    """
    if labels:
        return tuple(segmentation.labels.find(name) for name in dict.fromkeys(labels))
    lesions = tuple(label for label in segmentation.labels if label.kind == "lesion")
    return lesions or tuple(segmentation.labels)


_PIECE = 0.25
"""A piece with this share of the largest one's voxels is more than a crumb."""
_NOWHERE: Corners = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def with_boxes(segmentation: Segmentation, array: NDArray[Any], rows: Sequence[Detection]) -> InstanceSegmentation:
    """Return both maps and their rows, each with the box of its voxels.

    Parameters
    ----------
    segmentation
        The label map.
    array
        (I, J, K) uint16, the instances.
    rows
        One for each value of the array; one whose value has no voxel any more is left out.
    """
    boxes = label_boxes(array)
    kept = tuple(
        row.model_copy(update={"box_ras_mm": corners_mm(array[boxes[row.value]] == row.value, boxes[row.value], grid)})
        for grid in [segmentation.geometry]
        for row in rows
        if row.value in boxes
    )
    return InstanceSegmentation(segmentation, array, kept)


def each_its_own(base: Segmentation, found: InstanceSegmentation, names: Mapping[int, str]) -> Segmentation:
    """Return a label map in which each instance is a structure of its own, with a colour unlike its neighbours'.

    Parameters
    ----------
    base
        The label map beneath: what belongs to no instance stays as it is there.
    found
        The instances, on the same grid.
    names
        What each instance is called, by its value.

    Raises
    ------
    LabelError
        If there are more structures and instances than a label map can number.
    """
    if not found.detections:
        return base
    rows = found.detections
    values = values_beside(base.labels, len(rows))
    value_of = np.zeros(MOST_INSTANCES + 1, np.uint16)
    value_of[[row.value for row in rows]] = values
    own = own_labels(found.labels, rows, [names[row.value] for row in rows], values)
    new = value_of[found.array]
    array = np.where(new > 0, new, base.array)
    left = values_present(array)
    # A structure that is all instances is no structure any more.
    told = {row.label for row in found.detections}
    kept = [label for label in base.labels if label.name not in told or label.value in left]
    return Segmentation(array, base.geometry, LabelTable(labels=(*kept, *own)))


def values_beside(labels: LabelTable, n: int) -> list[int]:
    """Return `n` values for instances beside those of structures: the next ones.

    Raises
    ------
    LabelError
        If a label map has not so many.
    """
    first = max(labels.values, default=0) + 1
    require_room(first - 1 + n)
    return list(range(first, first + n))


def cut_to(found: InstanceSegmentation, segmentation: Segmentation) -> InstanceSegmentation:
    """Return the instances as far as they lie within their structure in another label map, as after a clean-up.

    An instance without a voxel left is dropped; the values of the others stay. Boxes and scores of those that lost
    nothing stay as they are; the others get the box of what is left.

    Parameters
    ----------
    found
        The instances.
    segmentation
        The label map that they are cut to, on the same grid; of its structures, those of the same name.
    """
    values = {label.name: label.value for label in segmentation.labels}
    label_of = np.zeros(MOST_INSTANCES + 1, np.uint16)
    for row in found.detections:
        # A structure that the other map does not have has no instances there.
        label_of[row.value] = values.get(row.label, 0)
    outside = (found.array > 0) & ((segmentation.array != label_of[found.array]) | (segmentation.array == 0))
    lost = set(np.unique(found.array[outside]).tolist())
    array = np.where(outside, np.uint16(0), found.array)
    boxes = label_boxes(array)
    rows = []
    for row in found.detections:
        box = boxes.get(row.value)
        if box is not None and row.value in lost:
            corners = corners_mm(array[box] == row.value, box, segmentation.geometry)
            row = row.model_copy(update={"box_ras_mm": corners})
        if box is not None:
            rows.append(row)
    return InstanceSegmentation(segmentation, array, rows)


def corners_mm(mask: NDArray[np.bool_], box: Box, geometry: Geometry) -> Corners:
    """Return the lowest and the highest corner, in RAS+ mm, of the box square to the patient that holds all voxels.

    Parameters
    ----------
    mask
        A crop with at least one voxel; `box` is where it lies in the grid. Voxels are counted with their outer edges.
    """
    where = np.argwhere(mask) + [part.start for part in box]
    matrix = geometry.affine[:3, :3]
    half = np.abs(matrix).sum(axis=1) / 2
    mm = where @ matrix.T + geometry.affine[:3, 3]
    low, high = mm.min(axis=0) - half, mm.max(axis=0) + half
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def in_order(parts: NDArray[Any], geometry: Geometry, box: Box) -> list[int]:
    """Return the numbers of parts from large to small; of equal ones the most inferior, posterior, left one first.

    Parameters
    ----------
    parts
        (I, J, K) whole numbers from 0, the crop `box` of the grid.
    """
    where = np.nonzero(parts)
    number = parts[where].astype(np.intp)
    sizes = np.bincount(number)
    present = np.flatnonzero(sizes)
    sums = [np.bincount(number, axis)[present] for axis in where]
    middle = np.column_stack(sums) / sizes[present, None] + [part.start for part in box]
    place = np.round(geometry.to_mm(middle), 3)
    order = np.lexsort((place[:, 0], place[:, 1], place[:, 2], -sizes[present]))
    return [int(value) for value in present[order]]


def require_instances(
    array: NDArray[Any],
    name: str,
    *,
    fix: str = "if it is a label map of structures, leave out --apart maps: its connected parts are counted then",
) -> None:
    """Refuse a label map of structures that was given as an instance map: most of its values lie in several pieces.

    An instance may lose a small piece; a value is in several where the second largest has a quarter of the largest's
    voxels or more. Structures that are all in one piece cannot be told from instances, and are counted as such.

    Parameters
    ----------
    array
        (I, J, K) whole numbers, 0 in the background.
    name
        The file's or the case's name, for the error.
    fix
        What to do, for the error.

    Raises
    ------
    LabelError
        If it is no instance map.
    """
    pieces = []
    for value, box in label_boxes(array).items():
        sizes = np.sort(components(array[box] == value, 26)[1])
        pieces.append(len(sizes) if len(sizes) > 1 and sizes[-2] >= _PIECE * sizes[-1] else 1)
    if 2 * sum(n > 1 for n in pieces) > len(pieces):
        raise LabelError(
            found=f"{name}, in which {sum(n > 1 for n in pieces)} of {len(pieces)} values lie in several pieces, up to "
            f"{max(pieces)}",
            expected="an instance map: each value is one instance, in one piece",
            fix=fix,
        )


def require_room(n: int) -> None:
    """Raise `LabelError` for more instances than a map can number."""
    if n > MOST_INSTANCES:
        raise LabelError(
            found=f"{n} instances",
            expected=f"at most {MOST_INSTANCES}, as many as an instance map can number",
            fix="leave out small ones (min_volume_ml), or tell fewer structures apart (instance_labels)",
        )


def _is_fortran(array: NDArray[Any]) -> bool:
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)
