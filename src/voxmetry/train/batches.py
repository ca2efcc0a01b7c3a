"""Labelled cases: found, checked, split, prepared once, changed at random each time they are seen."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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

from voxmetry.config import Augment, ModelSpec, TrainingDomain, TrainSettings
from voxmetry.core.geometry import Geometry
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.preprocess import preprocess, preprocess_labels
from voxmetry.train.dataset import Case, Channel, DataSet, naming, patient_folds, read_case

PLACES = 10_000
"""Voxels of each structure of a case that patches may be centred on."""
ROOM = 0.2
"""Share of a patch's length that is cut out beside it, on both sides, before it is turned."""


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
    places
        (N, 2) int64, class index and flat voxel index: at most `PLACES` voxels of each structure, evenly picked.
    source
        SHA-256 of the files that it was made from; "" where nobody asked.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    volume_ml: dict[str, float]
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    source: str = ""


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


def all_folds(data: DataSet, settings: TrainSettings) -> tuple[tuple[str, ...], ...]:
    """Return what each fold of a cross-validation holds out, or what a single run does."""
    if settings.fold is None:
        return (hold_out(data, settings)[1],)
    return patient_folds(data.cases, n=settings.folds, seed=settings.seed)


def load_case(case: Case, data: DataSet, spec: ModelSpec) -> LabelledCase:
    """Read, check and prepare one case.

    Raises
    ------
    VoxmetryError
        If a file cannot be used, or image and label lie on different grids; the message names the case.
    """
    volumes, segmentation = read_case(case, for_model(data, spec))
    counts = np.bincount(segmentation.array.ravel(), minlength=max(spec.labels.values) + 1)
    # A network learns from cases as they lie, and its domain then says how far they were turned.
    spec = spec.model_copy(update={"training_domain": TrainingDomain()})
    with naming(case.name):
        image = preprocess(volumes, spec).tensor[0].numpy()
    label = preprocess_labels(segmentation, spec)[None]
    return LabelledCase(
        name=case.name,
        image=image,
        label=label,
        geometry=volumes[0].geometry,
        volume_ml={item.name: float(counts[item.value]) * segmentation.geometry.voxel_ml for item in spec.labels},
        places=structure_places(label),
    )


def structure_places(label: np.ndarray) -> np.ndarray:
    """Pick voxels of each structure of a label (1, I, J, K): (N, 2) class index and flat index, at most `PLACES` each.

    Examples
    --------
    >>> structure_places(np.array([0, 2, 2, 1], np.uint8).reshape(1, 2, 2, 1)).tolist()
    [[1, 3], [2, 1], [2, 2]]
    """
    inside = np.flatnonzero(label)
    values = label.ravel()[inside]
    found = [np.empty((0, 2), np.int64)]
    for index in np.flatnonzero(np.bincount(values)):
        all_of_it = inside[values == index]
        picked = all_of_it[:: max(1, -(-len(all_of_it) // PLACES))]
        found.append(np.stack([np.full_like(picked, index), picked], axis=1))
    return np.concatenate(found)


def cut_out(
    case: LabelledCase, patch: tuple[int, int, int], *, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a patch out of a case with room for a turn round it.

    With a given probability the patch is centred on a voxel of a structure, as far as it stays inside the image;
    otherwise it lies anywhere. Each structure that the case has is chosen as often as the others, however few its
    voxels are; a case without any is cut anywhere. Only what is cut is read where the arrays are mapped into memory.

    Parameters
    ----------
    case
        Image (C, I, J, K) and label (1, I, J, K).
    patch
        Voxels along each axis; along an axis that is shorter the image lies in its middle, between zeros.
    fraction
        Probability.
    rng
        Decides, and nothing else does.

    Returns
    -------
    image, label
        Patch and `margin` on both sides of each axis; beyond the image's edge its outermost voxels are repeated.
    """
    size, shape = np.array(patch), np.array(case.label.shape[1:])
    room = np.maximum(shape - size, 0)
    start = rng.integers(0, room, endpoint=True)
    present = np.flatnonzero(np.bincount(case.places[:, 0]))
    if rng.random() < fraction and len(present):
        inside = case.places[case.places[:, 0] == rng.choice(present), 1]
        voxel = np.array(np.unravel_index(int(rng.choice(inside)), tuple(shape)))
        start = np.clip(voxel - size // 2, 0, room)
    around = np.array([margin(length) for length in patch])
    low, high = np.maximum(start - around, 0), np.minimum(start + size + around, shape)
    short = np.maximum(size - shape, 0)
    zeros = [(0, 0), *((int(n) // 2, int(n) - int(n) // 2) for n in short)]
    before, after = around - (start - low), around - (high - start - np.minimum(size, shape))
    edges = [(0, 0), *zip(before.tolist(), after.tolist(), strict=True)]
    i, j, k = (slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
    image, label = (np.pad(np.pad(array[:, i, j, k], zeros), edges, mode="edge") for array in (case.image, case.label))
    return image, label


def margin(length: int) -> int:
    """Return the voxels beside a patch of this length that a turn may bring into it."""
    return math.ceil(ROOM * length)


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


def augmentation(augment: Augment, *, patch: tuple[int, int, int], whole: bool) -> Compose:
    """Build the random changes to a prepared case; the result has the patch's size.

    Space first (flip, rotate, scale), then what a scanner would do (blur, low resolution, bias field, noise), then
    what a display would do (contrast, scale). `whole` images, which are hardly larger than a patch, are turned and then
    cropped; else what goes in is what `cut_out` returns.
    """
    both, image = ["image", "label"], ["image"]
    place: list[object] = (
        [turn(both, augment, probability=augment.affine_probability)]
        if whole
        else [TurnAndCrop(both, patch=patch, augment=augment)]
    )
    steps: list[object] = [
        SpatialPadd(both, spatial_size=patch),
        *[RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in augment.flip_axes],
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


def batches(
    cases: Sequence[LabelledCase], settings: TrainSettings, *, epoch: int, share: tuple[int, int] = (0, 1)
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
    patch, fraction, together = settings.model.window.patch, settings.foreground_fraction, settings.batch_size
    most = [size + 2 * margin(size) for size in patch]
    whole, region = (augmentation(settings.augment, patch=patch, whole=whole) for whole in (True, False))
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(cases))
    order = np.resize(order, -(-len(cases) // together) * together)
    rank, n = share
    for start in range(rank * together // n, len(order), together):
        images, labels = [], []
        for place, index in enumerate(order[start : start + together // n], start=start):
            seeds = np.random.SeedSequence([settings.seed, epoch, place])
            case, rng = cases[index], np.random.default_rng(seeds.spawn(1)[0])
            fits = not fraction and all(n <= m for n, m in zip(case.label.shape[1:], most, strict=True))
            parts = (case.image, case.label) if fits else cut_out(case, patch, fraction=fraction, rng=rng)
            image, label = (torch.from_numpy(part) for part in parts)
            change = (whole if fits else region).set_random_state(seed=int(seeds.generate_state(1)[0]))
            with without_history():
                changed = change({"image": image, "label": label})
            images.append(changed["image"].float())
            labels.append(changed["label"].long())
        yield torch.stack(images), torch.stack(labels)


@contextlib.contextmanager
def without_history() -> Iterator[None]:
    """Let MONAI's transforms work on plain tensors: keeping each one's history took as long as the changes."""
    kept = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(kept)


T = TypeVar("T")


def ahead(feed: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """Yield what `feed` yields, in its order, made by another thread up to `depth` items before it is asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, feed, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, feed, None))
            yield item
