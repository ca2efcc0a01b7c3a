"""Start the service: hold its folder, start its workers, listen until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxmetry.config.service import ServiceLimits, ServiceSettings
from voxmetry.errors import ConfigError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from voxmetry.service.delivery import Deliver
    from voxmetry.service.service import Service

HEADER_SECONDS = 20.0
"""How long a connection may take until its first request's headers are whole."""
MOST_CONNECTIONS = 500
GRACE_SECONDS = 5
"""How long answers that are under way have at the end."""
_AT_ONCE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER: on, for no time."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe(settings: ServiceSettings, *, no_auth: bool) -> None:
    """Raise `ConfigError` where others could call the service without a token, and nobody said that they may."""
    if settings.tokens is None and not no_auth and not is_loopback(settings.host):
        raise ConfigError(
            found=f"the address {settings.host}, and no tokens: whoever reaches it could read and send studies",
            expected="127.0.0.1, or a file of tokens",
            fix="make one: voxmetry serve token NAME --tokens FILE, and add --tokens FILE; or say --no-auth",
        )
    if settings.tokens is not None and no_auth:
        raise ConfigError(found="tokens and --no-auth", expected="one of them", fix="leave one out")


def serve(
    settings: ServiceSettings,
    *,
    no_auth: bool = False,
    ready: Callable[[str], None] | None = None,
    stop: Callable[[Any], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; jobs that run then run again after the next start.

    Parameters
    ----------
    settings
        Of the service.
    no_auth
        Whether an address beyond loopback is served without tokens.
    ready
        Called with the address once requests are answered.
    stop
        Called with the server before it starts, so that another thread can end it by `should_exit`.

    Raises
    ------
    ConfigError
        If the settings are unsafe or cannot be used.
    MissingExtraError
        If the packages of the extra `serve` are missing.
    LockedError
        If another process serves the data folder.
    OutputError
        If the address cannot be listened on, or the data folder not be written to.
    """
    require_safe(settings, no_auth=no_auth)
    uvicorn = _require_extra()
    from voxmetry.service.app import create_app
    from voxmetry.service.jobs import JobQueue
    from voxmetry.service.service import Hooks, Service
    from voxmetry.service.tokens import Tokens

    tokens = Tokens(Path(settings.tokens)) if settings.tokens is not None else None
    queue = JobQueue(settings, deliver=_sender(settings))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listener(settings))
        stack.enter_context(queue)
        hooks = Hooks()
        if settings.peers or settings.dicom is not None:
            from voxmetry.service.dicom.gateway import Gateway

            gateway = stack.enter_context(Gateway(settings, queue))
            hooks.fetch, hooks.network = gateway.fetch, gateway.metrics
        if settings.training is not None:
            from voxmetry.service.training import ProcessTrainer

            hooks.trainer = trainer = ProcessTrainer(settings.training, queue.root)
            stack.callback(trainer.close)
        service = Service(settings, queue, tokens=tokens, hooks=hooks)
        app = create_app(service)
        config = uvicorn.Config(
            app,
            http=_protocol(settings.limits),
            ws="none",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE_SECONDS,
            limit_concurrency=MOST_CONNECTIONS,
            server_header=False,
            date_header=True,
            proxy_headers=False,
        )
        server = _server(uvicorn, config, service)
        if stop is not None:
            stop(server)
        host, port = listener.getsockname()[:2]
        if ready is not None:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(sockets=[listener]))


def _server(uvicorn: Any, config: Any, service: Service) -> Any:
    class Server(uvicorn.Server):  # type: ignore[misc, unused-ignore]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.end_waits()
            await super().shutdown(sockets=sockets)
            # Those that came while the others were closed, and those that were not over in time.
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)

    return Server(config)


def _sender(settings: ServiceSettings) -> Deliver | None:
    if not settings.peers:
        return None
    try:
        from voxmetry.service.dicom.send import Sender
    except ImportError as error:
        raise MissingExtraError(
            found=f"peers in the settings, and the package {error.name} is not installed",
            expected="pynetdicom and dicomweb-client, for DICOM in and out",
            fix="pip install 'voxmetry[serve]'",
        ) from error
    return Sender(settings.peers, settings.delivery)


def _listener(settings: ServiceSettings) -> socket.socket:
    """Listen before the models are loaded: that the port is taken is told at once."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as unless_it_listens:
            listener = unless_it_listens.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
            listener.listen(128)
            unless_it_listens.pop_all()
    except OSError as error:
        raise OutputError(
            found=f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or type(error).__name__}",
            expected="an address of this machine with a free port",
            fix="choose another port: --port 8001, or 0 for any",
        ) from error
    return listener


def _require_extra() -> Any:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(
            found=f"the package {error.name} is not installed",
            expected="fastapi, uvicorn and python-multipart, for the service",
            fix="pip install 'voxmetry[serve]'",
        ) from error
    return uvicorn


def _protocol(limits: ServiceLimits) -> Any:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):  # type: ignore[misc, unused-ignore]
        """HTTP/1.1 that closes a connection whose request does not come, or whose answer is not read."""

        _begins: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begins = self.loop.call_later(HEADER_SECONDS, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                _cancel(self._begins)
                self._begins = None
            elif self._begins is None:
                # Part of the next request's headers.
                self._begins = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(limits.idle_seconds, self._give_up)

        def _give_up(self) -> None:
            # Closing would wait for what is not read, here and then in the system.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

        def resume_writing(self) -> None:
            _cancel(self._stuck)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._begins)
            _cancel(self._stuck)
            super().connection_lost(exc)

    return PatientProtocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
