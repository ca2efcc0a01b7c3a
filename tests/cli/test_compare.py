from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

import cohorts
import phantoms
from voxmetry import Volume, compare, read_segmentation, save
from voxmetry.cli import run


@pytest.fixture
def folders(tmp_path):
    return cohorts.write_cohort(tmp_path)


def call(capsys, *arguments):
    code = run(["compare", *map(str, arguments), "--json"])
    out, told = capsys.readouterr()
    return code, json.loads(out), told


def test_folders_give_a_summary_and_exit_code_0(capsys, folders):
    code, content, _ = call(capsys, "--prediction", folders[0], "--reference", folders[1], "--tolerance-mm", 2)
    assert code == 0
    assert len(content["cases"]) == 4
    assert content["settings"]["tolerance_mm"] == 2
    organ = content["structures"][0]
    assert organ["present"]["dice"]["mean"]["mean"] == pytest.approx(0.675)
    assert organ["present"]["hd95_mm"]["mean"]["mean"] is None
    assert "hd95_mm" in content["definitions"]


def test_both_are_given_by_place_or_by_name(capsys, folders):
    by_name = call(capsys, "--prediction", folders[0], "--reference", folders[1])
    assert call(capsys, folders[0], folders[1]) == by_name


@pytest.mark.parametrize("n", [0, 1, 3])
def test_two_are_needed(capsys, folders, n):
    code, content, _ = call(capsys, *[folders[0]] * n)
    assert code == 2
    assert content["fix"] == "voxmetry compare PREDICTION REFERENCE"


def test_out_gets_the_tables_the_json_and_the_page(capsys, folders, tmp_path):
    out = tmp_path / "out"
    images = tmp_path / "images"
    images.mkdir()
    grid = phantoms.geometry(shape=cohorts.SHAPE)
    for name in "abcd":
        save(
            Volume(np.arange(np.prod(cohorts.SHAPE), dtype=np.int16).reshape(cohorts.SHAPE), grid),
            images / f"{name}_0000.nii.gz",
        )
    arguments = ("--prediction", folders[0], "--reference", folders[1], "--out", out)
    code, content, _ = call(capsys, *arguments, "--instances", "hungarian", "--images", images)
    assert code == 0
    assert {path.name for path in out.iterdir()} == {
        "comparison.csv",
        "comparison.parquet",
        "instances.csv",
        "comparison.json",
        "comparison.html",
    }
    assert json.loads((out / "comparison.json").read_text()) == content
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert code == 0
    assert run(["compare", *map(str, arguments)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["compare", *map(str, arguments), "--overwrite", "--no-parquet"]) == 0
    # What belonged to the earlier run is gone.
    assert {path.name for path in out.iterdir()} == {"comparison.csv", "comparison.json", "comparison.html"}
    shown = capsys.readouterr().out
    assert "all structures" in shown.replace("\n", " ") or "structures" in shown
    assert "comparison.html" in shown


def test_a_failing_case_is_exit_code_1_and_the_rest_is_there(capsys, folders, tmp_path):
    (folders[0] / "b.nii.gz").write_bytes(b"no image")
    code, content, _ = call(capsys, "--prediction", folders[0], "--reference", folders[1], "--out", tmp_path / "out")
    assert code == 1
    assert [case["case"] for case in content["cases"] if case["error"]] == ["b"]
    assert content["structures"][0]["n_cases"] == 3
    assert "b.nii.gz" in (tmp_path / "out" / "comparison.html").read_text()
    assert run(["compare", "--prediction", str(folders[0]), "--reference", str(folders[1])]) == 1
    assert "failed: b" in capsys.readouterr().out


def test_leftovers_are_listed_and_exit_code_3(capsys, folders):
    (folders[0] / "a.nii.gz").rename(folders[0] / "z.nii.gz")
    code, content, _ = call(capsys, "--prediction", folders[0], "--reference", folders[1])
    assert code == 3
    assert (content["unmatched_predictions"], content["unmatched_references"]) == (["z"], ["a"])


def test_two_models(capsys, folders, tmp_path):
    for name in "abc":
        cohorts.write(tmp_path / "other" / f"{name}.nii.gz", (2, 12))
    arguments = ("--prediction", folders[0], "--reference", folders[1], "--other-prediction", tmp_path / "other")
    code, content, _ = call(capsys, *arguments)
    assert code == 3
    assert content["unmatched_references"] == ["d (other model)"]
    assert {(row["label"], row["metric"]) for row in content["paired"]} >= {("organ", "dice"), ("organ", "hd95_mm")}
    # The other model has a summary of its own: the same as when it is compared alone.
    alone = call(capsys, "--prediction", tmp_path / "other", "--reference", folders[1])[1]
    assert content["other_structures"] == alone["structures"]
    assert content["other_structures"] != content["structures"]
    assert run(["compare", *map(str, arguments), "--out", str(tmp_path / "out")]) == 3
    shown = capsys.readouterr().out
    assert "first - other" in shown
    assert "The other model:" in shown
    assert 'id="other-summary-overlap"' in (tmp_path / "out" / "comparison.html").read_text()


def test_the_settings_of_python_are_options(capsys, folders, tmp_path):
    files = ("--prediction", folders[0], "--reference", folders[1], "--out", tmp_path / "out")
    options = ("--surface", "border-voxels", "--percentile", "pooled", "--empty", "diagonal", "--match", "value")
    further = ("--tolerance-mm", 0.5, "--tolerance-mm", 2, "--tolerance-mm", 3.5, "--label", "organ")
    parts = ("--instances", "hungarian", "--min-iou", 0.1, "--connectivity", 6, "--thing", "organ")
    _, content, _ = call(capsys, *files, *options, *further, *parts)
    settings = content["settings"]
    assert (settings["surface"], settings["percentile"], settings["empty"]) == ("border voxels", "pooled", "diagonal")
    assert (settings["match"], settings["min_iou"], settings["connectivity"]) == ("value", 0.1, 6)
    assert (settings["tolerance_mm"], settings["more_tolerances_mm"]) == (0.5, [2, 3.5])
    assert [s["label"] for s in content["structures"]] == ["organ"]
    assert content["structures"][0]["present"]["hausdorff_mm"]["mean"]["mean"] > 0
    assert content["definitions"]["hd95_mm"].endswith("(as MedPy)")
    row = content["cases"][1]["comparisons"][0]
    pair = [read_segmentation(folder / "b.nii.gz") for folder in folders]
    for mm in ("2", "3.5"):
        (by_hand,) = compare(
            prediction=pair[0],
            reference=pair[1],
            tolerance_mm=float(mm),
            labels=["organ"],
            surface="border voxels",
        )
        assert row["surface_dice_at_mm"][mm] == by_hand.surface_dice
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
    assert float(rows[1]["surface_dice_at_2_mm"]) == row["surface_dice_at_mm"]["2"]
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out" / "comparison.parquet")
    assert parquet.column("surface_dice_at_2_mm").to_pylist()[1] == row["surface_dice_at_mm"]["2"]


def test_two_files_tell_the_definitions_of_their_settings(capsys, folders):
    files = ("--prediction", folders[0] / "b.nii.gz", "--reference", folders[1] / "b.nii.gz")
    _, content, _ = call(capsys, *files, "--percentile", "pooled")
    assert "of both directions" in content["definitions"]["hd95_mm"]
    assert run(["compare", *map(str, files), "--tolerance-mm", "1", "--tolerance-mm", "3"]) == 0
    assert "at 3 mm" in capsys.readouterr().out
    assert run(["compare", *map(str, files), "--tolerance-mm", "-1"]) == 2


def test_parquet_that_cannot_be_written_is_told(capsys, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    files = ("--prediction", folders[0], "--reference", folders[1], "--out", tmp_path / "out")
    _, content, _ = call(capsys, *files)
    assert "pyarrow is not installed" in content["notes"][0]
    assert not (tmp_path / "out" / "comparison.parquet").exists()
    assert run(["compare", *map(str, files), "--overwrite"]) == 0
    assert "note: comparison.parquet was left out" in " ".join(capsys.readouterr().out.split())
    assert run(["compare", *map(str, files), "--overwrite", "--parquet"]) == 2


def test_patients_come_from_a_file(capsys, folders, tmp_path):
    (tmp_path / "patients.csv").write_text("case,patient\na,one\nb,one\n")
    _, content, _ = call(
        capsys, "--prediction", folders[0], "--reference", folders[1], "--patients", tmp_path / "patients.csv"
    )
    assert [case["patient"] for case in content["cases"]] == [1, 1, 2, 3]


def test_two_files_with_instances_and_a_page(capsys, folders, tmp_path):
    files = ("--prediction", folders[0] / "b.nii.gz", "--reference", folders[1] / "b.nii.gz")
    code, content, _ = call(capsys, *files, "--instances", "iou", "--thing", "lesion", "--out", tmp_path / "out")
    assert code == 0
    assert {"comparisons", "instances", "definitions"} == set(content)
    assert (tmp_path / "out" / "comparison.html").is_file()
    assert run(["compare", *map(str, files), "--instances", "overlap"]) == 0
    assert "sens." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prediction", "P", "--reference", "FILE"], 1, "a folder and a file"),
        (["--prediction", "FILE", "--reference", "FILE", "--other-prediction", "P"], 2, "two files with the option"),
        (["--prediction", "P", "--reference", "R", "--instances", "iou", "--thing", "spleen"], 1, "failed"),
        (["--prediction", "P", "--reference", "R", "--patients", "NONE"], 2, "no file"),
        (["--prediction", "P", "--reference", "NONE"], 1, "folder and a file"),
        (["--prediction", "P", "--reference", "R", "--images", "P/none", "--out", "OUT"], 1, "no image of the case"),
        (["--prediction", "P", "--reference", "R", "--other-prediction", "NONE"], 1, "no folder"),
    ],
)
def test_wrong_input_is_told(capsys, folders, tmp_path, arguments, code, message):
    names = {"P": folders[0], "R": folders[1], "FILE": folders[0] / "a.nii.gz"}
    names |= {"NONE": tmp_path / "none", "OUT": tmp_path / "out", "P/none": tmp_path / "none"}
    assert run(["compare", *(str(names.get(word, word)) for word in arguments)]) == code
    told = capsys.readouterr()
    assert message in told.err + told.out
    assert "Traceback" not in told.err


def test_other_models_without_a_common_case_are_refused(capsys, folders, tmp_path):
    cohorts.write(tmp_path / "other" / "e.nii.gz", (2, 12))
    cohorts.write(folders[1] / "e.nii.gz", (2, 12))
    arguments = ["--prediction", folders[0], "--reference", folders[1], "--other-prediction", tmp_path / "other"]
    assert run(["compare", *map(str, arguments)]) == 1
    assert "no case that both models have" in capsys.readouterr().err
