"""Which structure of a label map each structure of its correction is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from voxmetry.core.labels import Label, LabelTable, plain_name
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import LabelError
from voxmetry.io.overlapping import Layers, Overlap
from voxmetry.io.segmentations import fits
from voxmetry.measurement.pairing import is_placeholder


def in_table(
    layers: Sequence[Segmentation],
    ours: LabelTable,
    what: str,
    *,
    names: Mapping[str, str],
    structures: Sequence[str],
    overlap: Overlap,
) -> Segmentation:
    """Give the structures of a correction the values and names of the label map that it corrects.

    Parameters
    ----------
    layers
        The correction; structures of different layers may overlap.
    ours
        The structures of the label map that it corrects.
    what
        What to call the correction in a message.
    names
        Names (or values) in the correction to those of `ours`.
    structures
        Names in the correction of those to take, with `*` and `?`; all if none is given.
    overlap
        What a voxel of two structures becomes.

    Raises
    ------
    LabelError
        If a structure is of none of `ours`, or two overlap and `overlap` refuses that.
    """
    grid = layers[0].geometry
    theirs = [(layer, label) for layer in layers for label in layer.labels]
    held = [(layer, label) for layer, label in theirs if (layer.array == label.value).any()]
    if structures:
        held = [(layer, label) for layer, label in held if any(fits(label.name, x) for x in structures)]
    match = _matcher([label for _, label in theirs], ours, names)
    unknown = [label.name for _, label in held if match(label) is None]
    if unknown:
        raise LabelError(
            found=f"{what} has structures that the model does not know: {', '.join(dict.fromkeys(unknown))}",
            expected=f"only {', '.join(ours.names)}",
            fix="say which is which (--map THEIRS=OURS), or name those to take (--structures NAME)",
        )
    pieces: dict[int, list[Any]] = {}
    for layer, label in held:
        mine = match(label)
        if mine is not None:
            pieces.setdefault(mine.value, []).append(((slice(None),) * 3, layer.array == label.value))
    merged = Layers(grid, what)
    for label in ours:
        if label.value in pieces:
            merged.add(label, pieces[label.value])
    if merged.pairs and overlap == "refuse":
        raise LabelError(
            found=f"{what}: structures overlap: {', '.join(merged.pairs[:6])}",
            expected="one structure a voxel",
            fix="mend the overlap, or say which one a shared voxel goes to: --overlap first or last",
        )
    dtype = np.uint8 if max(ours.values, default=0) <= 255 else np.uint16
    return Segmentation(merged.one(overlap).array.astype(dtype), grid, ours)


def _matcher(theirs: Sequence[Label], ours: LabelTable, names: Mapping[str, str]) -> Callable[[Label], Label | None]:
    """Return what finds the structure that one of theirs is: by `names`, name, code, part of a lesion, or value.

    Raises
    ------
    LabelError
        If `names` has a name that neither side knows.
    """
    given: dict[str, Label] = {}
    for old, new in names.items():
        if not any(old == str(label.value) or plain_name(old) == plain_name(label.name) for label in theirs):
            raise LabelError(
                found=f"no structure {old!r} in the correction to call {new!r}",
                expected=f"one of {', '.join(label.name for label in theirs) or '(none)'}",
                fix="write --map THEIRS=OURS with a name or a value that the correction has",
            )
        given[plain_name(old)] = ours.find(new)
    named = any(not is_placeholder(label) for label in theirs)

    def match(label: Label) -> Label | None:
        for key in (plain_name(label.name), str(label.value)):
            if key in given:
                return given[key]
        if not named:
            return next((mine for mine in ours if mine.value == label.value), None)
        return (
            next((mine for mine in ours if plain_name(mine.name) == plain_name(label.name)), None)
            or next((mine for mine in ours if _same_code(mine, label)), None)
            or next((mine for mine in ours if mine.kind == "lesion" and _is_part(label.name, mine.name)), None)
        )

    return match


def _same_code(mine: Label, theirs: Label) -> bool:
    if mine.code is None or theirs.code is None:
        return False
    keys = [
        (x.code.scheme, x.code.value, x.modifier.value if x.modifier else "", x.laterality, x.region and x.region.value)
        for x in (mine, theirs)
        if x.code is not None
    ]
    return keys[0] == keys[1]


def _is_part(name: str, structure: str) -> bool:
    """Whether a name is that of one lesion of a structure, as the DICOM objects of a run call them."""
    return re.fullmatch(rf"{re.escape(plain_name(structure))} ?\d+", plain_name(name)) is not None
