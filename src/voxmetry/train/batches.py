"""Batches of an epoch: patches cut out of labelled cases, changed at random and brought together."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from voxmetry.config import TrainSettings
from voxmetry.train.augmentation import augmentation, left_right_axis, margin, mirrored_pairs, without_history
from voxmetry.train.labelled_cases import LabelledCase


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
    instances
        (B, 1, *patch) int64, the instance that a voxel belongs to, 0 for none; None where the model tells none apart.
    """

    image: torch.Tensor
    label: torch.Tensor
    absent: torch.Tensor | None = None
    instances: torch.Tensor | None = None


class Sample(NamedTuple):
    """One patch: image (C, *patch), label (1 or 2, *patch), and what `Batch` says of the rest."""

    image: torch.Tensor
    label: torch.Tensor
    absent: torch.Tensor | None = None
    instances: torch.Tensor | None = None


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
        Image (C, I, J, K) and label (1, I, J, K); instances, where it has them, become the label's last channel.
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
    image, label = (np.pad(np.pad(array, zeros), edges, mode="edge") for array in arrays_of(case, (i, j, k)))
    return image, label


def arrays_of(case: LabelledCase, box: tuple[slice, slice, slice] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label of a case, or of a box of it; instances become the label's last channel."""
    at = (slice(None), *(box or (slice(None),) * 3))
    image, label = case.image[at], case.label[at]
    if len(case.instances):
        label = np.concatenate([label.astype(np.int32), case.instances[at].astype(np.int32)])
    return image, label


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

    def __call__(self, index: int, seeds: np.random.SeedSequence) -> Sample:
        """Return a patch of the case, changed at random as the seeds say."""
        patch, fraction = self.settings.model.window.patch, self.settings.foreground_fraction
        case, rng = self.cases[index], np.random.default_rng(seeds.spawn(1)[0])
        structure = None
        if self.holders and rng.random() < fraction:
            structure = int(rng.choice(sorted(self.holders)))
            case = self.cases[int(rng.choice(self.holders[structure]))]
        fits = not fraction and all(n <= m for n, m in zip(case.label.shape[1:], self.most, strict=True))
        around = 0.0 if self.holders else fraction
        parts = arrays_of(case) if fits else cut_out(case, patch, fraction=around, rng=rng, structure=structure)
        image, label = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        change = (self.whole if fits else self.region).set_random_state(seed=int(seeds.generate_state(1)[0]))
        content: dict[Hashable, Any] = {"image": image, "label": label}
        if len(case.absent):
            content["absent"] = torch.from_numpy(case.absent)
        with without_history():
            changed = change(content)
        drawn, instances = changed["label"], None
        if len(case.instances):
            drawn, instances = drawn[:-1], drawn[-1:]
        return Sample(changed["image"].float(), drawn, changed.get("absent"), instances)


def holders_of(cases: Sequence[LabelledCase]) -> dict[int, list[int]]:
    """Return for each structure's class index the places of the cases that have a voxel of it."""
    holders: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        for structure in np.unique(case.places[:, 0]).tolist():
            holders.setdefault(structure, []).append(place)
    return holders


def collate(samples: Sequence[Sample]) -> Batch:
    """Bring samples together, and say voxel by voxel what was not looked for."""
    images = torch.stack([sample.image for sample in samples])
    labels = torch.stack([sample.label[:1].long() for sample in samples])
    maps = [sample.instances.long() for sample in samples if sample.instances is not None]
    instances = torch.stack(maps) if maps else None
    classes = next((sample.absent.shape[1] for sample in samples if sample.absent is not None), None)
    if classes is None:
        return Batch(images, labels, instances=instances)
    everywhere = all(sample.absent is None or len(sample.absent) == 1 for sample in samples)
    shape = (1, 1, 1) if everywhere else tuple(labels.shape[2:])
    rows = []
    for _, label, absent, _ in samples:
        if absent is None:
            rows.append(torch.zeros((classes, *shape), dtype=torch.bool))
        elif len(absent) == 1:
            rows.append(absent[0].reshape(-1, 1, 1, 1).expand(classes, *shape))
        else:
            rows.append(absent[label[1].long()].movedim(-1, 0))
    return Batch(images, labels, torch.stack(rows), instances)


T = TypeVar("T")


def ahead(feed: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """Yield what `feed` yields, in its order, made by another thread up to `depth` items before it is asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, feed, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, feed, None))
            yield item
