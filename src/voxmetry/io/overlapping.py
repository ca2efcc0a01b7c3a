"""Structures that may overlap, sorted into label maps in which none does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import LabelError

Overlap: TypeAlias = Literal["refuse", "first", "last"]
"""What a voxel of two structures becomes: an error, the structure that comes first, or the one that comes last."""
Piece: TypeAlias = tuple[tuple[Any, ...], NDArray[np.bool_]]
"""Index into a grid, and the mask there."""


class Layers:
    """Collects structures: each goes to the first layer where it overlaps nothing.

    Parameters
    ----------
    geometry
        The grid of all.
    name
        The file's name, for messages.

    Examples
    --------
    >>> layers = Layers(Geometry(np.eye(4), (3, 1, 1)), "seg.dcm")
    >>> for value, voxels in enumerate([[1, 1, 0], [0, 1, 1], [0, 0, 1]], start=1):
    ...     mask = np.array(voxels, bool).reshape(3, 1, 1)
    ...     layers.add(Label(value=value, name=str(value), colour="#000000"), [((), mask)])
    >>> [layer.array.ravel().tolist() for layer in layers.all()]
    [[1, 1, 3], [0, 2, 2]]
    """

    def __init__(self, geometry: Geometry, name: str) -> None:
        self.geometry = geometry
        self.name = name
        self._arrays: list[NDArray[Any]] = []
        self._labels: list[list[Label]] = []
        self._pairs: list[str] = []

    def add(self, label: Label, pieces: Iterable[Piece]) -> None:
        """Add one structure; pieces of one structure may overlap each other."""
        kept = list(pieces)
        for array, labels in zip(self._arrays, self._labels, strict=True):
            under = set().union(*(np.unique(array[place][mask]).tolist() for place, mask in kept)) - {0}
            if not under:
                break
            self._pairs += [f"{other.name} and {label.name}" for other in labels if other.value in under]
        else:
            # Fortran order keeps slices along the last axis together, as DICOM stores them.
            array, labels = np.zeros(self.geometry.shape, np.uint16, order="F"), []
            self._arrays.append(array)
            self._labels.append(labels)
        for place, mask in kept:
            array[place][mask] = label.value
        labels.append(label)

    @property
    def pairs(self) -> tuple[str, ...]:
        """The structures that overlap, two by two."""
        return tuple(dict.fromkeys(self._pairs))

    def all(self) -> tuple[Segmentation, ...]:
        """Return one segmentation a layer; the first holds most structures."""
        if not self._arrays:
            return (Segmentation(np.zeros(self.geometry.shape, np.uint8), self.geometry, LabelTable(labels=())),)
        return tuple(
            Segmentation(_narrowed(array), self.geometry, LabelTable(labels=tuple(labels)))
            for array, labels in zip(self._arrays, self._labels, strict=True)
        )

    def one(self, overlap: Overlap) -> Segmentation:
        """Return a single segmentation.

        Raises
        ------
        LabelError
            If structures overlap and `overlap` is 'refuse'.
        """
        return flatten(self.all(), overlap, self.name, self.pairs)


def flatten(layers: tuple[Segmentation, ...], overlap: Overlap, name: str, pairs: Iterable[str] = ()) -> Segmentation:
    """Merge layers into one label map, in the order of the label values.

    Raises
    ------
    LabelError
        If there are several layers and `overlap` is 'refuse'.
    """
    if len(layers) == 1:
        return layers[0]
    if overlap == "refuse":
        shown = list(pairs)
        more = f" and {len(shown) - 6} more pairs" if len(shown) > 6 else ""
        raise LabelError(
            found=f"{name}: structures overlap: {', '.join(shown[:6])}{more}",
            expected="one structure a voxel",
            fix="choose structures (--structures NAME), write each as a "
            "mask of its own (--split), or say which one a shared voxel goes to (--overlap first or last); in Python: "
            "structures=['NAME'], voxmetry.io.read_layers, or overlap='first'",
        )
    # Layers may share one table: a structure is at home where it has voxels.
    table = {label.value: label for layer in layers for label in layer.labels}
    home = {
        label.value: layer
        for layer in layers
        for present in [set(np.unique(layer.array).tolist())]
        for label in layer.labels
        if label.value in present
    }
    values = sorted(home)
    merged = np.zeros(layers[0].geometry.shape, np.uint16, order="F")
    for value in values if overlap == "last" else reversed(values):
        merged[home[value].array == value] = value
    labels = tuple(table[value] for value in sorted(table))
    return Segmentation(_narrowed(merged), layers[0].geometry, LabelTable(labels=labels))


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.uint8) if int(array.max()) <= 255 else array
