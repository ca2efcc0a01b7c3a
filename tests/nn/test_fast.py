"""Fast runs: fewer windows for every model, and the result says so; which windows those are: test_fewer_windows.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models
import nnunet_folders
import phantoms
from voxmetry import LabelTable, Predictor, StudySettings, load_model, segment
from voxmetry.config import dump_yaml
from voxmetry.core.records import FastRun
from voxmetry.errors import ConfigError
from voxmetry.models.composite import CompositeInput, CompositeSpec, Member
from voxmetry.nn import Composite
from voxmetry.nn.composite import How
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.workflows.models import load_any

TRADED = (None, None, True)
LESS = (0.25, 0.4, False)
CPU = How(device="cpu", precision="float32")


def traded(fast: FastRun | None) -> tuple[float | None, float | None, bool | None]:
    """The overlap of a fast run, the model's own, and whether fewer of the model's own windows are run."""
    return (fast.overlap, fast.full_overlap, fast.fewer_windows) if fast else (None, None, None)


def window(overlap: float, **more: object) -> dict[str, object]:
    return {"patch": [16, 24, 8], "overlap": overlap, **more}


@pytest.fixture(scope="module")
def study():
    return phantoms.volume(phantoms.geometry(shape=(38, 41, 19)))


@pytest.mark.parametrize(
    "change",
    [{}, {"members": 2}, {"resampling": {"rule": "nnunet"}}],
    ids=["single", "ensemble", "nnunet"],
)
def test_it_is_the_run_of_a_model_whose_windows_overlap_by_a_quarter(tmp_path, study, change):
    placed = {"placement": "nnunet"} if "resampling" in change else {}
    full = models.write(tmp_path / "full", window=window(0.4, **placed), **change)
    few = models.write(tmp_path / "few", window=window(0.25, **placed), **change)
    fast = Predictor(full, device="cpu", fast=True)
    assert traded(fast.fast) == LESS
    assert np.array_equal(fast(study).array, Predictor(few, device="cpu")(study).array)
    assert not np.array_equal(fast(study).array, Predictor(full, device="cpu")(study).array)
    assert np.array_equal(segment(study, full, device="cpu", fast=True).array, fast(study).array)


def test_the_engine_of_monai_is_as_fast(tmp_path, study):
    folder = models.write(tmp_path)
    settings = StudySettings(device="cpu", engine="monai", fast=True)
    ready = load_any(folder, settings)
    # MONAI's inferer runs all windows that there are.
    assert traded(ready.fast) == (0.25, 0.5, False)
    assert load_model(folder, device="cpu", fast=True).as_monai().inferer.overlap == 0.25
    assert ready.model.as_monai().inferer.overlap == 0.25


def test_an_imported_nnunet_model(tmp_path, study):
    folder = tmp_path / "model"
    import_model(nnunet_folders.write(tmp_path, "isotropic"), folder, ImportOptions(orientation="stored"))
    ready = load_any(folder, StudySettings(device="cpu", fast=True))
    assert traded(ready.fast) == TRADED
    assert ready.spec.window.placement == "nnunet"
    assert ready.spec.window.overlap == 0.5
    assert ready(study).geometry is study.geometry


def test_windows_that_overlap_by_less_stay_as_they_are(tmp_path, study):
    folder = models.write(tmp_path, window=window(0.2))
    fast = Predictor(folder, device="cpu", fast=True)
    assert traded(fast.fast) == (None, None, False)
    assert "no more" in str(fast.fast)
    assert np.array_equal(fast(study).array, Predictor(folder, device="cpu")(study).array)


def test_a_full_run_says_nothing(tmp_path):
    folder = models.write(tmp_path)
    assert load_model(folder, device="cpu").fast is None
    assert Predictor(folder, device="cpu").fast is None


def merged(root: Path, **change: object) -> Path:
    """Write a model of models `a` and `b`, whose structures have four values."""
    models.write(root / "a", seed=0)
    models.write(root / "b", seed=1)
    names = {1: "front a", 2: "back a", 3: "front b", 4: "back b"}
    content = {
        "kind": "composite",
        "name": "both",
        "version": "0.0.1",
        "summary": "Two models for tests",
        "licence": "Apache-2.0",
        "body_part": "phantom",
        "inputs": (CompositeInput(name="t1", modality="MR"),),
        "labels": LabelTable.from_names(names),
        "members": (Member(model="a", values={2: 1, 7: 2}), Member(model="b", values={2: 3, 7: 4})),
        **change,
    }
    (root / "model.yaml").write_text(dump_yaml(CompositeSpec(**content)), encoding="utf-8")
    return root


def test_members_of_a_model_without_a_coarse_one_run_fast(tmp_path, study):
    folder = merged(tmp_path)
    made = Composite(folder, CPU, fast=True)
    found = made(study)
    assert traded(made.fast) == TRADED
    assert all(traded(ready.fast) == TRADED for ready in made._loaded.values())
    assert not np.array_equal(found.array, Composite(folder, CPU)(study).array)
    assert Composite(folder, CPU).fast is None


def test_inside_the_box_of_a_coarse_one_members_run_as_ever(tmp_path, study):
    coarse = merged(tmp_path, coarse="a", labels=LabelTable.from_names({2: "front", 7: "back"}),
                    members=(Member(model="b", values={2: 2, 7: 7}),))  # fmt: skip
    made = Composite(coarse, CPU, fast=True)
    made(study)
    assert made.fast == FastRun(coarse="a")
    assert [ready.fast for ready in made._loaded.values()] == [None, None]


def test_several_models_by_name_run_fast_together(tmp_path):
    other = LabelTable.from_names({3: "left", 4: "right"}).model_dump(mode="json")
    parts = [models.write(tmp_path / "a"), models.write(tmp_path / "b", labels=other, training_domain={})]
    ready = load_any(parts, StudySettings(device="cpu", precision="float32", fast=True))
    assert traded(ready.fast) == TRADED


@pytest.mark.parametrize("load", [load_model, Predictor])
def test_what_was_loaded_for_full_runs_is_not_passed_off_as_fast(tmp_path, load):
    folder = models.write(tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)loaded for full runs.*fast=True"):
        load_any(load(folder, device="cpu"), StudySettings(fast=True))
    ready = load_any(load(folder, device="cpu", fast=True), StudySettings(fast=True))
    assert traded(ready.fast) == TRADED


def test_a_baseline_has_no_windows():
    baseline = Path(__file__).parents[2] / "configs" / "models" / "suv41.yaml"
    with pytest.raises(ConfigError, match="classical baseline"):
        load_any(baseline, StudySettings(fast=True))
