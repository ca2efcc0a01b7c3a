"""Dask workers: what is asked of them first, how much they are given, what becomes of what they lose."""

import contextlib
import json
import subprocess
from types import SimpleNamespace

import pytest

import chaos
import models
import voxmetry
from voxmetry import StudySettings
from voxmetry.errors import ConfigError, OutputError, SchedulerError
from voxmetry.workflows.cohort import cluster
from voxmetry.workflows.cohort.executor import Again, Finished, Lost, Stopped
from voxmetry.workflows.cohort.publish import Superseded
from voxmetry.workflows.cohort.records import Outcome, RunSettings, Task
from workflows.cohort.test_run import snapshot

pytest.importorskip("distributed")

SETTINGS = RunSettings(scheduler="tcp://x", study=StudySettings(device="cpu"))


class Future:
    """A future that ends when the test says so."""

    def __init__(self, arguments) -> None:
        self.arguments, self.status, self.error, self.value = arguments, "pending", None, None
        self.callbacks = []

    def add_done_callback(self, callback):
        self.callbacks.append(callback)

    def end(self, status, *, value=None, error=None):
        self.status, self.value, self.error = status, value, error
        for callback in self.callbacks:
            callback(self)

    def exception(self):
        return self.error

    def result(self):
        return self.value

    def release(self):
        self.status = "released"


class Client:
    """A scheduler with workers that answer as they are told."""

    def __init__(self, answers=None, workers=None) -> None:
        self.answers, self.status, self.futures = answers, "running", []
        self.workers = workers or {"w": {"nthreads": 1, "resources": {}}}
        self.scheduler_comm = SimpleNamespace(comm=SimpleNamespace(closed=lambda: False))

    def run(self, function, path, on_error):
        found = function(path)
        return self.answers(found) if self.answers else dict.fromkeys(self.workers, found)

    def scheduler_info(self, n_workers):
        return {"workers": self.workers}

    def submit(self, function, task, **arguments):
        self.futures.append(Future(arguments))
        return self.futures[-1]

    def close(self, timeout):
        self.status = "closed"


def task(out, case="a", **change) -> Task:
    settings = change.pop("settings", StudySettings(device="cpu"))
    return Task(
        case=case,
        model="m",
        model_path="m",
        study=("x",),
        reference=None,
        settings=settings,
        root=str(out),
        place=f"m/{case}",
        run="0123456789abcdef",
        version=voxmetry.__version__,
        weights_sha256="0",
    )


@pytest.fixture
def connect(monkeypatch, tmp_path):
    (tmp_path / ".voxmetry").mkdir()

    def make(**change):
        client = Client(**change)
        monkeypatch.setattr(cluster, "_connect", lambda _distributed, _address: client)
        return client, cluster.DaskWorkers(SETTINGS, task(tmp_path))

    return make


class TestBeforeTheFirstStudy:
    def test_workers_that_see_the_folder_are_taken_and_nothing_is_left_in_it(self, connect, tmp_path):
        _, workers = connect()
        assert workers.room(alone=False)
        assert list((tmp_path / ".voxmetry").iterdir()) == []

    def test_another_version_on_a_worker_is_refused(self, connect):
        with pytest.raises(ConfigError, match=r"the worker w has voxmetry 0\.0\.0"):
            connect(answers=lambda found: {"w": ("0.0.0", found[1])})

    def test_a_worker_that_does_not_see_the_results_is_refused(self, connect):
        with pytest.raises(ConfigError, match="does not see the folder"):
            connect(answers=lambda found: {"w": (found[0], "")})

    def test_a_worker_that_cannot_import_it_is_refused(self, connect):
        with pytest.raises(ConfigError, match="cannot use voxmetry: ModuleNotFoundError"):
            connect(answers=lambda _: {"w": ModuleNotFoundError("voxmetry")})

    def test_an_address_where_nothing_listens_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
        settings = SETTINGS.model_copy(update={"scheduler": "tcp://127.0.0.1:9"})
        with pytest.raises(SchedulerError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:9"):
            cluster.DaskWorkers(settings, task(tmp_path))


class TestGiving:
    def test_never_more_than_the_threads_can_soon_start(self, connect, tmp_path):
        _, workers = connect(workers={"v": {"nthreads": 2}, "w": {"nthreads": 1}})
        n = 0
        while workers.room(alone=False):
            workers.submit(task(tmp_path, case=str(n)), alone=False)
            n += 1
        assert n == 3 * cluster.PER_THREAD
        assert not workers.room(alone=True)

    @pytest.mark.parametrize(
        ("device", "announced", "asked"),
        [
            ("auto", ("GPU", "CPU"), {"GPU": 1}),
            ("cpu", ("GPU", "CPU"), {"CPU": 1}),
            ("cpu", ("GPU",), None),
            ("auto", (), None),
        ],
    )
    def test_a_study_asks_for_the_resource_of_its_device(self, connect, tmp_path, device, announced, asked):
        resources = {name: {"nthreads": 1, "resources": {name: 1}} for name in announced}
        client, workers = connect(workers=resources or None)
        assert workers.room(alone=False)
        workers.submit(task(tmp_path, settings=StudySettings(device=device)), alone=False)
        assert client.futures[0].arguments["resources"] == asked


class TestWhatComesBack:
    @pytest.fixture
    def given(self, connect, tmp_path):
        client, workers = connect()
        one = task(tmp_path)
        workers.submit(one, alone=False)
        return one, client.futures[0], workers

    def test_an_outcome(self, given):
        one, future, workers = given
        future.end("finished", value=Outcome(case="a", model="m", state="done", place=one.place))
        assert workers.wait(0.1) == Finished(future.value)
        assert workers.wait(0.01) is None

    def test_a_lost_worker_is_this_studys_doing(self, given):
        from distributed.scheduler import KilledWorker

        one, future, workers = given
        future.end("error", error=KilledWorker("key", None, 1))
        assert workers.wait(0.1) == Lost(one.key, True, "the scheduler lost its worker")

    def test_what_another_worker_does_meanwhile_comes_again(self, given):
        one, future, workers = given
        future.end("error", error=Superseded())
        assert workers.wait(0.1) == Again(one.key)

    def test_an_error_of_the_disk_stops_the_run(self, given):
        one, future, workers = given
        future.end("error", error=OutputError(found="the disk is full", expected="room", fix="make some"))
        event = workers.wait(0.1)
        assert isinstance(event, Stopped)
        assert event.key == one.key
        assert event.error.found == "the disk is full"

    def test_an_error_nobody_foresaw_is_a_failed_study_without_its_words(self, given):
        _, future, workers = given
        future.end("error", error=ZeroDivisionError("DOE^JANE"))
        event = workers.wait(0.1)
        assert event.outcome.state == "failed"
        assert "DOE" not in event.outcome.model_dump_json()

    def test_a_scheduler_out_of_reach_is_waited_for_and_then_given_up(self, given, monkeypatch):
        _, _, workers = given
        workers._client.scheduler_comm = None
        assert workers.wait(0.01) is None
        monkeypatch.setattr(cluster, "GONE_SECONDS", 0)
        with pytest.raises(SchedulerError, match="went away"):
            workers.wait(0.01)


FIVE = """
import time
from voxmetry.workflows.cohort import task

def at_most_five(whole, done):
    def segment(*arguments, **named):
        done.append(1)
        if len(done) > 5:
            time.sleep(3600)
        return whole(*arguments, **named)
    return segment

# Dask runs this file twice.
if task._segment.__name__ != "segment":
    task._segment = at_most_five(task._segment, [])
"""
"""Makes a worker do five studies and no more: a run that nobody stops in time would be over."""


@pytest.mark.slow
def test_a_scheduler_that_vanishes_stops_the_run_in_words_and_the_next_call_goes_on(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "dask").mkdir()
    chaos.make_good(tmp_path / "in", 20)
    (tmp_path / "five.py").write_text(FIVE)
    model = models.write(tmp_path / "tiny-mr")
    out = tmp_path / "out"
    with contextlib.closing(chaos.Cluster(tmp_path / "dask", n_workers=1, preload=tmp_path / "five.py")) as dask:
        line = chaos.command(tmp_path / "in", out, model, "--scheduler", dask.address)
        with subprocess.Popen(
            line, env=chaos.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as run:
            chaos.wait_for(out, 3)
            dask.kill_scheduler()
            told = json.loads(run.communicate()[0])
    assert run.returncode == 1
    assert told["error"] == "SchedulerError"
    assert told["found"] == "the Dask scheduler went away"
    before = {case: row for case, row in chaos.states(out).items() if row[0] == "done"}
    assert 3 <= len(before) <= 5
    # The record has the study done only where its files are whole; the next call makes the rest.
    again = chaos.command(tmp_path / "in", out, model, "--in-flight", "1")
    last = subprocess.run(again, env=chaos.ENVIRONMENT, capture_output=True, text=True, check=False)
    assert last.returncode in (0, 3), last.stderr
    assert all(row[:2] == ("done", 1) for row in chaos.states(out).values())
    quiet = chaos.command(tmp_path / "in", tmp_path / "quiet", model, "--in-flight", "1")
    subprocess.run(quiet, env=chaos.ENVIRONMENT, capture_output=True, check=False)
    assert snapshot(out) == snapshot(tmp_path / "quiet")
