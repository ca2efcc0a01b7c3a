"""What a check of a data set says: findings, agreement of labels, and the whole."""

from __future__ import annotations

from typing import Literal

from voxmetry.core.base import Number, Record
from voxmetry.train.fingerprint import CaseFacts

Code = Literal[
    "unreadable",
    "geometry",
    "unknown_label",
    "not_looked_for",
    "contradiction",
    "empty_label",
    "missing_structure",
    "specks",
    "duplicate",
    "near_duplicate",
    "intensity",
    "spacing",
    "volume",
    "raters",
    "disagreement",
]
SEVERITIES = ("error", "review", "note")


class Finding(Record):
    """One thing about one case."""

    code: Code
    severity: Literal["error", "review", "note"]
    """'error': training will refuse the case or leak; 'review': look at it; 'note': good to know."""
    case: str
    message: str
    structure: str | None = None
    other: str | None = None
    """The other case of a pair."""


class LabelAgreement(Record):
    """One structure of one case, drawn twice, or drawn and predicted."""

    case: str
    structure: str
    source: Literal["rater", "prediction"]
    dice: Number


class DataCheck(Record):
    """The content of `data-check.json`."""

    schema_version: int = 1
    data: str
    n_cases: int
    n_patients: int
    n_read: int
    """Cases that could be read."""
    findings: tuple[Finding, ...]
    """Errors first, then by case."""
    agreements: tuple[LabelAgreement, ...]
    """Lowest Dice first."""
    cases: tuple[CaseFacts, ...]
