"""Objects that come one by one, put together to the series or studies that jobs are made of.

Everything lies in one folder of ours, in folders and files named by us. What a kill leaves is read again at the next
start: a series whose senders had released their associations goes on, one that was cut short waits for its rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from voxmetry.config.routes import DicomReceiver, Route
from voxmetry.core.base import Record
from voxmetry.errors import OutputError, VoxmetryError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.service.dicom.awake import AwakeClock
from voxmetry.service.dicom.objects import Instance, NotAnImageError, read_instance
from voxmetry.service.retention import INCOMING, RECEIVED_NAME

LOG = logging.getLogger("voxmetry.service")
IMAGES, ABOUT, WHOLE = "images", "group.json", "whole"
EARLIER = "earlier"
EARLIER_DAYS = 30.0
AGAIN_SECONDS = 5.0
"""After how long a job that the queue did not take is offered again."""
MEGABYTE = 1_000_000


class Submit(Protocol):
    """Takes a folder of images as a job."""

    def __call__(self, folder: Path, route: str, *, sender: str | None, origin: str, once: str) -> str:
        """Return the job's id; a second call with the same `once` returns the first one's. The folder stays."""


class RefusedError(Exception):
    """An object that is not taken, with the DICOM status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class About(Record):
    """What a group's folder says of itself."""

    route: str
    sender: str
    key: str


class Earlier(Record):
    """The folder that the same series was handed on in before."""

    folder: str
    job: str


@dataclass
class _File:
    name: str
    n_bytes: int
    series: str


@dataclass
class _Group:
    folder: Path
    about: About
    last: float
    files: dict[str, _File] = field(default_factory=dict)
    """By SOP Instance UID."""
    series: dict[str, Instance] = field(default_factory=dict)
    """One object of each series."""
    associations: set[int] = field(default_factory=set)
    """Open ones that brought objects of it."""
    broken: bool = False
    """Whether an association was aborted, and no other one brought the rest."""
    complete: bool = False
    n_names: int = 0

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files.values())


class Collector:
    """What is being received.

    Parameters
    ----------
    root
        Folder of ours; `incoming` and `uploads` are made in it.
    routes
        By name.
    limits
        Of groups.
    submit
        Takes what is complete.
    clock
        By which a sender is silent.
    """

    def __init__(
        self,
        root: Path,
        routes: Mapping[str, Route],
        limits: DicomReceiver,
        submit: Submit,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.folder, self._uploads = root / INCOMING, root / "uploads"
        self._routes, self._limits, self._submit = routes, limits, submit
        # A pause of this machine is no silence of the sender: a series that it cut in two would be done in part.
        self._clock = clock or AwakeClock()
        self._groups: dict[tuple[str, str, str], _Group] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="voxmetry-collector", daemon=True)
        self._latest: dict[int, _Group] = {}
        self.is_busy: Callable[[int], bool] = lambda _association: False
        """Whether an object of an association is on its way; the receiver sets it."""
        self.counts: Counter[str] = Counter()
        """Objects and groups by what became of them, for the metrics."""

    def start(self) -> None:
        """Take up what the last process left, and begin to watch."""
        for folder in (self.folder, self._uploads, self.folder / EARLIER):
            make_folder(folder)
        for left in self.folder.glob("*.part"):
            left.unlink(missing_ok=True)
        for folder in sorted(self.folder.iterdir()):
            if folder.is_dir() and folder.name != EARLIER:
                self._take_up(folder)
        self._thread.start()

    def stop(self) -> None:
        """End; what is not complete goes on at the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- objects

    def add(self, part: Path, instance: Instance, route: str, sender: str, association: int) -> None:
        """Take an object.

        Parameters
        ----------
        part
            Its file, which is moved.
        instance
            What it is.
        route, sender
            By which route it came, and from which peer.
        association
            A number of the association.

        Raises
        ------
        RefusedError
            If a limit is reached, or the disk is full.
        """
        key = instance.key(self._routes[route].group)
        n_bytes = part.stat().st_size
        with self._lock:
            try:
                group = self._group(About(route=route, sender=sender, key=key))
                group.associations.add(association)
                known = group.files.get(instance.sop_instance)
                self._require_room(group, n_bytes, known)
                if known is None:
                    group.n_names += 1
                    known = _File(f"{group.n_names:06}.dcm", n_bytes, instance.series)
                part.replace(group.folder / IMAGES / known.name)
            except (OSError, VoxmetryError) as error:
                raise RefusedError(0xA700, "the disk is full") from error
            known.n_bytes = n_bytes
            group.files[instance.sop_instance] = known
            group.series.setdefault(instance.series, instance)
            group.last, group.broken = self._clock(), False
            self._latest[association] = group
            with contextlib.suppress(OSError):
                (group.folder / WHOLE).unlink(missing_ok=True)
            self.counts["objects taken"] += 1

    def _group(self, about: About) -> _Group:
        place = (about.route, about.sender, about.key)
        group = self._groups.get(place)
        if group is None or group.complete:
            if len(self._groups) >= self._limits.groups:
                raise RefusedError(0xA700, "too many series at once")
            folder = self.folder / secrets.token_hex(12)
            (folder / IMAGES).mkdir(parents=True)
            write_text(folder / ABOUT, about.model_dump_json())
            group = self._groups[place] = _Group(folder, about, self._clock())
        return group

    def _require_room(self, group: _Group, n_bytes: int, known: _File | None) -> None:
        if known is None and len(group.files) >= self._limits.group_instances:
            group.broken = True
            raise RefusedError(0xA700, "more objects than one series may have")
        if group.n_bytes + n_bytes > self._limits.group_mb * MEGABYTE:
            group.broken = True
            raise RefusedError(0xA700, "more bytes than one series may have")

    def association_over(self, association: int, *, released: bool) -> None:
        """Take note that an association is over: released, or cut short in any way."""
        with self._lock:
            self._latest.pop(association, None)
            for group in self._groups.values():
                if association not in group.associations:
                    continue
                group.associations.discard(association)
                group.last = self._clock()
                if not released:
                    group.broken = True
                if group.broken or group.associations:
                    continue
                with contextlib.suppress(OSError):
                    (group.folder / WHOLE).touch()
                group.complete = self._routes[group.about.route].on_release

    @property
    def n_groups(self) -> int:
        """How many series or studies are being received."""
        return len(self._groups)

    # --- groups

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            for group in self._over():
                try:
                    self._finish(group)
                except (OSError, VoxmetryError) as error:
                    # The queue is full, or the disk: what came is kept, and offered again.
                    LOG.warning("a series that was received waits: %s", _words(error))
                    self.counts["groups kept waiting"] += 1
                    group.last = self._clock() + AGAIN_SECONDS
                    continue
                with self._lock:
                    self._groups = {place: each for place, each in self._groups.items() if each is not group}

    def _over(self) -> list[_Group]:
        now = self._clock()
        with self._lock:
            found = []
            for group in self._groups.values():
                route = self._routes[group.about.route]
                quiet = now - group.last
                if group.associations and (group.broken or self._is_coming(group)):
                    continue
                wait = route.abandoned_seconds if group.broken else route.quiet_seconds
                if quiet >= wait or (group.complete and quiet >= 0):
                    # From here on objects of the same series begin a group of their own.
                    group.complete = True
                    found.append(group)
            return found

    def _is_coming(self, group: _Group) -> bool:
        """Whether an association whose last object was of this group is sending one."""
        return any(self._latest.get(each) is group and self.is_busy(each) for each in group.associations)

    def _finish(self, group: _Group) -> None:
        name = group.about.route
        route = self._routes[name]
        if group.broken and route.after_abort == "discard":
            LOG.warning(
                "%d objects of an aborted transfer were deleted (route %s)", len(group.files), group.about.route
            )
            self._let_go(group, "aborted")
            return
        upload = self._uploads / f"{RECEIVED_NAME}{group.folder.name}"
        if (group.folder / IMAGES).is_dir():
            self._add_earlier(group)
            if not self._keep_matching(group):
                LOG.info("a series that fits no rule of the route %s was deleted", name)
                self._let_go(group, "not matched")
                return
            (group.folder / IMAGES).rename(upload)
        job = self._submit(
            upload, name, sender=group.about.sender, origin="dicom", once=f"received {group.folder.name}"
        )
        LOG.info("job %s: %d objects received (route %s, from %s)", job, len(group.files), *_who(group))
        self.counts["groups submitted"] += 1
        with contextlib.suppress(OutputError):
            self._note(group, Earlier(folder=upload.name, job=job))
        shutil.rmtree(group.folder, ignore_errors=True)

    def _let_go(self, group: _Group, why: str) -> None:
        shutil.rmtree(group.folder, ignore_errors=True)
        self.counts[f"groups {why}"] += 1

    def _keep_matching(self, group: _Group) -> bool:
        """Delete the series that the route does not take; return whether any is left."""
        match = self._routes[group.about.route].match
        n_files = Counter(file.series for file in group.files.values())
        taken = {uid for uid, one in group.series.items() if match.takes(one.modality, n_files[uid], one.description)}
        for sop, file in list(group.files.items()):
            if file.series not in taken:
                (group.folder / IMAGES / file.name).unlink(missing_ok=True)
                del group.files[sop]
        return bool(group.files)

    # --- slices that come late

    def _note_of(self, group: _Group) -> Path:
        about = group.about
        return self.folder / EARLIER / f"{about.key}-{about.route.encode().hex()}-{about.sender.encode().hex()}.json"

    def _note(self, group: _Group, earlier: Earlier) -> None:
        write_text(self._note_of(group), earlier.model_dump_json())
        oldest = time.time() - EARLIER_DAYS * 86400
        for note in (self.folder / EARLIER).iterdir():
            with contextlib.suppress(OSError):
                if note.stat().st_mtime < oldest:
                    note.unlink()

    def _add_earlier(self, group: _Group) -> None:
        """Bring in the objects of the same series that were handed on before: late slices alone are no series."""
        try:
            earlier = Earlier.model_validate_json(self._note_of(group).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return
        folder = self._uploads / Path(earlier.folder).name
        n_before = len(group.files)
        for path in sorted(folder.glob("*.dcm")) if folder.is_dir() else ():
            try:
                instance = read_instance(path)
            except NotAnImageError:
                continue
            if instance.sop_instance in group.files:
                continue
            group.n_names += 1
            name = f"{group.n_names:06}.dcm"
            _link(path, group.folder / IMAGES / name)
            group.files[instance.sop_instance] = _File(name, path.stat().st_size, instance.series)
            group.series.setdefault(instance.series, instance)
        if len(group.files) > n_before:
            LOG.info("%d objects came after job %s, which is done again with them", n_before, earlier.job)
            self.counts["groups completed late"] += 1

    # --- after a kill

    def _take_up(self, folder: Path) -> None:
        try:
            about = About.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            shutil.rmtree(folder, ignore_errors=True)
            return
        if about.route not in self._routes:
            LOG.warning("a series of the route %s, which is no more, was deleted", about.route)
            shutil.rmtree(folder, ignore_errors=True)
            return
        group = _Group(folder, about, self._clock())
        group.broken = not (folder / WHOLE).exists()
        if not (folder / IMAGES).is_dir():
            # It was moved on already; the queue knows whether it took it.
            group.complete, group.broken = True, False
        for path in sorted((folder / IMAGES).glob("*.dcm")):
            try:
                instance = read_instance(path)
            except NotAnImageError:
                path.unlink(missing_ok=True)
                continue
            group.files[instance.sop_instance] = _File(path.name, path.stat().st_size, instance.series)
            group.series.setdefault(instance.series, instance)
            group.n_names = max(group.n_names, int(path.stem) if path.stem.isdigit() else 0)
        place = (about.route, about.sender, about.key)
        # Two of one series, if the first was about to be handed on.
        self._groups[place if place not in self._groups else (*place[:2], folder.name)] = group


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _words(error: Exception) -> str:
    return error.found if isinstance(error, VoxmetryError) else str(getattr(error, "strerror", None) or "")


def _who(group: _Group) -> tuple[str, str]:
    return group.about.route, group.about.sender
