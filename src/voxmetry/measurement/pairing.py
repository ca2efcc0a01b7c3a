"""Which structure of a prediction is compared with which of a reference.

A wrong pairing gives numbers that look right, so every doubt is an error that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from voxmetry.core.labels import Label, LabelTable
from voxmetry.errors import ConfigError, LabelError

Match: TypeAlias = Literal["auto", "name", "value"]


class Pair(NamedTuple):
    """One structure: its name and its values in the two label maps, None where a table does not have it."""

    name: str
    prediction: int | None
    reference: int | None


def pair_labels(
    prediction: LabelTable, reference: LabelTable, *, labels: Sequence[str] | None = None, match: Match = "auto"
) -> tuple[Pair, ...]:
    """Pair the structures of two label tables.

    Parameters
    ----------
    prediction, reference
        The two tables.
    labels
        Structures to pair, by the names that the pairs get; None pairs all, and then nothing may be left over.
    match
        'name': by name, where case, spaces, '-' and '_' do not count. 'value': by value. 'auto': by name if both
        tables have real names, and by value if one of them has none, as a plain NIfTI file, whose structures
        are called after their values ('1', 'label_1').

    Returns
    -------
    tuple of Pair
        In the prediction's order, then what only the reference has.

    Raises
    ------
    LabelError
        By name: if a structure has no partner and `labels` does not leave it out. By value: if a value is not in a
        table of real names, or the two tables have different names for a value.
    ConfigError
        If `match` is not one of the three.

    Examples
    --------
    >>> ours = LabelTable.from_names({1: "left kidney", 2: "liver"})
    >>> theirs = LabelTable.from_names({5: "Liver", 6: "Left_Kidney"})
    >>> pair_labels(ours, theirs)
    (Pair(name='left kidney', prediction=1, reference=6), Pair(name='liver', prediction=2, reference=5))
    """
    if match not in ("auto", "name", "value"):
        raise ConfigError(found=f"match={match!r}", expected="'auto', 'name' or 'value'", fix="choose one of these")
    if match == "auto":
        match = "name" if all(has_real_names(table) for table in (prediction, reference)) else "value"
    pairs = _by_name(prediction, reference) if match == "name" else _by_value(prediction, reference, labels is None)
    if labels is not None:
        return _chosen(pairs, labels)
    lonely = [pair.name for pair in pairs if pair.prediction is None or pair.reference is None]
    if match == "name" and lonely:
        raise LabelError(
            found=f"structures in only one of the two label tables: {', '.join(lonely)}",
            expected=f"the same names in both; the prediction has {', '.join(prediction.names)}; "
            f"the reference has {', '.join(reference.names)}",
            fix="name the structures to compare with labels=[...], or rename them so that the names agree",
        )
    return pairs


def is_placeholder(label: Label) -> bool:
    """Whether a label is only called after its value, such as '3' or 'label_3'."""
    return (
        re.fullmatch(rf"(label|class|segment|structure|value)?[ _-]?0*{label.value}", label.name.casefold()) is not None
    )


def has_real_names(table: LabelTable) -> bool:
    """Whether the table has labels, none of which is only called after its value."""
    return len(table) > 0 and not any(is_placeholder(label) for label in table)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _by_name(prediction: LabelTable, reference: LabelTable) -> tuple[Pair, ...]:
    ours, theirs = _plain_names(prediction, "prediction"), _plain_names(reference, "reference")
    pairs = [Pair(label.name, label.value, theirs[key].value if key in theirs else None) for key, label in ours.items()]
    pairs += [Pair(label.name, None, label.value) for key, label in theirs.items() if key not in ours]
    return tuple(pairs)


def _plain_names(table: LabelTable, which: str) -> dict[str, Label]:
    plain = {_plain(label.name): label for label in table}
    if len(plain) < len(table):
        raise LabelError(
            found=f"names in the {which} that differ only in case, spaces, '-' or '_': {', '.join(table.names)}",
            expected="names that differ in more than that",
            fix="rename one of them, or compare with match='value'",
        )
    return plain


def _by_value(prediction: LabelTable, reference: LabelTable, complete: bool) -> tuple[Pair, ...]:
    ours, theirs = ({label.value: label for label in table} for table in (prediction, reference))
    _refuse_contradictions(ours, theirs)
    # A table of placeholders lists what happens to be in its file; a table of real names lists what there can be.
    for named, other, which in ((prediction, theirs, "prediction"), (reference, ours, "reference")):
        unknown = sorted(set(other) - set(named.values))
        if unknown and complete and has_real_names(named):
            raise LabelError(
                found=f"values {unknown} that the {which}'s label table does not name",
                expected=f"values that it names: {', '.join(f'{x.value} {x.name}' for x in named)}",
                fix="name the structures to compare with labels=[...] if these values are not meant to be compared, "
                "or renumber one of the two label maps",
            )
    pairs = []
    for value in [*ours, *(value for value in theirs if value not in ours)]:
        both = [table[value] for table in (ours, theirs) if value in table]
        name = next((label.name for label in both if not is_placeholder(label)), both[0].name)
        pairs.append(Pair(name, value if value in ours else None, value if value in theirs else None))
    return tuple(pairs)


def _refuse_contradictions(ours: dict[int, Label], theirs: dict[int, Label]) -> None:
    """Real names that both tables know must lie on the same values."""
    named = [{_plain(x.name): x.value for x in table.values() if not is_placeholder(x)} for table in (ours, theirs)]
    crossed = sorted(name for name in set(named[0]) & set(named[1]) if named[0][name] != named[1][name])
    differing = sorted(
        value
        for value in set(ours) & set(theirs)
        if not is_placeholder(ours[value])
        and not is_placeholder(theirs[value])
        and _plain(ours[value].name) != _plain(theirs[value].name)
    )
    if crossed or differing:
        raise LabelError(
            found="tables that contradict each other when matched by value: "
            + "; ".join(
                [
                    f"value {v} is {ours[v].name} in the prediction and {theirs[v].name} in the reference"
                    for v in differing
                ]
                or [
                    f"{name} is {named[0][name]} in the prediction and {named[1][name]} in the reference"
                    for name in crossed
                ]
            ),
            expected="the same name for the same value",
            fix="give all labels of both tables real names and use match='name', or correct the table that is wrong",
        )


def _chosen(pairs: tuple[Pair, ...], labels: Sequence[str]) -> tuple[Pair, ...]:
    known = {_plain(pair.name): pair for pair in pairs}
    unknown = [name for name in labels if _plain(name) not in known]
    if unknown:
        raise LabelError(
            found=f"no structure named {', '.join(map(repr, unknown))} to compare",
            expected=f"names among {', '.join(pair.name for pair in pairs) or '(none)'}",
            fix="use these names",
        )
    return tuple(known[_plain(name)] for name in dict.fromkeys(labels))
