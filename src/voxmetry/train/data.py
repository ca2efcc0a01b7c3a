"""Labelled cases: found, checked, split, prepared once, changed at random each time they are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    RandSpatialCropd,
    SpatialPadd,
)

from voxmetry.config import Augment, ModelSpec
from voxmetry.core.geometry import Geometry
from voxmetry.errors import InputError
from voxmetry.io import read_segmentation, read_volume
from voxmetry.nn.preprocess import preprocess, preprocess_labels

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Case:
    """One labelled case on disk."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """One labelled case on the model's grid.

    Parameters
    ----------
    name
        The case's name.
    image
        (C, I, J, K) float32, normalised.
    label
        (1, I, J, K) uint8, the class index: 0 background, then the place in the label table.
    geometry
        The image's own grid, before it was prepared.
    volume_ml
        Volume of each structure on the label's own grid, by name.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    volume_ml: dict[str, float]


def find_cases(folder: Path) -> tuple[Case, ...]:
    """List the cases of a folder with `images/` and `labels/`, matched by file name, sorted by it.

    Raises
    ------
    InputError
        If a folder is missing or empty, or an image has no label or the other way round; all such are named.
    """
    images, labels = (_files(folder / part) for part in ("images", "labels"))
    unmatched = sorted(set(images) ^ set(labels))
    if unmatched:
        raise InputError(
            found=f"{len(unmatched)} cases with only an image or only a label: {', '.join(unmatched[:10])}",
            expected="one file of the same name in images/ and in labels/ for each case",
            fix="add the missing files or move these cases out of the folder",
        )
    return tuple(Case(name, images[name], labels[name]) for name in sorted(images))


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        suffix = next((end for end in _SUFFIXES if path.name.endswith(end)), None)
        if suffix and not path.name.startswith("."):
            found[path.name.removesuffix(suffix)] = path
    if not found:
        raise InputError(
            found=f"no images in {folder}",
            expected=f"files that end in {', '.join(_SUFFIXES)}",
            fix="point `data` at a folder with images/ and labels/; see data/README.md",
        )
    return found


def split(names: Sequence[str], *, validation_fraction: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split case names into training and validation, the same way for the same names and seed.

    Examples
    --------
    >>> split(["a", "b", "c", "d"], validation_fraction=0.25, seed=1)
    (('b', 'c', 'd'), ('a',))
    """
    if len(names) < 2:
        raise InputError(
            found=f"{len(names)} labelled cases",
            expected="at least two, so that one can be held out",
            fix="add labelled cases",
        )
    order = np.random.default_rng(seed).permutation(len(names))
    held_out = {names[index] for index in order[: max(1, round(validation_fraction * len(names)))]}
    return tuple(n for n in sorted(names) if n not in held_out), tuple(sorted(held_out))


def load_case(case: Case, spec: ModelSpec) -> LabelledCase:
    """Read, check and prepare one case.

    Raises
    ------
    VoxmetryError
        If a file cannot be used or the two lie on different grids; the message names the case.
    """
    volume = read_volume(case.image, modality=spec.inputs[0].modality)
    segmentation = read_segmentation(case.label, labels=spec.labels)
    volume.geometry.require_same(segmentation.geometry, what=f"image and label of case {case.name}")
    counts = np.bincount(segmentation.array.ravel(), minlength=max(spec.labels.values) + 1)
    return LabelledCase(
        name=case.name,
        image=preprocess([volume], spec).tensor[0].numpy(),
        label=preprocess_labels(segmentation, spec)[None],
        geometry=volume.geometry,
        volume_ml={item.name: float(counts[item.value]) * segmentation.geometry.voxel_ml for item in spec.labels},
    )


def augmentation(augment: Augment, *, patch: tuple[int, int, int]) -> Compose:
    """Build the random changes to a prepared case; the result has the patch's size.

    Space first (flip, rotate, scale), then what a scanner would do (blur, low resolution, bias field, noise), then
    what a display would do (contrast, scale).
    """
    both, image = ["image", "label"], ["image"]
    turn = float(np.deg2rad(augment.rotate_degrees))
    steps: list[object] = [
        SpatialPadd(both, spatial_size=patch),
        *[RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in augment.flip_axes],
        RandAffined(
            both,
            prob=augment.affine_probability,
            rotate_range=(turn, turn, turn),
            scale_range=(augment.scale, augment.scale, augment.scale),
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
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


def batches(
    cases: Sequence[LabelledCase], *, change: Compose, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of one epoch, each case once, in an order and with changes that follow from seed and epoch.

    Nothing else decides them, so an epoch that was interrupted comes out the same when it is run again.

    Yields
    ------
    image, label
        (B, C, *patch) float32 and (B, 1, *patch) int64. An incomplete last batch is filled up from the epoch's start,
        so that each step weighs the same.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(cases))
    order = np.resize(order, -(-len(cases) // batch_size) * batch_size)
    for start in range(0, len(order), batch_size):
        images, labels = [], []
        for place, index in enumerate(order[start : start + batch_size], start=start):
            change.set_random_state(seed=int(np.random.SeedSequence([seed, epoch, place]).generate_state(1)[0]))
            changed = change(
                {"image": torch.from_numpy(cases[index].image), "label": torch.from_numpy(cases[index].label)}
            )
            images.append(torch.as_tensor(changed["image"]).float())
            labels.append(torch.as_tensor(changed["label"]).long())
        yield torch.stack(images), torch.stack(labels)
