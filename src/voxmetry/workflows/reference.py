"""Read a reference segmentation so that its structures are those of the result that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable, plain_name
from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.io.label_maps import naming_file
from voxmetry.io.overlapping import flatten
from voxmetry.io.read import read_segmentation
from voxmetry.io.segmentations import fits, is_structures, layers_of, require_some
from voxmetry.measurement.pairing import left_out, left_out_words, pair_labels
from voxmetry.ops.relabel import relabelled

_SIDES = ("the model", "the reference")


def read_reference(
    path: Path | str | None,
    labels: LabelTable,
    grid: Geometry,
    *,
    names: Mapping[str, str] | None = None,
    structures: Sequence[str] = (),
    mapped: bool = False,
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Read a reference on an image's grid, with the values and names of the result.

    Parameters
    ----------
    path
        Any segmentation that `read_segmentation` reads; None for none.
    labels
        The result's table.
    grid
        Of the image that was segmented.
    names
        Names (or values) in the reference to those in `labels`.
    structures
        Names in the reference of those to read, with `*` and `?`; all if not given.
    mapped
        Whether a label map in one file may lie in a file where it has no room in memory.

    Returns
    -------
    tuple of Segmentation, tuple of str
        Label maps, several where structures overlap. They hold, and their tables name, only the structures that the
        reference knows; what was left out, in words.

    Raises
    ------
    LabelError
        If the structures cannot be paired without doubt; see `voxmetry.measurement.pairing.pair_labels`.
    VoxmetryError
        If it cannot be read, or lies on another grid.
    """
    if path is None:
        return (), ()
    source = Path(path)
    if source.exists() and is_structures(source):
        layers = _structures(source, labels, grid, names or {}, structures)
        known = {label.name for layer in layers for label in layer.labels}
        unknown = () if structures else tuple(name for name in labels.names if name not in known)
        return layers, left_out_words((unknown, ()), _SIDES)
    found = read_segmentation(source, image=grid, mapped=mapped)
    grid.require_same(found.geometry, what="the image and the reference")
    theirs = _chosen(found.labels, structures, names or {}, source.name)
    pairs = pair_labels(labels, theirs, match="name" if names else "auto")
    kept = LabelTable(labels=tuple(labels.by_value(pair.prediction) for pair in pairs if pair.prediction))
    values = {pair.reference: pair.prediction for pair in pairs if pair.prediction and pair.reference}
    kind = np.dtype(np.uint8 if max(kept.values, default=0) <= 255 else np.uint16)
    moved = relabelled(found.array, values, kind)
    words = () if structures else left_out_words(left_out(labels, theirs, pairs), _SIDES)
    return (Segmentation(moved, found.geometry, kept),), words


def _chosen(labels: LabelTable, structures: Sequence[str], names: Mapping[str, str], name: str) -> LabelTable:
    """Return the labels of a file that are asked for, by the names that the model gives them."""
    if structures:
        require_some(labels.labels, None, structures, name)
        mine = (label for label in labels if any(fits(label.name, pattern) for pattern in structures))
        labels = LabelTable(labels=tuple(mine))
    if not names:
        return labels
    with naming_file(name):
        return labels.renamed(names)


def _structures(
    source: Path, labels: LabelTable, grid: Geometry, names: Mapping[str, str], structures: Sequence[str]
) -> tuple[Segmentation, ...]:
    """Read those of the wanted structures that a file has which keeps each apart, by the names that they have there."""
    theirs = {plain_name(ours): old for old, ours in names.items()}
    wanted = LabelTable(
        labels=tuple(x.model_copy(update={"name": theirs.get(plain_name(x.name), x.name)}) for x in labels)
    )
    layers, _ = layers_of(source, wanted, grid, 0.5, structures, found_only=True)
    tables = [LabelTable(labels=tuple(labels.by_value(x.value) for x in layer.labels)) for layer in layers]
    return tuple(Segmentation(x.array, x.geometry, table) for x, table in zip(layers, tables, strict=True))


def names_in(result: StudyResult) -> dict[str, str]:
    """Return the names that a run took for those of its reference or prior."""
    names = result.provenance.settings.get("names")
    return {str(old): str(new) for old, new in names.items()} if isinstance(names, dict) else {}


def read_truth(result: StudyResult, path: Path | str | None, grid: Geometry) -> Segmentation | None:
    """Read the reference of a run again for its pictures, with the names that the run took; None where there is none.

    Raises
    ------
    VoxmetryError
        As `read_reference`.
    """
    layers, _ = read_reference(path, result.labels, grid, names=names_in(result))
    return flatten(layers, "first", "the reference") if layers else None
