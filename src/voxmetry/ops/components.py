"""Clean up a segmentation by its connected components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.config import CleanStep
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.ops.boxes import Box, boxes_of, grow, join, label_boxes
from voxmetry.ops.layout import memory_axes
from voxmetry.ops.parts import Parts, find_parts
from voxmetry.ops.relabel import copied

Mask: TypeAlias = NDArray[np.bool_]


def clean(segmentation: Segmentation, steps: Sequence[CleanStep]) -> Segmentation:
    """Apply a post-processing, step after step.

    Parameters
    ----------
    segmentation
        The label map; it is not changed.
    steps
        What to do. 'largest' and 'drop_small' look at 26-connected components of a structure, or with `together` of
        the union of the named structures. 'fill_holes' gives background that a structure encloses (it is not
        6-connected to the outside of the structure) to the structure; voxels of other structures stay what they are.
        With `together` a hole is enclosed by the union and goes to the structure that has most voxels on its rim,
        the first in the table among equals.

    Returns
    -------
    Segmentation
        The same grid and labels, an array of its own; the label map itself where there is nothing to do.

    Raises
    ------
    LabelError
        If a step names a structure that the table does not have.

    Notes
    -----
    Of components of the same size, 'largest' keeps the one whose centroid is most inferior, then most posterior, then
    most to the left (to 0.001 mm), so that the answer does not depend on the order in which the voxels are stored.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> array = np.zeros((6, 5, 4), np.uint8)
    >>> array[1:3, 1:3, 1:3] = 1
    >>> array[5, 4, 3] = 1
    >>> grid = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), array.shape)
    >>> whole = Segmentation(array, grid, LabelTable.from_names({1: "liver"}))
    >>> int(clean(whole, [CleanStep(step="largest")]).mask("liver").sum())
    8
    """
    if not steps:
        return segmentation
    array = copied(segmentation.array, segmentation.array.dtype)
    for step in steps:
        names = step.labels or segmentation.labels.names
        values = [segmentation.labels[name].value for name in names]
        boxes = label_boxes(array)
        for group in [values] if step.together else [[value] for value in values]:
            present = [boxes[value] for value in group if value in boxes]
            if present:
                box = grow(join(present), segmentation.geometry.shape)
                _apply(step, array[box], group, segmentation.geometry, box)
    return Segmentation(array, segmentation.geometry, segmentation.labels)


def _apply(step: CleanStep, crop: NDArray[Any], values: list[int], geometry: Geometry, box: Box) -> None:
    """Change one crop, a view of the whole array, in place."""
    if step.step == "fill_holes":
        _fill(crop, values)
        return
    parts = find_parts(crop, lambda slab: _mask(slab, values), 26)
    if step.step == "largest":
        keep = parts.sizes == parts.sizes.max()
        if keep.sum() > 1:
            corner = np.array([part.start for part in box])
            keep = _first_in_patient(parts, np.flatnonzero(keep) + 1, geometry, corner)
    else:
        keep = parts.sizes * geometry.voxel_ml >= step.min_volume_ml
    lost = np.append(False, ~keep)
    for place, numbers in parts.slabs():
        crop[place][lost[numbers]] = 0


def _mask(slab: NDArray[Any], values: list[int]) -> Mask:
    mask: Mask = slab == values[0] if len(values) == 1 else np.isin(slab, values)
    return mask


def components(mask: NDArray[Any], connectivity: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Label the connected components of a mask with numbers.

    Parameters
    ----------
    mask
        (I, J, K); a label map's values are told apart.
    connectivity
        6 (faces), 18 (edges) or 26 (corners).

    Returns
    -------
    numbers, sizes
        (I, J, K), 1 to N in each component and 0 outside the mask; (N,), voxels of component n at n - 1.
    """
    import cc3d

    numbers = cc3d.connected_components(mask, connectivity=connectivity, out_dtype=np.uint32)
    # cc3d counts in one pass; numpy's bincount would first take eight bytes a voxel.
    sizes = cc3d.statistics(numbers, no_slice_conversion=True)["voxel_counts"]
    return numbers, np.asarray(sizes[1:], np.int64)


def component_sizes(segmentation: Segmentation, connectivity: int) -> dict[int, NDArray[np.int64]]:
    """Return the voxels of each connected component of each value that is present: one pass over all values.

    Parameters
    ----------
    segmentation
        The label map. Components of two values never touch.
    connectivity
        6 (faces), 18 (edges) or 26 (corners).
    """
    boxes = boxes_of(segmentation)
    if not boxes:
        return {}
    parts = find_parts(segmentation.array[join(list(boxes.values()))], lambda slab: slab, connectivity)
    return {value: parts.sizes[parts.values == value] for value in boxes}


def _first_in_patient(parts: Parts, ties: NDArray[np.intp], geometry: Geometry, corner: NDArray[Any]) -> Mask:
    """Choose one of several components by where it lies in the patient: a mask over all components."""

    def place(number: int) -> tuple[float, ...]:
        centroid = parts.sums[number - 1] / parts.sizes[number - 1] + corner
        return tuple(np.round(geometry.to_mm(centroid)[::-1], 3).tolist())

    chosen = min((int(number) for number in ties), key=place)
    keep = np.zeros(len(parts), dtype=bool)
    keep[chosen - 1] = True
    return keep


def _fill(crop: NDArray[Any], values: list[int]) -> None:
    """Give enclosed background to the structure, or to the one of several that has most voxels on the hole's rim."""
    outside = find_parts(crop, lambda slab: ~_mask(slab, values), 6)
    low, high = outside.boxes[..., 0], outside.boxes[..., 1]
    # What reaches the crop's border is open to the outside.
    enclosed = np.append(False, ((low > 0) & (high < crop.shape)).all(axis=1))
    if not enclosed.any():
        return
    owner = np.full(len(outside) + 1, values[0], crop.dtype)
    if len(values) > 1:
        owner = np.array(values, crop.dtype)[_rims(crop, outside, enclosed, values).argmax(axis=1)]
    for place, numbers in outside.slabs():
        part = crop[place]
        holes = enclosed[numbers] & (part == 0)
        part[holes] = owner[numbers[holes]]


def _rims(crop: NDArray[Any], outside: Parts, enclosed: Mask, values: list[int]) -> NDArray[np.int64]:
    """Count the voxels of each value that share a face with a hole: (N + 1, values), the holes by their numbers."""
    counts = np.zeros((len(outside) + 1, len(values)), np.int64)
    before = here = np.zeros((0, 0), np.uint32)
    labels = np.zeros((0, 0), crop.dtype)
    for after, plane in _hole_planes(crop, outside, enclosed):
        if here.size:
            _count_rim(counts, (before if before.size else 0 * here, here, after), labels, values)
        before, here, labels = here, after, plane
    _count_rim(counts, (before if before.size else 0 * here, here, 0 * here), labels, values)
    return counts


def _hole_planes(
    crop: NDArray[Any], outside: Parts, enclosed: Mask
) -> Iterator[tuple[NDArray[np.uint32], NDArray[Any]]]:
    """Go along memory plane by plane: the numbers of holes, 0 elsewhere, and the labels."""
    axes = memory_axes(crop)
    for place, numbers in outside.slabs():
        for own, labels in zip(numbers.transpose(axes), crop[place].transpose(axes), strict=True):
            yield np.where(enclosed[own] & (labels == 0), own, 0), labels


def _count_rim(
    counts: NDArray[np.int64], holes: tuple[NDArray[np.uint32], ...], labels: NDArray[Any], values: list[int]
) -> None:
    """Add what lies on the rims of holes in one plane; `holes` are those of the plane before, its own, the next."""
    before, own, after = holes
    wide = np.pad(own, 1)
    around = np.stack([before, after, wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]])
    for place, value in enumerate(values):
        # A voxel that touches a hole by several faces lies on its rim once.
        touched = np.sort(around[:, (labels == value) & around.any(axis=0)], axis=0)
        new = (touched > 0) & (np.diff(touched, axis=0, prepend=0) != 0)
        np.add.at(counts[:, place], touched[new], 1)
