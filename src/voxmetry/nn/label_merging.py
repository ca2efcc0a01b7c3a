"""Label maps of several models made one, plane by plane along memory: maps that lie in files are never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.memory import fits_memory
from voxmetry.ops.boxes import Box
from voxmetry.ops.layout import memory_axes
from voxmetry.ops.relabel import copied

Labels = NDArray[Any]


def paint(maps: Iterable[Labels], *, earlier: bool) -> Labels:
    """Paint label maps (I, J, K) over each other, into the first of them.

    Parameters
    ----------
    maps
        Of one type, and their own; they are asked for one after the other, so that two are there at once.
    earlier
        Whether a voxel that two maps claim belongs to the earlier one, not to the later.

    Examples
    --------
    >>> a, b = (np.array(values, np.uint8).reshape(3, 1, 1) for values in ([1, 1, 0], [0, 2, 2]))
    >>> paint([a.copy(), b], earlier=True).ravel().tolist(), paint([a, b], earlier=False).ravel().tolist()
    ([1, 1, 2], [1, 2, 2])
    """
    given = iter(maps)
    merged = next(given)
    for found in given:
        for own, new in _planes(merged, found):
            there = (new > 0) & (own == 0) if earlier else new > 0
            np.copyto(own, new, where=there)
    return merged


def vote(maps: Sequence[Labels]) -> Labels:
    """Return the value with most votes of each voxel, the background's included; among equals the first map's.

    Examples
    --------
    >>> maps = [np.array(values, np.uint8).reshape(3, 1, 1) for values in ([1, 1, 0], [2, 0, 0], [2, 2, 1])]
    >>> vote(maps).ravel().tolist()
    [2, 1, 0]
    """
    best = copied(maps[0], maps[0].dtype)
    for own, *planes in _planes(best, *maps):
        most = np.zeros(own.shape, np.uint8)
        for one in planes:
            votes = sum((other == one).astype(np.uint8) for other in planes)
            better = votes > most
            np.copyto(own, one, where=better)
            np.copyto(most, votes, where=better)
    return best


def kept_aside(labels: Labels, n: int) -> Labels:
    """Return a label map to keep while `n` more of its size are made: in a temporary file where memory is short."""
    if is_mapped(labels) or fits_memory(n * labels.nbytes):
        return labels
    aside = zeros_on_disk(labels.shape, labels.dtype)
    for new, old in _planes(aside, labels):
        new[...] = old
    return aside


def placed(labels: Labels, box: Box, shape: tuple[int, int, int]) -> Labels:
    """Put the labels of a box into a map of background; what fills the map is that map."""
    if labels.shape == shape:
        return labels
    whole = zeros_on_disk(shape, labels.dtype) if is_mapped(labels) else np.zeros(shape, labels.dtype, order="F")
    for new, old in _planes(whole[box], labels):
        new[...] = old
    return whole


def _planes(first: Labels, *others: Labels) -> Iterator[tuple[Labels, ...]]:
    """Yield the planes of arrays of one shape, along the first one's memory."""
    axes = memory_axes(first)
    for planes in zip(*(array.transpose(axes) for array in (first, *others)), strict=True):
        yield planes
        for array in (first, *others):
            release_pages(array)
