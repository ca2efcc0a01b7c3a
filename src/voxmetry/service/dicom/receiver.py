"""The C-STORE service: who may call, what is taken, and what each caller is answered."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from voxmetry.config.routes import DicomPeer, DicomReceiver, OrthancPeer, Route, WebPeer
from voxmetry.errors import ConfigError, OutputError
from voxmetry.io.dicom.read.decode import SYNTAXES
from voxmetry.io.dicom.read.kinds import VOLUME_CLASSES
from voxmetry.service.dicom.association import PDU, BoundedAssociation, BoundedServer
from voxmetry.service.dicom.collector import Collector, RefusedError
from voxmetry.service.dicom.incoming import IncomingObject
from voxmetry.service.dicom.objects import NotAnImageError, read_instance
from voxmetry.service.dicom.tls import server_context

LOG = logging.getLogger("voxmetry.service")
SUCCESS = 0x0000
NO_ROOM = 0xA700
OTHER_CLASS = 0xA900
NOT_UNDERSTOOD = 0xC000

_REJECTED_CALLER = (0x01, 0x01, 0x03)
_REJECTED_CALLED = (0x01, 0x01, 0x07)


@dataclass(frozen=True)
class Caller:
    """Who asked for an association, and for which route."""

    peer: str
    route: str
    association: BoundedAssociation


class Receiver:
    """Listens for associations, and hands their objects to a collector.

    Parameters
    ----------
    settings
        Where it listens, and its limits.
    routes, peers
        By name.
    collector
        Takes the objects.

    Raises
    ------
    ConfigError
        On `start`, if a certificate cannot be used.
    OutputError
        On `start`, if the port cannot be listened at.
    """

    def __init__(
        self,
        settings: DicomReceiver,
        routes: Mapping[str, Route],
        peers: Mapping[str, DicomPeer | WebPeer | OrthancPeer],
        collector: Collector,
    ) -> None:
        self.settings, self._collector = settings, collector
        self._routes = {route.ae_title: (name, route) for name, route in routes.items() if route.ae_title is not None}
        senders = {peer for route in routes.values() for peer in route.senders}
        self._peers = {name: peer for name, peer in peers.items() if isinstance(peer, DicomPeer) and name in senders}
        self._callers: dict[int, Caller] = {}
        collector.is_busy = self._is_busy
        self._lock = threading.Lock()
        self._server: BoundedServer | None = None
        self._thread: threading.Thread | None = None
        self.counts: Counter[str] = Counter()
        """Associations and objects by what became of them, for the metrics."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1]) if self._server is not None else self.settings.port

    @property
    def n_open(self) -> int:
        """How many associations are open."""
        return len(self._callers)

    @property
    def connections(self) -> Mapping[str, int]:
        """How many connections each address holds."""
        return self._server.connections if self._server is not None else {}

    def start(self) -> None:
        """Listen."""
        # Its messages hold UIDs, and its errors the bytes of objects.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        entity = AE(ae_title="VOXMETRY")
        entity.maximum_pdu_size = PDU
        entity.maximum_associations = self.settings.associations
        entity.network_timeout = entity.dimse_timeout = self.settings.idle_seconds
        entity.acse_timeout = min(30.0, self.settings.idle_seconds)
        entity.add_supported_context(Verification)
        classes = set(VOLUME_CLASSES)
        if self.settings.other_objects == "ignore":
            classes |= {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
        for uid in sorted(classes):
            entity.add_supported_context(uid, list(SYNTAXES))
        try:
            server = cast(
                BoundedServer,
                entity.make_server(
                    (self.settings.host, self.settings.port),
                    ssl_context=self._tls(),
                    evt_handlers=[
                        (evt.EVT_REQUESTED, self._requested),
                        (evt.EVT_C_STORE, self._store),
                        (evt.EVT_C_ECHO, self._echo),
                        (evt.EVT_ACCEPTED, self._accepted),
                    ],
                    server_class=BoundedServer,
                    limits=self.settings,
                    folder=self._collector.folder,
                    may_call=self._may_call,
                    over=self._over,
                    refused=self._refused,
                ),
            )
        except OSError as error:
            raise OutputError(
                found=f"{self.settings.host}:{self.settings.port} cannot be listened at: {error.strerror}",
                expected="an address of this machine and a free port (dicom.host, dicom.port)",
                fix="end what listens there, or name another port; ports below 1024 need a right of their own",
            ) from error
        # pynetdicom looks here for its associations.
        entity._servers.append(server)
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="voxmetry-dicom", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Take no further association, and abort those that are open: their senders send again."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        for association in self._server.active_associations:
            association.abort()
        for association in self._server.active_associations:
            association.join(timeout=10)

    def _tls(self) -> Any:
        tls = self.settings.tls
        if tls is None:
            return None
        if tls.certificate is None or tls.key is None:
            raise ConfigError(
                found="dicom.tls without certificate and key",
                expected="the files of this service's certificate and its key",
                fix="name both, or leave dicom.tls out",
            )
        try:
            return server_context(tls.certificate, tls.key, tls.authority)
        except OSError as error:
            raise ConfigError(
                found=f"dicom.tls: {error.strerror or error}",
                expected="PEM files of a certificate, its key and, to know callers, an authority",
                fix="check the three paths, and that the key fits the certificate and has no passphrase",
            ) from error

    # --- who calls

    def _may_call(self, address: str) -> bool:
        return any(peer.calls_from(address) for peer in self._peers.values())

    def _refused(self, why: str) -> None:
        self.counts[f"connections refused: {why}"] += 1
        if why == "address":
            LOG.warning("a connection from an address that is not among the senders was closed")

    def _requested(self, event: Any) -> None:
        """Take an association, or reject it, before anything is negotiated."""
        association = event.assoc
        request = association.requestor.primitive
        known = self._routes.get(str(request.called_ae_title).strip())
        if known is None:
            self._reject(association, _REJECTED_CALLED, "called AE title")
            return
        name, route = known
        title, address = str(request.calling_ae_title).strip(), str(association.requestor.address_info.address)
        for peer in route.senders:
            if self._peers[peer].ae_title == title and self._peers[peer].calls_from(address):
                with self._lock:
                    self._callers[id(association)] = Caller(peer, name, association)
                return
        self._reject(association, _REJECTED_CALLER, "calling AE title or address")

    def _reject(self, association: Any, reason: tuple[int, int, int], words: str) -> None:
        self.counts[f"associations rejected: {words}"] += 1
        LOG.warning("an association was rejected: its %s is not in the settings", words)
        association.acse.send_reject(*reason)
        association.kill()

    def _accepted(self, _event: Any) -> None:
        self.counts["associations accepted"] += 1

    def _over(self, association: BoundedAssociation) -> None:
        with self._lock:
            caller = self._callers.pop(id(association), None)
        if caller is None:
            return
        released = bool(association.is_released)
        self.counts["associations released" if released else "associations aborted"] += 1
        self._collector.association_over(id(association), released=released)

    def _is_busy(self, association: int) -> bool:
        caller = self._callers.get(association)
        return caller is not None and caller.association.messages.is_busy

    # --- what comes

    def _echo(self, _event: Any) -> int:
        self.counts["echoes"] += 1
        return SUCCESS

    def _store(self, event: Any) -> int:
        """Take one object, and answer with a DICOM status."""
        incoming = getattr(event.request, "DataSet", None)
        caller = self._callers.get(id(event.assoc))
        if not isinstance(incoming, IncomingObject) or caller is None:
            return NOT_UNDERSTOOD
        try:
            status, words = self._take(event, incoming, caller)
        finally:
            incoming.drop()
        if status != SUCCESS:
            self.counts[f"objects refused: {words}"] += 1
            LOG.warning("an object from %s was refused: %s (status %04X)", caller.peer, words, status)
        return status

    def _take(self, event: Any, incoming: IncomingObject, caller: Caller) -> tuple[int, str]:
        path = incoming.finish()
        if incoming.problem == "kind":
            self.counts["objects let go: no images"] += 1
            return SUCCESS, ""
        if path is None:
            words = {"size": "larger than one object may be", "room": "the disk is full"}
            return (NO_ROOM, words[incoming.problem]) if incoming.problem else (NOT_UNDERSTOOD, "no data set")
        try:
            instance = read_instance(path)
        except NotAnImageError as error:
            return NOT_UNDERSTOOD, str(error)
        request = event.request
        if (instance.sop_class, instance.sop_instance) != (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID):
            return OTHER_CLASS, "the request and the object name different UIDs"
        try:
            self._collector.add(path, instance, caller.route, caller.peer, id(event.assoc))
        except RefusedError as error:
            return error.status, error.reason
        return SUCCESS, ""
