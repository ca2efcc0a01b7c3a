from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import phantoms
from voxmetry import Segmentation, Volume, lesions, measure, read_segmentation, read_volume, save
from voxmetry.cli import run

SHAPE = (30, 22, 12)


@pytest.fixture
def files(tmp_path):
    """An organ with two lesions in it and one beside it, and an image, on an oblique grid."""
    grid = phantoms.geometry(shape=SHAPE)
    array = np.zeros(SHAPE, np.uint8)
    array[2:18, 2:20, 2:10] = 1
    array[4:9, 5:8, 4:7] = array[12:14, 10:13, 4:6] = array[24:26, 6:9, 5:8] = 4
    table = phantoms.segmentation().labels.with_kind("b", "lesion")
    save(Segmentation(array, grid, table), tmp_path / "seg.nii.gz")
    image = np.random.default_rng(0).random(SHAPE, np.float32) + array
    save(Volume(image, grid), tmp_path / "image.nii.gz")
    return tmp_path / "seg.nii.gz", tmp_path / "image.nii.gz"


def call(capsys, *arguments):
    code = run(["measure", *map(str, arguments), "--json"])
    out, told = capsys.readouterr()
    return code, json.loads(out), told


def test_json_holds_what_python_returns(capsys, files):
    code, content, _ = call(capsys, files[0], "--image", files[1], "--unit", "SUVbw")
    assert code == 0
    segmentation, volume = read_segmentation(files[0]), read_volume(files[1], unit="SUVbw")
    by_hand = lesions(segmentation, volume, organs=segmentation)
    assert [row.model_dump(mode="json") for row in by_hand] == content["lesions"]
    assert [row.model_dump(mode="json") for row in measure(segmentation, volume)] == content["measurements"]
    assert [(row["id"], row["n_voxels"], row["location"]) for row in content["lesions"]] == [
        ("b-1", 45, "a"),
        ("b-2", 18, "a"),
        ("b-3", 12, "a"),
    ]
    assert [row["location_distance_mm"] > 5 for row in content["lesions"]] == [False, True, False]
    assert content["lesions"][0]["suv_peak"] > 0
    # What is said about a number is beside it.
    assert set(content["lesions"][0]) - set(content["definitions"]) <= {
        *("id", "label", "value", "reason", "intensity_unit", "slice_axis", "slice_index"),
        *("long_axis_ends_ras_mm", "short_axis_ends_ras_mm", "max_diameter_ends_ras_mm"),
    }


def test_lesions_by_option_connectivity_and_smallest_volume(capsys, files):
    _, content, _ = call(capsys, files[0], "--lesion", "a", "--lesion", "b", "--min-volume-ml", 0.05)
    found = {row["id"]: row["volume_ml"] for row in content["lesions"]}
    assert set(found) == {"a-1", "b-1", "b-2"}
    assert min(found.values()) >= 0.05
    assert {row["kind"] for row in content["measurements"]} == {"lesion"}


def test_tables_and_the_terminal(capsys, files, tmp_path):
    out = tmp_path / "out"
    assert run(["measure", str(files[0]), "--image", str(files[1]), "--unit", "SUVbw", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "b-1" in shown
    assert "SUVpeak" in shown
    rows = list(csv.DictReader((out / "lesions.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["b-1", "b-2", "b-3"]
    assert len((out / "measurements.csv").read_text().splitlines()) == 3
    assert run(["measure", str(files[0]), "--out", str(out)]) == 2
    assert run(["measure", str(files[0]), "--out", str(out), "--overwrite"]) == 0


def test_organs_of_another_file_say_where_a_lesion_lies(capsys, files, tmp_path):
    organs = read_segmentation(files[0])
    array = np.where(organs.array > 0, 1, 0).astype(np.uint8)
    save(Segmentation(array, organs.geometry, phantoms.segmentation().labels), tmp_path / "organs.nii.gz")
    _, content, _ = call(capsys, files[0], "--organs", tmp_path / "organs.nii.gz")
    assert {row["location"] for row in content["lesions"]} == {"a"}
    assert {row["location_distance_mm"] for row in content["lesions"]} == {0}


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--lesion", "spleen"], 1, "no label named 'spleen'"),
        (["--min-volume-ml", "-1"], 2, ""),
        (["--connectivity", "8"], 2, ""),
    ],
)
def test_wrong_options_are_told(capsys, files, arguments, code, found):
    assert run(["measure", str(files[0]), *arguments]) == code
    assert found in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(("kind", "options"), [("PET", ["--unit", "SUVbw"]), ("CT", ["--modality", "CT"])])
def test_a_real_tumour_on_pet_and_ct(capsys, real_data, kind, options):
    folder = real_data / "sarcoma" / "STS_010"
    mask, image = folder / f"{kind}_mask.nii.gz", folder / f"{kind}_image.nii.gz"
    code, content, _ = call(capsys, mask, "--image", image, *options, "--lesion", "label_1")
    assert code == 0
    (row,) = content["lesions"]
    assert row["volume_ml"] == pytest.approx(182, abs=2)
    assert row["max_diameter_mm"] >= row["long_axis_mm"] >= row["short_axis_mm"] > 50
    if kind == "PET":
        assert row["intensity_max"] >= row["suv_peak"] >= row["intensity_mean"] > 5
        assert row["total_lesion_glycolysis_suv_ml"] == pytest.approx(row["intensity_mean"] * row["volume_ml"])
    else:
        assert row["intensity_unit"] == "HU"
        assert row["suv_peak"] is None
