"""The models of an evaluation: each with the cases that it may be judged on, and how its recipe was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxmetry.classical import Baseline
from voxmetry.config import StudySettings, parse_record
from voxmetry.core.records import CaseComparison, CohortSettings
from voxmetry.errors import InputError
from voxmetry.measurement.summarise_cases import summarise_cohort
from voxmetry.train.cases import DataSet
from voxmetry.workflows.models import Ready, load_any
from voxmetry.workflows.training_cases import read_split


@dataclass(frozen=True)
class ModelFolds:
    """A model with the cases that it may be judged on.

    Parameters
    ----------
    name
        What it is called in tables and file names.
    folds
        Model and the cases that it predicts; several for a cross-validated run, where each case is predicted by the
        fold that held it out.
    n_seen
        Cases of the data set that are left out because it was trained on them.
    chosen_on
        Cases of the data set by which its recipe was chosen; None where it held some of these cases out, and does not
        say whether they took part in the choice.
    """

    name: str
    folds: tuple[tuple[Ready, tuple[str, ...]], ...]
    n_seen: int
    chosen_on: tuple[str, ...] | None = ()

    @property
    def is_baseline(self) -> bool:
        """Whether it is a classical baseline."""
        return isinstance(self.folds[0][0], Baseline)


def open_entry(model: str | Path, data: DataSet, *, device: str) -> ModelFolds:
    """Load a model and leave out the cases that it was trained on.

    A run folder with `fold-0/model` and so on predicts each case by the fold that held it out. The cases that a model
    was trained on are those of its `split.json`.

    Raises
    ------
    InputError
        If no case is left.
    """
    settings = parse_record({"device": device}, StudySettings, where="--device")
    folds = sorted(Path(model).glob("fold-*/model")) if Path(model).is_dir() else []
    names = [case.name for case in data.cases]
    parts: list[tuple[Ready, tuple[str, ...]]] = []
    splits = [read_split(folder) for folder in folds]
    for folder, split in zip(folds, splits, strict=True):
        held_out = set(split.get("validation", ()))
        parts.append((load_any(folder, settings), tuple(name for name in names if name in held_out)))
    if not folds:
        loaded = load_any(model, settings)
        splits = [{} if isinstance(loaded, Baseline) else read_split(_folder_of(model))]
        seen = set(splits[0].get("training", ()))
        parts.append((loaded, tuple(name for name in names if name not in seen)))
    left = {name for _, part in parts for name in part}
    name = Path(model).name if folds or Path(model).is_dir() else parts[0][0].spec.name
    if not left:
        raise InputError(
            found=f"{name} was trained on all {len(names)} cases of {data.name}",
            expected="cases that it has not seen",
            fix="evaluate it on other data, or train with held-out cases or folds and evaluate that run",
        )
    return ModelFolds(name, tuple(parts), len(names) - len(left), _chosen_on(splits, left))


def _chosen_on(splits: Sequence[Mapping[str, Sequence[str]]], cases: set[str]) -> tuple[str, ...] | None:
    """Return which of these cases a recipe was chosen on; None where that is not said of cases that a run held out."""
    held_out = {name for split in splits for name in split.get("validation", ())}
    if cases & held_out and not all("recipe_chosen_on" in split for split in splits):
        return None
    return tuple(sorted(cases & {name for split in splits for name in split.get("recipe_chosen_on", ())}))


def recipe_words(entry: ModelFolds) -> str:
    """Say what the choice of a model's recipe means for figures of the cases that it is judged on; mostly nothing."""
    n = sum(len(names) for _, names in entry.folds)
    if entry.chosen_on is None:
        return (
            f"{entry.name}: its run held these cases out, and does not say whether its recipe was chosen on them "
            "(recipe_chosen_on in the training configuration). If it was, a new patient can expect less."
        )
    if not entry.chosen_on:
        return ""
    chosen = f"its recipe was chosen on {len(entry.chosen_on)} of these {n} cases"
    return f"{entry.name}: {chosen}; a new patient can expect less."


def recipe_of(entry: ModelFolds, rows: Sequence[CaseComparison], settings: CohortSettings) -> str:
    """Return `recipe_words`, and the Dice of the cases that took no part in the choice."""
    words = recipe_words(entry)
    others = [row for row in rows if row.case not in set(entry.chosen_on or ())]
    if not entry.chosen_on or not any(row.comparisons for row in others):
        return words
    found = summarise_cohort(others, settings)
    dice = [(s.label, s.present["dice"].mean) for s in found.structures]
    told = ", ".join(f"{name} {d.mean:.3f} ({d.low:.3f} to {d.high:.3f})" for name, d in dice if d.n)
    return f"{words} Dice of the other {len(others)} alone: {told}."


def _folder_of(model: str | Path) -> Path:
    from voxmetry.models import find_model

    return find_model(model)
