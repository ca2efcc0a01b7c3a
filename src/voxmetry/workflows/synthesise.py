"""Samples of the images that a run makes from label maps, to look at before training on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from voxmetry import io
from voxmetry.config import TrainSettings, load_yaml
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, OutputExistsError
from voxmetry.io.atomic import make_folder, write_bytes
from voxmetry.io.output_folder import require_apart
from voxmetry.workflows.train import beside, data_of

SHEET = "samples.png"


def synthesise_from(
    config: Path, out: Path, *, data: Sequence[Path] | None = None, n: int = 8, seed: int = 0, overwrite: bool = False
) -> tuple[Path, ...]:
    """Make images as the run of a training configuration would; `data` overrides the data set that it names.

    Raises
    ------
    VoxmetryError
        As `synthesise`; also if the configuration cannot be read.
    """
    settings = load_yaml(config, TrainSettings)
    found = list(data or data_of(settings, config))
    return synthesise(settings, out, data=found, locate=partial(beside, config), n=n, seed=seed, overwrite=overwrite)


def synthesise(
    settings: TrainSettings,
    out: Path,
    *,
    data: Path | list[Path],
    locate: Callable[[str], Path] = Path,
    n: int = 8,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Make some images as the run would, and write them with their labels and a sheet of slices.

    Parameters
    ----------
    settings
        A training configuration with the block `synthesis`.
    out
        The folder.
    data
        The run's data set, whose training cases' label maps are taken where the configuration names no others.
    locate
        Finds the paths of the block.
    n
        Number of images; each `image_01.nii.gz` has its `label_01.nii.gz`.
    seed
        Decides them.
    overwrite
        Whether samples that are there are replaced.

    Returns
    -------
    tuple of Path
        The files, the sheet last.

    Raises
    ------
    ConfigError
        If the configuration has no such block.
    OutputExistsError
        If there are samples already.
    VoxmetryError
        If label maps are missing or hold values that the configuration does not name.
    """
    from voxmetry.plot.samples import slice_sheet
    from voxmetry.train.feed import open_made, seeded
    from voxmetry.train.folds import hold_out
    from voxmetry.train.join import open_joined

    if settings.synthesis is None:
        raise ConfigError(
            found="a training configuration without the block synthesis",
            expected="one that makes images from label maps",
            fix="add it; docs/how-to/training.md shows how",
        )
    if (out / SHEET).exists() and not overwrite:
        raise OutputExistsError(
            found=f"{SHEET} in the folder already",
            expected="a folder without samples",
            fix="name another folder, or add --overwrite (overwrite=True) to replace them",
        )
    found = open_joined(data)
    feed = open_made(settings, found, hold_out(found, settings)[0], locate=locate, device="cpu")
    require_apart(out, found.folders)
    make_folder(out)
    spec = settings.model
    grid = Geometry(np.diag([*spec.spacing_mm, 1.0]), spec.window.patch)
    values = np.array([0, *spec.labels.values], np.uint16)
    rows, files = [], []
    for place in range(n):
        batch = feed.maker(seeded(feed.maker, [seed, place]), 1)
        image, label = batch.image[0, 0].numpy(), values[batch.label[0, 0].numpy()]
        rows.append((image, label))
        for name, thing in (
            ("image", Volume(image.astype(np.float32), grid)),
            ("label", Segmentation(label, grid, spec.labels)),
        ):
            files.append(out / f"{name}_{place + 1:02d}.nii.gz")
            io.save(thing, files[-1], overwrite=True)
    write_bytes(out / SHEET, slice_sheet(rows, spec.labels))
    return (*files, out / SHEET)
