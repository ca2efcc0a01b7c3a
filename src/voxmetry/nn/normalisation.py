"""Intensities as network input: what is taken from a whole image is found in blocks, so that it need not be held.

Whatever the blocks are, the numbers are the same to the last bit: counts, ends and ranks are exact, and sums are of
whole numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from voxmetry.config import InputSpec, Normalise
from voxmetry.errors import InputError
from voxmetry.ops.ranks import percentiles

Block: TypeAlias = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Intensities of any shape, and the voxels that count where only those that are not zero do; None: just those."""
Values = TypeVar("Values", NDArray[Any], torch.Tensor)
Blocks: TypeAlias = Callable[[], Iterable[Block]]
"""Goes through an image anew each time that it is called."""

SUM_VALUES = 1 << 20
"""Values that are summed at once: of 32 bits each, so that their sum is exact in float64 in any order."""
_BITS = 32
_HALF = 1 << 16


@dataclass(frozen=True)
class Scaling:
    """One step of a normalisation with the numbers of an image.

    Parameters
    ----------
    how
        The step.
    low, high
        Ends that intensities are clipped to; of 'minmax' the image's own.
    mean, sd
        What is subtracted, and divided by.
    """

    how: Normalise
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    sd: float = 1.0

    def __call__(self, values: Values, mask: NDArray[np.bool_] | None = None) -> Values:
        """Apply it to intensities, float32; a tensor stays on its device, and has no mask."""
        how = self.how
        if how.method == "window":
            # Never None here: `Normalise` asks for both.
            return _float32((values.clip(how.low or 0.0, how.high or 0.0) - how.mean) / how.sd)
        if how.method == "shift":
            return _float32((values - how.mean) / how.sd)
        if how.method == "minmax":
            bottom, top = how.low or 0.0, 1.0 if how.high is None else how.high
            share = (_float64(values) - self.low) / (self.high - self.low)
            return _float32(share * (top - bottom) + bottom)
        found = _float32((_float64(values).clip(self.low, self.high) - self.mean) / self.sd)
        if how.nonzero and how.keep_zeros:
            kept = values == 0 if mask is None else ~mask
            found[kept] = values[kept]
        return found


def _float64(values: Values) -> Values:
    return values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()


def _float32(values: Values) -> Values:
    return values.astype(np.float32, copy=False) if isinstance(values, np.ndarray) else values.float()


def fit(blocks: Blocks, item: InputSpec) -> tuple[Scaling, ...]:
    """Find what a normalisation takes from an image, step by step.

    Parameters
    ----------
    blocks
        The image; together its blocks hold each voxel once.
    item
        What is done to it.

    Raises
    ------
    InputError
        If all voxels that count have the same value.
    """
    found: list[Scaling] = []
    for how in (item.normalise, *item.then):
        found.append(_fit_step(functools.partial(_scaled, blocks, tuple(found)), how, item.name))
    return tuple(found)


def is_fixed(item: InputSpec) -> bool:
    """Whether a normalisation takes nothing from the image."""
    return all(how.method in ("window", "shift") for how in (item.normalise, *item.then))


def require_contrast(low: float, high: float, name: str) -> None:
    """Raise `InputError` where the voxels of an input that count hold one value."""
    if not low < high:
        raise InputError(
            found=f"input {name!r} holds a single value in all voxels that count",
            expected="an image with contrast",
            fix="look at the image: it may be empty, masked out, or a frame that was decoded to zeros",
        )


def _scaled(blocks: Blocks, steps: tuple[Scaling, ...]) -> Iterator[Block]:
    for array, mask in blocks():
        for step in steps:
            array = step(array, mask)
        yield array, mask


def _fit_step(blocks: Blocks, how: Normalise, name: str) -> Scaling:
    if how.method in ("window", "shift"):
        return Scaling(how)
    if how.method == "minmax":
        ends = [(float(array.min()), float(array.max())) for array, _ in blocks() if array.size]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        require_contrast(low, high, name)
        return Scaling(how, low, high)
    counted = functools.partial(_counted, blocks, nonzero=how.nonzero)
    low, high = percentiles(counted, how.percentiles)
    require_contrast(low, high, name)
    mean, sd = moments(counted, low, high)
    return Scaling(how, low, high, mean, sd)


def _counted(blocks: Blocks, *, nonzero: bool) -> Iterator[NDArray[Any]]:
    for array, mask in blocks():
        yield array[array != 0 if mask is None else mask] if nonzero else array.ravel()


def moments(values: Callable[[], Iterable[NDArray[Any]]], low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of values (n,) that are clipped to [low, high].

    They are counted in steps of 2**-32 of the range, and whole numbers are summed: in any order the same. The steps
    move neither result by more than half of one.

    Examples
    --------
    >>> mean, sd = moments(lambda: iter([np.array([1.0, 2.0]), np.array([3.0, 4.0, 9.0])]), 1.0, 5.0)
    >>> round(mean, 9), round(sd, 9)
    (3.0, 1.414213562)
    """
    scale = ((1 << _BITS) - 1) / (high - low)
    count = first = second = 0
    for block in values():
        for start in range(0, len(block), SUM_VALUES):
            lot = np.clip(block[start : start + SUM_VALUES].astype(np.float64), low, high)
            steps = np.rint((lot - low) * scale)
            # Squares in halves of 16 bits: as a whole they would be longer than float64 is exact.
            upper = np.floor(steps / _HALF)
            lower = steps - upper * _HALF
            count += len(lot)
            first += int(steps.sum())
            second += (int(upper @ upper) << 32) + (int(upper @ lower) << 17) + int(lower @ lower)
    mean = first / count
    variance = (count * second - first * first) / (count * count)
    return low + mean / scale, variance**0.5 / scale
