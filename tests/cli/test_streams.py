"""Streams that cannot take everything, errors that nobody foresaw, and signals: each ends in words and an exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import phantoms
from voxmetry import Segmentation, save
from voxmetry.cli import run

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def label_map(tmp_path):
    save(phantoms.segmentation(), tmp_path / "ä [x].nii.gz")
    return tmp_path / "ä [x].nii.gz"


def child(*words, stdout=subprocess.PIPE, **environment):
    env = {"PYTHONPATH": str(SRC), "PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-m", "voxmetry", *map(str, words)]
    return subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, timeout=600, check=False)


def test_an_ascii_locale_shows_a_table_and_json_that_can_be_read(label_map):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    shown = child("measure", label_map, **ascii_only)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"+/-" in shown.stdout
    assert json.loads(child("measure", label_map, "--json", **ascii_only).stdout)["measurements"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_as_standard_output_is_exit_code_1_in_words_and_the_files_are_there(label_map, tmp_path):
    with Path("/dev/full").open("w") as full:
        told = child("measure", label_map, "-o", tmp_path / "out", stdout=full)
    assert told.returncode == 1
    assert b"Traceback" not in told.stderr
    assert b"Exception ignored" not in told.stderr
    assert b"standard output cannot be written: No space left on device" in told.stderr
    assert (tmp_path / "out" / "measurements.csv").is_file()


def test_a_reader_that_closes_its_end_is_no_error_in_words(label_map):
    reader, writer = os.pipe()
    os.close(reader)
    told = child("measure", label_map, "--json", stdout=writer)
    os.close(writer)
    assert told.stderr == b""


SECRET = "DOE^JANE 1970"


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "2>/dev/full"])
def test_closed_and_full_streams_stop_no_verb(closed, label_map, tmp_path):
    code = f"{sys.executable} -m voxmetry measure '{label_map}' -o {tmp_path}/out {closed}"
    env = {"PYTHONPATH": str(SRC), "PATH": os.environ["PATH"]}
    told = subprocess.run(["bash", "-c", code], env=env, capture_output=True, timeout=600, check=False)
    assert told.returncode == 0
    assert b"Traceback" not in told.stderr
    assert (tmp_path / "out" / "measurements.csv").is_file()


def _fail(*_arguments, **_options):
    raise ValueError(SECRET)


def test_an_error_that_nobody_foresaw_is_told_once_without_what_it_says(monkeypatch, capsys, label_map):
    monkeypatch.setattr("voxmetry.workflows.measure.measure", _fail)
    assert run(["measure", str(label_map), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "UnforeseenError"
    assert "Traceback" not in err
    path = Path(re.search(r"report it with (\S+),", err)[1])
    written = path.read_text()
    assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
    assert "_fail" in written
    assert "builtins.ValueError" in written
    for text in (out, err, written):
        assert "DOE" not in text
        assert label_map.name not in text
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_nothing_behind(name, tmp_path):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"no {name} on this system")
    grid = phantoms.geometry(shape=(200, 200, 60))
    labels = phantoms.segmentation().labels
    save(Segmentation(np.ones(grid.shape, np.uint8), grid, labels), tmp_path / "a.nii.gz")
    code = (
        "import os, signal, sys\n"
        "from voxmetry.cli import run\n"
        "import voxmetry.io.atomic as atomic\n"
        f"before, number = atomic.write_text, {int(number)}\n"
        "def late(*args):\n"
        "    before(*args)\n"
        "    os.kill(os.getpid(), number)\n"
        "    import time; time.sleep(5)\n"
        "atomic.write_text = late\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # A suite that runs under nohup hands on that a hang-up is ignored.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, 'SIGHUP') else None\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    told = subprocess.run(
        [sys.executable, "-c", code, "measure", str(tmp_path / "a.nii.gz"), "-o", str(out)],
        env={"PYTHONPATH": str(SRC), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert told.returncode == 1
    assert "Interrupted" in told.stderr
    assert "Traceback" not in told.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_program_that_runs_a_verb_within_itself_keeps_its_signals(interrupted, label_map, monkeypatch):
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
    before = [signal.getsignal(number) for number in numbers]

    def measure(*_arguments, **_options):
        signal.raise_signal(signal.SIGTERM)

    if interrupted:
        monkeypatch.setattr("voxmetry.workflows.measure.measure", measure)
    assert run(["measure", str(label_map)]) == int(interrupted)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_hang_up_that_nohup_silenced_stays_silenced():
    code = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from voxmetry.cli import run\n"
        "run(['--version'])\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    )
    env = {"PYTHONPATH": str(SRC), "PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
