"""The split into training and held-out patients that stays for ever.

A run that deals its cases anew each time trains on what an earlier one held out, and its accuracy says nothing any more
(Project-MONAI/MONAILabel issue 1752). Here whoever was trained on stays in training, whoever was held out stays held
out, and a new patient's side follows from the patient's name alone: it does not depend on the other cases, on their
order, or on a seed, so that it is the same in each later run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from voxmetry.errors import ConfigError
from voxmetry.train.cases import Case, listed
from voxmetry.train.finish import patient_key

_SALT = b"voxmetry held out 1\0"


@dataclass(frozen=True)
class Split:
    """The two sides, by names of cases.

    Parameters
    ----------
    training, held_out
        Sorted.
    new_held_out
        Of the held-out cases, those that no earlier run knew.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    new_held_out: tuple[str, ...]


def share_of(patient: str) -> float:
    """Return a number from 0 to 1 that follows from a patient's name alone.

    Examples
    --------
    >>> share_of("patient 7") == share_of("patient 7"), 0 <= share_of("x") < 1
    (True, True)
    """
    return int.from_bytes(hashlib.sha256(_SALT + patient.encode()).digest()[:8], "big") / 2**64


def permanent_split(
    cases: Sequence[Case], earlier: Mapping[str, Collection[str]], *, held_out_share: float = 0.2
) -> Split:
    """Split cases by patient, as earlier runs did where they knew the patient.

    Parameters
    ----------
    cases
        Old and new ones.
    earlier
        Of the model that training starts from: names of its 'training' and 'validation' cases, and the keys of their
        patients, 'training_patients' and 'validation_patients', where it says them (`train.finish.patient_key`).
    held_out_share
        Share of the new patients that is held out, 0 to 1.

    Returns
    -------
    Split
        All cases of a patient are on one side.

    Raises
    ------
    ConfigError
        If a patient would have to be on both sides, or nobody is held out.

    Examples
    --------
    >>> from pathlib import Path
    >>> scans = [Case(name, name[0], (), Path()) for name in ("a1", "a2", "b1", "c1")]
    >>> split = permanent_split(scans, {"training": ["a1"], "validation": ["b1"]}, held_out_share=0)
    >>> split.training, split.held_out
    (('a1', 'a2', 'c1'), ('b1',))
    """
    trained, seen = _patients(cases, earlier, "training"), _patients(cases, earlier, "validation")
    marked = {case.patient for case in cases if case.held_out}
    both = sorted(trained & (seen | marked))
    if both:
        raise ConfigError(
            found=f"{len(both)} patients that the model was trained on and that are held out: {listed(both)}",
            expected="each patient on one side for ever: the model's Dice on them would say nothing",
            fix="start from another model, or take the mark held_out from their cases; then they are trained on",
        )
    fresh = {case.patient for case in cases} - trained - seen - marked
    chosen = {patient for patient in fresh if share_of(patient) < held_out_share}
    out = seen | marked | chosen
    held_out = tuple(sorted(case.name for case in cases if case.patient in out))
    training = tuple(sorted(case.name for case in cases if case.patient not in out))
    if not held_out or not training:
        raise ConfigError(
            found=f"{len(training)} cases to train on and {len(held_out)} held out",
            expected="at least one of each: without held-out cases nothing tells whether the new model is better",
            fix="add cases, mark some as held_out in the data set, or change --held-out",
        )
    new = tuple(sorted(case.name for case in cases if case.patient in chosen))
    return Split(training, held_out, new)


def _patients(cases: Sequence[Case], earlier: Mapping[str, Collection[str]], side: str) -> set[str]:
    names = set(earlier.get(side, ()))
    known = {case.patient for case in cases if case.name in names}
    keys = set(earlier.get(f"{side}_patients", ()))
    return known | {case.patient for case in cases if patient_key(case.patient) in keys}
