"""Labelled cases: found, checked, split, prepared once, changed at random each time they are seen."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.transforms import (
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
from voxmetry.core.geometry import Geometry
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.preprocess import preprocess, preprocess_labels
from voxmetry.train.dataset import Case, Channel, DataSet, naming, patient_folds, read_case


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


def hold_out(data: DataSet, settings: TrainSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the cases into those trained on and those held out, by patient, by names and seed alone.

    A run of a cross-validation holds out its fold; any other holds out `validation_fraction` of the patients, one at
    least, or none at 0.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds.
    InputError
        If there is a single patient, so that none can be held out.
    """
    if settings.fold is not None:
        held_out = set(patient_folds(data.cases, n=settings.folds, seed=settings.seed)[settings.fold])
    elif settings.validation_fraction == 0:
        held_out = set()
    else:
        patients = sorted(set(data.patients.values()))
        if len(patients) < 2:
            raise InputError(
                found=f"{len(data.cases)} labelled cases of {len(patients)} patients",
                expected="at least two patients, so that one can be held out",
                fix="add labelled cases, or set validation_fraction to 0 and evaluate on other data",
            )
        order = np.random.default_rng(settings.seed).permutation(len(patients))
        chosen = {patients[i] for i in order[: max(1, round(settings.validation_fraction * len(patients)))]}
        held_out = {name for name, patient in data.patients.items() if patient in chosen}
    names = sorted(data.patients)
    return tuple(n for n in names if n not in held_out), tuple(n for n in names if n in held_out)


def load_case(case: Case, data: DataSet, spec: ModelSpec) -> LabelledCase:
    """Read, check and prepare one case.

    Raises
    ------
    VoxmetryError
        If a file cannot be used, or image and label lie on different grids; the message names the case.
    """
    volumes, segmentation = read_case(case, for_model(data, spec))
    counts = np.bincount(segmentation.array.ravel(), minlength=max(spec.labels.values) + 1)
    with naming(case.name):
        image = preprocess(volumes, spec).tensor[0].numpy()
    return LabelledCase(
        name=case.name,
        image=image,
        label=preprocess_labels(segmentation, spec)[None],
        geometry=volumes[0].geometry,
        volume_ml={item.name: float(counts[item.value]) * segmentation.geometry.voxel_ml for item in spec.labels},
    )


def for_model(data: DataSet, spec: ModelSpec) -> DataSet:
    """Return the data set with the model's label table and modalities.

    Raises
    ------
    ConfigError
        If it has another number of channels than the model has inputs.
    """
    if len(data.channels) != len(spec.inputs):
        raise ConfigError(
            found=f"{len(data.channels)} channels in the data set {data.name}: "
            + ", ".join(channel.name for channel in data.channels),
            expected=f"{len(spec.inputs)}, the inputs of the model: " + ", ".join(item.name for item in spec.inputs),
            fix="name one channel for each input, in the model's order, in the data set or in the configuration",
        )
    return replace(data, labels=spec.labels, channels=tuple(Channel(item.name, item.modality) for item in spec.inputs))


class CropRoundStructure(RandomizableTransform, MapTransform):
    """Crop a patch: with a given probability round a voxel of a structure, otherwise anywhere.

    Each structure that the case has is chosen as often as the others, however few its voxels are. A case without any
    is cropped anywhere.

    Parameters
    ----------
    keys
        Image and label, (C, I, J, K); the last one holds the class index.
    size
        Of the patch; along an axis that is shorter the whole axis is kept.
    fraction
        Probability.
    """

    def __init__(self, keys: Sequence[str], *, size: tuple[int, int, int], fraction: float) -> None:
        RandomizableTransform.__init__(self, fraction)
        MapTransform.__init__(self, keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop all keys alike."""
        self.randomize(None)
        label = np.asarray(data[self.keys[-1]])[0]
        room = np.maximum(np.array(label.shape) - self.size, 0)
        start = np.array([self.R.randint(0, gap + 1) for gap in room])
        present = [index for index in np.unique(label) if index > 0] if self._do_transform else []
        if present:
            inside = np.flatnonzero(label == present[self.R.randint(len(present))])
            voxel = np.array(np.unravel_index(inside[self.R.randint(len(inside))], label.shape))
            start = np.clip(voxel - np.array(self.size) // 2, 0, room)
        i, j, k = (slice(int(low), int(low) + size) for low, size in zip(start, self.size, strict=True))
        return {**data, **{key: data[key][:, i, j, k] for key in self.keys}}


def augmentation(augment: Augment, *, patch: tuple[int, int, int], foreground_fraction: float = 0.0) -> Compose:
    """Build the random changes to a prepared case; the result has the patch's size.

    Space first (flip, rotate, scale), then what a scanner would do (blur, low resolution, bias field, noise), then
    what a display would do (contrast, scale). With a `foreground_fraction` patches are placed by `CropRoundStructure`,
    first with room for the turn, so that a large image is not turned as a whole.
    """
    both, image = ["image", "label"], ["image"]
    turn = float(np.deg2rad(augment.rotate_degrees))
    roomy = (math.ceil(1.4 * patch[0]), math.ceil(1.4 * patch[1]), math.ceil(1.4 * patch[2]))
    near, crop = (
        (
            [CropRoundStructure(both, size=roomy, fraction=foreground_fraction)],
            CropRoundStructure(both, size=patch, fraction=foreground_fraction),
        )
        if foreground_fraction
        else ([], RandSpatialCropd(both, roi_size=patch, random_size=False))
    )
    steps: list[object] = [
        *near,
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
        crop,
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
    cases: Sequence[LabelledCase],
    *,
    change: Compose,
    batch_size: int,
    seed: int,
    epoch: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of one epoch, each case once, in an order and with changes that follow from seed and epoch.

    Nothing else decides them, so an epoch that was interrupted comes out the same when it is run again. With a `share`
    of (r, n) only the r-th of n parts of each batch is made; the parts together are the batch that one process makes.

    Yields
    ------
    image, label
        (B / n, C, *patch) float32 and (B / n, 1, *patch) int64. An incomplete last batch is filled up from the epoch's
        start, so that each step weighs the same.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(cases))
    order = np.resize(order, -(-len(cases) // batch_size) * batch_size)
    rank, n = share
    part = batch_size // n
    for start in range(rank * part, len(order), batch_size):
        images, labels = [], []
        for place, index in enumerate(order[start : start + part], start=start):
            change.set_random_state(seed=int(np.random.SeedSequence([seed, epoch, place]).generate_state(1)[0]))
            changed = change(
                {"image": torch.from_numpy(cases[index].image), "label": torch.from_numpy(cases[index].label)}
            )
            images.append(torch.as_tensor(changed["image"]).float())
            labels.append(torch.as_tensor(changed["label"]).long())
        yield torch.stack(images), torch.stack(labels)
