"""How sure a network is of each structure, counted while the scores pass by."""

from __future__ import annotations

import math

import torch

from voxmetry.config import ModelSpec
from voxmetry.nn.window import Slab

_VALUES = 8_000_000
"""Scores that are looked at at once: 32 MB of float32."""


class Confidence:
    """Expected Dice of each structure under the network's own probabilities.

    With the probability p of a structure in each voxel of the model's grid, and the mask m of the voxels where it is
    the likeliest class, the expected overlap is sum(p m) and the expected size sum(p), so that

        expected Dice = 2 sum(p m) / (sum(p) + sum(m)).

    A network that is sure everywhere has 1, right or wrong; how it goes with the true Dice is measured on cases that
    the network has not seen, see `voxmetry.quality`.

    Parameters
    ----------
    spec
        The model; one with regions, or that averages probabilities, has no such number.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._names = spec.labels.names
        self.defined = spec.regions is None and spec.activation == "none"
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._overlap = torch.zeros(len(self._names), dtype=torch.float64)
        self._sizes = torch.zeros(len(self._names), dtype=torch.float64)

    def feed(self, slab: Slab) -> None:
        """Count the slices of a slab that no earlier slab held."""
        if not self.defined:
            return
        for thin in slab.split(max(1, _VALUES // slab.sums.select(slab.axis + 1, 0).numel())):
            new = thin.stop - thin.fresh
            sums = thin.sums.narrow(thin.axis + 1, thin.fresh - thin.start, new).flatten(1).float()
            weights = thin.weights.narrow(thin.axis, thin.fresh - thin.start, new).flatten()
            # Where all windows were skipped there is nothing but background, for certain.
            seen = weights > 0
            probability = torch.softmax(sums[:, seen] / weights[seen], dim=0)
            best, chosen = probability.max(0)
            overlap = torch.zeros(len(probability), dtype=torch.float64)
            overlap.index_add_(0, chosen.cpu(), best.double().cpu())
            counts = torch.bincount(chosen.cpu(), minlength=len(probability)).double()
            self._overlap += overlap[1:]
            self._sizes += probability.sum(1, dtype=torch.float64).cpu()[1:] + counts[1:]

    def expected_dice(self) -> dict[str, float]:
        """Return the expected Dice of each structure; nan where none was found or it is not defined."""
        rows = zip(self._names, self._overlap.tolist(), self._sizes.tolist(), strict=True)
        return {name: 2 * overlap / size if self.defined and overlap > 0 else math.nan for name, overlap, size in rows}
