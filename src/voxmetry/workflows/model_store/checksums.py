"""Checksums of what was fetched: kept at the first time, compared ever after."""

from __future__ import annotations

import datetime
from pathlib import Path

from pydantic import Field

from voxmetry.config import parse_record
from voxmetry.config.yaml import load_yaml
from voxmetry.core.base import Record
from voxmetry.errors import DownloadError
from voxmetry.io.atomic import write_text
from voxmetry.models.catalogue import Part
from voxmetry.workflows.model_store.download import checksum

FILE = "checksums.json"


class Seen(Record):
    """A file as it was when it was fetched first."""

    sha256: str
    size: int
    first: str
    """Date."""


class Checksums(Record):
    """All files that were fetched, by address."""

    files: dict[str, Seen] = Field(default_factory=dict)


def require_same(path: Path, part: Part, root: Path, *, accept_new: bool) -> str:
    """See that an archive is what its authors published, and what it was when it was fetched first.

    Parameters
    ----------
    path
        The archive.
    part
        What the catalogue says of it.
    root
        The folder of models, which keeps the checksums.
    accept_new
        Take another checksum than the first one. A published checksum must agree in any case.

    Returns
    -------
    str
        Its SHA-256.

    Raises
    ------
    DownloadError
        If it is another file.
    """
    found = checksum(path)
    for kind, published in (("sha256", part.sha256), ("sha1", part.sha1)):
        have = found if kind == "sha256" else checksum(path, kind) if published else None
        if published and have != published:
            raise DownloadError(
                found=f"{part.file} has the {kind.upper()} {have}",
                expected=f"{published}, as its authors published it",
                fix="fetch it again; if it stays so, do not use it",
            )
    before = _read(root).files.get(part.url)
    if before is not None and before.sha256 != found and not accept_new:
        raise DownloadError(
            found=f"{part.file} has the SHA-256 {found}",
            expected=f"{before.sha256}, as on {before.first}, when it was fetched first",
            fix="ask its authors whether they replaced it; if they did, add --accept-new-checksum",
        )
    return found


def remember(path: Path, part: Part, root: Path, sha256: str) -> None:
    """Keep the checksum of an archive that was unpacked: what comes from its address later is compared with it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    known = _read(root)
    before = known.files.get(part.url)
    if before is not None and before.sha256 == sha256:
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    seen = Seen(sha256=sha256, size=path.stat().st_size, first=today)
    content = Checksums(files=known.files | {part.url: seen})
    write_text(root / FILE, content.model_dump_json(indent=1) + "\n")


def _read(root: Path) -> Checksums:
    # JSON is YAML; one reader names what is wrong with either.
    path = root / FILE
    return load_yaml(path, Checksums) if path.is_file() else parse_record({}, Checksums, where=FILE)
