"""Partial labels: what a label map says nothing about.

A structure that was not drawn may be there all the same. `Labelling` says what was looked for, in a manifest's words;
`Unlabelled` says it voxel by voxel on the label's grid. Training joins the probability of what was not looked for to
the background's (see `losses.join_unknown`), evaluation counts a structure only where it was looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError, LabelError


@dataclass(frozen=True)
class Labelling:
    """What the label map of a case says, and what it leaves open.

    Parameters
    ----------
    known
        Structures that were looked for; None: all of the label table.
    absent
        Further structures that are known not to be in the image, whether or not the label table names them.
    unknown_below
        Tube-like structures that were drawn part of the way down: below the lowest slice with one of its voxels it is
        unknown, and throughout where none of its voxels is in the image.
    ignore
        Values of the label map that mark voxels about which nothing is known, as nnU-Net's `ignore` label.
    merge
        Values that are part of a structure, by the value that it has in the label table.
    unlisted
        What a value is that nothing names: an error ("refuse"), or "background".
    unknown
        A mask on the label's grid; where it is not 0, nothing is known.
    labels
        The label map's own table, where its structures are matched by name to those of the data set or model.
    instances_of
        The structure that each value of the label map is an instance of; None: values mean structures.
    """

    known: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()
    unknown_below: tuple[str, ...] = ()
    ignore: tuple[int, ...] = ()
    merge: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    unlisted: Literal["refuse", "background"] = "refuse"
    unknown: Path | None = None
    labels: LabelTable | None = None
    instances_of: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether anything is left open, as far as it can be told without opening a file."""
        return self.known is not None or bool(self.unknown_below or self.ignore) or self.unknown is not None

    def require_names(self, names: Iterable[str], *, case: str) -> None:
        """See that `known` and `unknown_below` name structures of the label table.

        Raises
        ------
        ConfigError
            If one is not in it; the case is named.
        """
        there = tuple(names)
        wanted = {"known": self.known or (), "unknown_below": self.unknown_below}
        for key, listed in wanted.items():
            odd = [name for name in listed if name not in (*there, *self.absent)]
            if odd:
                raise ConfigError(
                    found=f"{key} of the case {case} names {', '.join(odd)}",
                    expected=f"names of the label table: {', '.join(there) or '(it is empty)'}",
                    fix="correct the name, or list the structure under 'absent' if it is known not to be there",
                )
        double = [name for name in self.absent if name in (self.known or ())]
        if double:
            raise ConfigError(
                found=f"{', '.join(double)} under both known and absent of the case {case}",
                expected="a structure in one of the two",
                fix="remove it from one of them",
            )

    def unknown_names(self, table: LabelTable) -> tuple[str, ...]:
        """Return the structures of a table that this label map says nothing about."""
        drawn = self.labels.names if self.labels is not None else table.names
        looked_for = {*(drawn if self.known is None else self.known), *self.absent}
        return tuple(name for name in table.names if name not in looked_for)

    @property
    def is_translated(self) -> bool:
        """Whether values of the label map mean something else than the label table says."""
        return bool(self.ignore or self.merge) or self.unlisted == "background"

    def require_values(self, table: LabelTable, *, case: str) -> None:
        """See that `ignore` and `merge` fit the label table.

        Raises
        ------
        ConfigError
            If a value means two things, or a merged one becomes none.
        """
        sources = [value for values in self.merge.values() for value in values]
        used = [*table.values, *sources, *self.ignore]
        double = sorted({value for value in used if used.count(value) > 1})
        for value in double:
            name = table.by_value(value).name if value in table.values else "another structure"
            key = "ignore" if value in self.ignore else "merge"
            raise ConfigError(
                found=f"{key}: {value}, the value of {name}",
                expected="a value that means one thing",
                fix="correct the value, or take it out of the other place",
            )
        odd = sorted(set(self.merge) - set(table.values))
        if odd:
            raise ConfigError(
                found=f"merge into {odd} in the case {case}",
                expected=f"values of the label table: {list(table.values)}",
                fix="name the value that the others are to become part of",
            )

    def translate_values(self, found: Segmentation, table: LabelTable) -> tuple[Segmentation, NDArray[np.bool_]]:
        """Return a label map with the table's values, and where nothing is known.

        Raises
        ------
        LabelError
            If the label map holds a value that nothing names, unless `unlisted` is "background".
        """
        top = max(int(found.array.max()), *table.values, *self.ignore, 0)
        rule = np.zeros(top + 1, np.uint16 if max(table.values) > 255 else np.uint8)
        named = np.zeros(top + 1, bool)
        for value in table.values:
            rule[[value, *(source for source in self.merge.get(value, ()) if source <= top)]] = value
            named[[value, *(source for source in self.merge.get(value, ()) if source <= top)]] = True
        named[[0, *self.ignore]] = True
        odd = np.unique(found.array[~named[found.array]])
        if len(odd) and self.unlisted == "refuse":
            raise LabelError(
                found=f"values {odd[:10].tolist()} in the label map",
                expected=f"0, the values of the label table {list(table.values)}, merged and ignored ones",
                fix="name them, or set unlisted: background",
            )
        return Segmentation(rule[found.array], found.geometry, table), np.isin(found.array, self.ignore)


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """What a label map says nothing about, voxel by voxel.

    Parameters
    ----------
    zones
        (I, J, K) uint8, the row of `table` that a voxel belongs to.
    table
        (Z, 1 + N) bool, N structures in the order of the label table: True where one was not looked for. Column 0, the
        background's, is False.
    names
        The N structures.
    """

    zones: NDArray[np.uint8]
    table: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all structures were looked for everywhere."""
        return not self.table.any()

    @property
    def known_names(self) -> tuple[str, ...]:
        """Structures that were looked for somewhere in the image."""
        present = np.unique(self.zones)
        return tuple(
            name for place, name in enumerate(self.names, start=1) if not bool(self.table[present, place].all())
        )

    def share_known(self, name: str) -> float:
        """Return the share of the voxels in which a structure was looked for."""
        counts = np.bincount(self.zones.ravel(), minlength=len(self.table))
        return float(counts[~self.table[:, 1 + self.names.index(name)]].sum() / counts.sum())

    def hide(self, found: Segmentation) -> Segmentation:
        """Return a segmentation without the voxels of structures where these were not looked for.

        Parameters
        ----------
        found
            On the same grid; its structures are matched by name, and one that is not among `names` stays as it is.
        """
        if self.is_complete:
            return found
        rule = np.tile(
            np.arange(max(found.labels.values, default=0) + 1, dtype=found.array.dtype), (len(self.table), 1)
        )
        for label in found.labels:
            if label.name in self.names:
                rule[self.table[:, 1 + self.names.index(label.name)], label.value] = 0
        return Segmentation(rule[self.zones, found.array], found.geometry, found.labels)


def translate(found: Segmentation, table: LabelTable) -> Segmentation:
    """Return a label map with another table's values, structures matched by name; those that it lacks become 0."""
    rule = np.zeros(
        max(found.labels.values, default=0) + 1, np.uint16 if max(table.values, default=0) > 255 else np.uint8
    )
    for label in found.labels:
        if label.name in table.names:
            rule[label.value] = table[label.name].value
    return Segmentation(rule[found.array], found.geometry, table)


def find_unlabelled(label: Segmentation, labelling: Labelling, unknown: NDArray[np.bool_] | None) -> Unlabelled:
    """Say voxel by voxel what a label map leaves open.

    Parameters
    ----------
    label
        The label map, with the table of the data set or model.
    labelling
        What was looked for.
    unknown
        (I, J, K), voxels about which nothing is known; None: there are none.
    """
    names = label.labels.names
    nowhere = labelling.unknown_names(label.labels)
    axis, upward = _upward(label.geometry)
    rows = np.zeros((label.array.shape[axis], 1 + len(names)), bool)
    for place, item in enumerate(label.labels, start=1):
        if item.name in nowhere:
            rows[:, place] = True
        elif item.name in labelling.unknown_below:
            others = tuple(n for n in range(3) if n != axis)
            drawn = np.flatnonzero((label.array == item.value).any(axis=others))
            height = np.arange(len(rows)) if upward else np.arange(len(rows))[::-1]
            rows[:, place] = height < height[drawn].min() if len(drawn) else True
    table, zone_of_slice = np.unique(rows, axis=0, return_inverse=True)
    shape = [1, 1, 1]
    shape[axis] = len(rows)
    zones = np.broadcast_to(zone_of_slice.astype(np.uint8).reshape(shape), label.array.shape)
    if unknown is not None and unknown.any():
        everything = np.ones((1, 1 + len(names)), bool)
        everything[0, 0] = False
        table = np.concatenate([table, everything])
        zones = np.where(unknown, np.uint8(len(table) - 1), zones)
    return Unlabelled(zones, table, names)


def _upward(geometry: Geometry) -> tuple[int, bool]:
    """Return the axis that is nearest to the patient's head-foot axis, and whether its index rises to the head."""
    axis = next(axis for axis, code in enumerate(geometry.axcodes) if code in "SI")
    return axis, geometry.axcodes[axis] == "S"
