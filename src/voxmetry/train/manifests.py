"""Manifests: a data set as a YAML or a CSV file that says where each case's files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from voxmetry.config import load_yaml
from voxmetry.core.base import Record
from voxmetry.core.labels import LabelTable
from voxmetry.core.text_files import UNREADABLE, read_table, why_unreadable
from voxmetry.errors import ConfigError
from voxmetry.io.read import Modality
from voxmetry.train.cases import Case, Channel, DataSet
from voxmetry.train.layouts import modality_of, plain_name, table_of
from voxmetry.train.partial import Labelling


class ChannelEntry(Record):
    """A channel of a manifest; `{case}` in its path stands for the case's name."""

    name: str
    modality: Modality | None = None
    path: str | None = None
    """None where each case names its own."""


class CaseEntry(Record):
    """A case of a manifest; what it leaves out follows from the manifest's patterns."""

    case: str
    patient: str | None = None
    images: dict[str, str] = Field(default_factory=dict)
    """Path by channel."""
    label: str | None = None
    other_labels: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None
    """Structures that were looked for in this case; those that are left out may be there all the same."""
    absent: tuple[str, ...] | None = None
    """Structures that are known not to be in this image."""
    unknown: str | None = None
    """A mask on the label's grid: where it is not 0, nothing is known."""
    instances: str | None = None
    """A map on the label's grid whose values tell the instances of the structures apart."""
    held_out: bool = False
    """Held out by each run that is no fold of a cross-validation."""


class Manifest(Record):
    """The content of a file in `configs/data`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    root: str = "."
    """Where the paths start: relative to the manifest's folder, or else to VOXMETRY_DATA."""
    channels: tuple[ChannelEntry, ...] = Field(min_length=1)
    label: str | None = None
    other_labels: tuple[str, ...] = ()
    labels: LabelTable | dict[int, str] | None = None
    known: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()
    unknown: str | None = None
    """`known`, `absent` and `unknown` of each case that does not say its own; `{case}` stands for its name."""
    unknown_below: tuple[str, ...] = ()
    """Tube-like structures, unknown below the lowest slice in which they are drawn."""
    ignore: int | tuple[int, ...] = ()
    """Values of the label maps for voxels about which nothing is known."""
    merge: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    """Values that are part of a structure, by the value that it has in `labels`."""
    unlisted: Literal["refuse", "background"] = "refuse"
    """What a value of a label map is that nothing names."""
    instances_of: str | None = None
    """The structure that each value of the label maps is an instance of, as where each vertebra has a number of its
    own; `labels` is then {1: that structure}, if it is left out."""
    instances: str | None = None
    """Maps beside the label maps that tell the instances of their structures apart; `{case}` stands for the name."""
    cases: tuple[str | CaseEntry, ...] = Field(min_length=1)


def read_yaml(path: Path, *, root: Path | None) -> DataSet:
    """Read a YAML manifest.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, or a case has no path for a channel or no label.
    """
    manifest = load_yaml(path, Manifest)
    start = root or _root(path, manifest.root)
    entries = [CaseEntry(case=entry) if isinstance(entry, str) else entry for entry in manifest.cases]
    cases = [_case(entry, manifest, start) for entry in sorted(entries, key=lambda entry: entry.case)]
    labels = table_of(manifest.labels) if isinstance(manifest.labels, dict) else manifest.labels
    if manifest.instances_of is not None:
        labels = _instance_table(manifest, manifest.instances_of, labels)
    channels = tuple(Channel(item.name, item.modality or modality_of(item.name)) for item in manifest.channels)
    return DataSet(manifest.name, channels, labels, tuple(cases))


def _instance_table(manifest: Manifest, structure: str, labels: LabelTable | None) -> LabelTable:
    """Return the label table of a data set whose values are instances; refuse what would give them two meanings."""
    other = {
        "merge": bool(manifest.merge),
        "ignore": manifest.ignore != (),
        "unlisted": manifest.unlisted != "refuse",
        "instances": manifest.instances is not None
        or any(not isinstance(x, str) and x.instances for x in manifest.cases),
    }
    if any(other.values()):
        raise ConfigError(
            found=f"instances_of and {', '.join(name for name, there in other.items() if there)} in {manifest.name}",
            expected="values of the label maps that are instances and nothing else",
            fix="leave one of them out",
        )
    found = labels or table_of({1: structure})
    if structure not in found.names:
        raise ConfigError(
            found=f"instances_of: {structure}",
            expected=f"a name of the label table: {', '.join(found.names)}",
            fix="correct it, or leave labels out",
        )
    return found


def _case(entry: CaseEntry, manifest: Manifest, root: Path) -> Case:
    def place(pattern: str | None, what: str) -> Path:
        if pattern is None:
            raise ConfigError(
                found=f"no {what} for the case {entry.case}",
                expected="a path in its entry, or a pattern with {case} for all",
                fix="add it to the manifest",
            )
        return root / pattern.replace("{case}", entry.case)

    unknown = sorted(set(entry.images) - {channel.name for channel in manifest.channels})
    if unknown:
        raise ConfigError(
            found=f"the channels {', '.join(unknown)} in the case {entry.case}",
            expected=f"those of the manifest: {', '.join(channel.name for channel in manifest.channels)}",
            fix="correct the names",
        )
    beside = entry.instances or manifest.instances
    return Case(
        name=entry.case,
        patient=entry.patient or entry.case,
        images=tuple(
            place(entry.images.get(item.name, item.path), f"image {item.name!r}") for item in manifest.channels
        ),
        label=place(entry.label or manifest.label, "label"),
        other_labels=tuple(place(pattern, "label") for pattern in entry.other_labels or manifest.other_labels),
        labelling=_labelling(entry, manifest, root),
        held_out=entry.held_out,
        instances=root / beside.replace("{case}", entry.case) if beside else None,
    )


def _labelling(entry: CaseEntry, manifest: Manifest, root: Path) -> Labelling:
    unknown = entry.unknown or manifest.unknown
    return Labelling(
        known=entry.known if entry.known is not None else manifest.known,
        absent=entry.absent if entry.absent is not None else manifest.absent,
        unknown_below=manifest.unknown_below,
        ignore=(manifest.ignore,) if isinstance(manifest.ignore, int) else manifest.ignore,
        merge=manifest.merge,
        unlisted=manifest.unlisted,
        unknown=root / unknown.replace("{case}", entry.case) if unknown else None,
        instances_of=manifest.instances_of,
    )


def read_csv(path: Path, *, root: Path | None) -> DataSet:
    """Read a CSV manifest: `case`, `label`, perhaps further columns; each column that is not named here is a channel.

    `patient`; `label_2`, `label_3`: drawn by others; `known`, `absent`: names of structures with semicolons between
    them (an empty cell: all, none); `unknown`: a mask; `held_out`: yes or no. A channel that is called after a
    modality or sequence, such as `ct`, `pet` or `t1`, is taken for one.

    Raises
    ------
    ConfigError
        If a column is missing or a cell is empty; the case is named.
    """
    try:
        columns, rows, *_ = read_table(path).exact()
    except UNREADABLE as error:
        raise ConfigError(
            found=f"{path.name} cannot be read: {why_unreadable(error)}",
            expected="a CSV file in UTF-8",
            fix="check the path, and save the table as CSV (UTF-8)",
        ) from error
    others = [name for name in columns if name.startswith("label_")]
    channels = [name for name in columns if name not in (*_NO_CHANNEL, *others)]
    if not {"case", "label"} <= set(columns) or not channels:
        raise ConfigError(
            found=f"{path.name} with the columns {', '.join(columns) or '(none)'}",
            expected="case, label and a column a channel, such as ct",
            fix="name the columns in the first line",
        )
    start = root or _root(path, ".")
    cases = tuple(_row(row, channels, others, start) for row in sorted(rows, key=lambda row: str(row["case"])))
    named = tuple(Channel(plain_name(name), modality_of(name)) for name in channels)
    return DataSet(plain_name(path.stem), named, None, cases)


_NO_CHANNEL = ("case", "patient", "label", "known", "absent", "unknown", "held_out")


def _row(row: Mapping[str, str | None], channels: list[str], others: list[str], root: Path) -> Case:
    name = row["case"] or ""
    for column in ("case", "label", *channels):
        if not row[column]:
            raise ConfigError(
                found=f"an empty cell in the column {column}" + (f" of the case {name}" if name else ""),
                expected="a name or a path in each",
                fix="fill it, or remove the line",
            )
    return Case(
        name=name,
        patient=row.get("patient") or name,
        images=tuple(root / str(row[channel]) for channel in channels),
        label=root / str(row["label"]),
        other_labels=tuple(root / str(row[column]) for column in others if row[column]),
        labelling=Labelling(
            known=_names(row.get("known")) or None,
            absent=_names(row.get("absent")),
            unknown=root / str(row["unknown"]) if row.get("unknown") else None,
        ),
        held_out=_yes(row.get("held_out"), name),
    )


def _names(cell: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (cell or "").split(";") if name.strip())


def _yes(cell: str | None, case: str) -> bool:
    text = (cell or "").strip().lower()
    if text not in ("", "yes", "no", "true", "false", "0", "1"):
        raise ConfigError(
            found=f"held_out is {text!r} for the case {case}", expected="yes or no", fix="write one of the two"
        )
    return text in ("yes", "true", "1")


def _root(path: Path, root: str) -> Path:
    beside = path.parent / root
    places = [beside, *([Path(os.environ["VOXMETRY_DATA"]) / root] if "VOXMETRY_DATA" in os.environ else [])]
    return next((place for place in places if place.is_dir()), beside)
