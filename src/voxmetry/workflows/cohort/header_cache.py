"""What the headers of a cohort said, so that they are read once: a file of its own, apart from the results.

It holds Series Descriptions, which are free text, and UIDs; no path. It lies in `OUT/.voxmetry`, which is no part of
the results: leave that folder out where OUT is handed on. Without it headers are read again; nothing else changes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from voxmetry.workflows.cohort.discover import key_of
from voxmetry.workflows.cohort.layout import WORK
from voxmetry.workflows.cohort.records import Candidate, PlannedStudy

NAME = "headers.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS headers (key TEXT PRIMARY KEY, candidates TEXT NOT NULL) WITHOUT ROWID"


@contextlib.contextmanager
def _open(out: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(out / WORK / NAME, timeout=5)
    try:
        yield db
    finally:
        db.close()


def remember(out: Path, studies: Sequence[PlannedStudy]) -> None:
    """Keep what was found in the headers of each input. It only saves time: no disk stops at it."""
    found: dict[str, dict[str, Candidate]] = {}
    for study in studies:
        # What a manifest or a file's name says about a study is read anew each time; the headers are not.
        for image in study.candidate.images:
            candidate = image.model_copy(
                update={"path": "", "reference": None, "patient": None, "model": None, "entities": {}}
                | ({} if image.format == "DICOM" else {"modality": None})
            )
            if candidate.fingerprint:
                found.setdefault(key_of(image.path, candidate.fingerprint), {})[candidate.series or ""] = candidate
    rows = ((key, _json(group.values())) for key, group in found.items())
    with contextlib.suppress(sqlite3.Error, OSError), _open(out) as db, db:
        db.execute(_TABLE)
        db.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?)", rows)


def _json(candidates: object) -> str:
    return json.dumps([one.model_dump(mode="json") for one in candidates])  # type: ignore[attr-defined]


def read_known(out: Path) -> dict[str, tuple[Candidate, ...]]:
    """Return what earlier runs found, by `key_of` path and fingerprint; nothing where nothing can be read."""
    if not (out / WORK / NAME).is_file():
        return {}
    try:
        with _open(out) as db:
            rows = db.execute("SELECT key, candidates FROM headers").fetchall()
        return {key: tuple(Candidate.model_validate(c) for c in json.loads(text)) for key, text in rows}
    except (sqlite3.Error, OSError, ValueError, ValidationError):
        return {}
