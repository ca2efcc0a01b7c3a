"""What the values of a label map mean."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from voxmetry.core.base import Record
from voxmetry.errors import LabelError

# Okabe and Ito's eight colours, which readers with any colour vision tell apart (https://jfly.uni-koeln.de/color/),
# without black and grey: both vanish on a CT or an MR slice.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def colours_of(names: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for each structure: its label table's where one is known, so that it has one in all pictures.

    Parameters
    ----------
    names
        The structures, in the order in which the others take their colours from `PALETTE`.
    known
        Colours by name.

    Examples
    --------
    >>> colours_of(["spleen", "liver"], {"liver": "#112233"})
    {'spleen': '#E69F00', 'liver': '#112233'}
    """
    return {name: known.get(name, PALETTE[place % len(PALETTE)]) for place, name in enumerate(dict.fromkeys(names))}


def plain_name(name: str) -> str:
    """Return a name as it is compared with others: case, spaces, '-' and '_' do not count."""
    return re.sub(r"[\s_-]+", " ", composed(name).casefold()).strip()


def composed(name: str) -> str:
    """Return a name with its accents as one character each (Unicode NFC): macOS writes them apart, others together.

    Examples
    --------
    >>> composed("La\u0308sion") == "Läsion"
    True
    """
    return unicodedata.normalize("NFC", name)


class Code(Record):
    """A coded concept, such as SNOMED CT 10200004 'Liver'."""

    value: str
    meaning: str
    scheme: str = "SCT"


class Label(Record):
    """One value of a label map."""

    value: Annotated[int, Field(ge=1, le=65535)]
    name: Annotated[str, Field(min_length=1), AfterValidator(composed)]
    colour: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
    kind: Literal["organ", "lesion"] = "organ"
    code: Code | None = None
    modifier: Code | None = None
    """Which part of what `code` names, such as SNOMED CT 255549009 'Anterior'."""
    laterality: Literal["left", "right"] | None = None
    category: Code | None = None
    """Of DICOM PS3.16 CID 7150, such as 85756007 'Tissue'; None: what `kind` says."""
    region: Code | None = None
    """Where it lies, if `code` does not say it, such as SNOMED CT 64033007 'Kidney' of a cyst; the side is its."""

    @property
    def rgb(self) -> tuple[float, float, float]:
        """The colour as red, green, blue in 0..1."""
        red, green, blue = (int(self.colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
        return (red, green, blue)


class LabelTable(Record):
    """All labels of a label map; 0 is the background and is not listed.

    Examples
    --------
    >>> table = LabelTable.from_names({1: "liver", 2: "spleen"})
    >>> table["spleen"].value, table.by_value(1).name, len(table)
    (2, 'liver', 2)
    """

    labels: tuple[Label, ...]

    @model_validator(mode="after")
    def _unique(self) -> LabelTable:
        for what in ("value", "name"):
            seen = Counter(getattr(label, what) for label in self.labels)
            twice = sorted(str(x) for x, n in seen.items() if n > 1)
            if twice:
                raise ValueError(f"label {what}s used more than once: {', '.join(twice)}")
        return self

    @classmethod
    def from_names(cls, names: dict[int, str]) -> LabelTable:
        """Make a table of organs with colours from the colour-blind-safe palette."""
        return cls(
            labels=tuple(
                Label(value=value, name=name, colour=PALETTE[index % len(PALETTE)])
                for index, (value, name) in enumerate(sorted(names.items()))
            )
        )

    @functools.cached_property
    def values(self) -> tuple[int, ...]:
        """The label values in the table's order."""
        return tuple(label.value for label in self.labels)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The label names in the table's order."""
        return tuple(label.name for label in self.labels)

    def misnamed(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """Return the names in pairs of structures that are no label here, or else those that come more than once."""
        named = [name for pair in pairs for name in pair]
        return sorted(set(named) - set(self.names)) or sorted({name for name in named if named.count(name) > 1})

    def __getitem__(self, name: str) -> Label:
        if (label := self._named(name)) is not None:
            return label
        raise LabelError(
            found=f"no label named {name!r}",
            expected=f"one of {', '.join(self.names) or '(the table is empty)'}",
            fix="use one of these names",
        )

    def find(self, name: str) -> Label:
        """Return the label that a person means: by name, where case, spaces, '-' and '_' do not count, or by value.

        Raises
        ------
        LabelError
            If there is none, or several.

        Examples
        --------
        >>> table = LabelTable.from_names({1: "label_1", 2: "Left_Kidney"})
        >>> table.find("1").name, table.find("left kidney").value
        ('label_1', 2)
        """
        if (label := self._named(name)) is not None:
            return label
        plain = [label for label in self.labels if plain_name(label.name) == plain_name(name)]
        if not plain and name.strip().isdecimal():
            plain = [label for label in self.labels if str(label.value) == name.strip().lstrip("0")]
        if len(plain) == 1:
            return plain[0]
        raise LabelError(
            found=f"{'several labels' if plain else 'no label'} named {name!r}",
            expected=f"one of {', '.join(f'{x.name} ({x.value})' for x in self.labels) or '(the table is empty)'}",
            fix="use one of these names or values",
        )

    def _named(self, name: str) -> Label | None:
        wanted = composed(name)
        return next((label for label in self.labels if label.name == wanted), None)

    def renamed(self, names: Mapping[str, str]) -> LabelTable:
        """Return the same table with other names.

        Parameters
        ----------
        names
            New names by the present ones, which are found as `find` does.

        Raises
        ------
        LabelError
            If a present name is unknown, or two structures would have one name.

        Examples
        --------
        >>> LabelTable.from_names({1: "GTV_Mass_CT", 2: "lung"}).renamed({"GTV_Mass_CT": "tumour"}).names
        ('tumour', 'lung')
        """
        new = {self.find(old).value: composed(name) for old, name in names.items()}
        changed = tuple(x.model_copy(update={"name": new.get(x.value, x.name)}) for x in self.labels)
        found = [plain_name(label.name) for label in changed]
        twice = sorted({label.name for label in changed if found.count(plain_name(label.name)) > 1})
        if new and twice:
            raise LabelError(
                found=f"two structures that would both be named {', '.join(twice)}",
                expected="another name for each",
                fix="leave one of them as it is, or merge the two in the label map first",
            )
        return LabelTable(labels=changed)

    def by_value(self, value: int) -> Label:
        """Return the label of a value.

        Raises
        ------
        LabelError
            If the table does not name it.
        """
        for label in self.labels:
            if label.value == value:
                return label
        raise LabelError(
            found=f"no label of value {value}",
            expected=f"one of {', '.join(map(str, self.values)) or '(the table is empty)'}",
            fix="use one of these values",
        )

    def with_kind(self, name: str, kind: Literal["organ", "lesion"]) -> LabelTable:
        """Return the same table with one structure of another kind.

        Raises
        ------
        LabelError
            If the table has no such name.

        Examples
        --------
        >>> LabelTable.from_names({1: "tumour"}).with_kind("tumour", "lesion")["tumour"].kind
        'lesion'
        """
        chosen = self[name]
        changed = (x.model_copy(update={"kind": kind}) if x == chosen else x for x in self.labels)
        return LabelTable(labels=tuple(changed))

    def __iter__(self) -> Iterator[Label]:  # type: ignore[override]
        # pydantic iterates over (field, value) pairs; a table is a sequence of labels to everybody who holds one.
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)
