"""The record of the service's jobs: one SQLite file, which a kill at any moment leaves whole."""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmetry.config import StudySettings
from voxmetry.core.records import Flag
from voxmetry.service.database import Database
from voxmetry.service.records import OVER, Counts, Job, JobEvent, Numbers
from voxmetry.workflows.cohort.records import Fault

NAME = "service.sqlite"
VERSION = 1

_TABLES = (
    "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, once TEXT UNIQUE, state TEXT NOT NULL, model TEXT NOT NULL, "
    "settings TEXT NOT NULL, source TEXT NOT NULL, owned INTEGER NOT NULL, priority INTEGER NOT NULL, "
    "origin TEXT NOT NULL, route TEXT, send_to TEXT NOT NULL, label TEXT NOT NULL, image TEXT, created TEXT NOT NULL, "
    "started TEXT NOT NULL DEFAULT '', finished TEXT NOT NULL DEFAULT '', step TEXT NOT NULL DEFAULT '', "
    "n_starts INTEGER NOT NULL DEFAULT 0, n_losses INTEGER NOT NULL DEFAULT 0, fault TEXT, "
    "needs_review INTEGER NOT NULL DEFAULT 0, flags TEXT NOT NULL DEFAULT '[]', seconds REAL, "
    "files TEXT NOT NULL DEFAULT '[]', delivery TEXT NOT NULL DEFAULT 'none', n_deliveries INTEGER NOT NULL DEFAULT 0, "
    "delivery_fault TEXT NOT NULL DEFAULT '', "
    "cancel INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, priority, created)",
    "CREATE INDEX IF NOT EXISTS jobs_by_delivery ON jobs (delivery)",
    "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, at TEXT NOT NULL, "
    "what TEXT NOT NULL, words TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS events_by_job ON events (job)",
)
_JSON = {"settings", "source", "send_to", "flags", "files", "fault"}


def now() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class JobStore(Database):
    """The record of jobs, open for reading and writing by the threads of one process.

    Parameters
    ----------
    path
        The file; it is made where it is missing.

    Raises
    ------
    OutputError, FormatError
        As `Database`.
    """

    what = "record of jobs"

    def __init__(self, path: Path) -> None:
        self._reading = threading.Lock()
        super().__init__(path, _TABLES, VERSION)

    def _prepare(self, statements: Sequence[str], version: int) -> None:
        super()._prepare(statements, version)
        with self._telling():
            self._db.execute("PRAGMA synchronous = NORMAL")
        # A connection of its own: whoever reads does not wait for a write to reach the disk.
        self._reader = self._connect()
        self._set_right()

    def _set_right(self) -> None:
        """Fail the jobs that were not over and cannot be read any more, so that they stop nothing that follows."""
        rows = self._rows("SELECT * FROM jobs WHERE state NOT IN ('done', 'failed', 'set aside', 'cancelled')")
        for row in rows:
            if _read(row) is None:
                damaged = _damaged(row).model_copy(update={"finished": now()})
                self.change(
                    row["id"],
                    tell=("failed", DAMAGED.found),
                    **{name: getattr(damaged, name) for name in Job.model_fields if name != "id"},
                )

    def close(self) -> None:
        """Close the file."""
        # In this order, as whoever reads within `all_or_nothing`.
        with self._lock, self._reading:
            super().close()

    def _rows(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        with self._reading, self._telling():
            return self._reader.execute(statement, values).fetchall()

    # --- jobs

    def add(self, job: Job, *, once: str | None = None) -> Job:
        """Write down a new job; where `once` is known, return the job that has it."""
        row = _row_of(job) | {"once": once}
        names = ", ".join(row)
        with self._to_disk(), self.all_or_nothing():
            if once is not None and (
                known := self._db.execute("SELECT * FROM jobs WHERE once = ?", (once,)).fetchone()
            ):
                return _job(known)
            self._db.execute(f"INSERT INTO jobs ({names}) VALUES ({', '.join(':' + name for name in row)})", row)
            self._tell(job.id, job.state, "")
        return job

    @contextlib.contextmanager
    def _to_disk(self) -> Iterator[None]:
        """Have what the block writes on the disk at its end, and not soon after.

        What was accepted must be there after a power cut. What is written of a job later need not: its result's folder
        says whether it is done, and waiting for the disk at each step would hold up the next study.
        """
        with self._lock, self._telling():
            self._db.execute("PRAGMA synchronous = FULL")
            try:
                yield
            finally:
                self._db.execute("PRAGMA synchronous = NORMAL")

    def change(self, job: str, *, tell: tuple[str, str] | None = None, **fields: object) -> None:
        """Change fields of a job, and write an event (what, words) in the same step."""
        row = {name: json.dumps(_plain(value)) if name in _JSON else value for name, value in fields.items()}
        sets = ", ".join(f"{name} = :{name}" for name in row)
        with self.all_or_nothing():
            self._db.execute(f"UPDATE jobs SET {sets} WHERE id = :this_job", row | {"this_job": job})
            if tell is not None:
                self._tell(job, *tell)

    def _tell(self, job: str, what: str, words: str) -> None:
        self._db.execute("INSERT INTO events (job, at, what, words) VALUES (?, ?, ?, ?)", (job, now(), what, words))

    def get(self, job: str) -> Job | None:
        """Return a job; None where there is none of this id."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", (job,))
        return _job(rows[0]) if rows else None

    def named(self, once: str) -> Job | None:
        """Return the job of a request that had a name; None where there was none of this name."""
        rows = self._rows("SELECT * FROM jobs WHERE once = ?", (once,))
        return _job(rows[0]) if rows else None

    def in_state(self, *states: str) -> list[Job]:
        """Return the jobs in one of these states, the highest priority first, and of these the oldest."""
        marks = ", ".join("?" * len(states))
        rows = self._rows(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY priority DESC, created, rowid", states)
        return [_job(row) for row in rows]

    def next_waiting(self, *, lost: bool) -> Job | None:
        """Return the job that runs next, of those whose worker was lost before or of the others."""
        rows = self._rows(
            f"SELECT * FROM jobs WHERE state = 'waiting' AND n_losses {'>' if lost else '='} 0 "
            "ORDER BY priority DESC, created, rowid LIMIT 1"
        )
        return _job(rows[0]) if rows else None

    def listed(
        self,
        *,
        states: Sequence[str] = (),
        words: str = "",
        flagged: bool | None = None,
        after: int = 0,
        most: int = 100,
    ) -> list[Job]:
        """Return jobs, the newest first.

        Parameters
        ----------
        states
            Only these; none given: all.
        words
            What the id, the model or the label must have in it.
        flagged
            Only those that are, or are not, flagged for review.
        after, most
            How many are passed over, and how many are returned.
        """
        where, values = ["1 = 1"], list[object]()
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if words:
            where.append("(instr(lower(id || ' ' || model || ' ' || label), lower(?)) > 0)")
            values.append(words)
        if flagged is not None:
            where.append("needs_review = ?")
            values.append(int(flagged))
        rows = self._rows(
            f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?",
            [*values, most, after],
        )
        return [_job(row) for row in rows]

    def counts(self) -> Counts:
        """Return how many jobs are in each state."""
        states = {row[0]: row[1] for row in self._rows("SELECT state, count(*) FROM jobs GROUP BY state")}
        flagged = self._rows("SELECT count(*) FROM jobs WHERE state = 'done' AND needs_review")[0][0]
        return Counts(states=states, flagged=flagged)

    def numbers(self) -> Numbers:
        """Return sums over all jobs of the record."""
        seconds = self._rows("SELECT coalesce(sum(seconds), 0) FROM jobs WHERE state = 'done'")[0][0]
        oldest = self._rows("SELECT min(created) FROM jobs WHERE state = 'waiting'")[0][0]
        deliveries = {row[0]: row[1] for row in self._rows("SELECT delivery, count(*) FROM jobs GROUP BY delivery")}
        return Numbers(seconds=float(seconds), oldest_waiting=oldest or "", deliveries=deliveries)

    def n_waiting(self) -> int:
        """Return how many jobs wait."""
        return int(self._rows("SELECT count(*) FROM jobs WHERE state = 'waiting'")[0][0])

    def waiting_for_delivery(self) -> list[Job]:
        """Return the jobs whose results are to be sent."""
        return [_job(row) for row in self._rows("SELECT * FROM jobs WHERE delivery = 'waiting' ORDER BY finished")]

    def finished_before(self, time: str) -> list[Job]:
        """Return the jobs that were over before a time, and whose results are not waiting to be sent."""
        rows = self._rows("SELECT * FROM jobs WHERE finished != '' AND finished < ? AND delivery != 'waiting'", (time,))
        return [job for job in map(_job, rows) if job.is_over]

    def sources(self) -> set[str]:
        """Return every path that a job names, over or not."""
        return {path for row in self._rows("SELECT source FROM jobs") for path in _names(row["source"])}

    def uses(self, source: str) -> int:
        """Return how many jobs that are not over read from a path."""
        rows = self._rows("SELECT source, state FROM jobs WHERE state IN ('waiting', 'running')")
        return sum(source in _names(row["source"]) for row in rows)

    def forget(self, job: str) -> None:
        """Remove a job and its events."""
        with self.all_or_nothing():
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            self._db.execute("DELETE FROM events WHERE job = ?", (job,))

    # --- events

    def events(self, *, after: int = 0, job: str | None = None, most: int = 500) -> list[JobEvent]:
        """Return events with a number above `after`, of one job or of all."""
        only, values = ("AND job = ?", (after, job, most)) if job else ("", (after, most))
        rows = self._rows(f"SELECT * FROM events WHERE number > ? {only} ORDER BY number LIMIT ?", values)
        return [JobEvent.model_validate(dict(row)) for row in rows]

    def last_event(self) -> int:
        """Return the number of the newest event; 0 where there is none."""
        return int(self._rows("SELECT coalesce(max(number), 0) FROM events")[0][0])


def _plain(value: object) -> object:
    if isinstance(value, (Fault, StudySettings, Flag)):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _row_of(job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in type(job).model_fields}
    return {name: json.dumps(_plain(value)) if name in _JSON else value for name, value in row.items()}


def _job(row: sqlite3.Row) -> Job:
    return _read(row) or _damaged(row)


def _read(row: sqlite3.Row) -> Job | None:
    """Return the job of a row; None where the row is damaged, or was written by a version with other settings."""
    values = {name: row[name] for name in Job.model_fields}
    try:
        for name in _JSON:
            values[name] = json.loads(values[name]) if values[name] else None
        return Job.model_validate(values)
    except (ValueError, TypeError, RecursionError):
        return None


DAMAGED = Fault(
    error="FormatError",
    found="the record of this job cannot be read: it is damaged, or of another version of voxmetry",
    expected="a job as this version writes it down",
    fix="submit the study again; files of a result that is there are still given",
)


def _damaged(row: sqlite3.Row) -> Job:
    """Return what can still be said of a job whose row cannot be read: one that failed, or was over before."""
    known: dict[str, Any] = {"id": str(row["id"])}
    plain = known | {"state": "failed", "model": "", "settings": StudySettings(), "source": ()}
    for name in Job.model_fields:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            value = json.loads(row[name]) if name in _JSON and row[name] else row[name]
            known[name] = getattr(Job.model_validate(plain | {name: value}), name)
    state = known.get("state")
    if state not in OVER:
        known |= {"state": "failed", "fault": DAMAGED, "step": "", "files": (), "delivery": "none"}
    elif state in ("failed", "set aside"):
        known["fault"] = known.get("fault") or DAMAGED
    elif state == "done" and not {"flags", "needs_review"} <= set(known):
        # What was remarked cannot be told any more: somebody is to look.
        known["needs_review"] = True
    return Job.model_validate(plain | known)


def _names(text: object) -> tuple[str, ...]:
    """Return a JSON list of words; none where it is no such list."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, list) and all(isinstance(each, str) for each in found) else ()
