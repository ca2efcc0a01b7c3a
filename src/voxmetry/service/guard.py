"""What every request passes: who asks and from where, how much it may send and how slowly, and a line of audit."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import secrets
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxmetry.config.service import ServiceSettings
from voxmetry.errors import VoxmetryError
from voxmetry.io.atomic import output_error
from voxmetry.service.errors import DeniedError, TooLargeError, TooSlowError, status_of
from voxmetry.service.tokens import Tokens

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/", "/health", "/auth", "/auth/", "/auth/token", "/favicon.ico")
"""What is answered without a token: the page, which holds nothing by itself, and how one gets in."""
SAFE = ("GET", "HEAD", "OPTIONS")
MOST_BODY_BYTES = 1_000_000
"""Of a body that is no upload."""
LOG = logging.getLogger("voxmetry.service")
COOKIE = "voxmetry_session"
SESSION_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Sessions:
    """Who is logged in on the page, in memory alone: after a restart everybody logs in again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}

    def begin(self, token: str) -> str:
        """Return the value of a cookie for somebody with this token."""
        value, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._known = {key: entry for key, entry in self._known.items() if entry[1] > now}
            while len(self._known) >= MOST_SESSIONS:
                self._known.pop(next(iter(self._known)))
            self._known[value] = (token, now + SESSION_SECONDS)
        return value

    def token_of(self, value: str) -> str | None:
        """Return the token behind a cookie."""
        with self._lock:
            token, until = self._known.get(value, ("", 0.0))
        return token if until > time.monotonic() else None

    def end(self, value: str) -> None:
        """Forget a cookie."""
        with self._lock:
            self._known.pop(value, None)


class Audit:
    """A line for each request: who, from where, what and how it ended. No path, no name of an image, no identity.

    Parameters
    ----------
    path
        The file; at 10 MB it is renamed, and five such files are kept.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.bytes_in = 0
        self._lock = threading.Lock()
        self._log = logging.Logger("voxmetry.audit")
        try:
            self._handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=10_000_000, backupCount=5, encoding="utf-8"
            )
        except OSError as error:
            raise output_error(path, error) from error
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        # A full disk costs a line of audit, and no answer.
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]  # noqa: ARG005
        self._log.addHandler(self._handler)

    def write(self, line: dict[str, Any], route: str, seconds: float, n_bytes: int) -> None:
        """Keep a line, and count it."""
        with self._lock:
            self.requests[line["method"], route, line["status"]] += 1
            self.seconds[route] += seconds  # type: ignore[assignment]  # a counter of seconds
            self.bytes_in += n_bytes
        self._log.info(json.dumps(line))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class Guard:
    """ASGI middleware: the first thing that a request meets.

    Parameters
    ----------
    app
        What it guards.
    settings
        Limits, and origins that may call.
    tokens
        Who may call; None: everybody.
    sessions
        Who is logged in on the page.
    audit
        Takes a line of each request.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServiceSettings, tokens: Tokens | None, sessions: Sessions, audit: Audit
    ) -> None:
        self._app, self._settings, self._tokens, self._audit = app, settings, tokens, audit
        self._sessions = sessions
        self._hosts = {*LOOPBACK, settings.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, headers = time.perf_counter(), Headers(scope=scope)
        body = Body(receive, self._most_bytes(headers), self._settings)
        outcome = {"status": 500}
        scope.setdefault("state", {})["who"] = None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                if body.refusal is not None and message["status"] == 400:
                    # The framework makes every error of a body a 400.
                    message["status"] = status_of(body.refusal)
                outcome["status"] = message["status"]
                self._add_headers(MutableHeaders(scope=message), headers)
            await send(message)

        try:
            await self._pass_on(scope, headers, body, answer)
        finally:
            route = getattr(scope.get("route"), "path", "") or "(no route)"
            line = {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "who": scope["state"].get("who"),
                "from": (scope.get("client") or ("",))[0],
                "method": scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "?",
                "route": route,
                "status": outcome["status"],
                "bytes": body.n_bytes,
                "job": scope["state"].get("job"),
            }
            self._audit.write(line, route, time.perf_counter() - begin, body.n_bytes)

    async def _pass_on(self, scope: Scope, headers: Headers, body: Body, send: Send) -> None:
        try:
            self._require_host(headers)
            self._require_origin(scope, headers)
            scope["state"]["who"] = self._who(scope, headers)
            body.require_length(headers)
        except VoxmetryError as error:
            status = 401 if isinstance(error, _UnknownError) else status_of(error)
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            # What is still to come is not read: the connection ends with the answer.
            answer = JSONResponse(error.to_dict(), status, headers={**extra, "connection": "close"})
            await answer(scope, body, send)
            return
        if scope["method"] == "OPTIONS" and self._allowed(headers.get("origin")):
            await JSONResponse(None, 200, headers=_PREFLIGHT)(scope, body, send)
            return
        started = False

        async def answer_of_app(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, body, answer_of_app)
        except Exception as error:  # noqa: BLE001  (the one place where what nobody foresaw is caught)
            # Its words may hold a path, or what a client sent: its kind and place are enough to find it.
            LOG.error("an error that nobody foresaw: %s", _kind_and_place(error))
            if not started:
                await JSONResponse(_UNFORESEEN, 500)(scope, body, send)

    def _most_bytes(self, headers: Headers) -> int:
        # Beside the files, a form has a few headers and fields.
        is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return int(self._settings.limits.upload_mb * 1e6) + 4_000_000 if is_upload else MOST_BODY_BYTES

    def _require_host(self, headers: Headers) -> None:
        """Refuse other names of this machine, where no token is asked for: a page elsewhere could have given it one."""
        if self._tokens is not None or self._settings.host not in LOOPBACK:
            return
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host not in self._hosts:
            raise DeniedError(
                found="a request to another name of this machine",
                expected=f"one of {', '.join(sorted(self._hosts))}",
                fix="use http://127.0.0.1, or serve with tokens",
            )

    def _require_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what another site's page sends, unless it is named in `cors`: browsers send it along with a cookie."""
        origin = headers.get("origin")
        if origin is None or self._allowed(origin) or scope["method"] in SAFE:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise DeniedError(
                found="a request from a page of another origin",
                expected="one from this service's own page, or from an origin named in cors",
                fix="add the origin to cors in the settings of the service",
            )

    def _allowed(self, origin: str | None) -> bool:
        return origin is not None and origin in self._settings.cors

    def _who(self, scope: Scope, headers: Headers) -> str | None:
        if self._tokens is None:
            return None
        token = token_of(headers, self._sessions)
        name = self._tokens.name_of(token) if token else None
        path = scope["path"]
        is_open = path in OPEN or path.startswith("/page/")
        if name is None and not is_open and not (scope["method"] == "OPTIONS" and self._allowed(headers.get("origin"))):
            raise _UnknownError(
                found="no token, or one that is not known",
                expected="Authorization: Bearer TOKEN",
                fix="ask whoever runs the service for one: voxmetry serve token NAME --tokens FILE",
            )
        return name

    def _add_headers(self, answer: MutableHeaders, asked: Headers) -> None:
        for name, value in _HEADERS.items():
            answer.setdefault(name, value)
        answer.setdefault("content-security-policy", "default-src 'none'; frame-ancestors 'none'")
        if self._settings.cors:
            answer.add_vary_header("Origin")
        if self._allowed(origin := asked.get("origin")):
            answer["access-control-allow-origin"] = origin or ""
            answer["access-control-expose-headers"] = "content-disposition"
            answer["cross-origin-resource-policy"] = "cross-origin"


_UNFORESEEN = {
    "error": "UnforeseenError",
    "found": "an error that nobody foresaw",
    "expected": "an answer, or a refusal in words",
    "fix": "report it with the line that the service wrote to its log",
}


def _kind_and_place(error: Exception) -> str:
    trace = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"{type(error).__name__}{where}"


_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
    "access-control-allow-headers": "authorization, content-type, accept",
    "access-control-max-age": "600",
}


class _UnknownError(DeniedError):
    """Nobody knows who asks."""


def token_of(headers: Headers, sessions: Sessions) -> str | None:
    """Return the token of a request: of its Authorization, or behind the cookie of the page."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return sessions.token_of(value)
    return None


class Body:
    """Receives a request's body within its limits of size and time.

    Parameters
    ----------
    receive
        ASGI's.
    most
        Bytes that it may have.
    settings
        Of the service: how long it may take.
    """

    def __init__(self, receive: Receive, most: int, settings: ServiceSettings) -> None:
        self._receive, self._most, self._limits = receive, most, settings.limits
        self._end = time.monotonic() + settings.limits.upload_seconds
        self._is_over = False
        self.n_bytes = 0
        self.refusal: VoxmetryError | None = None

    def require_length(self, headers: Headers) -> None:
        """Refuse a body that says itself that it is too large."""
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            raise self._refuse(self._too_large())

    async def __call__(self) -> Message:
        """Return the next piece."""
        if self._is_over:
            # From here on it is only heard whether the client goes away.
            return await self._receive()
        left = min(self._limits.idle_seconds, self._end - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError as error:
            raise self._refuse(
                TooSlowError(
                    found="a body that does not come, or takes too long",
                    expected=f"something every {self._limits.idle_seconds:g} s, and all of it within "
                    f"{self._limits.upload_seconds:g} s",
                    fix="try again on a faster connection, or raise limits.upload_seconds",
                )
            ) from error
        if message["type"] == "http.request":
            self.n_bytes += len(message.get("body", b""))
            self._is_over = not message.get("more_body", False)
            if self.n_bytes > self._most:
                raise self._refuse(self._too_large())
        else:
            self._is_over = True
        return message

    def _refuse(self, error: VoxmetryError) -> VoxmetryError:
        self.refusal = error
        return error

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            found="a body that is too large",
            expected=f"at most {self._most / 1e6:.0f} MB",
            fix="send less at once, or name a path below one of the service's roots",
        )
