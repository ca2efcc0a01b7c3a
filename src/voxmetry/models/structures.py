"""What is known about structures by their names: SNOMED CT codes, side, colour, and the group that a report lists.

`structures.csv` holds the 170 structures that TotalSegmentator codes (its table of SNOMED CT codes and colours,
Apache-2.0, August 2026), the further structures of its open tasks with codes of DICOM PS3.16 where it has one, and the
names and colours of FreeSurfer's `aseg`. Four entries differ from their source: the gluteus minimus without a side had
the code of the gluteus medius, and both subclavian arteries that of the right one. A structure without a code keeps its
side, so that left and right are never the same concept.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from voxmetry.config import parse_record
from voxmetry.core.base import Record
from voxmetry.core.labels import Code, Label, LabelTable
from voxmetry.core.text_files import UNREADABLE, Table, parse_table, read_table, why_unreadable
from voxmetry.errors import ConfigError, LabelError

StructureGroup = Literal["organs", "vessels", "bones", "muscles", "brain", "body", "other"]
GROUPS: tuple[StructureGroup, ...] = ("organs", "vessels", "brain", "body", "bones", "muscles", "other")
"""In the order in which a report lists them."""

CATEGORIES = {
    "anatomy": Code(value="91723000", meaning="Anatomical Structure"),
    "abnormal": Code(value="49755003", meaning="Morphologically Abnormal Structure"),
    "tissue": Code(value="85756007", meaning="Tissue"),
    "object": Code(value="260787004", meaning="Physical object"),
}
"""Categories of a segment: SNOMED CT, DICOM PS3.16 CID 7150."""

_SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right", "l": "left", "r": "right"}


class Structure(Record):
    """One row of a table of structures."""

    name: Annotated[str, Field(min_length=1)]
    group: StructureGroup = "other"
    category: Literal["anatomy", "abnormal", "tissue", "object"] = "anatomy"
    code: str = ""
    meaning: str = ""
    side: Literal["", "left", "right"] = ""
    region: str = ""
    region_meaning: str = ""
    colour: Annotated[str, Field(pattern=r"^(#[0-9A-Fa-f]{6})?$")] = ""
    scheme: str = "SCT"
    """Coding scheme of `code` and `region`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for code, meaning in ((self.code, self.meaning), (self.region, self.region_meaning)):
            if bool(code) != bool(meaning):
                raise ValueError("a code and its meaning go together")
            if self.scheme == "SCT" and code and not code.isdigit():
                raise ValueError(f"{code!r} is no SNOMED CT code, which is a number")
        return self


def key_of(name: str) -> str:
    """Return a name without what differs between writers: case, separators and the place of the side.

    Examples
    --------
    >>> key_of("kidney_left") == key_of("Left Kidney"), key_of("rib_left_1") == key_of("rib_left_11")
    (True, False)
    """
    words = _words(name)
    sides = sorted(_SIDES[word] for word in words if word in _SIDES)
    return " ".join(sides + [word for word in words if word not in _SIDES])


def side_of(name: str) -> Literal["left", "right"] | None:
    """Return the side that a name states, None where it states none or both.

    Examples
    --------
    >>> side_of("Left-Thalamus"), side_of("upper_right_canine_fdi13"), side_of("vertebrae_L1")
    ('left', 'right', None)
    """
    sides = {_SIDES[word] for word in _words(name) if word in _SIDES}
    return next(iter(sides)) if len(sides) == 1 else None


def _words(name: str) -> list[str]:
    """Split at separators and before capitals; L1 is a vertebra and no side."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def read_structures(path: Path | str) -> tuple[Structure, ...]:
    """Read a table of structures: CSV with the columns of `Structure`, of which `name` is needed.

    Raises
    ------
    ConfigError
        If the file cannot be read, has an unknown column or a value that is not allowed, or names a structure twice.
    """
    path = Path(path)
    try:
        table = read_table(path).exact()
    except UNREADABLE as error:
        raise ConfigError(
            found=f"{path.name} cannot be read: {why_unreadable(error)}",
            expected=f"CSV with the columns {', '.join(Structure.model_fields)}",
            fix="check the path; a spreadsheet program saves it as 'CSV UTF-8'",
        ) from error
    return _parse(table, path.name)


@functools.cache
def known_structures() -> dict[str, Structure]:
    """Return the package's own table by `key_of` the names."""
    text = resources.files("voxmetry.models").joinpath("structures.csv").read_text(encoding="utf-8")
    return {key_of(row.name): row for row in _parse(parse_table(text), "structures.csv")}


def find_structure(name: str) -> Structure | None:
    """Return what is known about a structure of this name, or None.

    Examples
    --------
    >>> found = find_structure("Left Kidney")
    >>> found.meaning, found.side, found.group
    ('Kidney', 'left', 'organs')
    """
    return known_structures().get(key_of(name))


def group_of(name: str) -> StructureGroup:
    """Return the group that a report lists a structure under: 'other' where the name is not known.

    Examples
    --------
    >>> group_of("rib_left_4"), group_of("GTV"), group_of("aorta")
    ('bones', 'other', 'vessels')
    """
    found = find_structure(name)
    return found.group if found else "other"


def with_codes(table: LabelTable, codes: Sequence[Structure] = ()) -> LabelTable:
    """Fill in codes, sides and colours of the labels that are known by name; what a label states already stays.

    Parameters
    ----------
    table
        Labels of a model. A label that has a code keeps code, side and colour.
    codes
        A table that wins over the package's own, such as `read_structures` returns.

    Raises
    ------
    LabelError
        If a left and a right structure would have one code without a side.

    Examples
    --------
    >>> table = with_codes(LabelTable.from_names({1: "kidney_left", 2: "kidney_right"}))
    >>> [(label.code.meaning, label.laterality) for label in table]
    [('Kidney', 'left'), ('Kidney', 'right')]
    """
    own = {key_of(row.name): row for row in codes}
    done = []
    for label in table:
        first = own.get(key_of(label.name))
        row = first or find_structure(label.name)
        done.append(_coded(label, row, replace=first is not None))
    found = LabelTable(labels=tuple(done))
    require_sides(found)
    return found


def require_sides(table: LabelTable) -> None:
    """See that structures which are named left and right are not the same concept.

    Raises
    ------
    LabelError
        If two labels of opposite sides have the same code, the same region and no side that tells them apart.
    """
    seen: dict[tuple[object, ...], Label] = {}
    for label in table:
        side = side_of(label.name)
        if label.code is None or side is None:
            continue
        concept = (label.code.scheme, label.code.value, label.modifier, label.region, label.laterality)
        other = seen.setdefault(concept, label)
        if side_of(other.name) != side:
            raise LabelError(
                found=f"{other.name} and {label.name} both coded {label.code.value} {label.code.meaning}, "
                f"side {label.laterality or 'not stated'}",
                expected="another side, or another code, for left and right",
                fix="add the column side (left, right) to the table of codes",
            )


def _coded(label: Label, row: Structure | None, *, replace: bool) -> Label:
    stated = label.code is not None and not replace
    if row is None or stated:
        side = None if stated else side_of(label.name)
        return label if label.laterality or side is None else label.model_copy(update={"laterality": side})
    change: dict[str, object] = {"laterality": row.side or (side_of(label.name) if not row.code else None)}
    if row.code:
        change["code"] = Code(value=row.code, meaning=row.meaning, scheme=row.scheme)
    if row.region:
        change["region"] = Code(value=row.region, meaning=row.region_meaning, scheme=row.scheme)
    if row.category == "abnormal":
        change["kind"] = "lesion"
    elif row.category != "anatomy":
        change["category"] = CATEGORIES[row.category]
    if row.colour:
        change["colour"] = row.colour.upper()
    return label.model_copy(update=change)


def _parse(table: Table, name: str) -> tuple[Structure, ...]:
    made = [parse_record({key: value for key, value in row.items() if value}, Structure, where=f"{name}, line {line}")
            for line, row in zip(table.lines, table.rows, strict=True)]  # fmt: skip
    keys = [key_of(row.name) for row in made]
    twice = sorted({row.name for row, key in zip(made, keys, strict=True) if keys.count(key) > 1})
    if twice or not made:
        raise ConfigError(
            found=f"{name} names {', '.join(twice)} more than once" if twice else f"{name} has no rows",
            expected=f"CSV with the columns {', '.join(Structure.model_fields)}, one row a structure",
            fix="leave one row a structure; case, separators and the place of the side make no difference",
        )
    return tuple(made)
