"""Where a run's batches come from: labelled cases, or images that are made from label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from voxmetry.config import Range, TrainingDomain, TrainSettings
from voxmetry.core.segmentation import Segmentation
from voxmetry.train.batches import Batch, batches, steps_of
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import read_labelled
from voxmetry.train.finish import VOLUME_MARGIN, measure_domain
from voxmetry.train.initial_bias import LEAST_SHARE, class_shares
from voxmetry.train.label_maps import LabelMaps, find_label_maps, gather_maps, read_label_maps
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.synthesis import Synthesiser

SAMPLED = 24
"""Made images that the classes' shares are measured on."""


class Feed(Protocol):
    """What a run is trained on."""

    @property
    def steps(self) -> int:
        """Batches of an epoch."""

    @property
    def names(self) -> tuple[str, ...]:
        """Cases of the data set that it shows to the network."""

    @property
    def sources(self) -> tuple[str, ...]:
        """SHA-256 of the files of each case, where it is known."""

    def describe(self, *, everything: bool) -> str:
        """Say what the network was trained on, for the model card; `everything`: nothing was held out."""

    def batches(self, epoch: int, share: tuple[int, int]) -> Iterator[Batch]:
        """Yield the batches of an epoch, or with (r, n) the r-th of n parts of each."""

    def shares(self) -> np.ndarray:
        """Return the share of each class among the voxels."""

    def domain(self) -> TrainingDomain:
        """Return what the network has seen."""


class CaseFeed:
    """Labelled cases, prepared once and changed at random, on a device, each time they are seen."""

    def __init__(
        self, cases: Sequence[LabelledCase], settings: TrainSettings, *, device: torch.device | str = "cpu"
    ) -> None:
        self.cases, self.settings, self.device = cases, settings, device

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return steps_of(self.settings, len(self.cases))

    @property
    def names(self) -> tuple[str, ...]:
        """The cases."""
        return tuple(case.name for case in self.cases)

    @property
    def sources(self) -> tuple[str, ...]:
        """SHA-256 of the files of each case, where it is known."""
        return tuple(case.source for case in self.cases if case.source)

    def describe(self, *, everything: bool) -> str:
        """Count the cases."""
        return f"all {len(self.cases)} cases of the data set" if everything else f"{len(self.cases)} cases"

    def batches(self, epoch: int, share: tuple[int, int]) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `train.batches.batches`."""
        return batches(self.cases, self.settings, epoch=epoch, share=share, device=self.device)

    def shares(self) -> np.ndarray:
        """Return the share of each class where it was looked for."""
        return class_shares(self.cases, self.settings.model.n_classes)

    def domain(self) -> TrainingDomain:
        """Measure spacing, field of view and volumes."""
        return measure_domain(self.cases, self.settings.model)


class MadeFeed:
    """Images that are made from label maps; see `synthesis`."""

    def __init__(self, maps: LabelMaps, settings: TrainSettings, *, names: tuple[str, ...], maker: Synthesiser) -> None:
        self.maps, self.settings, self.names, self.maker = maps, settings, names, maker
        self.sources: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return steps_of(self.settings, len(self.maps.names))

    def describe(self, *, everything: bool) -> str:
        """Count the label maps."""
        real = "and on no real image" if everything else "and on no real image; validated on real ones"
        return f"images made from {len(self.maps.names)} label maps, {real}"

    def batches(self, epoch: int, share: tuple[int, int]) -> Iterator[Batch]:
        """Yield the batches of an epoch; each follows from seed, epoch and place alone."""
        rank, n = share
        for place in range(self.steps):
            generator = seeded(self.maker, [self.settings.seed, epoch, place, rank])
            progress = epoch / self.settings.epochs
            yield self.maker(generator, self.settings.batch_size // n, progress=progress)

    def shares(self) -> np.ndarray:
        """Return the share of each class in some made images."""
        counts = np.zeros(self.settings.model.n_classes)
        for place in range(SAMPLED):
            label = self.maker(seeded(self.maker, [self.settings.seed, place]), 1).label
            counts += torch.bincount(label.flatten().cpu(), minlength=len(counts)).numpy()
        found: np.ndarray = np.maximum(counts / counts.sum(), LEAST_SHARE)
        return found

    def domain(self) -> TrainingDomain:
        """Take grids from the configuration, and volumes from the label maps as far as they are deformed."""
        how = self.maker.how
        stretch = (1 + how.deformation.scale) ** 3
        volumes: dict[str, np.ndarray] = {}
        for value, name in how.targets.items():
            volumes[name] = volumes.get(name, 0) + np.array(self.maps.volumes_ml(value))
        seen = {name: row[row > 0] for name, row in volumes.items() if (row > 0).any()}
        ranges = {
            name: Range(
                low=round(float(row.min()) * (1 - VOLUME_MARGIN) / stretch, 3),
                high=round(float(row.max()) * (1 + VOLUME_MARGIN) * stretch, 3),
            )
            for name, row in seen.items()
        }
        return self.settings.model.training_domain.model_copy(update={"volume_ml": ranges})


def seeded(maker: Synthesiser, numbers: Sequence[int]) -> torch.Generator:
    """Return a generator on the synthesiser's device that follows from some numbers."""
    state = int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0])
    return torch.Generator(device=maker.device).manual_seed(state % 2**63)


def open_made(
    settings: TrainSettings,
    data: DataSet,
    training: Sequence[str],
    *,
    locate: Callable[[str], Path],
    device: torch.device | str,
) -> MadeFeed:
    """Read the label maps that a run makes its images from.

    Parameters
    ----------
    settings
        The run.
    data
        Its data set; the label maps of its training cases are taken where the configuration names no others.
    training
        The names of these cases.
    locate
        Finds a path of the configuration.
    device
        Where images are made.

    Raises
    ------
    VoxmetryError
        If label maps are missing or hold values that the configuration does not name.
    """
    how = settings.synthesis
    if how is None:
        raise ValueError("settings without synthesis")
    names: tuple[str, ...] = ()
    if how.label_maps is not None:
        maps = read_label_maps(find_label_maps(locate(how.label_maps)), how, settings.model.orientation)
    else:
        names = tuple(training)
        found: list[tuple[str, Segmentation]] = [
            (case.name, read_labelled(case, data).label) for case in data.select(training).cases
        ]
        maps = gather_maps(found, how, settings.model.orientation)
    lesions = locate(how.lesions.masks) if how.lesions is not None else None
    maker = Synthesiser(maps, settings, lesion_folder=lesions, device=device)
    return MadeFeed(maps, settings, names=names, maker=maker)
