"""Batches of an epoch: patches cut out of labelled cases, changed at random and brought together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from voxmetry.config import TrainSettings
from voxmetry.train.augmentation import Region, augment, margin, mirrored_classes
from voxmetry.train.draws import draw_change
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
    cases: Sequence[LabelledCase],
    settings: TrainSettings,
    *,
    epoch: int,
    share: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield the batches of one epoch, in an order and with changes that follow from seed and epoch.

    Nothing else decides them, so an epoch that was interrupted comes out the same when it is run again. With a `share`
    of (r, n) only the r-th of n parts of each batch is made; the parts together are the batch that one process makes.
    Each case comes once, unless `sampling` or `steps_per_epoch` say otherwise. The changes are made
    on `device`, whose noise has numbers of its own.

    Yields
    ------
    Batch
        Of B / n samples. An incomplete last batch is filled up from the epoch's start, so that each step weighs the
        same.
    """
    together = settings.batch_size
    make = RegionMaker(cases, settings)
    order = epoch_order(len(cases), settings, epoch)
    rank, n = share
    for start in range(rank * together // n, len(order), together):
        regions = []
        for place, index in enumerate(order[start : start + together // n], start=start):
            regions.append(make(int(index), np.random.SeedSequence([settings.seed, epoch, place])))
        yield make_batch(regions, settings, device=device)


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


class RegionMaker:
    """Cuts regions out of the cases of a run, and draws what is done to each.

    Parameters
    ----------
    cases
        The training cases.
    settings
        The run.
    """

    def __init__(self, cases: Sequence[LabelledCase], settings: TrainSettings) -> None:
        self.cases, self.settings = cases, settings
        self.most = [size + 2 * margin(size) for size in settings.model.window.patch]
        self.holders = holders_of(cases) if settings.sampling == "structures" else {}

    def __call__(self, index: int, seeds: np.random.SeedSequence) -> Region:
        """Return a region of the case, and the changes, as the seeds say.

        An image that is hardly larger than a patch is turned as a whole, and the patch lies anywhere in it.
        """
        patch, fraction = self.settings.model.window.patch, self.settings.foreground_fraction
        where, what = seeds.spawn(2)
        case, rng = self.cases[index], np.random.default_rng(where)
        structure = None
        if self.holders and rng.random() < fraction:
            structure = int(rng.choice(sorted(self.holders)))
            case = self.cases[int(rng.choice(self.holders[structure]))]
        whole = not fraction and all(n <= m for n, m in zip(case.label.shape[1:], self.most, strict=True))
        around = 0.0 if self.holders else fraction
        image, label = (
            (_at_least(array, patch) for array in arrays_of(case))
            if whole
            else cut_out(case, patch, fraction=around, rng=rng, structure=structure)
        )
        change = draw_change(
            self.settings.augment,
            np.random.default_rng(what),
            patch=patch,
            region=label.shape[1:],
            anywhere=whole,
        )
        absent = torch.from_numpy(case.absent) if len(case.absent) else None
        return Region(image, label, change, absent, tells_apart=len(case.instances) > 0)


def _at_least(array: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Put zeros round an array (C, I, J, K) that is shorter than a patch."""
    short = [max(0, size - n) for size, n in zip(patch, array.shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *((n // 2, n - n // 2) for n in short)]) if any(short) else array


def holders_of(cases: Sequence[LabelledCase]) -> dict[int, list[int]]:
    """Return for each structure's class index the places of the cases that have a voxel of it."""
    holders: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        for structure in np.unique(case.places[:, 0]).tolist():
            holders.setdefault(structure, []).append(place)
    return holders


def make_batch(regions: Sequence[Region], settings: TrainSettings, *, device: torch.device | str = "cpu") -> Batch:
    """Change regions, exchange the sides of what was mirrored, and say voxel by voxel what was not looked for."""
    tells_apart = any(region.tells_apart for region in regions)
    channels = max(len(region.label) for region in regions)
    same = [region.with_channels(channels) for region in regions]
    images, labels = augment(same, settings.model.window.patch, device=device)
    classes, absent = labels[:, :1], [region.absent for region in regions]
    sides = mirrored_classes(settings)
    for row, region in enumerate(regions if sides is not None else ()):
        axis, order = sides or (0, torch.empty(0))
        if region.change.flips[axis]:
            classes[row] = order.to(classes.device)[classes[row]]
            table = absent[row]
            absent[row] = table if table is None else table[:, order[: table.shape[1]]]
    return Batch(images, classes, not_looked_for(labels, absent), labels[:, -1:] if tells_apart else None)


def not_looked_for(labels: torch.Tensor, absent: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Return (B, classes, *patch) or (B, classes, 1, 1, 1) bool from each sample's table of zones; see `Batch`."""
    n_classes = next((table.shape[1] for table in absent if table is not None), None)
    if n_classes is None:
        return None
    everywhere = all(table is None or len(table) == 1 for table in absent)
    shape = (1, 1, 1) if everywhere else tuple(labels.shape[2:])
    rows = []
    for label, table in zip(labels, absent, strict=True):
        here = torch.zeros((1, n_classes), dtype=torch.bool) if table is None else table
        here = here.to(labels.device)
        if len(here) == 1:
            rows.append(here[0].reshape(-1, 1, 1, 1).expand(n_classes, *shape))
        else:
            rows.append(here[label[1]].movedim(-1, 0))
    return torch.stack(rows)


T = TypeVar("T")


def ahead(feed: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """Yield what `feed` yields, in its order, made by another thread up to `depth` items before it is asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, feed, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, feed, None))
            yield item
