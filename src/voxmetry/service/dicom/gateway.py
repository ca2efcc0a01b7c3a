"""The DICOM side of a running service: the receiver, the pollers, and what is fetched by request."""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxmetry.config.routes import DicomPeer, DicomReceiver, OrthancPeer, SeriesMatch
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import ConfigError
from voxmetry.service.datastore import Image
from voxmetry.service.dicom.collector import Collector
from voxmetry.service.dicom.fetch import Archive, DicomwebArchive, Found, OrthancArchive, fetch_series, nothing_found
from voxmetry.service.dicom.network_store import NetworkStore
from voxmetry.service.dicom.poller import OrthancPoller
from voxmetry.service.dicom.receiver import Receiver
from voxmetry.service.jobs import UPLOADS, JobQueue
from voxmetry.service.retention import RECEIVED_NAME

LOG = logging.getLogger("voxmetry.service")


class Gateway:
    """Brings studies in. Start it after the queue, and stop it before.

    Parameters
    ----------
    settings
        Of the service.
    queue
        Takes the jobs.
    """

    def __init__(self, settings: ServiceSettings, queue: JobQueue) -> None:
        self._settings, self._queue = settings, queue
        self._limits = settings.dicom or DicomReceiver()
        self.collector: Collector | None = None
        self.receiver: Receiver | None = None
        if settings.dicom is not None:
            self.collector = Collector(queue.root, settings.routes, settings.dicom, self.submit)
            self.receiver = Receiver(settings.dicom, settings.routes, settings.peers, self.collector)
        self.pollers: list[OrthancPoller] = []
        self._record: NetworkStore | None = None

    def start(self) -> None:
        """Listen, and begin to poll; what was begun ends where something fails. Raises as `Receiver`."""
        try:
            self._begin()
        except BaseException:
            self.stop()
            raise

    def _begin(self) -> None:
        if self.collector is not None and self.receiver is not None:
            self.collector.start()
            self.receiver.start()
            LOG.info("DICOM: listening at %s:%d", self.receiver.settings.host, self.receiver.port)
        if self._settings.polls:
            self._record = NetworkStore(self._queue.root)
        for poll in self._settings.polls:
            peer = self._settings.peers[poll.peer]
            if self._record is None or not isinstance(peer, OrthancPeer):
                continue
            route = self._settings.routes[poll.route]
            archive = OrthancArchive(poll.peer, peer, self._limits, self._settings.delivery.timeout_seconds)

            def take(archive: OrthancArchive, series: list[Found], once: str, name: str = poll.route) -> None:
                self._take(archive, series, once, name)

            self.pollers.append(OrthancPoller(poll, route, archive, self._record, take))
            self.pollers[-1].start()

    def stop(self) -> None:
        """Take nothing more in."""
        if self.receiver is not None:
            self.receiver.stop()
        for poller in self.pollers:
            poller.stop()
        if self.collector is not None:
            self.collector.stop()
        if self._record is not None:
            self._record.close()

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, folder: Path, route: str, *, sender: str | None, origin: str, once: str) -> str:
        """Make a job of a folder of images below the queue's uploads, once; return its id."""
        how = self._settings.routes[route]
        send_to = list(how.send_to)
        if how.reply_to_sender and sender is not None and sender not in send_to:
            peer = self._settings.peers.get(sender)
            if peer is not None and not (isinstance(peer, DicomPeer) and peer.host is None):
                send_to.append(sender)
        job = self._queue.submit(
            folder,
            how.model,
            settings=how.study_settings(self._settings.settings),
            priority=how.priority,
            origin=origin,
            route=route,
            send_to=send_to,
            label=f"{route} from {sender}" if sender else route,
            owned=True,
            once=once,
        )
        if str(folder.absolute()) not in job.source:
            # It was submitted before, from another folder.
            shutil.rmtree(folder, ignore_errors=True)
        return job.id

    def _take(self, archive: OrthancArchive, series: Sequence[Found], once: str, route: str) -> None:
        how = self._settings.routes[route]
        fetch_series(archive, series, folder := self._folder(once), self._limits, how.match)
        job = self.submit(folder, route, sender=archive.name, origin="orthanc", once=once)
        LOG.info("job %s: fetched from %s (route %s)", job, archive.name, route)

    def _folder(self, once: str) -> Path:
        # The same name after a kill: what was fetched before is replaced.
        return self._queue.root / UPLOADS / f"{RECEIVED_NAME}{hashlib.sha256(once.encode()).hexdigest()[:24]}"

    def fetch(self, peer: str, uid: str) -> list[Image]:
        """Fetch a study, or one series, from a DICOMweb peer by its UID, into one folder below the queue's uploads.

        Parameters
        ----------
        peer
            Name of a peer of kind dicomweb or orthanc.
        uid
            Study or Series Instance UID.

        Returns
        -------
        list of Image
            One for each series of CT, MR or PET images.

        Raises
        ------
        ConfigError
            If there is no such peer.
        DownloadError, InputError, OutputError
            If it does not answer, has no such images, or the disk is full.
        """
        archive = self._archive(peer)
        found = [series for series in archive.series_of(uid) if series.fits(SeriesMatch())]
        if not found:
            raise nothing_found(peer)
        folder = self._folder(f"fetched {secrets.token_hex(12)}")
        instances = fetch_series(archive, found, folder, self._limits, SeriesMatch())
        series = {instance.series: instance for instance in instances}
        return [
            Image(id=uid, path=folder, series=uid, kind="received", study_uid=one.study) for uid, one in series.items()
        ]

    def request(self, peer: str, uid: str, route: str) -> list[str]:
        """Fetch a study by DICOMweb and submit it by a route; return the ids of its jobs. Raises as `fetch`."""
        how, archive = self._settings.routes[route], self._archive(peer)
        series = [each for each in archive.series_of(uid) if each.fits(how.match)]
        if not series:
            raise nothing_found(peer)
        jobs = []
        for group in [series] if how.group == "study" else [[each] for each in series]:
            once = f"dicomweb {secrets.token_hex(12)}"
            fetch_series(archive, group, folder := self._folder(once), self._limits, how.match)
            jobs.append(self.submit(folder, route, sender=peer, origin="dicomweb", once=once))
        return jobs

    def _archive(self, peer: str) -> Archive:
        known = self._settings.peers.get(peer)
        if known is None or isinstance(known, DicomPeer):
            raise ConfigError(
                found="a peer that images cannot be fetched from",
                expected="a peer of kind dicomweb or orthanc in the settings",
                fix="name one of them",
            )
        return DicomwebArchive(peer, known, self._limits, self._settings.delivery.timeout_seconds)

    def metrics(self) -> Mapping[str, int]:
        """Return what came and what became of it, by words."""
        counts: dict[str, int] = {}
        if self.receiver is not None and self.collector is not None:
            counts |= self.receiver.counts
            counts |= self.collector.counts
            counts["groups being received"] = self.collector.n_groups
        for poller in self.pollers:
            counts["series polled"] = counts.get("series polled", 0) + poller.n_series
        return counts

    def problems(self) -> list[str]:
        """Return in words what does not get on: servers that are polled and do not answer."""
        return [poller.problem for poller in self.pollers if poller.problem]
