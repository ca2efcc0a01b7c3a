"""Results sent to a named peer: by C-STORE, or by STOW-RS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from voxmetry.config.routes import Delivery, DicomPeer, OrthancPeer, WebPeer
from voxmetry.errors import ConfigError, DownloadError
from voxmetry.io.dicom.read.headers import PARSING_ERRORS
from voxmetry.service.dicom.association import CallingEntity
from voxmetry.service.dicom.tls import client_context
from voxmetry.service.dicom.web import MOST_JSON, WEB_ERRORS, client_for, unreachable

_WARNINGS = (0xB000, 0xB006, 0xB007)
_THERE_ALREADY = 0x0111
_STATUS = {
    0x0122: "it does not take this kind of object",
    0x0124: "this service may not store there",
    0x0117: "it finds the object's UID invalid",
}
_RANGES = {0xA7: "it is out of resources", 0xA9: "it finds that the object is not of its kind"}
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class Sender:
    """Sends files to the peers of the settings, and to nobody else.

    Parameters
    ----------
    peers
        By name.
    settings
        How long to wait, and what this service calls itself.
    """

    def __init__(self, peers: Mapping[str, DicomPeer | WebPeer | OrthancPeer], settings: Delivery) -> None:
        self._peers, self._settings = peers, settings

    def __call__(self, peer: str, files: Sequence[Path]) -> Mapping[str, str]:
        """Send files to a peer, and return why it did not take one, by its name.

        Raises
        ------
        DownloadError
            If it is not to be reached, or knows none of the objects.
        ConfigError
            If there is no such peer any more, or a file that the settings name cannot be read.
        """
        known = self._peers.get(peer)
        if known is None or (isinstance(known, DicomPeer) and known.host is None):
            raise ConfigError(
                found=f"{peer}: no peer of this name that receives",
                expected="one of peers in the settings",
                fix="add it, and send again",
            )
        if isinstance(known, DicomPeer):
            return self._store(peer, known, files)
        return self._stow(peer, known, files)

    def echo(self, peer: str) -> None:
        """See whether a peer answers; raises as a call does."""
        known = self._peers[peer]
        if isinstance(known, DicomPeer):
            association = self._associate(peer, known, [(Verification, (ImplicitVRLittleEndian,))])
            try:
                answer = association.send_c_echo()
                if getattr(answer, "Status", None) != 0:
                    raise _no_answer(peer, "it takes the association, and answers no echo")
            finally:
                association.release()
            return
        with client_for(known, most_bytes=MOST_JSON, timeout=self._settings.timeout_seconds) as client:
            try:
                client.search_for_studies(limit=1)
            except WEB_ERRORS as error:
                raise unreachable(peer, error) from error

    # --- C-STORE

    def _associate(self, name: str, peer: DicomPeer, contexts: Sequence[tuple[str, Sequence[str]]]) -> Any:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        entity = CallingEntity(ae_title=self._settings.ae_title)
        seconds = self._settings.timeout_seconds
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = seconds
        for sop_class, syntaxes in contexts:
            entity.add_requested_context(sop_class, list(syntaxes))
        tls = None
        if peer.tls is not None:
            try:
                tls = (client_context(peer.tls.certificate, peer.tls.key, peer.tls.authority), str(peer.host))
            except OSError as error:
                raise ConfigError(
                    found=f"peers.{name}.tls: {error.strerror or 'not the files of a TLS connection'}",
                    expected="PEM files",
                    fix="check the paths",
                ) from error
        association = entity.associate(str(peer.host), int(peer.port or 0), ae_title=peer.ae_title, tls_args=tls)
        if association.is_established:
            return association
        if association.is_rejected:
            raise _no_answer(name, "it rejects the association: the AE titles are not known there")
        raise _no_answer(name, "no connection" if not peer.tls else "no connection, or its certificate is not known")

    def _store(self, name: str, peer: DicomPeer, files: Sequence[Path]) -> dict[str, str]:
        contexts: dict[tuple[str, str], None] = {}
        for path in files:
            meta = pydicom.filereader.read_file_meta_info(path)
            contexts[(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)] = None
        wanted = [
            (sop_class, _UNCOMPRESSED if syntax in _UNCOMPRESSED else (syntax,)) for sop_class, syntax in contexts
        ]
        association = self._associate(name, peer, wanted)
        problems = {}
        try:
            for path in files:
                if (problem := self._store_one(association, path)) is not None:
                    problems[path.name] = problem
        finally:
            association.release()
        return problems

    def _store_one(self, association: Any, path: Path) -> str | None:
        if not association.is_established:
            return "the connection was lost"
        try:
            answer = association.send_c_store(pydicom.dcmread(path))
        except PARSING_ERRORS:
            return "it does not take this kind of object, or its encoding"
        except RuntimeError:
            return "the connection was lost"
        status = getattr(answer, "Status", None)
        if status is None:
            return "no answer in time"
        if status == 0 or status in _WARNINGS or status == _THERE_ALREADY:
            return None
        return f"{_STATUS.get(status) or _RANGES.get(status >> 8) or 'it refuses it'} (status {status:04X})"

    # --- STOW-RS

    def _stow(self, name: str, peer: WebPeer | OrthancPeer, files: Sequence[Path]) -> dict[str, str]:
        with client_for(peer, most_bytes=MOST_JSON, timeout=self._settings.timeout_seconds) as client:
            return self._stow_by(client, name, files)

    def _stow_by(self, client: Any, name: str, files: Sequence[Path]) -> dict[str, str]:
        problems = {}
        for path in files:
            try:
                answer = client.store_instances([pydicom.dcmread(path)])
            except WEB_ERRORS as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                # One object that is refused says nothing about the next.
                if status not in (400, 409, 413, 415):
                    raise unreachable(name, error) from error
                problems[path.name] = f"it answers {status}"
                continue
            failed = answer.get("FailedSOPSequence") or []
            if failed:
                reason = failed[0].get("FailureReason")
                words = _STATUS.get(reason) or _RANGES.get((reason or 0) >> 8) or "it refuses it"
                problems[path.name] = words + (f" (reason {reason:04X})" if reason is not None else "")
        return problems


def _no_answer(name: str, why: str) -> DownloadError:
    return DownloadError(
        found=f"{name}: {why}",
        expected="a system that takes associations",
        fix="check its address, its AE title and, on its side, that of this service (delivery.ae_title)",
    )
