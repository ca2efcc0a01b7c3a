"""Images of a study fetched from a peer: by DICOMweb, or from an Orthanc server's REST interface."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pydicom
import requests

from voxmetry.config.routes import DicomReceiver, OrthancPeer, SeriesMatch, WebPeer
from voxmetry.errors import InputError, OutputError, VoxmetryError
from voxmetry.io.atomic import output_error
from voxmetry.service.dicom.collector import MEGABYTE
from voxmetry.service.dicom.objects import Instance, NotAnImageError, read_instance
from voxmetry.service.dicom.web import MOST_JSON, WEB_ERRORS, client_for, session_for, unreachable

_CHUNK = 1 << 20
_MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True)
class Found:
    """A series that a peer has.

    Parameters
    ----------
    id
        How the peer knows it.
    series, study
        Its UIDs; empty where the peer did not say.
    modality, description
        As the peer says.
    n_instances
        As the peer says; None where it does not.
    """

    id: str
    series: str
    study: str
    modality: str
    description: str
    n_instances: int | None

    def fits(self, match: SeriesMatch) -> bool:
        """Whether a route takes it."""
        if self.modality not in _MODALITIES:
            return False
        n = self.n_instances if self.n_instances is not None else match.min_instances
        return match.takes(self.modality, n, self.description)


class Archive(Protocol):
    """What images can be fetched from."""

    name: str
    """Of the peer, in the settings."""

    def series_of(self, study: str) -> list[Found]:
        """Return the series of a study."""
        ...

    def download(self, series: Found, folder: Path) -> Iterator[Path]:
        """Write the objects of a series into files named by us, one after the other."""
        ...


class DicomwebArchive:
    """A DICOMweb service.

    Parameters
    ----------
    name, peer
        From the settings.
    limits
        Of one object and one series.
    timeout
        How long it may keep silent.
    """

    def __init__(self, name: str, peer: WebPeer | OrthancPeer, limits: DicomReceiver, timeout: float) -> None:
        self.name, self._peer, self._limits, self._timeout = name, peer, limits, timeout

    def series_of(self, study: str) -> list[Found]:
        """Return the series of a study by its Study Instance UID, or the one series of a Series Instance UID.

        Raises
        ------
        DownloadError
            If the peer cannot be asked.
        """
        fields = ["0008103E", "00201209"]
        with client_for(self._peer, most_bytes=MOST_JSON, timeout=self._timeout) as client:
            try:
                answer = client.search_for_series(study_instance_uid=study, fields=["00081030", *fields])
                if not answer:
                    answer = client.search_for_series(search_filters={"SeriesInstanceUID": study}, fields=fields)
                return [_found(pydicom.Dataset.from_json(item)) for item in answer]
            except WEB_ERRORS as error:
                raise unreachable(self.name, error) from error

    def download(self, series: Found, folder: Path) -> Iterator[Path]:
        """Write the objects of a series into files named by us, one after the other. Raises as `series_of`."""
        most = self._limits.group_mb * MEGABYTE
        with client_for(self._peer, most_bytes=most, timeout=self._timeout) as client:
            try:
                # As they are stored: what is encoded there is decoded here.
                media = (("application/dicom", "*"),)
                for dataset in client.iter_series(series.study, series.series, media_types=media):
                    path = folder / f"{secrets.token_hex(12)}.part"
                    _save(dataset, path)
                    yield path
            except VoxmetryError:
                raise
            except WEB_ERRORS as error:
                raise unreachable(self.name, error) from error


class OrthancArchive:
    """An Orthanc server by its own REST interface, whose resources are known by identifiers of its own.

    Parameters
    ----------
    name, peer, limits, timeout
        As of `DicomwebArchive`.
    """

    def __init__(self, name: str, peer: OrthancPeer, limits: DicomReceiver, timeout: float) -> None:
        self.name, self.peer, self._limits, self._timeout = name, peer, limits, timeout

    def ask(self, path: str, **query: object) -> Any:
        """Return an answer in JSON; None where there is no such resource (any more).

        Raises
        ------
        DownloadError
            If the server does not answer, or not so.
        """
        values = {key: str(value) for key, value in query.items()}
        with session_for(self.peer, most_bytes=MOST_JSON, timeout=self._timeout) as session:
            try:
                response = session.get(f"{self.peer.url}/{path}", params=values)
                if response.status_code == requests.codes.not_found:
                    return None
                response.raise_for_status()
                return response.json()
            except WEB_ERRORS as error:
                raise unreachable(self.name, error) from error

    def series_of(self, study: str) -> list[Found]:
        """Return the series of a study; `study` is Orthanc's identifier of a study or a series."""
        one = self.ask(f"series/{study}")
        if one is not None:
            return [self._found(one)]
        listed = self.ask(f"studies/{study}/series") or []
        return [self._found(item) for item in listed]

    def _found(self, answer: Any) -> Found:
        try:
            tags, instances = answer["MainDicomTags"], answer["Instances"]
            return Found(
                id=str(answer["ID"]),
                series=str(tags.get("SeriesInstanceUID", "")),
                study="",
                modality=str(tags.get("Modality", "")),
                description=str(tags.get("SeriesDescription", "")),
                n_instances=len(instances),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise unreachable(self.name, error) from error

    def download(self, series: Found, folder: Path) -> Iterator[Path]:
        """Write the objects of a series into files named by us, one after the other. Raises as `ask`."""
        answer = self.ask(f"series/{series.id}") or {"Instances": []}
        most = self._limits.instance_mb * MEGABYTE
        with session_for(self.peer, most_bytes=most, timeout=self._timeout) as session:
            for instance in answer["Instances"]:
                path = folder / f"{secrets.token_hex(12)}.part"
                try:
                    with session.get(f"{self.peer.url}/instances/{instance}/file", stream=True) as response:
                        response.raise_for_status()
                        _write(response.iter_content(_CHUNK), path)
                except VoxmetryError:
                    raise
                except WEB_ERRORS as error:
                    raise unreachable(self.name, error) from error
                yield path


def _save(dataset: pydicom.Dataset, path: Path) -> None:
    try:
        dataset.save_as(path, enforce_file_format=True)
    except OSError as error:
        raise output_error(path, error) from error


def _write(parts: Iterable[bytes], path: Path) -> None:
    # Opened before the first byte is asked for: what fails here is our disk, and not the peer.
    try:
        file = path.open("xb")
    except OSError as error:
        raise output_error(path, error) from error
    with file:
        for part in parts:
            try:
                file.write(part)
            except OSError as error:
                raise output_error(path, error) from error


def _found(item: pydicom.Dataset) -> Found:
    def text(keyword: str) -> str:
        return str(item.get(keyword) or "")

    n = text("NumberOfSeriesRelatedInstances")
    return Found(
        id=text("SeriesInstanceUID"),
        series=text("SeriesInstanceUID"),
        study=text("StudyInstanceUID"),
        modality=text("Modality"),
        description=text("SeriesDescription"),
        n_instances=int(n) if n.isdigit() else None,
    )


def fetch_series(
    archive: Archive, series: Iterable[Found], folder: Path, limits: DicomReceiver, match: SeriesMatch
) -> list[Instance]:
    """Fetch series into one folder.

    Parameters
    ----------
    archive
        Where they are.
    series
        Which; each is fetched whole.
    folder
        It is made, and is there with all images or not at all. Files are named 000001.dcm and on.
    limits
        Of what is taken in all.
    match
        Whether a series is kept whose number of objects was not known before.

    Returns
    -------
    list of Instance
        What was fetched: CT, MR and PET images alone, each once.

    Raises
    ------
    DownloadError
        If the archive does not answer.
    InputError
        If it sends more than is taken, or no images.
    OutputError
        If the disk is full.
    """
    stage = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        kept: dict[str, tuple[str, Instance]] = {}
        for one in series:
            found = _fetch_one(archive, one, stage, limits, len(kept))
            if found and match.takes(one.modality, len(found), one.description):
                kept.update(found)
        for number, (name, _) in enumerate(kept.values(), start=1):
            (stage / name).rename(stage / f"{number:06}.dcm")
        for other in stage.glob("*.part"):
            other.unlink()
        if not kept:
            raise nothing_found(archive.name)
        shutil.rmtree(folder, ignore_errors=True)
        stage.rename(folder)
        return [instance for _, instance in kept.values()]
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def nothing_found(peer: str) -> InputError:
    """Say that a peer has no images of the kind that is wanted."""
    return InputError(
        found=f"no images that can be used at {peer}",
        expected="a series of CT, MR or PET images that the route takes",
        fix="check the UID, and the route's match",
    )


def _fetch_one(
    archive: Archive, series: Found, stage: Path, limits: DicomReceiver, n_before: int
) -> dict[str, tuple[str, Instance]]:
    """Fetch a series, and return file name and what it is by SOP Instance UID."""
    found: dict[str, tuple[str, Instance]] = {}
    n_bytes = 0
    for path in archive.download(series, stage):
        n_bytes += path.stat().st_size
        if n_before + len(found) >= limits.group_instances or n_bytes > limits.group_mb * MEGABYTE:
            raise InputError(
                found=f"more than {limits.group_instances} objects, or more than {limits.group_mb:g} MB",
                expected="a study within dicom.group_instances and dicom.group_mb",
                fix="raise them in the settings, if it is a study",
            )
        if shutil.disk_usage(stage).free < limits.free_mb * MEGABYTE:
            raise OutputError(
                found="the disk of the service has too little room",
                expected=f"at least {limits.free_mb:g} MB (dicom.free_mb)",
                fix="free some space",
            )
        try:
            instance = read_instance(path)
        except NotAnImageError:
            continue
        found[instance.sop_instance] = (path.name, instance)
    return found
