import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
from cases import train_settings as settings
from cases import write_cases
from voxmetry import Segmentation, Volume, load_model, read_segmentation, read_volume, save, segment
from voxmetry.cli import run
from voxmetry.config import NetworkSpec, TrainSettings, dump_yaml, load_yaml, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, FormatError, InferenceError, InputError, ModelError, OutputError
from voxmetry.io import atomic
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.networks.dynunet import SpaceToDepth, build_unet
from voxmetry.nn.runtime import choose_for_training
from voxmetry.nn.weights import load_into
from voxmetry.train import loop, schedule, train
from voxmetry.train.dataset import open_data
from voxmetry.train.devices import open_fabric
from voxmetry.train.finetune import carry_over
from voxmetry.train.folds import chosen_on, hold_out
from voxmetry.train.initial_bias import output_layers, set_initial_bias
from voxmetry.train.learned_only import without_structures
from voxmetry.train.losses import on_grid_of
from voxmetry.train.schedule import Clock, learning_rate
from voxmetry.train.state import begin

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("run")
    return train(settings(), out, data=data)


def weights(model: Path) -> bytes:
    return (model / "weights.safetensors").read_bytes()


class TestRun:
    def test_leaves_a_model_that_runs(self, finished, data):
        model = load_model(finished, device="cpu")
        volume = read_volume(data / "images" / "case_0.nii.gz")
        assert segment(volume, model).geometry.is_same(volume.geometry)
        assert "Held-out cases: case_" in (finished / "MODEL_CARD.md").read_text()

    def test_measures_the_training_domain(self, finished):
        domain = load_model(finished, device="cpu").spec.training_domain
        assert domain.spacing_mm[2].low == pytest.approx(2.5, abs=1e-3)
        assert domain.volume_ml["front"].low == pytest.approx(5 * 8 * 3 * 3e-3 * 0.75, abs=1e-3)

    def test_logs_each_epoch_and_the_split(self, finished):
        run = finished.parent
        rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        assert float(rows[2]["loss"]) < float(rows[0]["loss"])
        split = json.loads((run / "split.json").read_text())
        held_out = [row["case"] for row in csv.DictReader((finished / "validation.csv").read_text().splitlines())]
        assert held_out == split["validation"]
        assert "recipe_chosen_on" not in json.loads((finished / "split.json").read_text())

    @pytest.mark.parametrize(
        ("said", "fold", "named"),
        [
            ("not said", 0, None),
            ("other", 0, 0),
            ("held-out", None, 2),
            ("held-out", 0, 5),
            ([1], 0, 1),
            ([1, 2], 2, 2),
            ([1], None, 0),
        ],
    )
    def test_knows_the_cases_that_a_recipe_was_chosen_on(self, said, fold, named, tmp_path):
        cases = open_data(write_cases(tmp_path / "data", 5))
        content = settings().model_dump() | {"recipe_chosen_on": said, "fold": fold, "folds": 5}
        chosen = parse_record(content, TrainSettings, where="a test")
        found = chosen_on(cases, chosen)
        assert (found if found is None else len(found)) == named
        if isinstance(said, list) and fold is not None:
            parts = [hold_out(cases, chosen.model_copy(update={"fold": one}))[1] for one in said]
            assert set(found) == {name for part in parts for name in part}

    def test_refuses_a_fold_that_is_not_there(self):
        with pytest.raises(ConfigError, match="fold 5 of 5"):
            parse_record(settings().model_dump() | {"recipe_chosen_on": [5]}, TrainSettings, where="a test")

    def test_keeps_and_prints_what_it_computed_on(self, data, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("voxmetry.nn.runtime.multiplies_bf16", lambda _: False)
        train(settings(epochs=1), tmp_path, data=data)
        monkeypatch.setattr("voxmetry.nn.runtime.multiplies_bf16", lambda _: True)
        train(settings(epochs=1), tmp_path, data=data, resume=True)
        starts = json.loads((tmp_path / "starts.json").read_text())
        assert [(row["device"], row["precision"], row["processes"]) for row in starts] == [("cpu", "float32", 1)] * 2
        assert [row["why"] for row in starts] == ["auto: it does not multiply bf16", "auto: as the run began"]
        said = capsys.readouterr().err
        assert "training on cpu in float32 (auto: it does not multiply bf16)" in said
        (tmp_path / "starts.json").write_text("[1]")
        with pytest.raises(FormatError, match=r"starts\.json"):
            train(settings(epochs=1), tmp_path, data=data, resume=True)

    def test_the_same_seed_gives_the_same_weights(self, finished, data, tmp_path):
        assert weights(train(settings(), tmp_path, data=data)) == weights(finished)


class TestResume:
    def test_after_sigkill_the_weights_are_those_of_an_undisturbed_run(self, data, tmp_path):
        config = tmp_path / "train.yaml"
        config.write_text(dump_yaml(settings()), encoding="utf-8")
        out = tmp_path / "run"
        command = [sys.executable, "-m", "voxmetry", "train", str(config), "--data", str(data), "--device", "cpu"]
        # Each run in a process of its own, as a user has it: what other tests left in this one may change the last bit.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SRC), "PYTHONWARNINGS": "ignore"}
        quiet = {"env": environment, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        # By itself, so that it is killed there on any machine: its second epoch is in the log, and in no checkpoint.
        killed = (
            "import os, signal, sys\n"
            "from voxmetry.cli import run\n"
            "from voxmetry.train import loop\n"
            "save = loop.save_checkpoint\n"
            "def once(state, path):\n"
            "    if path.exists():\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    save(state, path)\n"
            "loop.save_checkpoint = once\n"
            "run(sys.argv[1:])"
        )
        child = subprocess.run([sys.executable, "-c", killed, *command[3:], "--out", str(out)], check=False, **quiet)
        assert child.returncode == -signal.SIGKILL
        assert (out / "checkpoint.pt").exists()
        assert not (out / "model").exists()
        subprocess.run([*command, "--out", str(out), "--resume"], check=True, **quiet)
        subprocess.run([*command, "--out", str(tmp_path / "undisturbed")], check=True, **quiet)
        assert weights(out / "model") == weights(tmp_path / "undisturbed" / "model")
        assert len(list(csv.DictReader((out / "log.csv").read_text().splitlines()))) == 3

    def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(self, finished, data):
        with pytest.raises(ConfigError, match="--resume"):
            train(settings(), finished.parent, data=data)
        with pytest.raises(ConfigError, match="other settings"):
            train(settings(epochs=4), finished.parent, data=data, resume=True)

    def test_cases_that_changed_since_the_run_began_are_told(self, data, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        train(settings(epochs=1), tmp_path / "run", data=copy)
        shutil.copy(copy / "labels" / "case_2.nii.gz", copy / "labels" / "case_2b.nii.gz")
        shutil.copy(copy / "images" / "case_2.nii.gz", copy / "images" / "case_2b.nii.gz")
        volume = read_volume(copy / "images" / "case_1.nii.gz")
        save(Volume(volume.array + np.float32(1), volume.geometry), copy / "images" / "case_1.nii.gz")
        with pytest.raises(ConfigError, match="changed since the run began: case_1, case_2b"):
            train(settings(epochs=1), tmp_path / "run", data=copy, resume=True)

    def test_a_damaged_checkpoint_is_told_and_kept(self, data, tmp_path):
        train(settings(epochs=1), tmp_path, data=data)
        checkpoint = tmp_path / "checkpoint.pt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        with pytest.raises(FormatError, match="checkpoint"):
            train(settings(epochs=1), tmp_path, data=data, resume=True)
        assert checkpoint.exists()


class TestDiskFull:
    def test_the_last_checkpoint_stays_and_the_run_continues_from_it(self, finished, data, tmp_path, monkeypatch):
        whole, calls = Path.write_bytes, []

        def full(path: Path, content: bytes) -> int:
            if path.suffix == ".pt":
                calls.append(path)
                if len(calls) == 2:
                    whole(path, content[: len(content) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")
            return whole(path, content)

        monkeypatch.setattr(atomic.Path, "write_bytes", full)
        with pytest.raises(OutputError, match="the disk is full"):
            train(settings(), tmp_path, data=data)
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 1
        assert not list(tmp_path.glob(".part-*"))
        monkeypatch.undo()
        assert weights(train(settings(), tmp_path, data=data, resume=True)) == weights(finished)


def scalars(folder: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found.Tags()["scalars"]


class TestWithoutConfiguration:
    def test_a_data_set_alone_gives_a_model_that_runs(self, data, tmp_path, capsys):
        out = tmp_path / "run"
        command = ["train", str(data), "-o", str(out), "--epochs", "1", "--memory-gb", "1", "--device", "cpu"]
        assert run([*command, "--json", "--tensorboard"]) == 0
        assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
        assert set(scalars(out / "tensorboard")) == set((out / "log.csv").read_text().split("\n")[0].split(",")[1:])
        assert "# " in (out / "plan.yaml").read_text(encoding="utf-8")
        model = load_model(out / "model", device="cpu")
        assert model.spec.labels.names == ("front", "back")
        volume = read_volume(data / "images" / "case_0.nii.gz")
        assert segment(volume, model).geometry.is_same(volume.geometry)

    def test_train_plan_writes_what_train_reads(self, data, tmp_path, capsys):
        plan = tmp_path / "plan.yaml"
        assert run(["train-plan", str(data), "-o", str(plan), "--epochs", "2"]) == 0
        assert load_yaml(plan, TrainSettings).epochs == 2

    @pytest.mark.slow
    @pytest.mark.real_data
    def test_six_hippocampus_cases_and_one_epoch(self, real_data, tmp_path):
        for part in ("images", "labels"):
            (tmp_path / "mr6" / part).mkdir(parents=True)
            for path in sorted((real_data / "hippocampus-mr" / part).iterdir())[:6]:
                (tmp_path / "mr6" / part / path.name).symlink_to(path)
        out = tmp_path / "run"
        assert run(["train", str(tmp_path / "mr6"), "-o", str(out), "--epochs", "1", "--device", "cpu"]) == 0
        study = real_data / "hippocampus-mr" / "images" / "hippocampus_350.nii.gz"
        study = study if study.exists() else sorted(study.parent.iterdir())[-1]
        assert run(["segment", str(study), "-m", str(out / "model"), "-o", str(tmp_path / "out")]) in (0, 3)
        assert (tmp_path / "out" / "report.html").exists()


class TestBadData:
    def test_a_structure_in_held_out_cases_alone_is_told_before_the_first_step(self, data, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        held_out = set(json.loads(split_of(settings(), data))["validation"])
        for path in sorted((copy / "labels").iterdir()):
            if path.name.split(".")[0] not in held_out:
                label = read_segmentation(path)
                array = label.array.copy()
                array[array == 7] = 0
                save(Segmentation(array, label.geometry, label.labels), path)
        with pytest.raises(InputError, match=r"back in no training case.*case_"):
            train(settings(), tmp_path / "run", data=copy)
        assert not (tmp_path / "run" / "checkpoint.pt").exists()

    def test_one_image_on_both_sides_of_the_split_is_told_before_the_first_step(self, data, tmp_path):
        folder = shutil.copytree(data, tmp_path / "data")
        training, (held_out, *_) = hold_out(open_data(folder), settings())
        shutil.copy(folder / "images" / f"{training[0]}.nii.gz", folder / "images" / f"{held_out}.nii.gz")
        with pytest.raises(InputError, match=f"{held_out}, .*voxel for voxel that of {training[0]}"):
            train(settings(), tmp_path / "run", data=folder)

    def test_a_structure_that_another_fold_would_lack_is_told_when_the_first_one_starts(self, data, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        last = hold_out(open_data(copy), settings(folds=5, fold=4))[1]
        for path in sorted((copy / "labels").iterdir()):
            if path.name.split(".")[0] not in last:
                label = read_segmentation(path)
                save(Segmentation(np.where(label.array == 7, 0, label.array), label.geometry, label.labels), path)
        with pytest.raises(
            InputError, match=f"back in no training case of fold 4; only in the held-out case {last[0]}"
        ):
            train(settings(folds=5, fold=0), tmp_path / "run", data=copy)
        assert not (tmp_path / "run" / "checkpoint.pt").exists()

    def test_a_damaged_file_is_told_with_its_case_before_the_first_step(self, data, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        path = copy / "images" / "case_3.nii.gz"
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(FormatError, match="case_3"):
            train(settings(), tmp_path / "run", data=copy)
        assert not (tmp_path / "run" / "checkpoint.pt").exists()


def split_of(chosen: TrainSettings, data: Path) -> str:
    names = hold_out(open_data(data), chosen)
    return json.dumps(dict(zip(("training", "validation"), names, strict=True)))


class TestStartFrom:
    def test_continues_from_the_weights_of_another_model(self, finished, data, tmp_path):
        still = settings(start_from=str(finished), epochs=1, learning_rate=1e-9, ema_decay=0)
        started = load_model(train(still, tmp_path, data=data), device="cpu")
        volume = read_volume(data / "images" / "case_0.nii.gz")
        assert (segment(volume, started).array == segment(volume, finished).array).mean() > 0.99

    def test_refuses_held_out_cases_that_the_other_model_has_seen(self, finished, data, tmp_path):
        with pytest.raises(ConfigError, match="was trained on: case_"):
            train(settings(start_from=str(finished), seed=8, validation_fraction=0.8), tmp_path, data=data)


def test_stops_with_words_where_the_loss_is_not_finite(data, tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.train.step.split_outputs", lambda outputs, **_: [(torch.nan, outputs)])
    with pytest.raises(InferenceError, match="a loss of nan in step 0"):
        train(settings(), tmp_path, data=data)


def test_tensorboard_that_is_not_installed_is_told_before_anything_runs(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(["train", str(data), "-o", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert "voxmetry[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 200, 1e-3) for step in range(200)]
    top = rates.index(max(rates))
    assert top == 20
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_the_shipped_configuration_is_the_bundled_models(real_data):
    """The bundled model.yaml is what training with the shipped configuration writes, its measured parts aside."""
    config = load_yaml(Path(__file__).parents[2] / "configs/train/hippocampus-mr.yaml", TrainSettings)
    bundled = load_model("hippocampus-mr", device="cpu").spec
    measured = {name: getattr(bundled, name) for name in ("training_domain", "weights", "quality")}
    assert config.model.model_copy(update=measured) == bundled


class TestFolds:
    def test_a_fold_says_so_in_its_card_and_all_cases_can_be_trained_on(self, data, tmp_path):
        fold = train(settings(epochs=1, folds=2, fold=1), tmp_path / "fold", data=data)
        assert "(fold 1 of 2, seed 7)" in (fold / "MODEL_CARD.md").read_text()
        whole = train(settings(epochs=1, validation_fraction=0), tmp_path / "all", data=data)
        assert "Trained on all 5 cases" in (whole / "MODEL_CARD.md").read_text()
        assert json.loads((whole / "split.json").read_text())["validation"] == []


class TestMaxMinutes:
    def test_a_run_ends_by_itself_with_weights_and_goes_on_later(self, data, tmp_path):
        chosen = settings(epochs=4)
        model = train(chosen, tmp_path, data=data, max_minutes=1e-6)
        assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
        assert (model / "model.yaml").is_file()
        assert "dice_front" in (tmp_path / "log.csv").read_text()  # the last epoch validates, whichever it is
        train(chosen, tmp_path, data=data, resume=True)
        assert len((tmp_path / "log.csv").read_text().splitlines()) == 5

    def test_no_minute_left_writes_the_model_as_it_is(self, data, tmp_path):
        train(settings(epochs=2), tmp_path, data=data, max_minutes=1e-6)
        before = weights(tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
        assert weights(train(settings(epochs=2), tmp_path, data=data, resume=True, max_minutes=0)) == before

    def test_minutes_count_the_validation(self, data, tmp_path, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        real = loop.validate_together

        def slow(*parts):
            now[0] += 100
            return real(*parts)

        monkeypatch.setattr(loop, "validate_together", slow)
        train(settings(epochs=6, validate_every=1), tmp_path, data=data, max_minutes=2.5)
        assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 2

    def test_all_processes_go_by_the_clock_of_the_first(self, monkeypatch):
        said = []

        def process(broadcast, seconds):
            now = iter([0.0, seconds, seconds])
            monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: next(now)))
            state = SimpleNamespace(seconds=0.0, fabric=SimpleNamespace(world_size=2, broadcast=broadcast))
            clock = Clock(state, 2)
            share = clock.share(0, 100)
            clock.note()
            return share, state.seconds, clock.is_over

        first = process(lambda value: (said.append(value), value)[1], 121.0)
        assert process(lambda _: said.pop(0), 119.0) == first == (1.0, 121.0, True)

    def test_the_learning_rate_falls_to_its_end_by_then(self):
        state = SimpleNamespace(seconds=90.0, fabric=SimpleNamespace(world_size=1))
        assert Clock(state, 2).share(1, 100) == pytest.approx(0.75, abs=0.01)
        assert Clock(state, None).share(1, 100) == 0.01
        assert Clock(state, 1000).share(50, 100) == 0.5
        assert Clock(state, 1.4).share(1, 100) == 1.0
        assert Clock(state, 1.4).is_over


def test_the_log_has_a_curve_for_each_structure(finished):
    rows = list(csv.DictReader((finished.parent / "log.csv").read_text().splitlines()))
    assert all(0 <= float(row["overlap_front"]) <= 1 and 0 <= float(row["overlap_back"]) <= 1 for row in rows)


def test_the_first_scores_are_the_classes_shares_where_the_settings_ask_for_it():
    chosen = settings(model=models.spec(network=NETWORK | {"deep_supervision": 1}).model_dump(mode="json"))
    state = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32")))
    shares = np.array([0.97, 0.02, 0.01])
    set_initial_bias(state, shares)
    for network in (state.network, state.averaged):
        layers = output_layers(network)
        assert len({id(layer) for layer in layers}) == 2
        for layer in layers:
            assert layer.bias.detach().softmax(0).numpy() == pytest.approx(shares, rel=1e-5)


NETWORK = {
    "channels": [4, 8, 8],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
}


class TestSpaceToDepth:
    def network(self, **change):
        return build_unet(parse_record(NETWORK | change, NetworkSpec, where="test"), n_inputs=2, n_classes=3)

    def test_a_voxel_comes_out_where_it_went_in(self):
        network = SpaceToDepth(torch.nn.Identity(), (2, 3, 1))
        x = torch.arange(2 * 3 * 4 * 6 * 5.0).reshape(2, 3, 4, 6, 5)
        assert torch.equal(network(x), x)

    def test_the_scores_have_the_patchs_shape_with_and_without_deep_supervision(self):
        network = self.network(space_to_depth=[2, 2, 1], deep_supervision=1)
        x = torch.randn(1, 2, 16, 16, 8)
        assert network.eval()(x).shape == (1, 3, 16, 16, 8)
        outputs = network.train()(x)
        assert [tuple(one.shape) for one in outputs] == [(1, 3, 16, 16, 8), (1, 3, 8, 8, 4)]
        label = torch.randint(0, 3, (1, 1, 16, 16, 8))
        assert on_grid_of(outputs[1], label, None)[0].shape == (1, 1, 8, 8, 4)

    def test_the_patch_must_be_a_multiple_of_the_strides_times_the_block(self):
        assert parse_record(NETWORK | {"space_to_depth": [2, 3, 1]}, NetworkSpec, where="").divisor == (8, 12, 4)

    def test_a_run_with_it_starts_from_one_without_only_where_the_block_is_the_same(self, finished, tmp_path):
        model = models.spec(network=NETWORK | {"space_to_depth": [2, 2, 1]})
        with pytest.raises(ModelError, match=r"space_to_depth \[1, 1, 1\]"):
            carry_over(build_network(model), model, finished)

    def test_structures_are_carried_over_with_all_their_channels(self, data, tmp_path):
        model = models.spec(network=NETWORK | {"space_to_depth": [2, 2, 1]})
        chosen = settings(model=model.model_dump(mode="json"), epochs=1)
        folder = train(chosen, tmp_path, data=data)
        turned = model.model_copy(update={"labels": LabelTable(labels=tuple(reversed(model.labels.labels)))})
        network = build_network(turned)
        carry_over(network, turned, folder)
        old = build_network(model)
        spec = load_model(folder, device="cpu").spec
        load_into(old, folder / "weights.safetensors", sha256=spec.weights.sha256)
        x = torch.randn(1, 1, 16, 24, 8)
        assert torch.allclose(network.eval()(x)[:, [0, 2, 1]], old.eval()(x), atol=1e-5)


class TestLearnedOnly:
    def test_the_model_gives_the_others_where_they_were(self, data, finished, tmp_path):
        chosen = parse_record(settings().model_dump() | {"learned_only": ["front"]}, TrainSettings, where="a test")
        model = train(chosen, tmp_path / "run", data=data)
        spec = load_model(model, device="cpu").spec
        assert [(label.value, label.name) for label in spec.labels] == [(7, "back")]
        assert set(spec.training_domain.volume_ml) == {"back"}
        assert "front" not in (model / "MODEL_CARD.md").read_text()
        assert "dice_front" not in (model / "validation.csv").read_text()
        volume = read_volume(data / "images" / "case_0.nii.gz")
        whole = segment(volume, load_model(finished, device="cpu")).array
        found = segment(volume, load_model(model, device="cpu")).array
        assert set(np.unique(found)) <= {0, 7}
        assert (found[whole == 7] == 7).all()

    @pytest.mark.parametrize("names", [["liver"], ["front", "back"]])
    def test_what_is_no_label_and_all_labels_are_refused(self, names):
        with pytest.raises(ConfigError, match="learned_only"):
            parse_record(settings().model_dump() | {"learned_only": names}, TrainSettings, where="a test")

    def test_pairs_of_sides_go_together_or_stay(self):
        window = {"patch": [16, 24, 8], "mirror_axes": [0], "swap_on_mirror": [["front", "back"]]}
        made = settings().model_dump(mode="json", exclude_none=True)
        made["model"] |= {"window": window}
        with pytest.raises(ConfigError, match="both go, or neither"):
            parse_record(made | {"learned_only": ["front"]}, TrainSettings, where="a test")
        rest = [{"value": 9, "name": "rest", "colour": "#000000"}]
        spec = models.spec(labels={"labels": [*models.spec().labels.model_dump(mode="json")["labels"], *rest]})
        spec = spec.model_copy(update={"window": spec.window.model_validate(window)})
        _, left = without_structures(build_network(spec), spec, ["front", "back"])
        assert (left.labels.names, left.window.swap_on_mirror) == (("rest",), ())

    def test_depth_turned_to_space_keeps_its_places(self):
        deep = {"channels": [8, 16, 16], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "kernels": [[3, 3, 3]] * 3}
        spec = models.spec(network={"kind": "dynunet", "space_to_depth": [2, 2, 1], **deep})
        network = build_network(spec).eval()
        less, left = without_structures(network, spec, ["front"])
        image = torch.randn(1, 1, 16, 16, 16)
        with torch.inference_mode():
            whole, part = network(image), less(image)
        assert left.labels.values == (7,)
        assert torch.equal(whole[:, [0, 2]], part)
        assert whole.shape[1] == 3
