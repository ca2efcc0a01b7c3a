"""Random changes to image and label: flips, turns, and what a scanner or a display would do."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    RandSpatialCropd,
    SpatialPadd,
)

from voxmetry.config import Augment, ModelSpec, TrainSettings
from voxmetry.errors import ConfigError

ROOM = 0.2
"""Share of a patch's length that is cut out beside it, on both sides, before it is turned."""


def margin(length: int) -> int:
    """Return the voxels beside a patch of this length that a turn may bring into it."""
    return math.ceil(ROOM * length)


class TurnAndCrop(RandomizableTransform, MapTransform):
    """Turn and scale a region and keep its middle; where no turn is drawn, crop alone.

    Only the middle is interpolated, so the room for the turn costs next to nothing.

    Parameters
    ----------
    keys
        Image and label, (C, I, J, K).
    patch
        What is kept.
    augment
        Probability and strength of the turn.
    """

    def __init__(self, keys: Sequence[str], *, patch: tuple[int, int, int], augment: Augment) -> None:
        RandomizableTransform.__init__(self, augment.affine_probability)
        MapTransform.__init__(self, keys)
        self.turn = turn(keys, augment, probability=1.0, spatial_size=patch)
        self.crop = CenterSpatialCropd(keys, roi_size=patch)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TurnAndCrop:
        """Seed the draw, and with it that of the turn."""
        super().set_random_state(seed, state)
        self.turn.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn all keys alike, or crop them."""
        self.randomize(None)
        changed: dict[Hashable, Any] = self.turn(data) if self._do_transform else self.crop(data)
        return changed


def turn(
    keys: Sequence[str], augment: Augment, *, probability: float, spatial_size: tuple[int, int, int] | None = None
) -> RandAffined:
    """Rotate and scale image and label about the middle; `spatial_size` keeps the middle alone."""
    angle = float(np.deg2rad(augment.rotate_degrees))
    return RandAffined(
        keys,
        prob=probability,
        spatial_size=spatial_size,
        rotate_range=(angle, angle, angle),
        scale_range=(augment.scale, augment.scale, augment.scale),
        mode=("bilinear", "nearest"),
        padding_mode="border",
    )


class FlipAndSwap(RandomizableTransform, MapTransform):
    """Mirror left and right with a probability of one half; structures with a side then change it.

    Parameters
    ----------
    keys
        Image and label, (C, I, J, K); the label's first channel holds class indices.
    axis
        The axis from left to right, counted from 0.
    pairs
        Class indices of structures that are each other's mirror image.
    """

    def __init__(self, keys: Sequence[str], *, axis: int, pairs: Sequence[tuple[int, int]]) -> None:
        RandomizableTransform.__init__(self, 0.5)
        MapTransform.__init__(self, keys)
        self.axis, self.order = axis, torch.arange(256)
        for one, other in pairs:
            self.order[one], self.order[other] = other, one

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mirror all keys alike; of "absent", (Z, classes), the columns change places."""
        self.randomize(None)
        changed = dict(data)
        if not self._do_transform:
            return changed
        for key in self.keys:
            changed[key] = torch.flip(torch.as_tensor(changed[key]), (self.axis + 1,))
        label = changed["label"].clone()
        label[0] = self.order.to(label.dtype)[label[0].long()]
        changed["label"] = label
        if "absent" in changed:
            changed["absent"] = changed["absent"][:, self.order[: changed["absent"].shape[1]]]
        return changed


def mirrored_pairs(settings: TrainSettings) -> tuple[tuple[int, int], ...]:
    """Return the class indices of the structures that a flip from left to right exchanges."""
    names = settings.model.labels.names
    return tuple((1 + names.index(one), 1 + names.index(other)) for one, other in settings.augment.swap_on_flip)


def _flips(augment: Augment, keys: Sequence[str], sides: tuple[int, Sequence[tuple[int, int]]] | None) -> list[object]:
    flips: list[object] = []
    for axis in augment.flip_axes:
        if sides is not None and axis == sides[0]:
            flips.append(FlipAndSwap(keys, axis=axis, pairs=sides[1]))
        else:
            flips.append(RandFlipd(keys, prob=0.5, spatial_axis=axis))
    return flips


def augmentation(
    augment: Augment,
    *,
    patch: tuple[int, int, int],
    whole: bool,
    sides: tuple[int, Sequence[tuple[int, int]]] | None = None,
) -> Compose:
    """Build the random changes to a prepared case; the result has the patch's size.

    Space first (flip, rotate, scale), then what a scanner would do (blur, low resolution, bias field, noise), then
    what a display would do (contrast, scale). `whole` images, which are hardly larger than a patch, are turned and then
    cropped; else what goes in is what `cut_out` returns. `sides` is the axis from left to right and the class indices
    that a flip along it exchanges.
    """
    both, image = ["image", "label"], ["image"]
    place: list[object] = (
        [turn(both, augment, probability=augment.affine_probability)]
        if whole
        else [TurnAndCrop(both, patch=patch, augment=augment)]
    )
    steps: list[object] = [
        SpatialPadd(both, spatial_size=patch),
        *_flips(augment, both, sides),
        *place,
        RandSpatialCropd(both, roi_size=patch, random_size=False),
        RandGaussianSmoothd(
            image,
            prob=augment.blur_probability,
            sigma_x=augment.blur_sigma_voxels,
            sigma_y=augment.blur_sigma_voxels,
            sigma_z=augment.blur_sigma_voxels,
        ),
        # Averaging keeps the image in place; torch's "nearest", the default here, would move it by up to half a voxel.
        RandSimulateLowResolutiond(
            image,
            prob=augment.low_resolution_probability,
            downsample_mode="area",
            zoom_range=augment.low_resolution_zoom,
        ),
        RandBiasFieldd(image, prob=augment.bias_field_probability, degree=2, coeff_range=(0.0, 0.15)),
        RandGaussianNoised(image, prob=augment.noise_probability, std=augment.noise_sd),
        RandAdjustContrastd(image, prob=augment.contrast_probability, gamma=augment.contrast_gamma),
        RandScaleIntensityd(image, prob=augment.scale_intensity_probability, factors=augment.scale_intensity),
    ]
    return Compose(steps)


def left_right_axis(spec: ModelSpec) -> int:
    """Return the axis of the model's grid that runs from left to right.

    Raises
    ------
    ConfigError
        If the model takes axes as they are stored, so that none is known to.
    """
    found = [axis for axis, code in enumerate(spec.orientation) if code in "RL"]
    if not found:
        raise ConfigError(
            found=f"augment.swap_on_flip with the orientation {spec.orientation}",
            expected="an orientation that names the patient's axes, such as RAS",
            fix="name them, or remove swap_on_flip",
        )
    return found[0]


@contextlib.contextmanager
def without_history() -> Iterator[None]:
    """Let MONAI's transforms work on plain tensors: keeping each one's history took as long as the changes."""
    kept = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(kept)
