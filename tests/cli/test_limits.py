"""Limits that a shell sets on a process are told before a library ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import phantoms
from voxmetry import save
from voxmetry.cli import run
from voxmetry.cli.limits import LEAST_BYTES, LEAST_BYTES_WITH_NETWORK, LEAST_FILES, is_memory

resource = pytest.importorskip("resource", reason="no such limits on this system")


@pytest.fixture
def limit(monkeypatch):
    """Let this process believe in a limit: a real one would end the tests."""

    def limit(kind, value):
        real = resource.getrlimit

        def getrlimit(asked):
            return (value, value) if asked == kind else real(asked)

        monkeypatch.setattr(resource, "getrlimit", getrlimit)
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")

    return limit


@pytest.mark.parametrize(("verb", "least"), [("segment", LEAST_BYTES_WITH_NETWORK), ("measure", LEAST_BYTES)])
def test_too_little_memory_for_a_verb_is_told_before_the_work(limit, capsys, verb, least):
    limit(resource.RLIMIT_AS, least - 1)
    assert run([verb, "nothing.nii.gz", "-m", "hippocampus-mr", "-o", "x"]) == 2
    told = capsys.readouterr().err
    assert f"{least / 1e9:g} GB or more" in told
    assert "ulimit -v" in told


def test_too_few_files_are_told(limit, capsys):
    limit(resource.RLIMIT_NOFILE, LEAST_FILES - 1)
    assert run(["models", "list"]) == 2
    assert "ulimit -n" in capsys.readouterr().err


def test_help_is_shown_under_any_memory(limit, capsys):
    limit(resource.RLIMIT_AS, 1000)
    assert run(["--help"]) == 0
    assert "segment" in capsys.readouterr().out


def test_with_room_nothing_is_said(limit, tmp_path):
    limit(resource.RLIMIT_AS, 1 << 40)
    save(phantoms.segmentation(), tmp_path / "a.nii.gz")
    assert run(["measure", str(tmp_path / "a.nii.gz")]) == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libopenblas.so: cannot allocate memory in static TLS block"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_by_any_name_is_told_as_memory(error):
    assert is_memory(error)
    outer = ValueError("x")
    outer.__cause__ = error
    assert is_memory(outer)


def test_another_error_is_none_of_memory():
    assert not is_memory(ValueError("no memory of this"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_both_streams_full_end_with_the_code_of_the_verb(tmp_path):
    """The interpreter tried to write the last words once more as it ended, and left with 120."""
    save(phantoms.segmentation(), tmp_path / "a.nii.gz")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open("/dev/full", "w") as full:  # noqa: PTH123
        line = [sys.executable, "-m", "voxmetry", "measure", str(tmp_path / "a.nii.gz")]
        assert subprocess.run(line, stdout=full, stderr=full, env=environment, check=False).returncode == 1
