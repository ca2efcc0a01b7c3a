"""The record of a cohort: one SQLite file, written by the run alone, which others can read meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sqlite3
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from voxmetry._version import __version__
from voxmetry.core.base import Record
from voxmetry.core.records import Comparison, Lesion, Measurement, StudyResult
from voxmetry.errors import FormatError, OutputError
from voxmetry.measurement.tables import columns, flat
from voxmetry.workflows.cohort.header_cache import remember
from voxmetry.workflows.cohort.progress import Progress
from voxmetry.workflows.cohort.records import Fault, FileMark, Outcome, PlannedStudy

NAME = "cohort.sqlite"
VERSION = 1

_STUDIES = """
CREATE TABLE IF NOT EXISTS studies (
    "case" TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, recipe TEXT NOT NULL DEFAULT '',
    fault TEXT, needs_review INTEGER, flags TEXT, seconds REAL, steps_seconds TEXT, peak_memory_mb REAL,
    resident_mb REAL, worker TEXT, device TEXT, started TEXT, finished TEXT, n_starts INTEGER, place TEXT, files TEXT,
    versions TEXT, run TEXT, modality TEXT, format TEXT, shape TEXT, spacing_mm TEXT, patient INTEGER, position INTEGER,
    n_done INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY ("case", model)
) WITHOUT ROWID
"""
_OTHERS = (
    "CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, started TEXT, ended TEXT, host TEXT, pid INTEGER, "
    "voxmetry_version TEXT, settings TEXT, end TEXT)",
    "CREATE TABLE IF NOT EXISTS colours (model TEXT, label TEXT, colour TEXT, PRIMARY KEY (model, label))",
    # Up to 0.1.0 paths and descriptions of the inputs stood here.
    "DROP TABLE IF EXISTS sources",
    "CREATE INDEX IF NOT EXISTS by_state ON studies (state)",
)


def _table(name: str, kind: type[Record], *, of_input: bool = False) -> str:
    types = {int: "INTEGER", bool: "INTEGER", str: "TEXT"}
    annotations = {key: field.annotation for key, field in kind.model_fields.items()}
    spelled = ", ".join(f'"{c}" {types.get(annotations.get(c), "")}' for c in columns(kind))  # type: ignore[arg-type]
    key = "id" if kind is Lesion else "label"
    first = '"case" TEXT, model TEXT' + (", input TEXT" if of_input else "")
    known_by = '"case", model' + (", input" if of_input else "")
    return f"CREATE TABLE IF NOT EXISTS {name} ({first}, {spelled}, PRIMARY KEY ({known_by}, {key}))"


@contextlib.contextmanager
def written_together(db: sqlite3.Connection) -> Iterator[None]:
    """Write what the block writes together, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # The disk may be full: SQLite has then rolled back already.
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class CohortRecord:
    """The record, open for writing. Use it as a context."""

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        with _telling(self.path):
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            _check(self._db, self.path)
            # Readers of a write-ahead log never wait for the writer. A log needs a disk with shared memory: where there
            # is none, SQLite stays with its older journal, and readers wait for a moment.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with written_together(self._db):
                self._db.execute(_STUDIES)
                self._db.execute(_table("measurements", Measurement))
                self._db.execute(_table("lesions", Lesion))
                self._db.execute(_table("other_measurements", Measurement, of_input=True))
                self._db.execute(_table("other_lesions", Lesion, of_input=True))
                self._db.execute(_table("comparisons", Comparison))
                for statement in _OTHERS:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> CohortRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def begin(self, run: str, *, settings: str, host: str, pid: int, studies: Sequence[PlannedStudy]) -> None:
        """Write down a run and all of its studies, before the first one starts."""
        with _telling(self.path), written_together(self._db):
            # A run that is not there any more has nothing under way.
            self._db.execute("UPDATE studies SET state = 'waiting' WHERE state = 'running'")
            self._db.execute("UPDATE runs SET end = 'died' WHERE ended IS NULL AND end IS NULL")
            self._db.execute(
                "INSERT INTO runs VALUES (?, ?, NULL, ?, ?, ?, ?, NULL)",
                (run, _now(), host, pid, __version__, settings),
            )
            self._db.execute("UPDATE studies SET patient = NULL")
            names = dict.fromkeys(study.candidate.patient or study.case for study in studies)
            patients = {name: number for number, name in enumerate(names, start=1)}
            self._db.executemany(
                'INSERT INTO studies ("case", model, state, recipe, fault, modality, format, shape, spacing_mm, '
                "patient, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                'ON CONFLICT ("case", model) DO UPDATE SET state = excluded.state, fault = excluded.fault, '
                "modality = excluded.modality, format = excluded.format, shape = excluded.shape, "
                "spacing_mm = excluded.spacing_mm, patient = excluded.patient, position = excluded.position, recipe = "
                "CASE WHEN excluded.state = 'waiting' THEN excluded.recipe ELSE recipe END",
                (_study_row(study, place, patients) for place, study in enumerate(studies) if study.state != "running"),
            )
        remember(self.path.parent, studies)

    def started(self, case: str, model: str) -> None:
        """Say that a study is under way."""
        with _telling(self.path):
            self._db.execute(
                "UPDATE studies SET state = 'running', started = ? WHERE \"case\" = ? AND model = ?",
                (_now(), case, model),
            )

    def waiting(self, case: str, model: str) -> None:
        """Say that a study that was under way is not."""
        with _telling(self.path):
            self._db.execute("UPDATE studies SET state = 'waiting' WHERE \"case\" = ? AND model = ?", (case, model))

    def finished(self, outcome: Outcome, *, run: str) -> None:
        """Write down what became of a study, with its numbers, in one step."""
        row = {
            "state": outcome.state,
            "fault": outcome.fault.model_dump_json() if outcome.fault else None,
            "needs_review": int(outcome.needs_review),
            "flags": json.dumps([flag.model_dump(mode="json") for flag in outcome.flags]),
            "seconds": outcome.seconds.get("study"),
            "steps_seconds": json.dumps(outcome.seconds),
            "peak_memory_mb": outcome.peak_memory_mb,
            "resident_mb": outcome.resident_mb,
            "worker": outcome.worker,
            "device": outcome.device,
            "started": outcome.started or None,
            "finished": _now(),
            "n_starts": outcome.n_starts,
            "place": outcome.place,
            "files": json.dumps({name: mark.model_dump() for name, mark in outcome.files.items()}),
            "versions": json.dumps(outcome.versions),
            "run": run,
        }
        sets = ", ".join(f"{name} = :{name}" for name in row)
        done = "n_done = n_done + 1" if outcome.state == "done" else "n_done = n_done"
        named = {"key_case": outcome.case, "key_model": outcome.model}
        with _telling(self.path), written_together(self._db):
            self._db.execute(
                f'UPDATE studies SET {sets}, {done} WHERE "case" = :key_case AND model = :key_model', row | named
            )
            colours = ((outcome.model, name, colour) for name, colour in outcome.colours.items())
            self._db.executemany("INSERT OR REPLACE INTO colours VALUES (?, ?, ?)", colours)
            self._measured(outcome.key, outcome)

    def corrected(self, key: tuple[str, str], result: StudyResult, files: Mapping[str, FileMark]) -> None:
        """Write down the numbers of a study that was done, after a person corrected it: its files are other ones."""
        row = {
            "needs_review": int(result.needs_review),
            "flags": json.dumps([flag.model_dump(mode="json") for flag in result.flags]),
            "files": json.dumps({name: mark.model_dump() for name, mark in files.items()}),
        }
        sets = ", ".join(f"{name} = :{name}" for name in row)
        named = {"key_case": key[0], "key_model": key[1]}
        with _telling(self.path), written_together(self._db):
            self._db.execute(f'UPDATE studies SET {sets} WHERE "case" = :key_case AND model = :key_model', row | named)
            self._measured(key, result)

    def _measured(self, key: tuple[str, str], found: Outcome | StudyResult) -> None:
        """Put the numbers of a study in the place of those that it had."""
        self._replace("measurements", Measurement, key, ((key, row) for row in found.measurements))
        self._replace("lesions", Lesion, key, ((key, row) for row in found.lesions))
        self._replace("comparisons", Comparison, key, ((key, row) for row in found.comparisons))
        others = [((*key, other.name), other) for other in found.others]
        measured = [(first, one) for first, other in others for one in other.measurements]
        self._replace("other_measurements", Measurement, key, measured)
        lesions = [(first, one) for first, other in others for one in other.lesions]
        self._replace("other_lesions", Lesion, key, lesions)

    def _replace(
        self, table: str, kind: type[Record], key: tuple[str, str], rows: Iterable[tuple[tuple[str, ...], Record]]
    ) -> None:
        """Put rows, each with what stands before its own columns, in the place of those of a study."""
        self._db.execute(f'DELETE FROM {table} WHERE "case" = ? AND model = ?', key)
        names = columns(kind)
        made = [(*first, *map(flat(row).get, names)) for first, row in rows]
        if made:
            self._db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(made[0]))})", made)

    def end(self, run: str, how: str) -> None:
        """Say how a run ended."""
        with _telling(self.path):
            self._db.execute("UPDATE runs SET ended = ?, end = ? WHERE run = ?", (_now(), how, run))


def _study_row(study: PlannedStudy, position: int, patients: Mapping[str, int]) -> tuple[object, ...]:
    candidate = study.candidate
    return (
        study.case,
        study.model,
        study.state,
        study.recipe,
        study.fault.model_dump_json() if study.fault else None,
        candidate.modality,
        candidate.format,
        json.dumps(candidate.shape),
        json.dumps(candidate.spacing_mm),
        patients[candidate.patient or study.case],
        position,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(
            found=f"the record {path.name} cannot be written: {error}",
            expected="a folder on a disk with room that can be written to",
            fix="free some space, or mend the permissions, and give the same command again: it goes on from there",
        ) from error


def _check(db: sqlite3.Connection, path: Path) -> None:
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "full" in str(error):
            raise
        raise _damaged(path) from error
    if version > VERSION:
        raise FormatError(
            found=f"{path.name} is of version {version}",
            expected=f"at most {VERSION}, which this voxmetry knows",
            fix="use the newer version that wrote it, or another folder",
        )


def _damaged(path: Path) -> FormatError:
    return FormatError(
        found=f"{path.name} is no record of a cohort, or damaged",
        expected="the SQLite file that a run made",
        fix="move it away: the next run then starts from the beginning",
    )


@contextlib.contextmanager
def reading(out: Path) -> Iterator[sqlite3.Connection]:
    """Open the record of a folder for reading, also while a run writes to it.

    Raises
    ------
    FormatError
        If there is none, or it is damaged.
    """
    path = out / NAME
    if not path.is_file():
        raise FormatError(
            found=f"no {NAME} in {out.name}",
            expected="the folder that `voxmetry cohort run` wrote to",
            fix="check the path",
        )
    # A name may hold what ends a path in a URI, or bytes that are no text.
    db = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        _check(db, path)
        yield db
    except sqlite3.DatabaseError as error:
        raise _damaged(path) from error
    finally:
        db.close()


def read_progress(out: Path) -> dict[tuple[str, str], Progress]:
    """Return what the record says about each study; nothing where there is no record yet."""
    if not (out / NAME).is_file():
        return {}
    with reading(out) as db:
        rows = db.execute(
            'SELECT "case", model, state, recipe, files, seconds, run, started, finished, fault FROM studies'
        ).fetchall()
    return {(row["case"], row["model"]): _progress(row) for row in rows}


def _progress(row: Any) -> Progress:
    files = {name: FileMark(**mark) for name, mark in json.loads(row["files"] or "{}").items()}
    span = (row["started"] or "", row["finished"] or "")
    return Progress(row["state"], row["recipe"], files, row["seconds"] or 0.0, row["run"] or "", span, row["fault"])


def read_faults(out: Path) -> list[tuple[str, str, str, Fault | None]]:
    """Return case, model, state and reason of every study that was not done."""
    with reading(out) as db:
        rows = db.execute(
            "SELECT \"case\", model, state, fault FROM studies WHERE state NOT IN ('done', 'waiting', 'running') "
            "ORDER BY position"
        ).fetchall()
    return [
        (r["case"], r["model"], r["state"], Fault.model_validate_json(r["fault"]) if r["fault"] else None) for r in rows
    ]


class Summary(Record):
    """How far a cohort is."""

    counts: dict[str, int]
    """Studies by state, and 'flagged' among those that are done."""
    last_run: str
    """When the last run began and how it ended, in words."""
    median_seconds: float | None
    """Of the studies that are done."""


def read_summary(out: Path) -> Summary:
    """Count the studies of a folder by state.

    Raises
    ------
    FormatError
        If there is no record.
    """
    names = ("done", "failed", "set aside", "refused", "duplicate", "waiting", "running")
    with reading(out) as db:
        found = dict(db.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall())
        flagged = db.execute("SELECT count(*) FROM studies WHERE state = 'done' AND needs_review").fetchone()[0]
        seconds = [row[0] for row in db.execute("SELECT seconds FROM studies WHERE state = 'done' AND seconds > 0")]
        run = db.execute("SELECT started, ended, end FROM runs ORDER BY started DESC, rowid DESC LIMIT 1").fetchone()
    words = (
        f"began {run['started']}, " + (f"{run['end']} {run['ended']}" if run["ended"] else "no end yet") if run else ""
    )
    counts = {name: found.get(name, 0) for name in names} | {"flagged": flagged}
    return Summary(counts=counts, last_run=words, median_seconds=statistics.median(seconds) if seconds else None)
