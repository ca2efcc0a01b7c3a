import csv
import errno
import inspect
import json
import os
import re
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxmetry import StudySettings, cohort, save
from voxmetry.core.text import as_disks_compare
from voxmetry.errors import LockedError, OutputError
from voxmetry.workflows import models as loading
from voxmetry.workflows.cohort.database import CohortRecord, read_faults, read_summary
from voxmetry.workflows.cohort.export import COLUMNS, export_tables
from voxmetry.workflows.cohort.lock import OWNER, run_lock
from voxmetry.workflows.cohort.plan import plan_cohort
from voxmetry.workflows.cohort.records import RunSettings
from voxmetry.workflows.models import load_any
from workflows.cohort.conftest import Threads, image

CPU = RunSettings(study=StudySettings(report="none", device="cpu"))
BRIEF = CPU.model_copy(update={"study": StudySettings(report="brief", device="cpu")})


def run(source, out, model, **change):
    """Run a cohort to its end; return the outcomes by case."""
    return {o.case: o for o in cohort(source, out, model, settings=CPU.model_copy(update=change))}


def snapshot(out: Path, model: str = "tiny-mr") -> dict[str, bytes]:
    """Every file of every study that does not hold a time."""
    files = [p for p in (out / model).rglob("*") if p.is_file() and p.name != "result.json"]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def table(out: Path) -> list[dict[str, str]]:
    """The rows of measurements.csv."""
    return list(csv.DictReader(export_tables(out)[0].read_text().splitlines()))


class TestRun:
    def test_each_study_has_its_folder_and_its_row(self, studies, tiny, tmp_path, threads):
        outcomes = {o.case: o for o in cohort(studies, tmp_path / "out", tiny, settings=BRIEF)}
        assert outcomes.keys() == {"a", "b", "site_b/c", "site_b/d"}
        assert all(o.state == "done" for o in outcomes.values())
        place = tmp_path / "out" / "tiny-mr" / "site_b" / "c"
        written = {path.name for path in place.iterdir()}
        assert {"seg.nii.gz", "measurements.csv", "result.json", "thumbnail.png"} <= written
        assert ("report.html" in written) == outcomes["site_b/c"].needs_review
        assert not any(name.startswith(".") for name in written)
        rows = table(tmp_path / "out")
        assert {(r["case"], r["label"]) for r in rows if r["level"] == "structure"} == {
            (c, x) for c in outcomes for x in ("front", "back")
        }
        own = {m.label: m.volume_ml for m in outcomes["a"].measurements}
        assert {r["label"]: float(r["volume_ml"]) for r in rows if (r["case"], r["level"]) == ("a", "structure")} == own

    def test_cases_that_some_disks_take_for_the_same_have_folders_that_none_does(self, tiny, tmp_path, threads):
        for seed, name in enumerate(("case_a", "Case_A", "le\u0301sion", "l\u00e9sion", "b")):
            (tmp_path / "in").mkdir(exist_ok=True)
            save(image(seed), tmp_path / "in" / f"{name}.nii.gz")
        outcomes = run(tmp_path / "in", tmp_path / "out", tiny)
        places = [o.place for o in outcomes.values()]
        assert len({as_disks_compare(place) for place in places}) == len(places) == 5
        assert outcomes["b"].place == "tiny-mr/b"
        assert all((tmp_path / "out" / place / "seg.nii.gz").is_file() for place in places)

    def test_parquet_and_csv_hold_the_same(self, studies, tiny, tmp_path, threads):
        parquet = pytest.importorskip("pyarrow.parquet")
        run(studies, tmp_path / "out", tiny)
        _, as_parquet = export_tables(tmp_path / "out")
        packed = parquet.read_table(as_parquet).to_pylist()
        rows = table(tmp_path / "out")
        assert tuple(packed[0]) == COLUMNS
        assert [r["volume_ml"] for r in packed] == [float(r["volume_ml"]) for r in rows]

    def test_one_bad_study_is_a_row_with_its_reason_and_the_others_are_done(self, studies, tiny, tmp_path, threads):
        (studies / "bad.nii.gz").write_bytes((studies / "a.nii.gz").read_bytes()[:900])
        outcomes = run(studies, tmp_path / "out", tiny)
        assert outcomes.pop("bad").fault.error == "FormatError"
        assert all(o.state == "done" for o in outcomes.values())
        assert [(case, state) for case, _, state, _ in read_faults(tmp_path / "out")] == [("bad", "failed")]
        assert "reason_not_done" in (tmp_path / "out" / export_tables(tmp_path / "out")[0]).read_text()

    def test_an_error_nobody_foresaw_is_a_row_that_names_its_place_and_not_its_words(
        self, studies, tiny, tmp_path, threads, monkeypatch
    ):
        def broken(*_args, **_kwargs):
            raise ZeroDivisionError("DOE^JANE")

        monkeypatch.setattr("voxmetry.workflows.study_measurements.measure", broken)
        outcome = run(studies, tmp_path / "out", tiny)["a"]
        assert outcome.state == "failed"
        assert "ZeroDivisionError at test_run.py" in outcome.fault.found
        assert "DOE" not in outcome.model_dump_json()

    def test_never_more_in_flight_than_there_is_room_for(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        assert threads[0].most == 2


class TestResume:
    def test_what_is_done_is_not_done_again(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tiny-mr").rglob("*.nii.gz")}
        assert run(studies, tmp_path / "out", tiny) == {}
        assert {p: p.stat().st_mtime_ns for p in before} == before

    def test_leaving_the_loop_keeps_what_is_done_and_the_next_call_does_the_rest(
        self, studies, tiny, tmp_path, threads
    ):
        for outcome in cohort(studies, tmp_path / "out", tiny, settings=CPU):
            first = outcome.case
            break
        assert read_summary(tmp_path / "out").counts["done"] == 1
        rest = run(studies, tmp_path / "out", tiny)
        assert rest.keys() == {"a", "b", "site_b/c", "site_b/d"} - {first}
        run(studies, tmp_path / "whole", tiny)
        assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")

    def test_a_file_that_is_not_as_the_record_says_is_made_again(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        damaged = tmp_path / "out" / "tiny-mr" / "b" / "seg.nii.gz"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1] + b"x")
        assert run(studies, tmp_path / "out", tiny, skip_done=True) == {}
        assert run(studies, tmp_path / "out", tiny).keys() == {"b"}
        assert damaged.read_bytes() == whole

    def test_another_input_or_tolerance_is_run_again_and_the_plan_says_so(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        save(image(77), studies / "a.nii.gz")
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)], settings=CPU)
        assert {(s.case, s.why) for s in plan.of("waiting")} == {
            ("a", "its input, model, settings or the version of voxmetry changed")
        }
        other = CPU.model_copy(update={"study": CPU.study.model_copy(update={"tolerance_mm": 3.0})})
        assert len(plan_cohort(studies, tmp_path / "out", [str(tiny)], settings=other).of("waiting")) == 4

    def test_what_failed_fails_once_and_again_only_when_asked(self, studies, tiny, tmp_path, threads):
        (studies / "bad.nii.gz").write_bytes((studies / "a.nii.gz").read_bytes()[:900])
        run(studies, tmp_path / "out", tiny)
        assert run(studies, tmp_path / "out", tiny) == {}
        assert run(studies, tmp_path / "out", tiny, only_failed=True).keys() == {"bad"}
        save(image(9), studies / "bad.nii.gz")
        assert run(studies, tmp_path / "out", tiny)["bad"].state == "done"

    def test_only_failed_leaves_out_what_waits(self, studies, tiny, tmp_path, threads):
        (studies / "0.nii.gz").write_bytes((studies / "a.nii.gz").read_bytes()[:900])
        for outcome in cohort(studies, tmp_path / "out", tiny, settings=CPU):
            if outcome.case == "0":
                break
        assert run(studies, tmp_path / "out", tiny, only_failed=True).keys() == {"0"}


class TestLock:
    def test_a_second_run_is_refused_with_the_owners_name(self, studies, tiny, tmp_path, threads):
        running = cohort(studies, tmp_path / "out", tiny, settings=CPU)
        next(running)
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
            next(cohort(studies, tmp_path / "out", tiny, settings=CPU))
        running.close()
        assert run(studies, tmp_path / "out", tiny)

    def test_a_name_left_behind_by_a_dead_run_is_told_and_no_hindrance(self, tmp_path):
        (tmp_path / OWNER).write_text('{"pid": 1, "host": "x", "since": "then"}')
        told = []
        with run_lock(tmp_path, tell=told.append):
            pass
        assert "process 1 on x since then" in told[0]
        assert not (tmp_path / OWNER).exists()

    def test_the_record_can_be_read_while_a_run_writes(self, studies, tiny, tmp_path, threads):
        running = cohort(studies, tmp_path / "out", tiny, settings=CPU)
        next(running)
        next(running)
        assert read_summary(tmp_path / "out").counts["done"] >= 1
        running.close()


class TestTrouble:
    def test_a_full_disk_stops_the_run_in_words_and_the_next_call_goes_on(
        self, studies, tiny, tmp_path, threads, monkeypatch
    ):
        real = Path.write_bytes
        left = [3]

        def full(self, data):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, data)

        monkeypatch.setattr("voxmetry.io.atomic.Path.write_bytes", full)
        with pytest.raises(OutputError, match="the disk is full"):
            run(studies, tmp_path / "out", tiny)
        monkeypatch.undo()
        monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", lambda *_: Threads())
        run(studies, tmp_path / "out", tiny)
        assert read_summary(tmp_path / "out").counts["done"] == 4
        run(studies, tmp_path / "whole", tiny)
        assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")

    def test_a_disk_that_becomes_read_only_stops_the_run_and_the_next_call_goes_on(
        self, studies, tiny, tmp_path, threads, monkeypatch
    ):
        real = Path.replace
        left = [3]

        def frozen(self, target):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EROFS, "Read-only file system")
            return real(self, target)

        monkeypatch.setattr("voxmetry.workflows.cohort.publish.Path.replace", frozen)
        with pytest.raises(OutputError, match=r"[Rr]ead-only"):
            run(studies, tmp_path / "out", tiny)
        monkeypatch.undo()
        monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", lambda *_: Threads())
        run(studies, tmp_path / "out", tiny)
        assert read_summary(tmp_path / "out").counts["done"] == 4
        run(studies, tmp_path / "whole", tiny)
        assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")

    def test_a_record_on_a_full_disk_keeps_what_it_has(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        with CohortRecord(tmp_path / "out") as record:
            # SQLite's own limit gives the very error of a full disk.
            record._db.execute(f"PRAGMA max_page_count = {record._db.execute('PRAGMA page_count').fetchone()[0]}")
            with pytest.raises(OutputError, match="disk is full") as caught:
                record.begin("again", settings="x" * 100_000, host="", pid=0, studies=())
        assert "free some space" in caught.value.fix
        assert read_summary(tmp_path / "out").counts["done"] == 4
        assert run(studies, tmp_path / "out", tiny) == {}

    def test_a_record_that_cannot_be_written_stops_the_run(self, studies, tiny, tmp_path, threads, monkeypatch):
        running = cohort(studies, tmp_path / "out", tiny, settings=CPU)
        next(running)
        with sqlite3.connect(tmp_path / "out" / "cohort.sqlite") as other:
            other.execute("DROP TABLE measurements")
        with pytest.raises(OutputError, match=r"cohort\.sqlite cannot be written"):
            list(running)

    def test_a_folder_that_cannot_be_written_to_is_refused(self, studies, tiny, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot be written"):
            run(studies, tmp_path / "file" / "out", tiny)

    def test_results_hold_no_path_of_the_input(self, studies, tiny, tmp_path, threads):
        run(studies, tmp_path / "out", tiny)
        for path in (tmp_path / "out" / "tiny-mr").rglob("*.json"):
            assert str(studies) not in path.read_text()
            assert json.loads(path.read_text())["files"]
        assert str(studies) not in export_tables(tmp_path / "out")[0].read_text()


def test_workers_load_a_model_as_all_of_the_settings_say(studies, tiny, tmp_path, threads, monkeypatch):
    whole, seen = load_any, []

    def load(model, settings, tell=None):
        if isinstance(model, str):
            seen.append(settings)
            settings = settings.model_copy(update={"engine": "stream", "execution": "eager"})
        return whole(model, settings, tell)

    monkeypatch.setattr(loading, "load_any", load)
    asked = {"device": "cpu", "precision": "float32", "engine": "monai", "execution": "graph", "memory_gb": 50.0}
    run(studies, tmp_path / "out", tiny, study=StudySettings(report="none", structures=("front",), **asked))
    assert {name: getattr(seen[0], name) for name in asked} == asked
    assert (seen[0].structures, len(seen)) == (("front",), 1)


def test_no_setting_that_a_model_is_loaded_by_is_left_out():
    read = set(re.findall(r"settings\.(\w+)", inspect.getsource(load_any)))
    assert read == set(StudySettings.OF_LOADING)


def test_segmentations_are_those_of_segment(studies, tiny, tmp_path, threads):
    from voxmetry import segment_study

    run(studies, tmp_path / "out", tiny)
    segment_study(studies / "a.nii.gz", tmp_path / "one", tiny, settings=StudySettings(device="cpu"))
    ours = (tmp_path / "out" / "tiny-mr" / "a" / "seg.nii.gz").read_bytes()
    assert ours == (tmp_path / "one" / "seg.nii.gz").read_bytes()
    assert np.asarray(nib.load(tmp_path / "one" / "seg.nii.gz").dataobj).any()
