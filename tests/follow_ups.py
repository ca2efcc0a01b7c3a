"""Two time points whose lesions are known by hand."""

from __future__ import annotations

import numpy as np

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.core.labels import Label

SHAPE = (60, 50, 40)
TABLE = LabelTable(
    labels=(
        Label(value=1, name="tumour", colour="#E69F00", kind="lesion"),
        Label(value=2, name="node", colour="#56B4E9", kind="lesion"),
        Label(value=3, name="liver", colour="#009E73"),
        Label(value=4, name="lung", colour="#F0E442"),
    )
)


def grid(**change: object) -> Geometry:
    """Oblique, voxels of 1.0 x 1.5 x 2.5 mm."""
    return phantoms.geometry(**{"shape": SHAPE, "spacing_mm": (1.0, 1.5, 2.5)} | change)


def boxes(*places: tuple[int, int, int, int, int, int], value: int = 1, array: np.ndarray | None = None) -> np.ndarray:
    """Boxes as i0, i1, j0, j1, k0, k1."""
    array = np.zeros(SHAPE, np.uint8) if array is None else array
    for i0, i1, j0, j1, k0, k1 in places:
        array[i0:i1, j0:j1, k0:k1] = value
    return array


def seg(array: np.ndarray, geometry: Geometry | None = None) -> Segmentation:
    return Segmentation(array, geometry or grid(), TABLE)
