"""What a network says of a window, weighed by how likely each voxel's intensity is in each structure.

Each structure's intensities are taken to be normally distributed, with the mean and the spread that they have in this
window where the network sees the structure: one step of expectation and maximisation, with the network in the place of
an atlas (Van Leemput 1999, doi 10.1109/42.811270; Ashburner and Friston 2005, doi 10.1016/j.neuroimage.2005.02.018).
Nothing is known of intensities beforehand, so it holds for any contrast; where two structures look alike it changes
nothing between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

LEAST_SD = 0.15
"""Of a structure's normalised intensities: below it partial volume and noise would count as evidence."""
MOST_EVIDENCE = 8.0
"""What an intensity may take from a structure at most, as a logarithm: no voxel decides by itself."""

VOXELS_A_PART = 8_192
"""That are weighed at once on a CPU."""


class IntensityModel(nn.Module):
    """A network whose scores are joined with the likelihood of each voxel's intensity.

    The probability that a voxel is of any structure at all stays the network's own: the background is too mixed to
    have one distribution.

    Parameters
    ----------
    network
        Takes (B, C, I, J, K), C at least `n_images`, and returns logits (B, n_classes, I, J, K), or several for deep
        supervision, of which the finest is changed.
    n_images
        Channels that are images, the first ones; they are taken to be independent within a structure.
    n_classes
        With the background, which is the first.
    alike
        Pairs of class indices with the same distribution, such as a structure's two sides.
    """

    twin: torch.Tensor
    """(structures,) the place of each one's twin, or its own."""

    def __init__(
        self, network: nn.Module, *, n_images: int, n_classes: int, alike: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__()
        self.network, self.n_images = network, n_images
        self.strength = nn.Parameter(torch.ones(n_classes - 1))
        twin = torch.arange(n_classes - 1)
        for one, other in alike:
            twin[one - 1], twin[other - 1] = other - 1, one - 1
        self.register_buffer("twin", twin, persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        """Return what the network returns for (B, C, I, J, K), its finest logits weighed."""
        found = self.network(x)
        if isinstance(found, tuple):
            return (self._weighed(x, found[0]), *found[1:])
        if found.ndim == 6:
            return torch.cat([self._weighed(x, found[:, 0])[:, None], found[:, 1:].float()], dim=1)
        return self._weighed(x, found)

    def of_structures(self, places: Sequence[int]) -> IntensityModel:
        """Return it around the same network, whose outputs are now those at `places`, the background's 0 first.

        A structure whose twin is not among them has a distribution of its own.
        """
        twins = {place: int(self.twin[place - 1]) + 1 for place in places[1:]}
        alike = [(places.index(one), places.index(other)) for one, other in twins.items() if one < other in places]
        made = IntensityModel(self.network, n_images=self.n_images, n_classes=len(places), alike=alike)
        made.strength = nn.Parameter(self.strength.detach()[[place - 1 for place in places[1:]]])
        return made

    def _weighed(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        # Sums over a window in float32; a device without shorter types, which only counts, has no casts to turn off.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            scores, images = logits.float().flatten(2), x[:, : self.n_images].float().flatten(2)
            # On a CPU parts of a window, which stay in its cache, take a third of the time. A graph has one part.
            is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
            parts = [(scores, images)]
            if kind in ("cpu", "meta") and not is_traced and not torch.is_grad_enabled():
                n_parts = -(-scores.shape[2] // VOXELS_A_PART)
                parts = list(zip(scores.chunk(n_parts, 2), images.chunk(n_parts, 2), strict=True))
            sums = torch.stack([_sums(score.detach(), image) for score, image in parts]).sum(0)
            volume = self._of_both(sums[:, :, 0]) + 1e-3
            means = self._of_both(sums[:, :, 1::2]) / volume[:, :, None]
            squares = self._of_both(sums[:, :, 2::2]) / volume[:, :, None]
            variances = (squares - means.square()).clamp_min(LEAST_SD**2)
            strength = self._of_both(self.strength[None]) / 2
            made = [_joined(score, image, means, variances, strength) for score, image in parts]
            return (made[0] if len(made) == 1 else torch.cat(made, dim=2)).view(logits.shape)

    def _of_both(self, each: torch.Tensor) -> torch.Tensor:
        """Return (B, structures, ...) values of each structure and its twin together."""
        return each + each[:, self.twin]


def _sums(scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return (B, structures, 1 + 2 images): of each structure its volume, and the sums of intensity and square."""
    shares = scores.softmax(1)[:, 1:]
    ones = torch.ones_like(images[:, :1])
    terms = [ones] + [term for image in images.split(1, dim=1) for term in (image, image.square())]
    return torch.bmm(shares, torch.cat(terms, dim=1).transpose(1, 2))


def _joined(
    scores: torch.Tensor, images: torch.Tensor, means: torch.Tensor, variances: torch.Tensor, strength: torch.Tensor
) -> torch.Tensor:
    """Return logits (B, n_classes, N) of scores (B, n_classes, N) and images (B, C, N) in which the structures compete.

    Means and variances are (B, structures, C), strength is (1, structures).
    """
    before = scores[:, 1:]
    after = before - (0.5 * strength * variances.log().sum(2))[:, :, None]
    for channel, image in enumerate(images.split(1, dim=1)):
        scale = (2 * variances[:, :, channel, None]).rsqrt()
        apart = torch.addcmul(-means[:, :, channel, None] * scale, image, scale).square().clamp_max(MOST_EVIDENCE)
        after = torch.addcmul(after, strength[:, :, None], apart, value=-1)
    shift = before.logsumexp(1, keepdim=True) - after.logsumexp(1, keepdim=True)
    return torch.cat([scores[:, :1], after + shift], dim=1)
