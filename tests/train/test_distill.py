import json

import pytest
import torch

import models
from cases import train_settings as settings
from cases import write_cases
from voxmetry import load_model
from voxmetry.cli import run
from voxmetry.config import dump_yaml
from voxmetry.errors import ConfigError
from voxmetry.nn.runtime import choose_for_training
from voxmetry.train import train
from voxmetry.train.batches import Batch
from voxmetry.train.devices import open_fabric
from voxmetry.train.distill import load_teacher
from voxmetry.train.ensemble import write_ensemble
from voxmetry.train.loop import train_step
from voxmetry.train.losses import build_loss
from voxmetry.train.state import begin

SMALLER = {"channels": [4, 4, 4], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}


@pytest.fixture
def teacher(tmp_path):
    """An ensemble of two networks with random weights."""
    for fold, held_out in enumerate((["case_0"], ["case_1"])):
        folder = models.write(tmp_path / "folds" / f"fold-{fold}" / "model", seed=fold)
        split = {"training": [f"case_{1 - fold}"], "validation": held_out}
        (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return write_ensemble(tmp_path / "folds", tmp_path / "teacher")


def student(**change):
    return settings(model=models.spec(network=SMALLER).model_dump(mode="json"), **change)


def step_loss(chosen, label):
    state = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32")))
    image = torch.linspace(-1, 1, 2 * 16 * 24 * 8).reshape(2, 1, 16, 24, 8)
    return train_step(state, chosen, build_loss(chosen.loss), Batch(image, label), 0)


def test_with_the_whole_share_the_labels_have_no_say_and_with_half_they_do(teacher):
    empty, full = (torch.full((2, 1, 16, 24, 8), value) for value in (0, 2))
    alone = student(teacher=str(teacher), teacher_share=1.0)
    assert step_loss(alone, empty) == step_loss(alone, full)
    half = student(teacher=str(teacher), teacher_share=0.5)
    parts = [step_loss(student(), empty), step_loss(alone, empty)]
    assert step_loss(half, empty) == pytest.approx(sum(parts) / 2, rel=1e-5)
    assert step_loss(half, empty) != step_loss(half, full)


def test_the_student_is_one_small_network_and_the_teacher_stays_as_it_was(teacher, tmp_path):
    data, before = write_cases(tmp_path / "data"), (teacher / "weights.safetensors").read_bytes()
    config = tmp_path / "train.yaml"
    config.write_text(dump_yaml(student(epochs=1, validation_fraction=0)), encoding="utf-8")
    command = ["train", str(config), "--data", str(data), "--teacher", str(teacher), "-o", str(tmp_path / "run")]
    assert run([*command, "--device", "cpu"]) == 0
    made = load_model(tmp_path / "run" / "model", device="cpu").spec
    assert (made.members, made.network.channels) == (1, (4, 4, 4))
    assert (teacher / "weights.safetensors").read_bytes() == before
    assert f"teacher: {teacher}" in (tmp_path / "run" / "settings.yaml").read_text(encoding="utf-8")


def test_held_out_cases_that_the_teacher_has_seen_are_refused(teacher, tmp_path):
    data = write_cases(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"teacher was trained on: case_"):
        train(student(teacher=str(teacher), validation_fraction=0.8), tmp_path / "run", data=data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacing_mm": [1.0, 1.2, 2.0]}, "spacing_mm"),
        ({"orientation": "LPS"}, "orientation"),
        ({"inputs": [{"name": "t1", "modality": "MR", "normalise": {"method": "minmax"}}]}, "inputs"),
        ({"labels": {"labels": [{"value": 2, "name": "front", "colour": "#E69F00"}]}}, "labels"),
    ],
)
def test_a_student_that_would_be_shown_other_patches_is_refused(change, words, teacher):
    content = models.spec(training_domain={}, **change)
    with pytest.raises(ConfigError, match=f"differ in {words}"):
        load_teacher(teacher, content)


def test_a_patch_that_the_teacher_cannot_take_is_refused(teacher):
    flat = {"channels": [4, 4, 4], "strides": [[1] * 3, [2, 2, 1], [2, 2, 1]], "kernels": [[3] * 3] * 3}
    window = {"patch": [16, 24, 7]}
    with pytest.raises(ConfigError, match=r"differ in window\.patch"):
        load_teacher(teacher, models.spec(network=flat, window=window))
