"""Who may call the service: tokens, of which the service knows only hashes."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import secrets
import threading
from pathlib import Path
from typing import Annotated

from pydantic import Field

from voxmetry.config.service import Name
from voxmetry.config.yaml import dump_yaml, load_yaml, parse_record
from voxmetry.core.base import Record
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import output_error, write_text

PREFIX = "vxm_"
"""What a token begins with, so that one in a log or a script is recognised."""


class TokenEntry(Record):
    """One token: whose it is, and its hash."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: str
    """ISO 8601, UTC."""


class TokenFile(Record):
    """The content of the file of tokens."""

    tokens: tuple[TokenEntry, ...] = ()


class Tokens:
    """The tokens of a file, read again whenever it changes: one that is taken out of it is refused from then on.

    Parameters
    ----------
    path
        The file that `add_token` wrote.

    Raises
    ------
    ConfigError
        If it cannot be read, or others than its owner may write to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._names: dict[str, str] = {}
        self._read()

    def _read(self) -> None:
        try:
            facts = self._path.stat()
            seen = (facts.st_mtime_ns, facts.st_size)
        except OSError as error:
            raise ConfigError(
                found=f"the file of tokens cannot be read: {error.strerror}",
                expected="the file that `voxmetry serve token` writes",
                fix="make a token: voxmetry serve token NAME --tokens FILE",
            ) from error
        if seen == self._seen:
            return
        if os.name == "posix" and facts.st_mode & 0o022:
            raise ConfigError(
                found="a file of tokens that others may write to",
                expected="one that only its owner may write to",
                fix="chmod 600 the file",
            )
        content = load_yaml(self._path, TokenFile)
        self._names = {entry.sha256: entry.name for entry in content.tokens}
        self._seen = seen

    def name_of(self, token: str) -> str | None:
        """Return whose token this is; None where it is nobody's, or the file cannot be read any more."""
        given = _hash(token)
        with self._lock:
            try:
                self._read()
            except ConfigError:
                return None
            found = None
            for known, name in self._names.items():
                if hmac.compare_digest(known, given):
                    found = name
        return found


def add_token(path: Path, name: str) -> str:
    """Make a token for somebody or some program, add its hash to a file, and return it: it is shown this once.

    Raises
    ------
    ConfigError
        If the file is none of tokens, or has this name.
    OutputError
        If it cannot be written.
    """
    known = load_yaml(path, TokenFile) if path.exists() else TokenFile()
    if any(entry.name == name for entry in known.tokens):
        raise ConfigError(
            found=f"a token called {name} in the file already",
            expected="a new name",
            fix="choose another name, or take that entry out of the file first",
        )
    token = PREFIX + secrets.token_urlsafe(32)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"name": name, "sha256": _hash(token), "created": now}
    entries = [*(entry.model_dump() for entry in known.tokens), entry]
    content = parse_record({"tokens": entries}, TokenFile, where="tokens")
    write_text(path, dump_yaml(content))
    try:
        path.chmod(0o600)
    except OSError as error:
        raise output_error(path, error) from error
    return token


def _hash(token: str) -> str:
    # A token holds 256 random bits: nothing is gained by a slow hash, and each request computes it.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
