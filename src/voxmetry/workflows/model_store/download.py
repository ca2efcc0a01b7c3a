"""Fetch a file over HTTP: to a temporary name, resumed where it broke off, checked against its checksum.

Proxies are those of the environment (`https_proxy`, `no_proxy`), as `urllib` reads them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from voxmetry._version import __version__
from voxmetry.errors import DownloadError, OutputError
from voxmetry.io.atomic import output_error, write_text

CHUNK = 1 << 20
TIMEOUT_S = 60.0
TRIES = 5
"""How often a transfer that breaks off is resumed before it is given up; what was fetched stays for the next call."""

LARGEST_BYTES = 20 * 10**9
"""No archive of a known model is a tenth of this."""


def fetch(
    url: str, target: Path, *, tell: Callable[[str], None], largest: int = LARGEST_BYTES, pause_s: float = 2.0
) -> None:
    """Fetch an address as a file; `target` is there whole or not at all.

    What has arrived lies in `target` with `.part` behind its name, also after an error or a kill, and is continued by
    the next call, if the server still has the same file (its ETag or date says so) and can send a part of it.

    Parameters
    ----------
    url
        An http or https address.
    target
        The file.
    tell
        Called with a line of text from time to time.
    largest
        Most bytes that are taken.
    pause_s
        Wait before the second try; it doubles with each.

    Raises
    ------
    DownloadError
        If the server cannot be reached, refuses, or sends another size than it says or one that is too large.
    OutputError
        If the file cannot be written, such as on a full disk.
    """
    part = target.with_name(target.name + ".part")
    last: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            have = _size(part)
            tell(f"{target.name}: {_reason(last)}; once more{f' from {have / 1e6:.0f} MB' if have else ''}")
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            _continue(url, part, tell, largest)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                raise _refused(url, _reason(error)) from error
            last = error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            last = error
        else:
            part.replace(target)
            _note_of(part).unlink(missing_ok=True)
            return
    raise _refused(url, _reason(last)) from last


def checksum(path: Path, kind: str = "sha256", *, piece: int = CHUNK) -> str:
    """Return the checksum of a file in hexadecimal digits: "sha256" or "sha1"."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(piece):
            digest.update(data)
    return digest.hexdigest()


def _continue(url: str, part: Path, tell: Callable[[str], None], largest: int) -> None:
    """Ask for what is missing of a file and append it."""
    have, note = _size(part), _read_note(part)
    headers = {"User-Agent": f"voxmetry/{__version__}", "Accept-Encoding": "identity"}
    if have and note.get("url") == url and note.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": str(note["validator"])}
    else:
        have = 0
    try:
        # An opener of its own: the shared one keeps the proxies of its first use.
        opener = urllib.request.build_opener()
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
        if error.code == 416:
            error.close()
        if error.code == 416 and whole and int(whole[1]) == have:
            return
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise ConnectionError("the server's file is another one") from error
        raise
    with answer:
        _require_same_scheme(url, answer.geturl())
        begins = re.match(rf"bytes {have}-", answer.headers.get("Content-Range") or "")
        if not (have and answer.status == 206 and begins):
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if (total or 0) > largest:
            raise _too_large(url, largest)
        try:
            write_text(_note_of(part), json.dumps({"url": url, "validator": _validator(answer.headers)}))
            _append(answer, part, have, total, largest, tell, url)
        except OutputError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
                raise output_error(part, error) from error
            raise ConnectionError(str(error)) from error


def _append(
    answer: http.client.HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
    largest: int,
    tell: Callable[[str], None],
    url: str,
) -> None:
    name, told = part.name.removesuffix(".part"), 0
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        while data := answer.read(CHUNK):
            have += len(data)
            if have > largest:
                raise _too_large(url, largest)
            file.write(data)
            if total and have * 10 // total > told:
                told = have * 10 // total
                tell(f"{name}: {have / 1e6:.0f} of {total / 1e6:.0f} MB")
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have != total:
        raise ConnectionError(f"{have} of {total} bytes arrived")


def _validator(headers: http.client.HTTPMessage) -> str:
    """Return what names this state of a file: a strong ETag, else its date."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified") or ""


def _require_same_scheme(asked: str, got: str) -> None:
    if urlsplit(asked).scheme == "https" and urlsplit(got).scheme != "https":
        raise _refused(asked, "the server leads to an address without TLS")


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(_note_of(part).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception | None) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    inner = getattr(error, "reason", None) or error
    return str(inner) or type(inner).__name__


def _too_large(url: str, largest: int) -> DownloadError:
    return DownloadError(
        found=f"{url} is larger than {largest / 1e9:g} GB",
        expected="an archive of weights",
        fix="check the address in the catalogue",
    )


def _refused(url: str, why: str) -> DownloadError:
    return DownloadError(
        found=f"{url} cannot be fetched: {why}",
        expected="a server that sends the file",
        fix="run the same command again, which continues; behind a proxy set https_proxy; without a network fetch the "
        "file elsewhere and pass --from FILE",
    )
