"""What chance decides for one sample of a batch: numbers alone, which `augmentation` makes into images.

They are drawn on the host, from the sample's own seed, so that a sample is the same in whatever batch, process or run,
and on whatever device, it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from voxmetry.config import Augment

BIAS_DEGREE, BIAS_STRENGTH = 2, 0.15
"""Degree of the polynomials of a bias field, and the largest coefficient of one."""
ELASTIC_STEP = 16
"""Voxels between the nodes of an elastic deformation, whose splines are linear."""


@dataclass(frozen=True, eq=False)
class Change:
    """The random changes to one sample; None: not this one.

    Parameters
    ----------
    start
        First voxel of the patch in its region, when that has been mirrored.
    flips
        Axes along which the region is mirrored.
    linear
        (3, 3) turn and scale about the region's middle: where a voxel of the patch lies in the region.
    elastic
        (3, a, b, c) shift in voxels at nodes that span the patch.
    blur
        Standard deviation in voxels along each axis.
    zoom
        Share of the patch's length that a low resolution keeps.
    bias
        (3, 3, 3) coefficients of the Legendre polynomials whose sum is the field's logarithm.
    noise_sd
        Standard deviation of white noise.
    gamma
        Exponent of the contrast.
    factor
        What all values are multiplied by.
    seed
        Of the noise.
    """

    start: tuple[int, int, int]
    flips: tuple[bool, bool, bool] = (False, False, False)
    linear: np.ndarray | None = None
    elastic: np.ndarray | None = None
    blur: tuple[float, float, float] | None = None
    zoom: float | None = None
    bias: np.ndarray | None = None
    noise_sd: float | None = None
    gamma: float | None = None
    factor: float | None = None
    seed: int = 0

    @property
    def moves(self) -> bool:
        """Whether voxels are interpolated, not only mirrored and cut."""
        return self.linear is not None or self.elastic is not None


def draw_change(
    augment: Augment,
    rng: np.random.Generator,
    *,
    patch: tuple[int, int, int],
    region: tuple[int, ...],
    anywhere: bool,
) -> Change:
    """Draw the changes to one sample.

    Parameters
    ----------
    augment
        Probabilities and strengths.
    rng
        Decides, and nothing else does.
    patch, region
        Voxels of the patch and of the region that it is taken out of.
    anywhere
        The patch lies anywhere in the region; else in its middle.
    """

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    room = [length - size for length, size in zip(region, patch, strict=True)]
    i, j, k = rng.integers(0, room, endpoint=True).tolist() if anywhere else [n // 2 for n in room]
    mirrored = [axis in augment.flip_axes and happens(0.5) for axis in range(3)]
    # In the order of the arguments, which Python keeps.
    return Change(
        start=(i, j, k),
        flips=(mirrored[0], mirrored[1], mirrored[2]),
        linear=_turn(augment, rng) if happens(augment.affine_probability) else None,
        elastic=_shifts(augment, rng, patch) if happens(augment.elastic_probability) else None,
        blur=_three(rng, augment.blur_sigma_voxels) if happens(augment.blur_probability) else None,
        zoom=_one(rng, augment.low_resolution_zoom) if happens(augment.low_resolution_probability) else None,
        bias=_bias(rng) if happens(augment.bias_field_probability) else None,
        noise_sd=_one(rng, (0.0, augment.noise_sd)) if happens(augment.noise_probability) else None,
        gamma=_one(rng, augment.contrast_gamma) if happens(augment.contrast_probability) else None,
        factor=1 + _one(rng, (-augment.scale_intensity, augment.scale_intensity))
        if happens(augment.scale_intensity_probability)
        else None,
        seed=int(rng.integers(2**63)),
    )


def _one(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return float(rng.uniform(*ends))


def _three(rng: np.random.Generator, ends: tuple[float, float]) -> tuple[float, float, float]:
    a, b, c = rng.uniform(*ends, 3).tolist()
    return (a, b, c)


def _turn(augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return turns about each axis, one after the other, of a scaled patch."""
    turned = np.eye(3)
    for axis, angle in enumerate(rng.uniform(-1, 1, 3) * math.radians(augment.rotate_degrees)):
        one, (a, b) = np.eye(3), [n for n in range(3) if n != axis]
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        turned = turned @ one
    found: np.ndarray = turned @ np.diag(1 + rng.uniform(-augment.scale, augment.scale, 3))
    return found


def _shifts(augment: Augment, rng: np.random.Generator, patch: tuple[int, int, int]) -> np.ndarray:
    nodes = [1 + max(1, round(length / ELASTIC_STEP)) for length in patch]
    found: np.ndarray = _one(rng, augment.elastic_voxels) * rng.standard_normal((3, *nodes))
    return found


def _bias(rng: np.random.Generator) -> np.ndarray:
    """Return one coefficient for each product of polynomials up to the degree, the constant among them."""
    degrees = np.indices([BIAS_DEGREE + 1] * 3).sum(0)
    drawn = rng.uniform(0, BIAS_STRENGTH, degrees.shape)
    found: np.ndarray = np.where(degrees <= BIAS_DEGREE, drawn, 0.0)
    return found
