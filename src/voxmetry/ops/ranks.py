"""Percentiles of values that are not held all at once: by counting, so that they are those of all of them, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Blocks: TypeAlias = Callable[[], Iterable[NDArray[Any]]]
"""Goes through all values anew each time that it is called, in blocks (n,) of one type."""

_BITS = 16
_BINS = 1 << _BITS


def percentiles(values: Blocks, wanted: Sequence[float]) -> tuple[float, ...]:
    """Return percentiles of the values of some blocks, as numpy's of all of them; 0 of none.

    Examples
    --------
    >>> blocks = lambda: iter([np.arange(5, dtype="f4"), np.arange(5, 10, dtype="f4")])
    >>> percentiles(blocks, (0, 50))
    (0.0, 4.5)
    """
    several = iter(values())
    first = next(several, np.zeros(0))
    second = next(several, None)
    if second is None:
        return tuple(float(x) for x in np.percentile(first, wanted)) if first.size else (0.0,) * len(wanted)
    count = sum(map(len, values()))
    if not count:
        return (0.0,) * len(wanted)
    # numpy's own formula: between which two of the values in their order, and how far from the first.
    places = [(count - 1) * (share / 100) for share in wanted]
    below = [int(place) for place in places]
    known = ranked(values, sorted({rank for place in below for rank in (place, min(place + 1, count - 1))}))
    found = []
    for place, at in zip(places, below, strict=True):
        pair = np.array([known[at], known[min(at + 1, count - 1)]], first.dtype)
        found.append(float(np.quantile(pair, [place - at])[0]))
    return tuple(found)


def ranked(values: Blocks, ranks: Sequence[int]) -> dict[int, Any]:
    """Return the values at some ranks, from 0 in rising order, by counting 16 bits after the other, the upper first.

    Examples
    --------
    >>> found = ranked(lambda: [np.array([5, -3, 9], np.int16), np.array([0], np.int16)], [0, 2])
    >>> {rank: int(value) for rank, value in found.items()}
    {0: -3, 2: 5}
    """
    dtype = next(iter(values())).dtype
    # Of each rank the bits that are known, and which of the values with these bits it is.
    known = {rank: (0, rank) for rank in ranks}
    for shift in range(max(_BITS, 8 * dtype.itemsize) - _BITS, -1, -_BITS):
        counts = {bits: np.zeros(_BINS, np.int64) for bits in {bits for bits, _ in known.values()}}
        for block in values():
            codes = _ordered(block)
            rest = codes >> np.uint64(shift)
            for bits, own in counts.items():
                here = rest[rest >> np.uint64(_BITS) == bits]
                own += np.bincount((here & np.uint64(_BINS - 1)).astype(np.intp), minlength=_BINS)
        for rank, (bits, within) in known.items():
            ends = np.cumsum(counts[bits])
            low = int(np.searchsorted(ends, within, side="right"))
            known[rank] = (bits << _BITS | low, within - int(ends[low] - counts[bits][low]))
    return {rank: _value(bits, dtype) for rank, (bits, _) in known.items()}


def _ordered(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return whole numbers from 0 in the order of the values: floats have their sign bit turned, below 0 all bits."""
    size = values.dtype.itemsize
    codes = np.ascontiguousarray(values).view(f"u{size}")
    sign = codes.dtype.type(1 << (8 * size - 1))
    if values.dtype.kind == "i":
        codes = codes ^ sign
    elif values.dtype.kind == "f":
        codes = np.where(codes & sign, ~codes, codes | sign)
    return codes.astype(np.uint64)


def _value(code: int, dtype: np.dtype[Any]) -> Any:
    size = dtype.itemsize
    sign, every = 1 << (8 * size - 1), (1 << 8 * size) - 1
    if dtype.kind == "i":
        code ^= sign
    elif dtype.kind == "f":
        code = code ^ sign if code & sign else ~code & every
    return np.array([code], f"u{size}").view(dtype)[0]
