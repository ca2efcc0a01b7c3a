"""Several data sets as one: structures are matched by name, and what a data set does not draw was not looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxmetry.core.labels import PALETTE, LabelTable
from voxmetry.errors import ConfigError
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import open_data


def open_joined(paths: Path | str | Sequence[Path | str], *, root: Path | None = None) -> DataSet:
    """Open one data set, or several as one.

    Raises
    ------
    VoxmetryError
        As `open_data` and `join`.
    """
    if isinstance(paths, (str, Path)):
        return open_data(paths, root=root)
    return join([open_data(path, root=root) for path in paths])


def join(parts: Sequence[DataSet]) -> DataSet:
    """Join data sets that have the same channels.

    Parameters
    ----------
    parts
        A single one is returned as it is.

    Returns
    -------
    DataSet
        With the structures of all of them, by name. In a case, those that its own data set does not name count as not
        looked for. A case whose name is used in several data sets is called DATASET-CASE. Patients of the same name
        are taken for the same person, so that they never end up on two sides of a split.

    Raises
    ------
    ConfigError
        If they have other channels, or some name their structures and some do not.
    """
    if len(parts) == 1:
        return parts[0]
    parts = _named_apart(parts)
    first = parts[0]
    for part in parts[1:]:
        if not _same_channels(part, first):
            raise ConfigError(
                found=f"the channels {_channels(first)} in {first.name} and {_channels(part)} in {part.name}",
                expected="the same channels in the same order in each data set",
                fix="name the channels alike, with their modalities",
            )
    unnamed = [part.name for part in parts if part.labels is None]
    if unnamed:
        raise ConfigError(
            found=f"no label table in the data set {', '.join(unnamed)}",
            expected="names of the structures in each data set that is joined with others",
            fix="add labels to its manifest or dataset.json",
        )
    names = Counter(case.name for part in parts for case in part.cases)
    cases = [_case(case, part, names[case.name] > 1) for part in parts for case in part.cases]
    return DataSet(
        name="-".join(dict.fromkeys(part.name for part in parts)),
        channels=first.channels,
        labels=_union([part.labels for part in parts if part.labels is not None]),
        cases=tuple(sorted(cases, key=lambda case: case.name)),
    )


def _named_apart(parts: Sequence[DataSet]) -> list[DataSet]:
    """Give data sets of the same name a number, from the second on."""
    seen: Counter[str] = Counter()
    named = []
    for part in parts:
        seen[part.name] += 1
        named.append(part if seen[part.name] == 1 else replace(part, name=f"{part.name}-{seen[part.name]}"))
    return named


def _same_channels(one: DataSet, other: DataSet) -> bool:
    """Whether two data sets have as many channels, of the same modalities as far as these are known."""
    if len(one.channels) != len(other.channels):
        return False
    pairs = [(a.modality, b.modality) for a, b in zip(one.channels, other.channels, strict=True)]
    return all(a == b or a is None or b is None for a, b in pairs)


def _case(case: Case, part: DataSet, is_double: bool) -> Case:
    how = case.labelling if case.labelling.labels is not None else replace(case.labelling, labels=part.labels)
    return replace(case, name=f"{part.name}-{case.name}" if is_double else case.name, labelling=how)


def _union(tables: Sequence[LabelTable]) -> LabelTable:
    """All structures by name, numbered anew where two data sets use a value for different ones."""
    by_name = {label.name: label for table in reversed(tables) for label in table}
    order = list(dict.fromkeys(label.name for table in tables for label in table))
    values = [by_name[name].value for name in order]
    if len(set(values)) == len(values):
        return LabelTable(labels=tuple(by_name[name] for name in order))
    return LabelTable(
        labels=tuple(
            by_name[name].model_copy(update={"value": place, "colour": PALETTE[(place - 1) % len(PALETTE)]})
            for place, name in enumerate(order, start=1)
        )
    )


def _channels(data: DataSet) -> str:
    return ", ".join(f"{channel.name} ({channel.modality or 'unknown'})" for channel in data.channels)
