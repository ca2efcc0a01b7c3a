"""Labelled cases: found, checked, split, prepared once, changed at random each time they are seen."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

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
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.preprocess import on_model_grid, preprocess, preprocess_labels
from voxmetry.train.dataset import Case, Channel, DataSet, naming, patient_folds, read_labelled
from voxmetry.train.partial import Labelling

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
        (1, I, J, K) uint8, the class index: 0 background, then the place in the label table. (2, I, J, K) where the
        label map leaves something open in a part of the image: the second channel is a voxel's row of `absent`.
    geometry
        The image's own grid, before it was prepared.
    volume_ml
        Volume of each structure on the label's own grid, by name; nan where it was not looked for.
    places
        (N, 2) int64, class index and flat voxel index: at most `PLACES` voxels of each structure, evenly picked.
    source
        SHA-256 of the files that it was made from; "" where nobody asked.
    absent
        (Z, 1 + structures) bool, True where a structure was not looked for; one row where that is so of the whole
        image. Empty: everything was looked for.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    volume_ml: dict[str, float]
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    source: str = ""
    absent: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool))

    @property
    def known(self) -> np.ndarray:
        """(1 + structures,) bool: what was looked for somewhere; empty where that is everything."""
        return np.asarray(~self.absent.all(axis=0)) if len(self.absent) else np.empty(0, bool)


class Batch(NamedTuple):
    """What one step sees.

    Parameters
    ----------
    image
        (B, C, *patch) float32.
    label
        (B, 1, *patch) int64, class index.
    absent
        (B, classes, *patch) bool, or (B, classes, 1, 1, 1): True where a structure was not looked for; None where all
        were looked for everywhere.
    """

    image: torch.Tensor
    label: torch.Tensor
    absent: torch.Tensor | None = None


def hold_out(data: DataSet, settings: TrainSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the cases into those trained on and those held out, by patient, by names and seed alone.

    A run of a cross-validation holds out its fold; any other the cases that the data set itself marks as held out, or
    where there are none `validation_fraction` of the patients, one at least, or none at 0.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds.
    InputError
        If there is a single patient, so that none can be held out.
    """
    if settings.fold is not None:
        held_out = set(patient_folds(data.cases, n=settings.folds, seed=settings.seed)[settings.fold])
    elif any(case.held_out for case in data.cases):
        held_out = {case.name for case in data.cases if case.held_out}
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
    data = for_model(replace(data, cases=(case,)), spec)
    found = read_labelled(data.cases[0], data)
    segmentation = found.unlabelled.hide(found.label)
    counts = np.bincount(segmentation.array.ravel(), minlength=max(spec.labels.values) + 1)
    # A network learns from cases as they lie, and its domain then says how far they were turned.
    spec = spec.model_copy(update={"training_domain": TrainingDomain()})
    with naming(case.name):
        image = preprocess(found.volumes, spec).tensor[0].numpy()
    label = preprocess_labels(segmentation, spec)[None]
    absent = found.unlabelled.table
    if len(absent) > 1:
        label = np.concatenate([label, on_model_grid(found.unlabelled.zones, segmentation.geometry, spec)[None]])
    known = found.unlabelled.known_names
    return LabelledCase(
        name=case.name,
        image=image,
        label=label,
        geometry=found.volumes[0].geometry,
        volume_ml={
            item.name: float(counts[item.value]) * segmentation.geometry.voxel_ml if item.name in known else math.nan
            for item in spec.labels
        },
        places=structure_places(label[:1]),
        absent=absent if absent.any() else np.empty((0, 0), bool),
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
    case: LabelledCase,
    patch: tuple[int, int, int],
    *,
    fraction: float,
    rng: np.random.Generator,
    structure: int | None = None,
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
    structure
        Class index of a structure of the case that the patch is centred on in any case.

    Returns
    -------
    image, label
        Patch and `margin` on both sides of each axis; beyond the image's edge its outermost voxels are repeated.
    """
    size, shape = np.array(patch), np.array(case.label.shape[1:])
    room = np.maximum(shape - size, 0)
    start = rng.integers(0, room, endpoint=True)
    present = np.flatnonzero(np.bincount(case.places[:, 0]))
    if structure is not None or (rng.random() < fraction and len(present)):
        chosen = structure if structure is not None else rng.choice(present)
        inside = case.places[case.places[:, 0] == chosen, 1]
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
        If it has another number of channels than the model has inputs, or structures that the model does not have.
    """
    if len(data.channels) != len(spec.inputs):
        raise ConfigError(
            found=f"{len(data.channels)} channels in the data set {data.name}: "
            + ", ".join(channel.name for channel in data.channels),
            expected=f"{len(spec.inputs)}, the inputs of the model: " + ", ".join(item.name for item in spec.inputs),
            fix="name one channel for each input, in the model's order, in the data set or in the configuration",
        )
    return replace(
        data,
        labels=spec.labels,
        channels=tuple(Channel(item.name, item.modality) for item in spec.inputs),
        cases=tuple(replace(case, labelling=_matched(case.labelling, data.labels, spec)) for case in data.cases),
    )


def _matched(how: Labelling, table: LabelTable | None, spec: ModelSpec) -> Labelling:
    """Match a label map's own structures to the model's: by name where one is shared, else by value."""
    own = how.labels or table
    if own is None:
        return how
    if {*own.names, *how.absent} & set(spec.labels.names):
        return replace(how, labels=own)
    if not set(own.values) <= set(spec.labels.values):
        raise ConfigError(
            found=f"a data set with the structures {', '.join(own.names)}",
            expected=f"at least one of the model's by name, or all by value: {', '.join(spec.labels.names)}",
            fix="give the structures the model's names in the data set's label table",
        )
    renamed = {label.name: spec.labels.by_value(label.value).name for label in own}
    return replace(
        how,
        known=None if how.known is None else tuple(renamed[name] for name in how.known),
        unknown_below=tuple(renamed[name] for name in how.unknown_below),
        labels=LabelTable(labels=tuple(label.model_copy(update={"name": renamed[label.name]}) for label in own)),
    )


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


def steps_of(settings: TrainSettings, n_cases: int) -> int:
    """Return the number of batches of an epoch: enough for each case once, or what the settings say."""
    return settings.steps_per_epoch or -(-n_cases // settings.batch_size)


def batches(
    cases: Sequence[LabelledCase], settings: TrainSettings, *, epoch: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Yield the batches of one epoch, in an order and with changes that follow from seed and epoch.

    Nothing else decides them, so an epoch that was interrupted comes out the same when it is run again. With a `share`
    of (r, n) only the r-th of n parts of each batch is made; the parts together are the batch that one process makes.
    Each case comes once, unless `sampling` or `steps_per_epoch` say otherwise.

    Yields
    ------
    Batch
        Of B / n samples. An incomplete last batch is filled up from the epoch's start, so that each step weighs the
        same.
    """
    together = settings.batch_size
    make = SampleMaker(cases, settings)
    order = epoch_order(len(cases), settings, epoch)
    rank, n = share
    for start in range(rank * together // n, len(order), together):
        samples = []
        for place, index in enumerate(order[start : start + together // n], start=start):
            samples.append(make(int(index), np.random.SeedSequence([settings.seed, epoch, place])))
        yield collate(samples)


def epoch_order(n_cases: int, settings: TrainSettings, epoch: int) -> np.ndarray:
    """Return the places of the cases in the order in which an epoch shows them, one for each sample of its batches."""
    total = steps_of(settings, n_cases) * settings.batch_size
    if settings.steps_per_epoch is None:
        return np.resize(np.random.default_rng([settings.seed, epoch]).permutation(n_cases), total)
    # Epochs of a fixed length go on where the one before ended, so that all cases come equally often.
    first, rounds = epoch * total, []
    for turn in range(first // n_cases, -(-(first + total) // n_cases)):
        rounds.append(np.random.default_rng([settings.seed, turn]).permutation(n_cases))
    return np.concatenate(rounds)[first % n_cases :][:total]


class SampleMaker:
    """Makes the samples of a run: cuts a patch out of a case and changes it at random.

    Parameters
    ----------
    cases
        The training cases.
    settings
        The run.
    """

    def __init__(self, cases: Sequence[LabelledCase], settings: TrainSettings) -> None:
        self.cases, self.settings = cases, settings
        patch = settings.model.window.patch
        self.most = [size + 2 * margin(size) for size in patch]
        sides = (left_right_axis(settings.model), mirrored_pairs(settings)) if settings.augment.swap_on_flip else None
        self.whole, self.region = (
            augmentation(settings.augment, patch=patch, whole=whole, sides=sides) for whole in (True, False)
        )
        self.holders = holders_of(cases) if settings.sampling == "structures" else {}

    def __call__(
        self, index: int, seeds: np.random.SeedSequence
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return image (C, *patch), label (1 or 2, *patch) and the rows of what was not looked for, or None."""
        patch, fraction = self.settings.model.window.patch, self.settings.foreground_fraction
        case, rng = self.cases[index], np.random.default_rng(seeds.spawn(1)[0])
        structure = None
        if self.holders and rng.random() < fraction:
            structure = int(rng.choice(sorted(self.holders)))
            case = self.cases[int(rng.choice(self.holders[structure]))]
        fits = not fraction and all(n <= m for n, m in zip(case.label.shape[1:], self.most, strict=True))
        around = 0.0 if self.holders else fraction
        parts = (
            (case.image, case.label) if fits else cut_out(case, patch, fraction=around, rng=rng, structure=structure)
        )
        image, label = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        change = (self.whole if fits else self.region).set_random_state(seed=int(seeds.generate_state(1)[0]))
        content: dict[Hashable, Any] = {"image": image, "label": label}
        if len(case.absent):
            content["absent"] = torch.from_numpy(case.absent)
        with without_history():
            changed = change(content)
        return changed["image"].float(), changed["label"], changed.get("absent")


def holders_of(cases: Sequence[LabelledCase]) -> dict[int, list[int]]:
    """Return for each structure's class index the places of the cases that have a voxel of it."""
    holders: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        for structure in np.unique(case.places[:, 0]).tolist():
            holders.setdefault(structure, []).append(place)
    return holders


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


def collate(samples: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]) -> Batch:
    """Bring samples together, and say voxel by voxel what was not looked for."""
    images = torch.stack([image for image, _, _ in samples])
    labels = torch.stack([label[:1].long() for _, label, _ in samples])
    classes = next((absent.shape[1] for _, _, absent in samples if absent is not None), None)
    if classes is None:
        return Batch(images, labels)
    everywhere = all(absent is None or len(absent) == 1 for _, _, absent in samples)
    shape = (1, 1, 1) if everywhere else tuple(labels.shape[2:])
    rows = []
    for _, label, absent in samples:
        if absent is None:
            rows.append(torch.zeros((classes, *shape), dtype=torch.bool))
        elif len(absent) == 1:
            rows.append(absent[0].reshape(-1, 1, 1, 1).expand(classes, *shape))
        else:
            rows.append(absent[label[1].long()].movedim(-1, 0))
    return Batch(images, labels, torch.stack(rows))


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
