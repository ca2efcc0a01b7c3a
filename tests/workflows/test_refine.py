"""`voxmetry refine`: a run is renewed from clicks."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Predictor, Volume, read_segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.core.records.clicks import parse_click
from voxmetry.errors import ConfigError
from voxmetry.service.infer import clicks_of_params, options_of_params

GRID = phantoms.geometry(shape=(24, 26, 12), spacing_mm=(1.0, 1.2, 2.5))


def click(voxel, label):
    x, y, z = GRID.to_mm(np.array([voxel]))[0]
    return f"{x:.4f},{y:.4f},{z:.4f},{label}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("refine")
    rng = np.random.default_rng(0)
    save(Volume(rng.normal(100, 20, GRID.shape).astype(np.float32), GRID), root / "image.nii.gz")
    models.write(root / "model", clicks={"reach_mm": 8.0})
    models.write(root / "other", seed=1, clicks={"reach_mm": 8.0})
    return root


@pytest.fixture
def out(place, tmp_path):
    words = ["-m", str(place / "model"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    code = run(["segment", str(place / "image.nii.gz"), *words])
    assert code in (0, 3)
    return tmp_path / "out"


def refined(place, out, *words, model="model"):
    image = str(place / "image.nii.gz")
    return run(["refine", str(out), "--image", image, "-m", str(place / model), "--device", "cpu", *words])


def test_clicks_add_up_and_the_run_is_renewed(place, out):
    before = read_segmentation(out / "seg.nii.gz").array.copy()
    first, second = click((5, 20, 3), "back"), click((20, 4, 9), "background")
    assert refined(place, out, "--click", first, "--author", "A. Reader") in (0, 3)
    assert refined(place, out, "--click", second) in (0, 3)
    kept = json.loads((out / "clicks.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in kept["clicks"]] == ["back", "background"]
    predictor = Predictor(place / "model", device="cpu")
    image = read_volume(place / "image.nii.gz", modality="MR")
    expected = predictor(image, clicks=[parse_click(first), parse_click(second)])
    now = read_segmentation(out / "seg.nii.gz").array
    assert np.array_equal(now, expected.array)
    assert not np.array_equal(now, before)
    assert np.array_equal(read_segmentation(out / "model_seg.nii.gz").array, before)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert "corrected" in {flag["code"] for flag in result["flags"]}
    volumes = {row["label"]: row["n_voxels"] for row in result["measurements"]}
    assert volumes["front"] == int((now == 2).sum())


def test_anew_forgets_earlier_clicks(place, out):
    refined(place, out, "--click", click((5, 20, 3), "back"))
    refined(place, out, "--anew", "--click", click((20, 4, 9), "front"))
    kept = json.loads((out / "clicks.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in kept["clicks"]] == ["front"]


def test_a_run_that_was_made_with_clicks_keeps_them(place, tmp_path):
    first, second = click((5, 20, 3), "back"), click((20, 4, 9), "front")
    words = ["-m", str(place / "model"), "-o", str(tmp_path / "out"), "--device", "cpu", "--report", "none"]
    assert run(["segment", str(place / "image.nii.gz"), *words, "--click", first]) in (0, 3)
    assert refined(place, tmp_path / "out", "--click", second) in (0, 3)
    kept = json.loads((tmp_path / "out" / "clicks.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in kept["clicks"]] == ["back", "front"]
    assert refined(place, tmp_path / "out", "--anew", "--click", second) in (0, 3)
    kept = json.loads((tmp_path / "out" / "clicks.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in kept["clicks"]] == ["front"]


def test_a_click_takes_back_an_earlier_one_in_its_voxel(place, out):
    wrong, right = click((5, 20, 3), "back"), click((5, 20, 3), "background")
    refined(place, out, "--click", wrong, "--click", click((20, 4, 9), "front"))
    refined(place, out, "--click", right)
    kept = json.loads((out / "clicks.json").read_text(encoding="utf-8"))
    assert sorted(row["label"] for row in kept["clicks"]) == ["background", "front"]
    image = read_volume(place / "image.nii.gz", modality="MR")
    clicks = [parse_click(click((20, 4, 9), "front")), parse_click(right)]
    expected = Predictor(place / "model", device="cpu")(image, clicks=clicks)
    assert np.array_equal(read_segmentation(out / "seg.nii.gz").array, expected.array)


def test_a_run_of_some_structures_stays_one_of_these(place, tmp_path):
    words = ["-m", str(place / "model"), "-o", str(tmp_path / "out"), "--device", "cpu", "--report", "none"]
    assert run(["segment", str(place / "image.nii.gz"), *words, "--structures", "front"]) in (0, 3)
    assert refined(place, tmp_path / "out", "--click", click((5, 20, 3), "back")) in (0, 3)
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in result["measurements"]] == ["front"]
    assert set(np.unique(read_segmentation(tmp_path / "out" / "seg.nii.gz").array)) == {0, 2}


def test_clicks_on_another_run_are_no_clicks_on_this_one(place, out):
    refined(place, out, "--click", click((5, 20, 3), "back"))
    path = out / "clicks.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"map_sha256": "', '"map_sha256": "0'), encoding="utf-8")
    refined(place, out, "--click", click((20, 4, 9), "front"))
    assert [row["label"] for row in json.loads(path.read_text(encoding="utf-8"))["clicks"]] == ["front"]


def test_a_run_that_was_made_anew_has_no_clicks(place, out):
    refined(place, out, "--click", click((5, 20, 3), "back"))
    words = ["-m", str(place / "model"), "-o", str(out), "--device", "cpu", "--overwrite"]
    assert run(["segment", str(place / "image.nii.gz"), *words]) in (0, 3)
    refined(place, out, "--click", click((20, 4, 9), "front"))
    kept = json.loads((out / "clicks.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in kept["clicks"]] == ["front"]


def test_clicks_are_kept_with_the_run_or_not_at_all(place, out, monkeypatch):
    """A kill between the two left a run whose last clicks the next call did not know."""

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("voxmetry.workflows.correct_run.note_correction", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        refined(place, out, "--click", click((5, 20, 3), "back"))
    assert (out / "correction.csv").is_file()
    assert (out / "clicks.json").is_file()


@pytest.mark.parametrize(
    ("words", "model", "said"),
    [
        ([], "model", "no click"),
        (["--click", "900,0,0,back"], "model", "outside of the image"),
        (["--click", "1,2"], "model", "the click '1,2'"),
        (["--click", click((5, 20, 3), "liver")], "model", "front, back, background"),
        (["--click", "0,0,0,back"], "other", "not the model that made this run"),
    ],
)
def test_what_cannot_be_done_leaves_the_run_as_it_was(place, out, capsys, words, model, said):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert refined(place, out, *words, model=model) in (1, 2)
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


class TestProtocol:
    """Points as 3D Slicer's module sends them: voxels of the image."""

    def test_foreground_and_background(self):
        params = {"foreground": [[1, 2, 3]], "background": [[4, 5, 6]], "label": "back"}
        found = options_of_params(params, ("front", "back")).clicks
        assert [(x.at, x.label, x.space) for x in found] == [
            ((1, 2, 3), "back", "voxel"),
            ((4, 5, 6), "background", "voxel"),
        ]

    def test_points_under_the_names_of_structures(self):
        found = clicks_of_params({"front": [[1, 2, 3]], "back": [], "background": []}, ("front", "back"))
        assert found == [{"at": [1, 2, 3], "label": "front", "space": "voxel"}]

    def test_two_names_for_one_voxel_are_refused(self):
        params = {"front": [[1, 2, 3]], "background": [[1, 2, 3], [4, 5, 6]]}
        with pytest.raises(ConfigError, match="points of background and front in one voxel, 1, 2, 3"):
            options_of_params(params, ("front", "back"))

    def test_a_model_without_clicks_passes_them_over(self):
        assert options_of_params({"foreground": [[1, 2, 3]], "background": []}).clicks is None
