"""Which cases a run is trained on and which it holds out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from voxmetry.config import TrainSettings
from voxmetry.errors import InputError
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import patient_folds
from voxmetry.train.labelled_cases import LabelledCase


def hold_out(data: DataSet, settings: TrainSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the cases into those trained on and those held out, by patient, by names and seed alone.

    A run of a cross-validation holds out its fold; any other the cases that the data set itself marks as held out, or
    where there are none `validation_fraction` of the patients, one at least, or none at 0.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds.
    InputError
        If there is a single patient, so that none can be held out.
    """
    if settings.fold is not None:
        held_out = set(patient_folds(data.cases, n=settings.folds, seed=settings.seed)[settings.fold])
    elif any(case.held_out for case in data.cases):
        held_out = {case.name for case in data.cases if case.held_out}
    elif settings.validation_fraction == 0:
        held_out = set()
    else:
        patients = sorted(set(data.patients.values()))
        if len(patients) < 2:
            raise InputError(
                found=f"{len(data.cases)} labelled cases of {len(patients)} patients",
                expected="at least two patients, so that one can be held out",
                fix="add labelled cases; or train on all and evaluate on other data: validation_fraction: 0 in a "
                "configuration (voxmetry train-plan DATASET -o plan.yaml)",
            )
        order = np.random.default_rng(settings.seed).permutation(len(patients))
        chosen = {patients[i] for i in order[: max(1, round(settings.validation_fraction * len(patients)))]}
        held_out = {name for name, patient in data.patients.items() if patient in chosen}
    names = sorted(data.patients)
    return tuple(n for n in names if n not in held_out), tuple(n for n in names if n in held_out)


def chosen_on(data: DataSet, settings: TrainSettings) -> tuple[str, ...] | None:
    """Return the cases by which the recipe was chosen, see `TrainSettings.recipe_chosen_on`; None: it is not said."""
    said = settings.recipe_chosen_on
    if said == "not said":
        return None
    if said == "other":
        return ()
    if said == "held-out":
        return tuple(sorted(name for part in all_folds(data, settings) for name in part))
    parts = all_folds(data, settings) if settings.fold is not None else ((),) * settings.folds
    return tuple(sorted(name for fold in said for name in parts[fold]))


def all_folds(data: DataSet, settings: TrainSettings) -> tuple[tuple[str, ...], ...]:
    """Return what each fold of a cross-validation holds out, or what a single run does."""
    if settings.fold is None:
        return (hold_out(data, settings)[1],)
    return patient_folds(data.cases, n=settings.folds, seed=settings.seed)


def require_apart(cases: Mapping[str, LabelledCase], training: Sequence[str], held_out: Sequence[str]) -> None:
    """See that no held-out case shows the very image of a training case: what it would say is no estimate.

    Parameters
    ----------
    cases
        Prepared cases by name.
    training, held_out
        Names of both sides.

    Raises
    ------
    InputError
        If two images are equal voxel for voxel; both cases are named.
    """
    seen: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name in training:
        seen.setdefault(_glimpse(cases[name]), []).append(name)
    for name in held_out:
        for other in seen.get(_glimpse(cases[name]), ()):
            if np.array_equal(cases[name].image, cases[other].image):
                raise InputError(
                    found=f"the image of {name}, which is held out, is voxel for voxel that of {other}, trained on",
                    expected="no image on both sides of the split",
                    fix="leave one of them out, or give both the same patient; voxmetry data check lists all pairs",
                )


def _glimpse(case: LabelledCase) -> tuple[tuple[int, ...], bytes]:
    """Return what equal images have in common, from one plane: a case may lie on disk."""
    plane = np.ascontiguousarray(case.image[:, case.image.shape[1] // 2])
    return case.image.shape, hashlib.sha256(plane.tobytes()).digest()
