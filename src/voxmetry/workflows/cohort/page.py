"""The page of a cohort from its record, and the page of its accuracy where there are references."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from voxmetry.core.labels import colours_of
from voxmetry.core.records import CaseComparison, CohortSettings, Comparison
from voxmetry.core.text import file_names
from voxmetry.io.atomic import write_text
from voxmetry.measurement.summarise_cases import summarise_cohort
from voxmetry.report.cohort import CohortEntry, Roster, render_roster
from voxmetry.workflows.cohort.database import reading

PAGE = "cohort.html"


def write_page(out: Path) -> tuple[Path, ...]:
    """Write `cohort.html`, and `accuracy-MODEL.html` for each model whose results were compared with references.

    Parameters
    ----------
    out
        The folder of a cohort; a run may be writing to it.

    Returns
    -------
    tuple of Path
        The pages.

    Raises
    ------
    FormatError, OutputError
        If there is no record, or a file cannot be written.
    """
    with reading(out) as db:
        compared = _compared(db)
        called = zip(compared.items(), file_names(compared), strict=True)
        accuracy = [(name, f"accuracy-{file}.html", cases) for (name, cases), file in called]
        roster = Roster(
            title=f"Cohort of {db.execute('SELECT count(*) FROM studies').fetchone()[0]} studies",
            colours=_colours(db),
            entries=_entries(db),
            accuracy=tuple((name, address) for name, address, _ in accuracy),
        )
    pages = [out / address for _, address, _ in accuracy]
    for page, (_, _, cases) in zip(pages, accuracy, strict=True):
        _write_accuracy(page, cases)
    write_text(out / PAGE, render_roster(roster))
    return (out / PAGE, *pages)


def _entries(db: sqlite3.Connection) -> tuple[CohortEntry, ...]:
    volumes: dict[tuple[str, str], dict[str, float]] = {}
    for row in db.execute('SELECT "case", model, label, volume_ml FROM measurements ORDER BY "case", model, value'):
        volumes.setdefault((row["case"], row["model"]), {})[row["label"]] = row["volume_ml"]
    dice: dict[tuple[str, str], dict[str, float]] = {}
    for row in db.execute('SELECT "case", model, label, dice FROM comparisons WHERE dice IS NOT NULL'):
        dice.setdefault((row["case"], row["model"]), {})[row["label"]] = row["dice"]
    rows = db.execute(
        'SELECT "case", model, state, needs_review, flags, fault, seconds, place, files FROM studies '
        'ORDER BY position, "case", model'
    )
    return tuple(_entry(row, volumes, dice) for row in rows)


def _entry(row: Any, volumes: dict[Any, dict[str, float]], dice: dict[Any, dict[str, float]]) -> CohortEntry:
    done = row["state"] == "done"
    key = (row["case"], row["model"])
    files = list(json.loads(row["files"] or "{}")) if done else []
    return CohortEntry(
        case=row["case"],
        model=row["model"],
        state=row["state"],
        review=bool(row["needs_review"]) and done,
        flags=tuple(dict.fromkeys(flag["code"] for flag in json.loads(row["flags"] or "[]"))) if done else (),
        reason=json.loads(row["fault"])["found"] if row["fault"] and not done else "",
        seconds=row["seconds"] if done else None,
        volumes_ml=volumes.get(key, {}) if done else {},
        dice=dice.get(key, {}) if done else {},
        link=_ending(files, "report.html") or _ending(files, "result.json"),
        thumbnail=_ending(files, "thumbnail.png"),
    )


def _ending(files: list[str], end: str) -> str | None:
    return next((name for name in files if name.endswith(end)), None)


def _colours(db: sqlite3.Connection) -> dict[str, str]:
    """Return the colours that the studies' own reports give the structures; the palette where none is known."""
    labels = [row[0] for row in db.execute("SELECT label FROM measurements GROUP BY label ORDER BY min(value), label")]
    has_colours = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'colours'").fetchone()
    known = dict(db.execute("SELECT label, colour FROM colours ORDER BY model DESC").fetchall()) if has_colours else {}
    return colours_of(labels, known)


def _compared(db: sqlite3.Connection) -> dict[str, list[CaseComparison]]:
    """Return the comparisons of the studies that are done, by model."""
    found: dict[str, dict[str, CaseComparison]] = {}
    colours = _colours(db)
    rows = db.execute(
        "SELECT s.patient, c.* FROM comparisons c JOIN studies s "
        'ON s."case" = c."case" AND s.model = c.model AND s.state = \'done\' ORDER BY s.position, c.value'
    )
    for row in rows:
        content = {name: row[name] for name in Comparison.model_fields if name in row.keys()}  # noqa: SIM118  (a row has no `in`)
        cases = found.setdefault(row["model"], {})
        before = cases.get(row["case"])
        one = Comparison.model_validate(content)
        cases[row["case"]] = CaseComparison(
            case=row["case"],
            patient=row["patient"] or 0,
            comparisons=(*(before.comparisons if before else ()), one),
            colours=colours,
        )
    return {model: list(cases.values()) for model, cases in found.items()}


def _write_accuracy(page: Path, cases: list[CaseComparison]) -> None:
    from voxmetry.report.comparison import write_cohort_page

    tolerance = cases[0].comparisons[0].tolerance_mm
    write_cohort_page(summarise_cohort(cases, CohortSettings(tolerance_mm=tolerance)), page)
