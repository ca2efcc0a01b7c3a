"""Associations that cannot cost more than is allowed: what pynetdicom keeps in memory and waits for, bounded.

pynetdicom reads a packet of whatever length it is told, keeps a whole object in memory, waits without end for the rest
of a packet, and shakes hands for TLS in the thread that accepts. Here a packet has a largest size and a time, an object
goes to disk as it comes, up to a limit, and the handshake has a thread of its own.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from voxmetry.config.routes import DicomReceiver
from voxmetry.io.dicom.read.headers import PARSING_ERRORS
from voxmetry.io.dicom.read.kinds import VOLUME_CLASSES
from voxmetry.service.dicom.incoming import IncomingObject, TooMuchError

MOST_PDU = 1 << 20
"""Bytes of a packet. Larger ones than `PDU` are not agreed on; a request for an association may have some 100 KB."""
PDU = 1 << 17
"""Bytes of a packet that callers are asked for at most."""
MOST_COMMAND = 1 << 16
MOST_WAITING = 2
"""Objects of one association that have come and are not looked at yet: a caller has to wait for each answer."""
HANDSHAKE_SECONDS = 10.0
MEGABYTE = 1_000_000


class _BoundedCommand(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MOST_COMMAND:
            raise TooMuchError("a command set that is too large")
        return super().write(data)


class _Messages(DIMSEServiceProvider):
    """Puts messages together; their data sets go to disk."""

    def __init__(self, association: BoundedAssociation) -> None:
        super().__init__(association)
        self._of = association
        self._open: list[IncomingObject] = []
        self.last_whole = time.monotonic()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the next part of a message; what cannot be one ends the association, and not the thread that reads."""
        try:
            if self.message is None:
                self.message = self._begin()
            message = self.message
            super().receive_primitive(primitive)
        except (*PARSING_ERRORS, OSError, Warning):
            # Of pynetdicom's state machine: an invalid packet, which is answered by A-ABORT.
            self.dul.event_queue.put("Evt19")
            return
        if self.message is not message:
            self.last_whole = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self.message is not None

    def _begin(self) -> DIMSEMessage:
        if self.msg_queue.qsize() >= MOST_WAITING:
            raise TooMuchError("requests without waiting for an answer")
        message = DIMSEMessage()
        limits = self._of.limits
        incoming = IncomingObject(
            self._of.folder, limits.instance_mb * MEGABYTE, limits.free_mb * MEGABYTE, lambda: self._header(message)
        )
        self._open = [each for each in self._open if each.path.exists()] + [incoming]
        message.encoded_command_set = _BoundedCommand()
        message.data_set = incoming
        self.last_whole = time.monotonic()
        return message

    def _header(self, message: DIMSEMessage) -> bytes | None:
        command = message.command_set
        if command.AffectedSOPClassUID not in VOLUME_CLASSES:
            return None
        meta = create_file_meta(
            sop_class_uid=command.AffectedSOPClassUID,
            sop_instance_uid=command.AffectedSOPInstanceUID,
            transfer_syntax=self._of._accepted_cx[cast(int, message.context_id)].transfer_syntax[0],
        )
        buffer = io.BytesIO()
        buffer.write(b"\x00" * 128 + b"DICM")
        write_file_meta_info(buffer, meta)
        return buffer.getvalue()

    def drop_all(self) -> None:
        """Delete what came and was not taken."""
        for incoming in self._open:
            incoming.drop()


class ClosedSocket(AssociationSocket):
    """Is closed also where the other side was the first: pynetdicom leaves that to the garbage collector."""

    def _shutdown_socket(self) -> None:
        connection = cast(socket.socket, self.socket)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            connection.close()


class CallingEntity(AE):
    """Asks others for associations."""

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> AssociationSocket:
        made = ClosedSocket(assoc, address=address)
        made.tls_args = tls_args
        return made


class _Socket(ClosedSocket):
    """Reads a packet up to a size and within a time."""

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > MOST_PDU:
            raise TooMuchError("a packet that is too large")
        association = cast(BoundedAssociation, self.assoc)
        limits, messages = association.limits, association.messages
        now = time.monotonic()
        deadline = now + limits.idle_seconds
        if messages.is_busy:
            deadline = min(deadline, messages.last_whole + limits.stall_seconds)
        read = bytearray()
        while len(read) < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TooMuchError("a packet that takes too long")
            connection = cast(socket.socket, self.socket)
            connection.settimeout(left)
            part = connection.recv(min(nr_bytes - len(read), PDU))
            if not part:
                break
            read += part
        return read


class BoundedAssociation(Association):
    """An association that somebody asked us for.

    Parameters
    ----------
    server
        What it came to.
    """

    def __init__(self, server: BoundedServer) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.limits, self.folder = server.limits, server.folder
        self.messages = _Messages(self)
        self.dimse = self.messages
        self._server = server

    def _bind_defaults(self) -> None:
        # Without the handlers that log: they write UIDs of the patient's study into the log.
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))


class _Handler(RequestHandler):
    """Holds the thread of one connection until its association is over, and puts away what it left."""

    server: BoundedServer

    def handle(self) -> None:
        association = self._create_association()
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()
        # The thread that reads may outlive the one that answers by a moment; what it still writes is let go.
        association.dul.kill_dul()
        association.dul.join(timeout=2 * HANDSHAKE_SECONDS)
        association.messages.drop_all()
        with contextlib.suppress(OSError):
            self.server.shutdown_request(self.request)
        self.server.over(association)

    def _create_association(self) -> BoundedAssociation:
        association = BoundedAssociation(self.server)
        association.name = f"AcceptorThread@{secrets.token_hex(4)}"
        association.set_socket(_Socket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        # Not shared: negotiation writes into them.
        acceptor.supported_contexts = deepcopy(self.server.contexts)
        association.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            if event.is_intervention:
                association.bind(event, *cast(Any, handlers))
            else:
                for handler, arguments in cast(Any, handlers):
                    association.bind(event, handler, arguments)
        return association


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections of the addresses that may call, so many of each, each in threads of its own.

    Parameters
    ----------
    arguments
        As pynetdicom's server takes them.
    limits, folder
        Of what comes in, and where it is put.
    may_call
        Whether anybody may call from an address; others are cut off before a byte is read.
    over
        Called with each association when it is over, however it ended.
    refused
        Called with a reason for each connection that was cut off.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        *arguments: Any,
        limits: DicomReceiver,
        folder: Path,
        may_call: Callable[[str], bool],
        over: Callable[[BoundedAssociation], None],
        refused: Callable[[str], None],
        **named: Any,
    ) -> None:
        self.limits, self.folder = limits, folder
        self._may_call, self.over, self._refused = may_call, over, refused
        self._connections: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__(*arguments, **named, request_handler=_Handler)  # type: ignore[misc]

    @property
    def connections(self) -> dict[str, int]:
        """How many connections each address holds."""
        with self._counting:
            return dict(self._connections)

    def _bind_defaults(self) -> None:
        # As of an association.
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; it is read from in a thread of its own."""
        connection, address = cast(socket.socket, self.socket).accept()
        connection.settimeout(self.limits.idle_seconds)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Whether a connection is served."""
        address = str(client_address[0])
        if not self._may_call(address):
            self._refused("address")
            return False
        with self._counting:
            if self._connections[address] >= max(1, self.limits.associations // 2):
                self._refused("connections")
                return False
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, if there is TLS, and serve the connection until it is over, in a thread of its own."""
        with self._counted(str(client_address[0])):
            if self.ssl_context is not None:
                request.settimeout(HANDSHAKE_SECONDS)
                wrapped = self.ssl_context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                try:
                    wrapped.do_handshake()
                except (OSError, ValueError):
                    self._refused("tls")
                    with contextlib.suppress(OSError):
                        wrapped.close()
                    return
                request = wrapped
            super().finish_request(request, client_address)

    @contextlib.contextmanager
    def _counted(self, address: str) -> Iterator[None]:
        with self._counting:
            self._connections[address] += 1
        try:
            yield
        finally:
            with self._counting:
                self._connections[address] -= 1
                self._connections += Counter()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Count what went wrong in a connection's own thread; it concerns nobody else."""
        self._refused("connection")

    def service_actions(self) -> None:
        """Nothing: pynetdicom collects garbage here, which takes a second in a process that holds a network."""
