"""Which structure of a prediction is compared with which of a reference.

A wrong pairing gives numbers that look right, so every doubt is an error that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from voxmetry.core.labels import Label, LabelTable, plain_name
from voxmetry.errors import ConfigError, LabelError

_SHOWN = 10
Match: TypeAlias = Literal["auto", "name", "value"]


class Pair(NamedTuple):
    """One structure: its name and its values in the two label maps, None where a table does not have it."""

    name: str
    prediction: int | None
    reference: int | None


def pair_labels(
    prediction: LabelTable,
    reference: LabelTable,
    *,
    labels: Sequence[str] | None = None,
    match: Match = "auto",
    names: Mapping[str, str] | None = None,
) -> tuple[Pair, ...]:
    """Pair the structures of two label tables.

    A structure that one of two named tables does not know is not a missed one: it is in no pair (`left_out` names it).
    A plain file knows all values, and lacks those that it does not hold.

    Parameters
    ----------
    prediction, reference
        The two tables.
    labels
        Structures to pair, by the names that the pairs get, or by value; None pairs all.
    match
        'name': by name, where case, spaces, '-' and '_' do not count. 'value': by value. 'auto': by name if both
        tables have real names, and by value if one of them has none, as a plain NIfTI file, whose structures
        are called after their values ('1', 'label_1').
    names
        Names of the one side by those of the other, `{"GTV_Mass_CT": "tumour"}`; see `renamed_tables`.

    Returns
    -------
    tuple of Pair
        In the prediction's order, then what only the reference has.

    Raises
    ------
    LabelError
        By name: if no structure is in both tables, if both tables have structures that the other does not know and
        neither `labels` nor `names` says which is which, or if one of `labels` is unknown to a table. By value: if a
        value is not in a table of real names, or the two tables have different names for a value.
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
    prediction, reference = renamed_tables(prediction, reference, names)
    if match == "auto":
        named = names or all(has_real_names(table) for table in (prediction, reference))
        match = "name" if named else "value"
    if match == "value":
        pairs = _by_value(prediction, reference, labels is None)
        return pairs if labels is None else chosen_pairs(pairs, labels)
    pairs = _by_name(prediction, reference)
    if labels is not None:
        return _known_to_both(chosen_pairs(pairs, labels), prediction, reference)
    both = tuple(pair for pair in pairs if pair.prediction is not None and pair.reference is not None)
    lonely = [[pair.name for pair in pairs if pair.reference is None], [p.name for p in pairs if p.prediction is None]]
    if pairs and (not both or (all(lonely) and not names)):
        raise _unknown([name for side in lonely for name in side], prediction, reference)
    return both


def renamed_tables(
    ours: LabelTable, theirs: LabelTable, names: Mapping[str, str] | None
) -> tuple[LabelTable, LabelTable]:
    """Give the structures of one table the names that they have in the other.

    Parameters
    ----------
    names
        THEIRS to OURS, by name or value. THEIRS is looked for in the second table, then in the first.

    Raises
    ------
    LabelError
        If a name is in neither table, or two structures of a table would get one name.

    Examples
    --------
    >>> plain = LabelTable.from_names({3: "label_3"})
    >>> [x.names for x in renamed_tables(LabelTable.from_names({1: "tumour"}), plain, {"3": "tumour"})]
    [('tumour',), ('tumour',)]
    """
    changes: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for old, new in (names or {}).items():
        place = next((index for index in (1, 0) if _finds((ours, theirs)[index], old)), None)
        if place is None:
            raise LabelError(
                found=f"no structure named {old!r} on either side to call {new!r}",
                expected=f"one of {', '.join(theirs.names) or '(none)'}, or of {', '.join(ours.names) or '(none)'}",
                fix="write --map THEIRS=OURS (names={theirs: ours} in Python) with a name or a value that one side has",
            )
        changes[place][old] = new
    return ours.renamed(changes[0]), theirs.renamed(changes[1])


def same_names(
    first: LabelTable, second: LabelTable, names: Mapping[str, str] | None = None
) -> tuple[LabelTable, LabelTable]:
    """Return two tables in which one structure has one name, by the rule of `pair_labels`.

    Where one side is a plain file, both tables come to hold all values, with the names, kinds and codes of the other.

    Raises
    ------
    LabelError
        As `pair_labels` where values are matched.
    """
    second, first = renamed_tables(second, first, names)
    if names or all(has_real_names(table) for table in (first, second)):
        spelled = {plain_name(label.name): label.name for label in first}
        return first, LabelTable(
            labels=tuple(x.model_copy(update={"name": spelled.get(plain_name(x.name), x.name)}) for x in second)
        )
    _by_value(first, second, complete=True)
    known = {label.value: label for label in (*first, *second)}
    known |= {label.value: label for label in (*second, *first) if not is_placeholder(label)}
    both = LabelTable(labels=tuple(known[value] for value in sorted(known)))
    return both, both


def left_out(
    prediction: LabelTable, reference: LabelTable, pairs: Sequence[Pair], names: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the structures that are in no pair: those of the prediction, then those of the reference."""
    prediction, reference = renamed_tables(prediction, reference, names)
    ours, theirs = {pair.prediction for pair in pairs}, {pair.reference for pair in pairs}
    return (
        tuple(label.name for label in prediction if label.value not in ours),
        tuple(label.name for label in reference if label.value not in theirs),
    )


def left_out_words(names: tuple[tuple[str, ...], tuple[str, ...]], sides: tuple[str, str]) -> tuple[str, ...]:
    """Say which structures were not compared because one side does not know them.

    Examples
    --------
    >>> left_out_words((("spleen",), ()), ("the prediction", "the reference"))
    ('not compared, as the reference does not know it: spleen',)
    """
    words = []
    for found, other in zip(names, reversed(sides), strict=True):
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            which = "it" if len(found) == 1 else "them"
            words.append(f"not compared, as {other} does not know {which}: {', '.join(found[:_SHOWN])}{more}")
    return tuple(words)


def _finds(table: LabelTable, name: str) -> bool:
    try:
        table.find(name)
    except LabelError:
        return False
    return True


def _known_to_both(pairs: tuple[Pair, ...], prediction: LabelTable, reference: LabelTable) -> tuple[Pair, ...]:
    lonely = [pair.name for pair in pairs if pair.prediction is None or pair.reference is None]
    if lonely:
        raise _unknown(lonely, prediction, reference)
    return pairs


def _unknown(lonely: Sequence[str], prediction: LabelTable, reference: LabelTable) -> LabelError:
    return LabelError(
        found=f"structures in only one of the two label tables: {', '.join(lonely)}",
        expected=f"the same names in both; the prediction has {', '.join(prediction.names) or '(none)'}; "
        f"the reference has {', '.join(reference.names) or '(none)'}",
        fix="say which is which: --map THEIRS=OURS (names={theirs: ours} in Python), or choose what both have",
    )


def is_placeholder(label: Label) -> bool:
    """Whether a label is only called after its value, such as '3' or 'label_3'."""
    return (
        re.fullmatch(rf"(label|class|segment|structure|value)?[ _-]?0*{label.value}", label.name.casefold()) is not None
    )


def has_real_names(table: LabelTable) -> bool:
    """Whether the table has labels, none of which is only called after its value."""
    return len(table) > 0 and not any(is_placeholder(label) for label in table)


def _by_name(prediction: LabelTable, reference: LabelTable) -> tuple[Pair, ...]:
    ours, theirs = _plain_names(prediction, "prediction"), _plain_names(reference, "reference")
    pairs = [Pair(label.name, label.value, theirs[key].value if key in theirs else None) for key, label in ours.items()]
    pairs += [Pair(label.name, None, label.value) for key, label in theirs.items() if key not in ours]
    return tuple(pairs)


def _plain_names(table: LabelTable, which: str) -> dict[str, Label]:
    plain = {plain_name(label.name): label for label in table}
    if len(plain) < len(table):
        raise LabelError(
            found=f"names in the {which} that differ only in case, spaces, '-' or '_': {', '.join(table.names)}",
            expected="names that differ in more than that",
            fix="rename one of them, or compare by value: --match value (match='value' in Python)",
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
                fix="say which is which (--map 3=NAME, names={...} in Python), or name the structures to compare "
                "(--label NAME, labels=[...] in Python)",
            )
    pairs = []
    for value in [*ours, *(value for value in theirs if value not in ours)]:
        both = [table[value] for table in (ours, theirs) if value in table]
        name = next((label.name for label in both if not is_placeholder(label)), both[0].name)
        pairs.append(Pair(name, value if value in ours else None, value if value in theirs else None))
    return tuple(pairs)


def _refuse_contradictions(ours: dict[int, Label], theirs: dict[int, Label]) -> None:
    """Real names that both tables know must lie on the same values."""
    named = [{plain_name(x.name): x.value for x in table.values() if not is_placeholder(x)} for table in (ours, theirs)]
    crossed = sorted(name for name in set(named[0]) & set(named[1]) if named[0][name] != named[1][name])
    differing = sorted(
        value
        for value in set(ours) & set(theirs)
        if not is_placeholder(ours[value])
        and not is_placeholder(theirs[value])
        and plain_name(ours[value].name) != plain_name(theirs[value].name)
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
            fix="say which is which: --map THEIRS=OURS (names={theirs: ours} in Python); compare by name: --match name "
            "(match='name'); or correct the table that is wrong",
        )


def chosen_pairs(pairs: Sequence[Pair], labels: Sequence[str]) -> tuple[Pair, ...]:
    """Return the pairs of some structures, which are found by name, where case and signs do not count, or by value.

    Raises
    ------
    LabelError
        If there is none of a name.
    """
    known = {plain_name(pair.name): pair for pair in pairs}
    # A value stands for its structure where no structure is called like it; the prediction's comes first.
    for pair in pairs:
        for value in (pair.prediction, pair.reference):
            if value is not None:
                known.setdefault(str(value), pair)
    unknown = [name for name in labels if plain_name(name) not in known]
    if unknown:
        raise LabelError(
            found=f"no structure named {', '.join(map(repr, unknown))} to compare",
            expected=f"names among {', '.join(pair.name for pair in pairs) or '(none)'}",
            fix="use these names",
        )
    return tuple(dict.fromkeys(known[plain_name(name)] for name in labels))
