"""Windows that hold one value, such as the air round a patient: run once, for the same input gives the same scores.

Clipped to a range, air of a CT is one value; so is what was masked out of an MR image. Where such a window is
background everywhere, its scores are kept and added again wherever the window is met: the sums, and with them all
labels, are those of running it each time.
"""

from __future__ import annotations

import numpy as np
import torch

from voxmetry.config import ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.volume import Volume

SPREAD = 1e-5
"""Of normalised values in a window that holds one value but for the rounding of interpolation."""

SAMPLE = 5
"""Of an image every fifth voxel along each axis is looked at to see whether it may have such windows."""


def has_constant_windows(volume: Volume, spec: ModelSpec) -> bool:
    """Say whether an image may have windows of its lowest value and nothing else, before it is prepared.

    Parameters
    ----------
    volume
        The first input, as it was read.
    spec
        The model.
    """
    moved, oriented = reorientation(volume.geometry, spec.orientation)
    sample = moved.forward(volume.array)[::SAMPLE, ::SAMPLE, ::SAMPLE]
    how = spec.inputs[0].normalise
    lowest = sample.min() if how.method != "window" or how.low is None else max(how.low, sample.min())
    full = sample <= lowest
    for axis, (patch, want, have) in enumerate(
        zip(spec.window.patch, spec.spacing_mm, oriented.spacing_mm, strict=True)
    ):
        # A box one sample smaller than the window, which lies somewhere between the samples.
        size = min(max(1, int(patch * want / (have * SAMPLE)) - 1), full.shape[axis])
        full = np.lib.stride_tricks.sliding_window_view(full, size, axis=axis).all(axis=-1)
    return bool(full.any())


class ConstantWindows:
    """Scores of the windows of one value, of the first value that is background everywhere.

    Parameters
    ----------
    n_classes
        Outputs that are classes or regions; more are maps.
    regions
        Whether they are regions: then background is where none is above 0.
    kind
        Type that the scores are kept in, the ring buffer's.
    """

    def __init__(self, n_classes: int, *, regions: bool, kind: torch.dtype) -> None:
        self._n_classes, self._regions, self._kind = n_classes, regions, kind
        self._value: tuple[float, ...] | None = None
        self._scores = torch.empty(0)
        self._foreground: set[tuple[float, ...]] = set()
        self.reused = 0
        """Windows that were not run."""

    def values(self, windows: list[torch.Tensor]) -> list[tuple[float, ...] | None]:
        """Return for each window (C, *patch) its value in each channel, rounded; None where it holds more than one."""
        if not windows:
            return []
        ends = [torch.stack(torch.aminmax(window.flatten(1), dim=1)) for window in windows]
        found: list[tuple[float, ...] | None] = []
        # One transfer for all windows of a row.
        for low, high in torch.stack(ends).cpu().tolist():
            same = all(b - a <= SPREAD * max(1.0, abs(a)) for a, b in zip(low, high, strict=True))
            found.append(tuple(round(value, 4) for value in low) if same else None)
        return found

    def known(self, value: tuple[float, ...] | None) -> torch.Tensor | None:
        """Return the scores (n_outputs, *patch) of windows of this value, where they are kept."""
        return self._scores if value is not None and value == self._value else None

    def wanted(self, value: tuple[float, ...] | None) -> bool:
        """Whether scores of this value are to be learnt."""
        return value is not None and self._value is None and value not in self._foreground

    def learn(self, value: tuple[float, ...], scores: torch.Tensor) -> None:
        """Keep the scores (n_outputs, *patch) of a window of this value, if they are background everywhere."""
        classes = scores[: self._n_classes]
        found = classes.amax(0) > 0 if self._regions else classes.argmax(0) > 0
        if bool(found.any()):
            self._foreground.add(value)
        else:
            self._value, self._scores = value, scores.to(self._kind, copy=True)
