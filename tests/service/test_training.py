"""The button "Update model": one training at a time, in a process of its own, on corrections that were collected."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import cases as labelled
import models
from service_clients import Slicer, call_json, start
from voxmetry.config import StudySettings, dump_yaml, load_yaml
from voxmetry.config.service import ServiceSettings, TrainingSettings
from voxmetry.errors import ConfigError
from voxmetry.models import read_spec
from voxmetry.service.check import check_settings
from voxmetry.service.training import ProcessTrainer
from voxmetry.service.training_worker import _train
from voxmetry.train import train
from voxmetry.train.manifests import CaseEntry, ChannelEntry, Manifest


def manifest(folder: Path, prefix: str, count: int) -> str:
    """Describe the cases of `write_cases` with the names of their structures, as data sets that are joined must be."""
    channel = models.spec().inputs[0]
    return dump_yaml(
        Manifest(
            name=prefix,
            channels=(ChannelEntry(name=channel.name, modality=channel.modality),),
            labels=models.spec().labels,
            cases=tuple(
                CaseEntry(
                    case=f"{prefix}_{n}",
                    images={channel.name: str(folder / "images" / f"case_{n}.nii.gz")},
                    label=str(folder / "labels" / f"case_{n}.nii.gz"),
                )
                for n in range(count)
            ),
        )
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> TrainingSettings:
    """A run of an epoch, and a work list with two corrections of patients that it did not see."""
    root = tmp_path_factory.mktemp("loop")
    old = root / "old.yaml"
    old.write_text(manifest(labelled.write_cases(root / "data", 3), "old", 3))
    train(labelled.train_settings(epochs=1), root / "old", data=old)
    work = root / "work"
    new = labelled.write_cases(work / "corrections" / "new", 2, seed=1)
    (work / "corrections" / "cases.yaml").write_text(manifest(new, "new", 2))
    return TrainingSettings(work=(str(work),), start_from=str(root / "old"), data=(str(old),), held_out=0, device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, training):
    """A service that trains, and its data folder."""
    data = tmp_path_factory.mktemp("training") / "data"
    address, end = start(
        ServiceSettings(
            data=str(data),
            port=0,
            models=(str(tiny_model),),
            settings=StudySettings(device="cpu"),
            training=training,
            limits={"free_mb": 1},
        )
    )
    yield address.removeprefix("http://"), data
    end()


def until_over(host: str) -> dict:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        status, task = call_json(host, "GET", "/train/")
        assert status == 200
        if task["status"] != "RUNNING":
            return task
        time.sleep(0.2)
    pytest.fail("the training did not end")


def test_one_at_a_time_from_start_to_a_new_model(place, tmp_path):
    host, data = place
    slicer = Slicer(host, tmp_path)
    assert list(slicer.info()["trainers"]) == ["tiny-mr"]
    assert not slicer.training_runs()
    assert call_json(host, "DELETE", "/train/tiny-mr")[0] == 404
    assert call_json(host, "POST", "/train/other", {})[0] == 404
    assert call_json(host, "POST", "/train/tiny-mr", {"epochs": 0})[0] == 422

    # A training that would not end for a long time is stopped; a second one is not begun beside it.
    status, task = call_json(host, "POST", "/train/tiny-mr", {"epochs": 100_000, "client_id": "user-1"})
    assert (status, task["status"]) == (200, "RUNNING")
    assert slicer.training_runs()
    status, refused = call_json(host, "POST", "/train/tiny-mr", {})
    assert (status, refused["detail"]) == (429, "a training runs already")
    status, stopped = call_json(host, "DELETE", "/train/tiny-mr")
    assert (status, stopped["id"], stopped["status"]) == (200, task["id"], "STOPPED")
    assert not slicer.training_runs()

    # A client that names no model sends the parameters of each.
    status, task = call_json(host, "POST", "/train/", {"tiny-mr": {"epochs": 1}, "client_id": "user-1"})
    assert status == 200
    over = until_over(host)
    assert (over["id"], over["status"], over["exit_code"]) == (task["id"], "DONE", 0), over
    assert over["start_ts"] <= over["end_ts"]
    run = data / "trainings" / task["id"]
    assert over["details"][1] == f"the new model is {task['id']}/model"
    split = json.loads((run / "model" / "split.json").read_text())
    assert {"new_0", "new_1"} <= set(split["training"])
    assert read_spec(run).version == "0.1.0"
    assert load_yaml(run / "settings.yaml", type(labelled.train_settings())).epochs == 1


def test_what_cannot_be_trained_on_is_told_in_words(training, tmp_path):
    alone = training.model_copy(update={"work": (str(tmp_path),)})
    said = _train(alone, tmp_path / "run", 1)
    assert said["error"]["found"] == f"no corrections in {tmp_path.name}"
    assert "annotate collect" in said["error"]["fix"]
    assert not (tmp_path / "run").exists()


def test_check_says_what_is_missing(training, tmp_path):
    bad = training.model_copy(update={"work": (str(tmp_path),), "start_from": str(tmp_path / "nowhere")})
    found = {row.where: row for row in check_settings(ServiceSettings(data=str(tmp_path / "d"), training=bad))}
    assert found["training.start_from"].verdict == "wrong"
    assert (found["training.work.0"].verdict, found["training.work.0"].words) == (
        "look",
        f"no corrections in {tmp_path.name}",
    )


@pytest.mark.parametrize("epochs", ["many", -1, 1.5, True, 10**9])
def test_odd_options_are_refused(training, tmp_path, epochs):
    with pytest.raises(ConfigError, match="whole number"):
        ProcessTrainer(training, tmp_path).start("tiny-mr", {"epochs": epochs})


def test_the_service_ends_with_its_training(training, tmp_path):
    trainer = ProcessTrainer(training, tmp_path)
    trainer.start(None, {"epochs": 100_000})
    trainer.close()
    assert trainer.status()["status"] == "STOPPED"
    assert not (tmp_path / "trainings" / trainer.status()["id"] / "model").exists()
    assert Path(tmp_path / "trainings" / f"{trainer.status()['id']}.log").is_file()
