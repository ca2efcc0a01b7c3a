"""A file is there in full or not at all."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from voxmetry.errors import OutputError
from voxmetry.io.atomic import atomic_path, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_moves_the_complete_file_into_place(tmp_path):
    with atomic_path(tmp_path / "seg.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"new")
        assert not (tmp_path / "seg.nii.gz").exists()
    assert names(tmp_path) == ["seg.nii.gz"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interruption_keeps_the_earlier_file_and_leaves_nothing_else(tmp_path, interruption):
    write_text(tmp_path / "result.json", "old")

    def interrupted():
        with atomic_path(tmp_path / "result.json") as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert names(tmp_path) == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "permission was denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(tmp_path, monkeypatch, number, words):
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match=words) as caught:
        write_bytes(tmp_path / "a.csv", b"1")
    assert str(tmp_path) not in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_beyond_the_size_limit_leaves_nothing(tmp_path):
    """The kernel refuses in the middle of a write, as a full disk does."""
    script = (
        "import sys; from voxmetry.errors import OutputError; from voxmetry.io.atomic import write_bytes\n"
        "try: write_bytes(sys.argv[1], bytes(1 << 20))\n"
        "except OutputError as error: print(error.found)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big.bin")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.startswith("big.bin cannot be written: the file grew beyond")
    assert names(tmp_path) == []


def test_a_missing_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match="its folder is missing"):
        write_text(tmp_path / "no" / "a.txt", "x")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="its folder is a file"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="folder of that name"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_refused(tmp_path):
    with pytest.raises(OutputError), atomic_path(tmp_path / "a.txt"):
        pass


def test_text_has_the_same_line_ends_on_every_system(tmp_path):
    write_text(tmp_path / "a.csv", "ä\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == b"\xc3\xa4\nb\n"


def test_the_reason_of_the_system_is_told_where_a_writer_hides_it(tmp_path):
    """pydicom raises an error of its own over that of a full disk."""

    def write():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise OSError("cannot write") from error

    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a.dcm"):
        write()
