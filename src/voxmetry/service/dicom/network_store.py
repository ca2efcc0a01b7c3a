"""What was sent to whom, and how far an Orthanc server was followed: one SQLite file in the data folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from voxmetry.core.base import Record
from voxmetry.service.database import Database

NAME = "network.sqlite"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS deliveries (job TEXT NOT NULL, peer TEXT NOT NULL, file TEXT NOT NULL, "
    "state TEXT NOT NULL DEFAULT 'waiting', n_tries INTEGER NOT NULL DEFAULT 0, after REAL NOT NULL DEFAULT 0, "
    "reason TEXT NOT NULL DEFAULT '', at REAL NOT NULL DEFAULT 0, PRIMARY KEY (job, peer, file))",
    "CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (state, peer, after)",
    "CREATE TABLE IF NOT EXISTS positions (peer TEXT NOT NULL, route TEXT NOT NULL, position INTEGER NOT NULL, "
    "PRIMARY KEY (peer, route))",
)


class Sending(Record):
    """One file on its way to one peer."""

    job: str
    peer: str
    file: str
    state: str = "waiting"
    """'waiting', 'delivered' or 'failed'."""
    n_tries: int = 0
    after: float = 0
    """When it is tried next, in seconds of the epoch."""
    reason: str = ""
    """Why the peer did not take it."""
    at: float = 0
    """When it was tried last."""


class NetworkStore(Database):
    """The record of deliveries and positions.

    Parameters
    ----------
    folder
        The service's data folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / NAME, _TABLES, 1)

    def plan(self, job: str, peers: Iterable[str], files: Iterable[str]) -> None:
        """Write down that these files of a job are to be sent to these peers; what is there stays as it is."""
        names = list(files)
        with self.all_or_nothing():
            for peer in peers:
                for file in names:
                    self.rows("INSERT OR IGNORE INTO deliveries (job, peer, file) VALUES (?, ?, ?)", (job, peer, file))

    def of_job(self, job: str) -> list[Sending]:
        """Return all files of a job on their way, or there."""
        return self._sendings("job = ? ORDER BY peer, file", (job,))

    def due(self, peer: str) -> list[Sending]:
        """Return the files of one job that are to be sent to a peer now; the job that waits longest."""
        first = self.rows(
            "SELECT job FROM deliveries WHERE state = 'waiting' AND peer = ? AND after <= ? "
            "ORDER BY after, rowid LIMIT 1",
            (peer, time.time()),
        )
        if not first:
            return []
        return self._sendings("state = 'waiting' AND peer = ? AND job = ? ORDER BY file", (peer, first[0]["job"]))

    def waiting_peers(self) -> list[str]:
        """Return the peers that something waits for."""
        return [row["peer"] for row in self.rows("SELECT DISTINCT peer FROM deliveries WHERE state = 'waiting'")]

    def _sendings(self, where: str, values: tuple[object, ...]) -> list[Sending]:
        return [
            Sending.model_validate(dict(row)) for row in self.rows(f"SELECT * FROM deliveries WHERE {where}", values)
        ]

    def tried(self, sending: Sending, *, state: str, reason: str = "", after: float = 0) -> None:
        """Write down what became of a try."""
        self.rows(
            "UPDATE deliveries SET state = ?, reason = ?, after = ?, n_tries = n_tries + 1, at = ? "
            "WHERE job = ? AND peer = ? AND file = ?",
            (state, reason, after, time.time(), sending.job, sending.peer, sending.file),
        )

    def try_again(self, job: str) -> int:
        """Let everything of a job that no peer has taken be sent now, as if never tried; return how many files."""
        with self.all_or_nothing():
            found = [each for each in self.of_job(job) if each.state != "delivered"]
            self.rows(
                "UPDATE deliveries SET state = 'waiting', n_tries = 0, after = 0, reason = '' "
                "WHERE job = ? AND state != 'delivered'",
                (job,),
            )
        return len(found)

    def hold_back(self, peer: str, until: float) -> None:
        """Send nothing to a peer before a time; it counts as no try."""
        self.rows(
            "UPDATE deliveries SET after = ? WHERE peer = ? AND state = 'waiting' AND after < ?", (until, peer, until)
        )

    def forget(self, job: str) -> None:
        """Remove a job."""
        self.rows("DELETE FROM deliveries WHERE job = ?", (job,))

    def counts(self) -> Mapping[str, int]:
        """Return how many files are in each state."""
        return {row[0]: row[1] for row in self.rows("SELECT state, count(*) FROM deliveries GROUP BY state")}

    def position(self, peer: str, route: str) -> int | None:
        """Return how far an Orthanc server was followed; None at first."""
        rows = self.rows("SELECT position FROM positions WHERE peer = ? AND route = ?", (peer, route))
        return int(rows[0]["position"]) if rows else None

    def set_position(self, peer: str, route: str, position: int) -> None:
        """Write down how far an Orthanc server was followed."""
        self.rows("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (peer, route, position))
