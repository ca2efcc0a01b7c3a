"""The queue by itself: workers are played by the test, so that each end of a job can be had."""

from __future__ import annotations

import contextlib
import datetime
import queue as queues
import shutil
import sqlite3
import threading
import time
from collections import namedtuple

import pytest

import models
from service_clients import until
from voxmetry.config import StudySettings
from voxmetry.config.service import ServiceSettings
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Flag, Provenance, SourceInfo, StudyResult
from voxmetry.errors import ConfigError, InferenceError, LockedError, OutputError
from voxmetry.service import runner as room
from voxmetry.service.errors import (
    BusyError,
    DamagedRecordError,
    NoRoomError,
    NotFoundError,
    QueueFullError,
    status_of,
)
from voxmetry.service.jobs import JobQueue
from voxmetry.service.retention import UPLOAD
from voxmetry.workflows.cohort.executor import Again, Finished, Lost, Step, Stopped
from voxmetry.workflows.cohort.records import FileMark, Outcome

FLAG = Flag(code="empty", severity="review", message="front is empty.", label="front")


class Played:
    """Workers with `places` places, whose answers the test gives."""

    max_starts = None

    def __init__(self, places=1):
        self.places, self.busy, self.started = places, {}, []
        self.events: queues.Queue = queues.Queue()
        self.closed = False
        self.alone: set = set()

    def room(self, *, alone):
        return len(self.busy) < (1 if alone else self.places) and not self.alone

    def submit(self, task, *, alone):
        self.busy[task.key] = task
        self.started.append(task.case)
        if alone:
            self.alone.add(task.key)

    def wait(self, seconds):
        try:
            event = self.events.get(timeout=seconds) if seconds else self.events.get_nowait()
        except queues.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        if not isinstance(event, Step):
            key = event.outcome.key if isinstance(event, Finished) else event.key
            self.busy.pop(key, None)
            self.alone.discard(key)
        return event

    def close(self):
        self.closed = True

    def finish(self, job, state="done", **more):
        files = {f"results/{job.id}/result.json": FileMark(sha256="0", n_bytes=1)}
        self.events.put(
            Finished(Outcome(case=job.id, model=job.model, state=state, place=f"results/{job.id}", files=files, **more))
        )


@pytest.fixture
def played(monkeypatch):
    made = []

    def make(_settings, tasks):
        assert tasks
        made.append(Played())
        return made[-1]

    monkeypatch.setattr(room, "make_executor", make)
    return made


@pytest.fixture
def settings(tmp_path, tiny_model):
    return ServiceSettings(data=str(tmp_path / "data"), models=(str(tiny_model),), limits={"free_mb": 0})


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"image")
    return path


@pytest.fixture
def queue(settings, played):
    with JobQueue(settings) as made:
        until(lambda: played)
        yield made


def in_state(queue, job, state):
    until(lambda: queue.get(job.id).state == state)
    return queue.get(job.id)


class TestOrder:
    def test_the_highest_priority_first_then_the_oldest(self, queue, played, source):
        first = queue.submit(source, "tiny-mr", priority=0)
        in_state(queue, first, "running")
        later = [queue.submit(source, "tiny-mr", priority=p) for p in (2, 5, 5, 9)]
        for _ in range(5):
            until(lambda: played[0].busy)
            job = queue.get(next(iter(played[0].busy))[0])
            played[0].finish(job)
            in_state(queue, job, "done")
        assert played[0].started == [first.id, later[3].id, later[1].id, later[2].id, later[0].id]

    def test_the_same_request_twice_is_one_job(self, queue, source):
        one = queue.submit(source, "tiny-mr", once="series 1")
        assert queue.submit(source, "tiny-mr", once="series 1").id == one.id
        assert queue.submit(source, "tiny-mr", once="series 2").id != one.id

    def test_a_model_may_be_named_as_in_the_settings_and_no_other_may(self, queue, source, tiny_model):
        assert queue.submit(source, str(tiny_model)).model == "tiny-mr"
        with pytest.raises(ConfigError, match="does not have"):
            queue.submit(source, "hippocampus-mr")


class TestEnds:
    def test_done_with_flags_and_events_in_their_order(self, queue, played, source):
        job = queue.submit(source, "tiny-mr", label="a")
        in_state(queue, job, "running")
        played[0].events.put(Step((job.id, "tiny-mr"), "network"))
        until(lambda: queue.get(job.id).step == "network")
        played[0].finish(job, flags=(FLAG,), seconds={"study": 2.5})
        found = queue.wait(job.id, 60)
        assert (found.state, found.needs_review, found.seconds) == ("done", True, 2.5)
        assert found.files == ("result.json",)
        assert [event.what for event in queue.events(job=job.id)] == ["waiting", "running", "step", "done"]
        assert queue.counts().flagged == 1

    def test_what_stops_a_cohort_fails_one_job_alone(self, queue, played, source):
        bad, good = queue.submit(source, "tiny-mr"), queue.submit(source, "tiny-mr")
        in_state(queue, bad, "running")
        error = ConfigError(found="no such structure", expected="one", fix="name it")
        played[0].events.put(Stopped((bad.id, "tiny-mr"), error))
        assert in_state(queue, bad, "failed").fault.found == "no such structure"
        in_state(queue, good, "running")
        played[0].finish(good)
        in_state(queue, good, "done")
        assert len(played) == 1

    def test_a_full_disk_makes_it_wait_and_not_fail_at_once(self, queue, played, source, monkeypatch):
        monkeypatch.setattr(room, "PAUSE_SECONDS", 0.05)
        job = queue.submit(source, "tiny-mr")
        full = OutputError(found="the disk is full", expected="room", fix="make some")
        for n in range(1, room.MOST_REFUSALS):
            # Not that it is idle in between: that is over sooner than somebody may look.
            until(lambda n=n: len(played[0].started) == n)
            played[0].events.put(Stopped((job.id, "tiny-mr"), full))
        until(lambda: len(played[0].started) == room.MOST_REFUSALS)
        played[0].finish(job)
        assert queue.wait(job.id, 60).n_starts == room.MOST_REFUSALS

    def test_a_job_that_takes_its_worker_down_thrice_is_set_aside_and_runs_alone_before(self, queue, played, source):
        bad = queue.submit(source, "tiny-mr")
        good = queue.submit(source, "tiny-mr")
        until(lambda: (bad.id, "tiny-mr") in played[0].busy)
        played[0].events.put(Lost((bad.id, "tiny-mr"), True, "signal SIGKILL"))
        # The other one goes first; the suspect then runs by itself.
        until(lambda: (good.id, "tiny-mr") in played[0].busy)
        played[0].finish(good)
        for started in (2, 3):
            until(lambda started=started: queue.get(bad.id).n_starts == started and played[0].alone)
            played[0].events.put(Lost((bad.id, "tiny-mr"), True, "signal SIGKILL"))
        found = queue.wait(bad.id, 60)
        assert (found.state, found.n_losses) == ("set aside", 3)
        assert queue.health().n_lost == 3

    def test_what_another_worker_does_meanwhile_runs_again(self, queue, played, source):
        job = queue.submit(source, "tiny-mr")
        until(lambda: played[0].busy)
        played[0].events.put(Again((job.id, "tiny-mr")))
        until(lambda: queue.get(job.id).n_starts == 2)
        played[0].finish(job)
        in_state(queue, job, "done")

    def test_workers_that_do_not_start_are_started_again_and_told(self, queue, played, source, monkeypatch):
        looked, make = threading.Event(), room.make_executor
        # The next ones start when somebody has looked at what is told meanwhile.
        monkeypatch.setattr(room, "make_executor", lambda *how: looked.wait(300) and make(*how))
        job = queue.submit(source, "tiny-mr")
        until(lambda: played[0].busy)
        played[0].events.put(InferenceError(found="a worker ended before it was ready", expected="x", fix="y"))
        until(lambda: not queue.health().ok)
        assert "before it was ready" in queue.health().words
        looked.set()
        until(lambda: len(played) == 2)
        assert played[0].closed
        until(lambda: played[1].busy)
        played[1].finish(job)
        in_state(queue, job, "done")
        until(lambda: queue.health().ok)


class TestCancelAndRemove:
    def test_a_waiting_one_never_runs(self, queue, played, source):
        one, two = queue.submit(source, "tiny-mr"), queue.submit(source, "tiny-mr")
        in_state(queue, one, "running")
        assert queue.cancel(two.id).state == "cancelled"
        played[0].finish(one)
        in_state(queue, one, "done")
        assert played[0].started == [one.id]

    @pytest.mark.parametrize("end", ["finished", "superseded"])
    def test_of_a_running_one_nothing_is_left(self, queue, played, source, end):
        job = queue.submit(source, "tiny-mr")
        in_state(queue, job, "running")
        assert queue.cancel(job.id).state == "running"
        folder = queue.folder(job.id)
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        if end == "finished":
            played[0].finish(job)
        else:
            played[0].events.put(Again((job.id, "tiny-mr")))
        assert queue.wait(job.id, 60).state == "cancelled"
        assert not folder.exists()

    def test_only_what_is_over_is_deleted_and_its_upload_goes_with_it(self, queue, played, tmp_path):
        upload = queue.root / "uploads" / f"{UPLOAD}1"
        upload.mkdir()
        (upload / "a.nii.gz").write_bytes(b"x")
        job = queue.submit(upload / "a.nii.gz", "tiny-mr", owned=True)
        in_state(queue, job, "running")
        with pytest.raises(BusyError):
            queue.remove(job.id)
        played[0].finish(job)
        in_state(queue, job, "done")
        queue.remove(job.id)
        assert not upload.exists()
        with pytest.raises(NotFoundError):
            queue.get(job.id)

    def test_a_source_outside_the_uploads_is_never_deleted(self, queue, played, source):
        job = queue.submit(source, "tiny-mr", owned=True)
        in_state(queue, job, "running")
        played[0].finish(job)
        in_state(queue, job, "done")
        queue.remove(job.id)
        assert source.exists()


class TestLimits:
    def test_too_many_waiting(self, settings, played, source):
        limits = settings.limits.model_copy(update={"waiting_jobs": 2})
        with JobQueue(settings.model_copy(update={"limits": limits})) as queue:
            until(lambda: played)
            in_state(queue, queue.submit(source, "tiny-mr"), "running")
            for _ in range(2):
                queue.submit(source, "tiny-mr")
            with pytest.raises(QueueFullError):
                queue.submit(source, "tiny-mr")

    def test_no_room_on_the_disk_takes_nothing_and_starts_nothing(self, queue, played, source, monkeypatch):
        one = queue.submit(source, "tiny-mr")
        in_state(queue, one, "running")
        two = queue.submit(source, "tiny-mr")
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patch:
            patch.setattr(queue.settings.limits, "__dict__", queue.settings.limits.__dict__ | {"free_mb": 500})
            patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
            with pytest.raises(NoRoomError, match="1 MB free"):
                queue.submit(source, "tiny-mr")
            played[0].finish(one)
            in_state(queue, one, "done")
            assert not queue.health().ok
            time.sleep(0.3)
            assert queue.get(two.id).state == "waiting"
        in_state(queue, two, "running")

    def test_a_second_service_on_the_same_folder_is_kept_out(self, queue, settings):
        with pytest.raises(LockedError, match="another process serves this folder") as told:
            JobQueue(settings).start()
        # An option of cohorts, which the service does not have.
        assert "--break-lock" not in str(told.value)


class TestAfterAKill:
    """What a new process makes of a record that another one left."""

    def left(self, settings, played, source):
        queue = JobQueue(settings)
        queue.start()
        until(lambda: played)
        job = queue.submit(source, "tiny-mr")
        in_state(queue, job, "running")
        queue.stop()
        return job

    def test_what_ran_runs_again(self, settings, played, source):
        job = self.left(settings, played, source)
        with JobQueue(settings) as queue:
            until(lambda: len(played) == 2 and played[1].busy)
            played[1].finish(job)
            assert queue.wait(job.id, 60).n_starts == 2

    def test_what_was_finished_and_not_written_down_is_taken_and_not_done_twice(
        self, settings, played, source, tmp_path
    ):
        job = self.left(settings, played, source)
        folder = tmp_path / "data" / "results" / job.id
        shutil.copytree(result_folder(tmp_path), folder)
        with JobQueue(settings) as queue:
            found = queue.get(job.id)
            assert found.state == "done"
            assert [flag.code for flag in found.flags] == ["empty"]
            assert "result.json" in found.files
            time.sleep(0.2)
            assert not played[-1].started

    def test_an_upload_without_a_job_is_swept_and_one_with_a_job_is_not(self, settings, played, tmp_path):
        queue = JobQueue(settings)
        queue.start()
        uploads = queue.root / "uploads"
        for name in (".part-1", f"{UPLOAD}1", f"{UPLOAD}2", "received-1", "received-2", "received-3"):
            (uploads / name).mkdir()
        # The third is still to be submitted by whoever received it.
        (queue.root / "incoming" / "3").mkdir(parents=True)
        for name in (f"{UPLOAD}2", "received-2"):
            queue.submit(uploads / name, "tiny-mr", owned=True)
        queue.stop()
        with JobQueue(settings):
            left = sorted(entry.name for entry in uploads.iterdir())
            assert left == ["received-2", "received-3", f"{UPLOAD}2"]

    DAMAGE = (
        "settings = '{\"a setting of another version\": 1}'",
        "settings = '{'",
        "settings = '" + "[" * 5000 + "'",
        "source = '7'",
        "state = 'odd'",
        "priority = 'many'",
        "model = CAST(x'ff00' AS BLOB)",
    )

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_job_whose_record_is_damaged_fails_alone(self, settings, played, source, damage):
        queue = JobQueue(settings)
        queue.start()
        until(lambda: played)
        first, bad, good = (queue.submit(source, "tiny-mr") for _ in range(3))
        in_state(queue, first, "running")
        queue.stop()
        with contextlib.closing(sqlite3.connect(queue.root / "service.sqlite")) as record:
            record.execute(f"UPDATE jobs SET {damage} WHERE id = ?", (bad.id,))
            record.commit()
        with JobQueue(settings) as queue:
            listed = {job.id: job.state for job in queue.store.listed()}
            assert set(listed) == {first.id, bad.id, good.id}
            assert listed[bad.id] == "failed"
            assert "cannot be read" in queue.get(bad.id).fault.found
            # Else retention never came to it.
            assert queue.get(bad.id).finished
            assert queue.events(job=bad.id)[-1].what == "failed"
            until(lambda: played[1].busy)
            played[1].finish(first)
            in_state(queue, good, "running")
            assert queue.health().ok
            queue.remove(bad.id)
            assert bad.id not in [job.id for job in queue.store.listed()]

    def test_a_record_that_is_damaged_as_a_whole_is_told_to_be(self, settings, played, source):
        self.left(settings, played, source)
        record = JobQueue(settings).root / "service.sqlite"
        content = record.read_bytes()
        # The first page says what tables there are.
        record.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        with pytest.raises(DamagedRecordError, match=r"service\.sqlite is damaged") as caught:
            JobQueue(settings).start()
        # Whoever waits for a disk waits for this as well, and nobody who sent something is told that it is wrong.
        assert isinstance(caught.value, OutputError)
        assert status_of(caught.value) == 500
        assert record.read_bytes()[4096:] == b"\xff" * (len(content) - 4096)
        # Once it is restored the folder is free.
        record.write_bytes(content)
        with JobQueue(settings) as queue:
            assert len(queue.store.listed()) == 1

    def test_what_was_done_stays_done_where_its_record_is_damaged(self, settings, played, source):
        queue = JobQueue(settings)
        queue.start()
        until(lambda: played)
        job = queue.submit(source, "tiny-mr")
        in_state(queue, job, "running")
        played[0].finish(job)
        in_state(queue, job, "done")
        queue.store.rows("UPDATE jobs SET settings = '{', flags = '7' WHERE id = ?", (job.id,))
        assert queue.get(job.id).files == ("result.json",)
        queue.stop()
        with JobQueue(settings) as queue:
            assert (queue.get(job.id).state, queue.get(job.id).files) == ("done", ("result.json",))
            # What was remarked is not known any more.
            assert queue.get(job.id).needs_review

    def test_what_can_be_read_of_a_record_is_kept(self, settings, played, source):
        queue = JobQueue(settings)
        queue.start()
        until(lambda: played)
        job = queue.submit(source, "tiny-mr", send_to=("archive",), priority=7, label="bed 4")
        in_state(queue, job, "running")
        played[0].finish(job, flags=(FLAG,))
        in_state(queue, job, "done")
        queue.store.rows("UPDATE jobs SET settings = '{\"of another version\": 1}' WHERE id = ?", (job.id,))
        found = queue.get(job.id)
        assert (found.flags, found.needs_review) == ((FLAG,), True)
        assert (found.send_to, found.delivery, found.priority, found.label) == (("archive",), "waiting", 7, "bed 4")
        queue.stop()

    def test_a_job_whose_model_is_no_more_fails_alone(self, settings, played, source):
        queue = JobQueue(settings)
        queue.start()
        until(lambda: played)
        ran, old, good = (queue.submit(source, "tiny-mr") for _ in range(3))
        in_state(queue, ran, "running")
        queue.store.rows("UPDATE jobs SET model = 'a-model-of-last-year' WHERE id = ?", (old.id,))
        queue.stop()
        with JobQueue(settings) as queue:
            until(lambda: len(played) == 2 and played[1].busy)
            played[1].finish(ran)
            in_state(queue, good, "running")
            failed = queue.get(old.id)
            assert failed.state == "failed"
            assert "a-model-of-last-year" in failed.fault.found
            assert queue.health().ok


class TestUploads:
    """What is the service's own of a study is there for its job, and goes where there is none."""

    def test_it_goes_where_no_job_is_made_of_it(self, settings, played, source):
        from voxmetry.service.service import Service

        full = settings.model_copy(update={"limits": settings.limits.model_copy(update={"waiting_jobs": 1})})
        with JobQueue(full) as queue:
            until(lambda: played)
            service, uploads = Service(full, queue), queue.root / "uploads"
            folders = [uploads / f"{UPLOAD}{number}" for number in range(3)]
            for folder in folders:
                folder.mkdir()
            job = service.submit(folders[0], "tiny-mr", owned=True, once="a")
            again = service.submit([folders[1]], "tiny-mr", owned=True, once="a")
            assert again.id == job.id
            assert [folder.exists() for folder in folders] == [True, False, True]
            in_state(queue, job, "running")
            queue.submit(source, "tiny-mr")
            with pytest.raises(QueueFullError):
                service.submit(folders[2], "tiny-mr", owned=True)
            assert [folder.exists() for folder in folders] == [True, False, False]


def result_folder(tmp_path):
    """A folder as a worker leaves it."""
    folder = tmp_path / "as-left"
    folder.mkdir()
    grid = {"shape": (2, 3, 4), "spacing_mm": (1.0, 1.0, 1.0), "axcodes": "RAS"}
    made = Provenance(
        voxmetry_version="0",
        packages={},
        python="3",
        platform="x",
        model="tiny-mr",
        model_version="1",
        weights_sha256="0",
        settings={},
        device="cpu",
        started="",
        seconds={"total": 3.0},
        peak_memory_mb=1.0,
    )
    result = StudyResult(
        source=SourceInfo(format="NIfTI", modality="MR", unit="1", **grid),
        labels=LabelTable(labels=()),
        measurements=(),
        flags=(FLAG,),
        definitions={},
        provenance=made,
    )
    (folder / "result.json").write_text(result.model_dump_json())
    return folder


class TestDelivery:
    @pytest.fixture
    def sending(self, settings, played, source):
        """Make a queue that sends by a function, and one job that is done with a segmentation to send."""
        started = []

        def make(deliver, **how):
            content = settings.model_dump() | {"delivery": {"first_wait_seconds": 0.05, **how}}
            content["peers"] = {"archive": {"kind": "dicomweb", "url": "http://127.0.0.1:9/x"}}
            queue = JobQueue(ServiceSettings.model_validate(content), deliver=deliver)
            queue.start()
            started.append(queue)
            until(lambda: played)
            job = queue.submit(source, "tiny-mr", send_to=("archive",))
            in_state(queue, job, "running")
            queue.folder(job.id).mkdir()
            (queue.folder(job.id) / "seg.dcm").write_bytes(b"x")
            files = {f"results/{job.id}/seg.dcm": FileMark(sha256="0", n_bytes=1)}
            done = Outcome(case=job.id, model=job.model, state="done", place=f"results/{job.id}", files=files)
            played[0].events.put(Finished(done))
            return queue, job

        yield make
        for queue in started:
            queue.stop()

    def test_tried_again_until_it_is_taken(self, sending):
        sent = []

        def deliver(peer, files):
            sent.append((peer, [path.name for path in files]))
            if len(sent) < 3:
                raise OutputError(found="the archive does not answer", expected="it", fix="wait")
            return {}

        queue, job = sending(deliver)
        until(lambda: queue.get(job.id).delivery == "delivered")
        assert sent == [("archive", ["seg.dcm"])] * 3

    def test_a_job_that_does_not_say_to_whom_was_not_delivered(self, sending):
        queue, job = sending(lambda peer, files: {"seg.dcm": "refused"}, tries=2)
        until(lambda: queue.get(job.id).delivery == "failed")
        queue.store.rows("UPDATE jobs SET send_to = '{', delivery = 'waiting' WHERE id = ?", (job.id,))
        queue._deliveries.record.forget(job.id)
        queue.deliver_soon()
        until(lambda: queue.get(job.id).delivery != "waiting")
        assert queue.get(job.id).delivery == "none"

    def test_given_up_after_its_tries_and_told(self, sending):
        queue, job = sending(lambda peer, files: {"seg.dcm": "refused"}, tries=2)
        until(lambda: queue.get(job.id).delivery == "failed")
        assert "refused" in queue.get(job.id).delivery_fault

    def test_sent_again_when_a_person_asks(self, sending):
        problems = {"seg.dcm": "refused"}
        queue, job = sending(lambda peer, files: problems, tries=2)
        until(lambda: queue.get(job.id).delivery == "failed")
        problems.clear()
        asked = queue.deliver_again(job.id)
        assert asked.delivery in ("waiting", "delivered")
        until(lambda: queue.get(job.id).delivery == "delivered")
        assert queue.get(job.id).delivery_fault == ""
        with pytest.raises(BusyError, match="nothing of this job"):
            queue.deliver_again(job.id)


class TestRetention:
    def test_results_and_uploads_go_after_their_days(self, settings, played, tmp_path):
        keep = {"results_days": 30, "uploads_days": 2}
        with JobQueue(ServiceSettings.model_validate(settings.model_dump() | {"retention": keep})) as queue:
            until(lambda: played)
            upload = queue.root / "uploads" / f"{UPLOAD}1"
            upload.mkdir()
            job = queue.submit(upload, "tiny-mr", owned=True)
            in_state(queue, job, "running")
            queue.folder(job.id).mkdir()
            played[0].finish(job)
            in_state(queue, job, "done")
            for days, upload_is_there, result_is_there in ((1, True, True), (3, False, True), (31, False, False)):
                then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
                queue.retention.apply(now=then)
                assert upload.exists() == upload_is_there
                assert (queue.root / "results" / job.id).exists() == result_is_there


def test_jobs_run_where_cohorts_do(settings, monkeypatch):
    asked = []

    def make(how, tasks):
        asked.append((how.scheduler, how.workers, how.in_flight, [task.model for task in tasks]))
        return Played()

    monkeypatch.setattr(room, "make_executor", make)
    how = {"scheduler": "tcp://127.0.0.1:8786", "workers": 2, "in_flight": 1}
    with JobQueue(settings.model_copy(update=how)):
        until(lambda: asked)
    assert asked[0] == ("tcp://127.0.0.1:8786", 2, 1, ["tiny-mr"])


def test_settings_of_a_job_are_its_own(queue, played, source):
    job = queue.submit(source, "tiny-mr", settings=StudySettings(report="none"))
    in_state(queue, job, "running")
    assert played[0].busy[job.id, "tiny-mr"].settings.report == "none"


def test_a_model_that_is_not_there_stops_the_start(settings, tmp_path):
    from voxmetry.errors import ModelError

    with pytest.raises(ModelError):
        JobQueue(settings.model_copy(update={"models": (str(tmp_path / "nothing"),)}))


def test_two_models_of_one_name_are_refused(settings, tmp_path):
    other = models.write(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="two models are called"):
        JobQueue(settings.model_copy(update={"models": (*settings.models, str(other))}))


def test_a_series_that_only_a_peer_has_is_fetched_by_its_uid_and_not_kept(settings, played):
    from voxmetry.service.datastore import Image
    from voxmetry.service.service import Hooks, Service

    peers = {
        "scanner": {"kind": "dicom", "ae_title": "CT", "addresses": ["127.0.0.1"]},
        "away": {"kind": "dicomweb", "url": "http://127.0.0.1:9/x"},
        "archive": {"kind": "orthanc", "url": "http://127.0.0.1:9"},
    }
    settings = ServiceSettings.model_validate(settings.model_dump() | {"peers": peers})
    asked = []
    with JobQueue(settings) as queue:
        folder = queue.root / "uploads" / "received-1"
        folder.mkdir()

        def fetch(peer, uid):
            asked.append(peer)
            if peer == "away":
                raise OutputError(found="it does not answer", expected="an answer", fix="wait")
            return [Image("x", folder, uid, "received")] if uid == "1.2.3" else []

        service = Service(settings, queue, hooks=Hooks(fetch=fetch))
        found = service.images.find("1.2.3")
        assert (found.id, found.series, asked) == ("1.2.3", "1.2.3", ["away", "archive"])
        service.release(found)
        assert not folder.exists()
        for name in ("1.2.4", "not-a-uid"):
            with pytest.raises(NotFoundError):
                service.images.find(name)
        service.release(Image("y", queue.root / "results", None, "root"))
        assert (queue.root / "results").exists()
