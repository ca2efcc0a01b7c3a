"""Web services of peers: who asks, whom to believe, how long to wait, and how much to read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from requests.adapters import HTTPAdapter

from voxmetry.config.routes import OrthancPeer, WebPeer
from voxmetry.core.text_files import read_text
from voxmetry.errors import ConfigError, DownloadError

MOST_JSON = 64_000_000
"""Bytes of an answer that is no image."""


class TooLongError(requests.RequestException):
    """An answer with more bytes than are taken."""


class _Bounded:
    """The body of an answer; it ends in an error where it is longer than was asked for."""

    def __init__(self, raw: Any, most: float) -> None:
        self._raw, self._left = raw, most

    def stream(self, amount: int = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        for part in self._raw.stream(amount, decode_content=decode_content):
            self._left -= len(part)
            if self._left < 0:
                self._raw.close()
                raise TooLongError("the answer is longer than is taken")
            yield part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _Adapter(HTTPAdapter):
    def __init__(self, most_bytes: float, timeout: float) -> None:
        self._most, self._timeout = most_bytes, timeout
        super().__init__()

    def send(self, request: Any, *arguments: Any, **named: Any) -> requests.Response:
        named["timeout"] = named.get("timeout") or self._timeout
        response = super().send(request, *arguments, **named)
        response.raw = _Bounded(response.raw, self._most)
        return response


def session_for(peer: WebPeer | OrthancPeer, *, most_bytes: float, timeout: float) -> requests.Session:
    """Return a session that speaks to one peer; use it as a context, so that its connections end.

    It follows no redirect: what is meant for a named system goes to no other.

    Raises
    ------
    ConfigError
        If a file with a secret cannot be read.
    """
    # At the level of information it logs addresses with UIDs.
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
    session = requests.Session()
    session.max_redirects = 0
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(most_bytes, timeout))
    # No password from a file of the user that runs the service, and no proxy for what is in the house.
    session.trust_env = False
    if peer.user is not None and peer.password_file is not None:
        session.auth = (peer.user, _secret(peer.password_file))
    if peer.token_file is not None:
        session.headers["Authorization"] = f"Bearer {_secret(peer.token_file)}"
    if peer.tls is not None:
        session.verify = peer.tls.authority or True
        if peer.tls.certificate is not None and peer.tls.key is not None:
            session.cert = (peer.tls.certificate, peer.tls.key)
    return session


@contextlib.contextmanager
def client_for(peer: WebPeer | OrthancPeer, *, most_bytes: float, timeout: float) -> Iterator[DICOMwebClient]:
    """Give a DICOMweb client of one peer, whose connections end with the block. Raises as `session_for`."""
    with session_for(peer, most_bytes=most_bytes, timeout=timeout) as session:
        client = DICOMwebClient(peer.dicomweb_url, session=session, timeout=timeout)
        # It is tried again later, by us.
        client.set_http_retry_params(retry=False)
        yield client


def _secret(path: str) -> str:
    try:
        return read_text(Path(path)).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            found="a file with a password or a token cannot be read",
            expected="a text file that holds it alone (password_file, token_file)",
            fix="check the path in peers, and who may read it",
        ) from error


def unreachable(name: str, error: Exception) -> DownloadError:
    """Say that a peer does not do what it was asked, without the words of a library, which hold addresses and UIDs."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        why, fix = f"it answers {status}: this service may not", "check user and password_file, or token_file, in peers"
    elif status is not None:
        why, fix = f"it answers {status}", "look into the log of that system"
    elif isinstance(error, requests.exceptions.SSLError):
        why, fix = "its certificate is not known", "name its authority: peers.NAME.tls.authority"
    elif isinstance(error, requests.Timeout):
        why, fix = "it does not answer in time", "look whether it runs; or raise delivery.timeout_seconds"
    elif isinstance(error, requests.TooManyRedirects):
        why, fix = "it sends elsewhere, and nothing goes to a system that is not named", "name the final address"
    elif isinstance(error, TooLongError):
        why, fix = "it sends more than is taken", "raise dicom.instance_mb or dicom.group_mb"
    elif isinstance(error, requests.ConnectionError):
        why, fix = "no connection", "look whether it runs, and check its address in peers"
    else:
        why, fix = f"its answer cannot be used ({type(error).__name__})", "look into the log of that system"
    return DownloadError(found=f"{name}: {why}", expected="a system that answers", fix=fix)


WEB_ERRORS = (requests.RequestException, ValueError, TypeError, KeyError, AttributeError, LookupError, OSError)
"""What requests and dicomweb-client raise on answers that are none."""
