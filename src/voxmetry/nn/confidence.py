"""How sure a network is of each structure, and an ensemble at one with itself, counted while the scores pass by."""

from __future__ import annotations

import itertools
import math

import torch

from voxmetry.config import ModelSpec
from voxmetry.nn.slabs import DEVICE_FACTOR, Slab, on_device
from voxmetry.nn.window_weights import blending_weights

_VALUES = 2_000_000
"""Scores that are looked at at once: 8 MB of float32, for the reasons of `uncertainty_maps.BLOCK_VALUES`."""


def wide(device: torch.device) -> torch.dtype:
    """Return the widest type that a device sums in: Apple's Metal has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Confidence:
    """Expected Dice of each structure under the network's own probabilities.

    With the probability p of a structure in each voxel of the model's grid, and the mask m of the voxels where it is
    the likeliest class, the expected overlap is sum(p m) and the expected size sum(p), so that

        expected Dice = 2 sum(p m) / (sum(p) + sum(m)).

    A network that is sure everywhere has 1, right or wrong; how it goes with the true Dice is measured on cases that
    the network has not seen, see `voxmetry.workflows.calibrate`.

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
        values = _VALUES * DEVICE_FACTOR if on_device(slab.sums) else _VALUES
        for thin in slab.split(max(1, values // slab.sums.select(slab.axis + 1, 0).numel())):
            new = thin.stop - thin.fresh
            sums = thin.sums.narrow(thin.axis + 1, thin.fresh - thin.start, new).flatten(1).float()
            weights = thin.weights.narrow(thin.axis, thin.fresh - thin.start, new).flatten()
            # Where all windows were skipped there is nothing but background, for certain.
            seen = weights > 0
            probability = torch.softmax(sums[:, seen] / weights[seen], dim=0)
            best, chosen = probability.max(0)
            # Counted where the scores are; what crosses over is one number a class.
            kind, n = wide(probability.device), len(probability)
            overlap = torch.bincount(chosen, best.to(kind), minlength=n)
            sizes = probability.sum(1, dtype=kind) + torch.bincount(chosen, minlength=n)
            self._overlap += overlap[1:].cpu().double()
            self._sizes += sizes[1:].cpu().double()

    def expected_dice(self) -> dict[str, float]:
        """Return the expected Dice of each structure; nan where none was found or it is not defined."""
        rows = zip(self._names, self._overlap.tolist(), self._sizes.tolist(), strict=True)
        return {name: 2 * overlap / size if self.defined and overlap > 0 else math.nan for name, overlap, size in rows}


class MemberAgreement:
    """How far the networks of an ensemble agree on each structure: the mean Dice of their labels over all pairs.

    With the masks a and b of two networks in one window, and the weight w of each of its voxels when windows are
    blended, the Dice of a pair is 2 sum(w a b) / (sum(w a) + sum(w b)), each sum over all windows.

    Parameters
    ----------
    spec
        The model; one with regions has no such number, nor one with a single network.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._names = spec.labels.names
        self.defined = spec.members > 1 and spec.regions is None
        self._n_members, self._n_classes = spec.members, spec.n_classes
        self._window = spec.window
        self._weights = torch.empty(0, device="meta")
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._masks: list[torch.Tensor] = []
        self._sizes = torch.zeros(self._n_members, self._n_classes, dtype=torch.float64)
        self._both = torch.zeros(self._n_members, self._n_members, self._n_classes, dtype=torch.float64)

    def watch(self, member: int, scores: torch.Tensor) -> None:
        """Count the labels of one member in a batch of windows, whose members come one after the other from the first.

        Parameters
        ----------
        member
            Its place.
        scores
            (B, n, I, J, K) scores, or a multiple of them.
        """
        labels = scores.argmax(1).flatten()
        if self._weights.device != labels.device:
            weights = blending_weights(self._window).to(wide(labels.device))
            self._weights = weights.flatten().to(labels.device)
        weights = self._weights.repeat(len(scores))
        self._sizes[member] += torch.bincount(labels, weights, minlength=self._n_classes).cpu().double()
        if member == 0:
            self._masks = []
        for earlier, other in enumerate(self._masks):
            both = torch.bincount(labels, weights * (other == labels), minlength=self._n_classes)
            self._both[earlier, member] += both.cpu().double()
        self._masks.append(labels)

    def mean_dice(self) -> dict[str, float]:
        """Return the mean Dice of each structure over all pairs; nan where it was found by none or is not defined.

        A pair that finds nothing counts in no mean; a pair of which one finds something counts as 0.
        """
        found = {}
        for value, name in enumerate(self._names, start=1):
            sizes, both = self._sizes[:, value].tolist(), self._both[..., value].tolist()
            pairs = [
                2 * both[a][b] / (sizes[a] + sizes[b])
                for a, b in itertools.combinations(range(self._n_members), 2)
                if sizes[a] + sizes[b] > 0
            ]
            found[name] = math.fsum(pairs) / len(pairs) if pairs and self.defined else math.nan
        return found
