"""One SQLite file of the service, which a kill at any moment leaves whole."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from voxmetry.errors import FormatError, OutputError
from voxmetry.service.errors import DamagedRecordError
from voxmetry.workflows.cohort.database import written_together


class Database:
    """A file, open for reading and writing by the threads of one process.

    Parameters
    ----------
    path
        The file; it is made where it is missing.
    statements
        Make its tables where they are missing.
    version
        Of the tables; a file of a newer one is refused.

    Raises
    ------
    OutputError
        If it cannot be written, here and in every method: the disk is full, or may not be written to.
    DamagedRecordError
        If it is damaged, here and in every method.
    FormatError
        If the file is no such record, or of a newer version.
    """

    what: ClassVar[str] = "record"
    """What the file is called in errors."""

    def __init__(self, path: Path, statements: Sequence[str], version: int) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._open: list[sqlite3.Connection] = []
        self._db = self._connect()
        try:
            self._prepare(statements, version)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        """Open one more connection, which `close` closes."""
        with self._telling():
            found = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        found.row_factory = sqlite3.Row
        self._open.append(found)
        return found

    def _prepare(self, statements: Sequence[str], version: int) -> None:
        with self._telling():
            self._check(version)
            self._db.execute("PRAGMA journal_mode = WAL")
            # What was accepted is there after a power cut as well.
            self._db.execute("PRAGMA synchronous = FULL")
            with self.all_or_nothing():
                for statement in statements:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            for connection in reversed(self._open):
                connection.close()

    def _check(self, newest: int) -> None:
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or "full" in str(error):
                raise
            version = -1
        if not 0 <= version <= newest:
            raise FormatError(
                found=f"{self.path.name} is no {self.what} of this version, or damaged",
                expected="the SQLite file that voxmetry serve made",
                fix="use the version that wrote it, or name another folder as data",
            )

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise DamagedRecordError(
                    found=f"{self.path.name} is damaged",
                    expected=f"the {self.what} that voxmetry serve made, whole",
                    fix="restore it from a copy, or move it away with its -wal and -shm: what it knew is lost then, "
                    "and results stay where they are",
                ) from error
            raise OutputError(
                found=f"the record {self.path.name} cannot be written: {error}",
                expected="a folder on a disk with room that can be written to",
                fix="free some space, or mend the permissions of the data folder",
            ) from error

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Hold the file; what the block writes is written together, or nothing of it. Blocks may be nested."""
        with self._lock, self._telling():
            if self._db.in_transaction:
                yield
                return
            with written_together(self._db):
                yield

    def rows(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """Run one statement, and return its rows."""
        with self._lock, self._telling():
            return self._db.execute(statement, values).fetchall()
