from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from voxmetry.errors import LockedError, OutputError, OutputExistsError
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import LOCK, output_folder, require_no_file

NAMES = ("a.csv", "b.csv", "predictions", "page.html")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def earlier(folder):
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        if name == "predictions":
            (folder / name).mkdir()
            write_text(folder / name / "old.txt", "old")
        else:
            write_text(folder / name, "old")


def write_new(folder, names, error=None):
    with output_folder(folder, NAMES, overwrite=True) as stage:
        for name in names:
            (stage / name).write_text("new")
        if error is not None:
            raise error


def hold(folder, ready, done):
    with output_folder(folder, NAMES, overwrite=True) as stage:
        write_text(stage / "a.csv", "from the other process")
        ready.set()
        done.wait(300)


@pytest.fixture
def other(tmp_path):
    """Another process in the middle of writing to a folder with earlier results."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    folder = tmp_path / "out"
    earlier(folder)
    process = context.Process(target=hold, args=(folder, ready, done))
    process.start()
    assert ready.wait(300)
    yield folder, process, done
    # Not through the event: a process that was killed may hold its lock.
    process.kill()
    process.join(300)


def test_new_results_take_the_place_of_all_earlier_ones(tmp_path):
    earlier(tmp_path)
    with output_folder(tmp_path, NAMES, overwrite=True) as stage:
        write_text(stage / "a.csv", "new")
        (stage / "predictions").mkdir()
        write_text(stage / "page.html", "new")
        write_text(stage / "further.csv", "new")
        assert (tmp_path / "a.csv").read_text() == "old"
    assert names(tmp_path) == ["a.csv", "further.csv", "page.html", "predictions"]
    assert {(tmp_path / name).read_text() for name in ("a.csv", "further.csv", "page.html")} == {"new"}
    assert names(tmp_path / "predictions") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "full"), ValueError])
def test_a_failure_leaves_the_earlier_results_and_nothing_else(tmp_path, error):
    earlier(tmp_path)
    with pytest.raises((KeyboardInterrupt, OutputError, ValueError)):
        write_new(tmp_path, ("a.csv",), error)
    assert names(tmp_path) == sorted(NAMES)
    assert (tmp_path / "a.csv").read_text() == "old"
    assert (tmp_path / "predictions" / "old.txt").read_text() == "old"


def test_a_failure_between_two_moves_is_undone(tmp_path, monkeypatch):
    earlier(tmp_path)
    whole = type(tmp_path).replace

    def fail(self, target):
        if self.name == "b.csv" and "earlier" not in str(self):
            raise OSError(5, "the disk")
        return whole(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", fail)
    with pytest.raises(OutputError):
        write_new(tmp_path, ("a.csv", "b.csv", "page.html"))
    assert names(tmp_path) == sorted(NAMES)
    assert {(tmp_path / name).read_text() for name in ("a.csv", "b.csv", "page.html")} == {"old"}


def test_what_a_process_had_moved_aside_when_it_was_killed_is_put_back(tmp_path):
    write_text(tmp_path / "a.csv", "new")
    aside = tmp_path / ".part-0" / "earlier results"
    aside.mkdir(parents=True)
    write_text(aside / "a.csv", "old")
    write_text(aside / "page.html", "old")
    with pytest.raises(ValueError, match="stop"):
        write_new(tmp_path, (), ValueError("stop"))
    assert names(tmp_path) == ["a.csv", "page.html"]
    assert (tmp_path / "a.csv").read_text() == "old"


@pytest.mark.parametrize("name", NAMES)
def test_earlier_results_are_refused_before_any_work(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OutputExistsError, match="in the folder already"), output_folder(tmp_path, NAMES):
        pytest.fail("work began")
    assert names(tmp_path) == [name]


def test_a_file_is_refused_where_it_may_not_be_replaced(tmp_path):
    require_no_file(tmp_path / "a.yaml", overwrite=False)
    write_text(tmp_path / "a.yaml", "mine")
    with pytest.raises(OutputExistsError, match=r"a\.yaml is there already"):
        require_no_file(tmp_path / "a.yaml", overwrite=False)
    require_no_file(tmp_path / "a.yaml", overwrite=True)


def test_a_second_process_is_kept_out_until_the_first_is_done(other):
    folder, process, done = other
    with pytest.raises(LockedError, match="another process"), output_folder(folder, NAMES, overwrite=True):
        pytest.fail("both write")
    done.set()
    process.join(300)
    assert (folder / "a.csv").read_text() == "from the other process"
    assert names(folder) == ["a.csv"]


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_what_a_killed_process_left_is_swept_and_its_hold_is_gone(other):
    folder, process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join(300)
    time.sleep(0.1)
    assert any(name.startswith(".part-") for name in names(folder))
    with output_folder(folder, NAMES, overwrite=True) as stage:
        write_text(stage / "a.csv", "new")
    assert names(folder) == ["a.csv"]


def test_the_lock_leaves_no_file(tmp_path):
    with output_folder(tmp_path / "new" / "deep", NAMES):
        assert LOCK in names(tmp_path / "new" / "deep")
    assert names(tmp_path / "new" / "deep") == []
