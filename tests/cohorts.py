"""Small cohorts on disk whose numbers are known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import phantoms
from voxmetry import LabelTable, Segmentation, save
from voxmetry.core.labels import Label

TABLE = LabelTable(
    labels=(
        Label(value=1, name="organ", colour="#E69F00"),
        Label(value=2, name="lesion", colour="#56B4E9", kind="lesion"),
    )
)
SHAPE = (24, 11, 9)


def write(path: Path, organ: tuple[int, int] | None, lesions: list[tuple[int, int]] = ()) -> Path:
    """Write bars along i, 4 x 3 voxels thick: the organ at j 1..4, lesions at j 6..9."""
    array = np.zeros(SHAPE, np.uint8)
    if organ:
        array[organ[0] : organ[1], 1:5, 2:5] = 1
    for start, stop in lesions:
        array[start:stop, 6:10, 2:5] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    save(Segmentation(array, phantoms.geometry(shape=SHAPE), TABLE), path)
    return path


def write_cohort(folder: Path) -> tuple[Path, Path]:
    """Write four cases: organ Dice 1, 0.9, 0.8 and missed; lesions found, missed, invented, absent."""
    p, r = folder / "prediction", folder / "reference"
    write(r / "a.nii.gz", (2, 12), [(2, 6)])
    write(p / "a.nii.gz", (2, 12), [(2, 6)])
    write(r / "b.nii.gz", (2, 12), [(2, 6), (10, 12)])
    write(p / "b.nii.gz", (3, 13), [(2, 6)])
    write(r / "c.nii.gz", (2, 12))
    write(p / "c.nii.gz", (4, 14), [(15, 18)])
    write(r / "d.nii.gz", (2, 12))
    write(p / "d.nii.gz", None)
    return p, r
