"""Which studies a person should look at first, and the list of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field

from voxmetry.core.base import Number, Record
from voxmetry.core.json_files import read_record
from voxmetry.core.records import Flag, StudyResult
from voxmetry.errors import ConfigError, FormatError, InputError

Strategy: TypeAlias = Literal["quality", "disagreement", "random", "first"]
STRATEGIES: dict[Strategy, str] = {
    "quality": "studies whose checks failed first, then those of the lowest predicted Dice; by chance among equals",
    "disagreement": "studies on which several models, or the networks of one, agree least",
    "random": "in an order by chance, the same each time: for a fair sample",
    "first": "in the order of their names",
}
"""What each strategy does, in words: MONAI Label's clients show them."""

NAME = "worklist.json"
TABLE = "worklist.csv"
IMAGES, ORIGINAL, FINAL = "images", "labels/original", "labels/final"
"""Folders of a work list: images, the models' label maps, and where corrections are saved."""
SEED = 1752


class WorkItem(Record):
    """One study of a work list."""

    rank: Annotated[int, Field(ge=1)]
    """1 is to be looked at first."""
    case: str
    """Its name in the cohort."""
    file: str
    """What its files are called, without suffix."""
    patient: str
    """Cases of one patient share it; a case of its own where nothing says it."""
    score: Number
    """By which it is ranked, 0 to 1, the worst lowest: predicted Dice or agreement; nan where nothing is known."""
    why: str
    """Why it stands where it does, in words."""
    flags: tuple[str, ...] = ()
    predicted_dice: dict[str, float] = Field(default_factory=dict)
    volumes_ml: dict[str, float] = Field(default_factory=dict)
    model: str
    model_version: str
    weights_sha256: str
    run: str
    """Folder of the run below the cohort's."""
    images: dict[str, str] = Field(default_factory=dict)
    """By the model's name of the input: path below the work list's folder; empty where it has no images."""
    modalities: dict[str, str] = Field(default_factory=dict)
    """Of each image, by the same names: CT, MR or PT."""
    image_marks: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Size and time of change of each image, in bytes and nanoseconds: a correction is of these very images."""
    segmentation: str = ""
    """The model's label map, below the work list's folder."""
    segmentation_sha256: str = ""
    """Of its voxels, see `measurement.correction.digest_of_labels`."""
    series_uid: str | None = None
    frame_uid: str | None = None
    sop_uids: tuple[str, ...] = ()
    """SOP Instance UIDs of its slices, in the order of the grid."""
    instance_numbers: tuple[int | None, ...] = ()


class WorkList(Record):
    """The content of `worklist.json`."""

    schema_version: Literal[1] = 1
    strategy: Strategy
    cohort: str
    """Path of the cohort's folder."""
    items: tuple[WorkItem, ...]
    notes: tuple[str, ...] = ()
    """What is not in the list, and why."""


class Ranked(NamedTuple):
    """A case with its place among others."""

    case: str
    score: float
    why: str


def rank(
    results: Mapping[str, StudyResult],
    strategy: Strategy = "quality",
    *,
    agreement: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[Ranked, ...]:
    """Put studies in the order in which a person should look at them.

    Parameters
    ----------
    results
        What is known of each, by case.
    strategy
        See `STRATEGIES`.
    agreement
        For 'disagreement': mean Dice between several models' label maps, by case and structure. Without it, the
        agreement of the networks of an ensemble is taken, which each result holds.

    Returns
    -------
    tuple of Ranked
        The worst first.

    Raises
    ------
    InputError
        If 'disagreement' is asked for and nothing tells it.
    """
    if strategy == "first":
        return tuple(Ranked(case, math.nan, "in the order of names") for case in sorted(results))
    if strategy == "random":
        order = random.Random(SEED).sample(sorted(results), len(results))
        return tuple(Ranked(case, math.nan, "by chance") for case in order)
    if strategy == "disagreement":
        rows = {case: _agreement(result, (agreement or {}).get(case, {})) for case, result in results.items()}
        if not any(math.isfinite(score) for score, _ in rows.values()):
            raise InputError(
                found="one label map of one network for each study",
                expected="label maps of several models, or of an ensemble",
                fix="run a second model over the cohort, add --other COHORT, or rank by --strategy quality",
            )
        ordered = sorted(rows.items(), key=lambda item: (math.isnan(item[1][0]), item[1][0], item[0]))
        return tuple(Ranked(case, score, why) for case, (score, why) in ordered)
    # Where nothing tells two studies apart, chance does: names go along with sites and dates.
    chance = {row.case: place for place, row in enumerate(rank(results, "random"))}
    keys = {case: _quality(result) for case, result in results.items()}
    order = sorted(keys, key=lambda case: (keys[case].key, chance[case]))
    return tuple(Ranked(case, keys[case].dice, keys[case].why) for case in order)


def gate_key(flags: Sequence[Flag], predicted_dice: float = math.nan) -> tuple[int, float, int]:
    """Return what studies are sorted by for review: rejected, flagged, neither; predicted Dice; number of flags.

    Examples
    --------
    >>> rejected = Flag(code="x", severity="reject", message="m")
    >>> gate_key([rejected]) < gate_key([], 0.5) < gate_key([], 0.9) < gate_key([])
    True
    """
    severities = [flag.severity for flag in flags if flag.severity != "note"]
    level = 0 if "reject" in severities else 1 if severities else 2
    return (level, 2.0 if math.isnan(predicted_dice) else predicted_dice, -len(severities))


class _Quality(NamedTuple):
    key: tuple[int, float, int]
    dice: float
    why: str


def _quality(result: StudyResult) -> _Quality:
    """Rank by the gate: rejected, flagged for review, neither; then by lowest predicted Dice, then by the flags."""
    lowest = min(result.predicted_dice, key=lambda row: row.predicted_dice, default=None)
    dice = lowest.predicted_dice if lowest is not None else math.nan
    words = [
        f"{flag.code}{f' of {flag.label}' if flag.label else ''}" for flag in result.flags if flag.severity != "note"
    ]
    said = "; ".join(dict.fromkeys(words[:4])) + (f" and {len(words) - 4} more" if len(words) > 4 else "")
    least = f"lowest predicted Dice {dice:.2f} ({lowest.label})" if lowest is not None else ""
    why = "; ".join(filter(None, (said, least))) or "no check failed, and its Dice is not predicted"
    return _Quality(gate_key(result.flags, dice), dice, why)


def _agreement(result: StudyResult, between: Mapping[str, float]) -> tuple[float, str]:
    known = {name: dice for name, dice in between.items() if math.isfinite(dice)}
    what = "models"
    if not known:
        known = {row.label: row.mean_dice for row in result.members_agreement if math.isfinite(row.mean_dice)}
        what = "networks"
    if not known:
        return math.nan, "one label map alone"
    name = min(known, key=known.__getitem__)
    return known[name], f"{what} agree least on {name}: mean Dice {known[name]:.2f}"


def mean_pairwise_dice(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over all pairs of label maps, by structure.

    Examples
    --------
    >>> mean_pairwise_dice([{"liver": 0.9}, {"liver": 0.7, "spleen": 0.5}])
    {'liver': 0.8, 'spleen': 0.5}
    """
    names = dict.fromkeys(itertools.chain.from_iterable(counts))
    found = {}
    for name in names:
        values = [row[name] for row in counts if math.isfinite(row.get(name, math.nan))]
        if values:
            found[name] = sum(values) / len(values)
    return found


def read_worklist(folder: Path | str) -> WorkList:
    """Read the list of a folder.

    Raises
    ------
    InputError
        If there is none.
    FormatError
        If it is damaged.
    """
    return read_record(
        Path(folder) / NAME,
        WorkList,
        missing=InputError(
            found=f"no readable {NAME} in {Path(folder).name}",
            expected="the folder that voxmetry annotate plan wrote",
            fix="name the folder that was given with -o / --out",
        ),
        damaged=lambda where: FormatError(
            found=f"{NAME} is not as this version writes it, at {where}",
            expected="a work list of this version of voxmetry",
            fix="make it again: voxmetry annotate plan",
        ),
    )


def next_sample(
    results: Mapping[str, StudyResult],
    strategy: str = "quality",
    *,
    done: Collection[str] = (),
) -> Ranked | None:
    """Return the study to look at next, as MONAI Label's clients ask for it; None where all are done.

    Parameters
    ----------
    results
        What is known of each study that was segmented, by its id.
    strategy
        One of `STRATEGIES`.
    done
        Ids of the studies that were corrected already, or that somebody has before them.

    Raises
    ------
    ConfigError
        If there is no such strategy.
    InputError
        If 'disagreement' is asked for and nothing tells it.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(
            found=f"the strategy {strategy!r}", expected=f"one of {', '.join(STRATEGIES)}", fix="choose one of these"
        )
    left = {case: result for case, result in results.items() if case not in set(done)}
    return rank(left, strategy)[0] if left else None
