"""An Orthanc server that is asked for what is new: its changes, one after the other, each once."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from voxmetry.config.routes import OrthancPoll, Route
from voxmetry.errors import DownloadError, InputError, OutputError, VoxmetryError
from voxmetry.service.dicom.fetch import Found, OrthancArchive
from voxmetry.service.dicom.network_store import NetworkStore

LOG = logging.getLogger("voxmetry.service")
_AT_ONCE = 100
_MOST_FAILURES = 5
"""A series that could not be fetched this often, from a server that answers, is passed over."""

Take = Callable[[OrthancArchive, list[Found], str], None]
"""Fetches series and submits them; the last argument is a name that makes them one job, however often it is called."""


class OrthancPoller:
    """Follows the changes of one server for one route.

    Parameters
    ----------
    poll, route
        From the settings.
    archive
        The server.
    record
        Keeps the position: what was submitted is not looked at again after a kill.
    take
        Fetches and submits what is new.
    """

    def __init__(
        self, poll: OrthancPoll, route: Route, archive: OrthancArchive, record: NetworkStore, take: Take
    ) -> None:
        self._poll, self._route, self._archive, self._record, self._take = poll, route, archive, record, take
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="voxmetry-poller", daemon=True)
        self._failures: Counter[int] = Counter()
        self.problem = ""
        """Why it does not get on; empty where it does."""
        self.n_series = 0
        """Series, or studies, that were submitted since the start."""

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End after the question that is being asked."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                more = self.ask()
                self.problem = ""
            except VoxmetryError as error:
                if error.found != self.problem:
                    LOG.warning("polling %s: %s", self._poll.peer, error.found)
                self.problem, more = error.found, False
            if not more:
                self._stopping.wait(self._poll.seconds)

    def ask(self) -> bool:
        """Ask once, and take what is new; return whether there is more.

        Raises
        ------
        VoxmetryError
            If the server does not answer, or what it has cannot be taken now; it is asked again from there.
        """
        position = self._position()
        answer = self._archive.ask("changes", since=position, limit=_AT_ONCE)
        changes = self._list(answer, "Changes")
        if not changes and _number(answer.get("Last")) < position:
            # Its database is a new one, which counts from the start again.
            LOG.warning("polling %s: it counts its changes anew", self._poll.peer)
            self._record.set_position(self._poll.peer, self._poll.route, 0)
            return True
        for change in changes:
            if self._stopping.is_set():
                return False
            self._look_at(change)
            self._record.set_position(self._poll.peer, self._poll.route, _number(change["Seq"]))
        return not answer.get("Done", True)

    def _position(self) -> int:
        known = self._record.position(self._poll.peer, self._poll.route)
        if known is not None:
            return known
        position = 0
        if not self._poll.from_start:
            # One word, without a value.
            position = _number(self._archive.ask("changes?last").get("Last"))
        self._record.set_position(self._poll.peer, self._poll.route, position)
        return position

    def _list(self, answer: Any, key: str) -> list[Any]:
        found = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) and "Seq" in each for each in found):
            raise DownloadError(
                found=f"{self._poll.peer}: its answer is not that of an Orthanc server",
                expected="the changes of its REST interface",
                fix="check url in peers: the address of the REST interface, not of DICOMweb",
            )
        return found

    def _look_at(self, change: dict[str, Any]) -> None:
        kind = "StableStudy" if self._route.group == "study" else "StableSeries"
        if change.get("ChangeType") != kind:
            return
        number, resource = _number(change["Seq"]), str(change.get("ID", ""))
        if not resource.replace("-", "").isalnum():
            return
        series = [each for each in self._archive.series_of(resource) if each.fits(self._route.match)]
        if not series:
            return
        try:
            self._take(self._archive, series, f"orthanc {self._poll.peer} {self._poll.route} {number} {resource}")
            self.n_series += 1
        except (DownloadError, InputError) as error:
            # The server answers, and yet this one does not come: it must not hold up the others for ever.
            self._failures[number] += 1
            if isinstance(error, DownloadError) and self._failures[number] < _MOST_FAILURES:
                raise
            LOG.warning("polling %s: a series was passed over: %s", self._poll.peer, error.found)
        except OutputError:
            raise


def _number(value: Any) -> int:
    return int(value) if isinstance(value, (int, str)) and str(value).isdigit() else 0
