"""The verbs of `voxmetry cohort`: their options, what they print, their exit codes."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from voxmetry import save
from voxmetry.cli import run
from voxmetry.io import write_series
from workflows.cohort.conftest import image

BASELINE = Path(__file__).parents[3] / "configs" / "models" / "otsu.yaml"


@pytest.fixture
def call(capsys):
    """Call `voxmetry cohort ... --json`; return exit code and content."""

    def made(*words):
        code = run(["cohort", *map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return made


def test_plan_lists_and_refuses_by_exit_code_and_writes_the_plan_alone(call, studies, tiny, tmp_path):
    code, content = call("plan", studies, "-m", tiny, "-o", tmp_path / "out", "--save", tmp_path / "plan.csv")
    assert (code, content["counts"]) == (0, {"waiting": 4})
    assert (tmp_path / "plan.csv").read_text().count("waiting") == 4
    write_series(image(3), studies / "ct", modality="CT")
    code, content = call("plan", studies, "-m", tiny, "-o", tmp_path / "out")
    assert (code, content["counts"]["refused"]) == (1, 1)
    assert not (tmp_path / "out").exists()


def test_run_status_export_and_report(call, studies, tiny, tmp_path, threads):
    out = tmp_path / "out"
    code, content = call("run", studies, "-m", tiny, "-o", out, "--report", "none", "--device", "cpu")
    assert content["counts"]["done"] == 4
    assert code == (3 if content["counts"]["flagged"] else 0)
    assert call("status", out)[1]["counts"] == content["counts"]
    (studies / "bad.nii.gz").write_bytes((studies / "a.nii.gz").read_bytes()[:900])
    code, content = call("run", studies, "-m", tiny, "-o", out, "--report", "none", "--device", "cpu")
    assert (code, content["counts"]["failed"]) == (1, 1)
    assert content["not_done"][0]["case"] == "bad"
    assert call("export", out, "--no-parquet")[1]["files"] == [str(out / "measurements.csv")]
    assert call("report", out)[1]["files"] == [str(out / "cohort.html")]


def test_settings_reach_the_study_and_those_that_decide_on_numbers_mean_another_run(
    call, studies, tiny, tmp_path, threads
):
    out, settings = tmp_path / "out", tmp_path / "study.yaml"
    settings.write_text("report: none\ndevice: cpu\ntolerance_mm: 2.5\n")
    given = ("-m", tiny, "-o", out, "--settings", settings, "--precision", "float32", "--memory-gb", "6")
    call("run", studies, *given)
    told = json.loads((out / "tiny-mr" / "a" / "result.json").read_text())["provenance"]["settings"]
    wanted = {"report": "none", "tolerance_mm": 2.5, "precision": "float32", "memory_gb": 6.0, "device": "cpu"}
    assert {name: told[name] for name in wanted} == wanted
    assert call("plan", studies, *given)[1]["counts"] == {"done": 4}
    # How much memory there is decides on no number; the precision does.
    assert call("plan", studies, *given[:-1], "5")[1]["counts"] == {"done": 4}
    assert call("plan", studies, *["bf16" if x == "float32" else x for x in given])[1]["counts"] == {"waiting": 4}
    assert call("plan", studies, *given, "--suv", "lbm")[1]["counts"] == {"waiting": 4}


def test_a_series_for_all_studies_is_wrong_usage(call, studies, tiny, tmp_path):
    (tmp_path / "study.yaml").write_text("series: '1.2.3'\n")
    code, content = call("plan", studies, "-m", tiny, "-o", tmp_path / "out", "--settings", tmp_path / "study.yaml")
    assert (code, content["error"]) == (2, "ConfigError")
    assert "one series or modality for all studies" in content["found"]


def test_a_series_with_a_gap_is_run_when_that_is_asked_for(call, tiny, tmp_path, threads):
    write_series(image(1), tmp_path / "in" / "gap", modality="MR")[4].unlink()
    given = (tmp_path / "in", "-m", tiny, "-o", tmp_path / "out", "--device", "cpu")
    assert call("plan", *given)[1]["counts"] == {"refused": 1}
    code, content = call("run", *given, "--allow-uneven", "--report", "none")
    assert (code, content["counts"]["done"], content["counts"]["flagged"]) == (3, 1, 1)
    assert call("plan", *given)[1]["counts"] == {"refused": 1}


def test_a_baseline_is_a_model_of_a_cohort(call, tmp_path, threads):
    (tmp_path / "in").mkdir()
    save(image(1), tmp_path / "in" / "a.nii.gz")
    baseline = tmp_path / "bright.yaml"
    baseline.write_text(BASELINE.read_text())
    given = (tmp_path / "in", "-m", baseline, "-o", tmp_path / "out")
    code, content = call("plan", *given)
    assert (code, content["counts"]) == (0, {"waiting": 1})
    assert content["forecast"]["seconds"] > 0
    _, content = call("run", *given, "--report", "none")
    assert content["counts"]["done"] == 1
    assert call("plan", *given)[1]["counts"] == {"done": 1}
    baseline.write_text(baseline.read_text().replace("version: 1", "version: 2"))
    assert call("plan", *given)[1]["counts"] == {"waiting": 1}


class TestForecast:
    def test_studies_side_by_side_do_not_count_twice(self, call, studies, tiny, tmp_path, threads):
        out = tmp_path / "out"
        given = ("-m", tiny, "-o", out, "--device", "cpu")
        call("run", studies, *given, "--report", "none")
        # As if four studies of 3 s each had been under way at once, in a run of 4 s.
        with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db, db:
            db.execute("UPDATE studies SET seconds = 3, started = '2030-01-01T00:00:00+00:00'")
            db.execute("UPDATE studies SET finished = '2030-01-01T00:00:04.000+00:00'")
        for seed, name in enumerate(("e", "f")):
            save(image(50 + seed), studies / f"{name}.nii.gz")
        _, content = call("plan", studies, *given)
        assert content["forecast"]["n"] == 2
        assert content["forecast"]["seconds"] == pytest.approx(2.0)
        assert "record" in content["forecast"]["basis"]

    def test_the_network_is_timed_when_asked_for(self, call, studies, tiny, tmp_path):
        given = (studies, "-m", tiny, "-o", tmp_path / "out", "--device", "cpu")
        _, content = call("plan", *given, "--measure")
        assert "timed on this machine" in content["forecast"]["basis"]
        assert 0 < content["forecast"]["seconds"] < 600
        assert not (tmp_path / "out").exists()
