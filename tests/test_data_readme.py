"""The table of data/README.md against the real data that is there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "data" / "README.md"
ROW = re.compile(r"^\| `([\w-]+)` \| (\d+) \| (\d+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)
ROWS = ROW.findall(README.read_text(encoding="utf-8"))


def describe(folder: Path) -> tuple[str, str, str]:
    """Number of files, bytes, and the checksum that the command in data/README.md prints."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    lines = sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder).as_posix()}\n" for path in files
    )
    total = hashlib.sha256("".join(lines).encode()).hexdigest()
    return str(len(files)), str(sum(path.stat().st_size for path in files)), total


def test_all_folders_are_in_the_table():
    assert len(ROWS) == len({name for name, *_ in ROWS}) == 13


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "files", "size", "checksum"), ROWS, ids=[name for name, *_ in ROWS])
def test_a_folder_is_as_the_table_says(real_data, name, files, size, checksum):
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in the real data: see data/README.md")
    assert describe(folder) == (files, size, checksum)
