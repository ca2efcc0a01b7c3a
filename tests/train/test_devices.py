import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models
from cases import train_settings as settings
from cases import write_cases
from voxmetry.cli import run
from voxmetry.config import dump_yaml
from voxmetry.errors import ConfigError
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.runtime import choose_for_training
from voxmetry.train import train
from voxmetry.train.batches import batches
from voxmetry.train.dataset import open_data
from voxmetry.train.devices import open_fabric
from voxmetry.train.folds import hold_out
from voxmetry.train.labelled_cases import load_case
from voxmetry.train.losses import build_loss
from voxmetry.train.schedule import learning_rate
from voxmetry.train.step import GRADIENT_CLIP

SRC, TESTS = Path(__file__).parents[2] / "src", Path(__file__).parents[1]


def plain_training(chosen, data):
    """The averaged weights by the same steps in torch alone."""
    found = open_data(data)
    names, _ = hold_out(found, chosen)
    cases = [load_case(case, found, chosen.model) for case in found.select(names).cases]
    torch.manual_seed(chosen.seed)
    network, averaged = build_network(chosen.model), build_network(chosen.model)
    averaged.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=chosen.weight_decay)
    criterion = build_loss(chosen.loss)
    steps, step = math.ceil(len(cases) / chosen.batch_size), 0
    for epoch in range(chosen.epochs):
        for image, label, *_ in batches(cases, chosen, epoch=epoch):
            optimiser.param_groups[0]["lr"] = learning_rate(step, chosen.epochs * steps, chosen.learning_rate)
            with torch.autocast("cpu", torch.bfloat16, enabled=chosen.precision == "bf16"):
                output = network(image)
            optimiser.zero_grad()
            criterion(output.float(), label).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
            optimiser.step()
            keep = min(chosen.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)
            step += 1
    return averaged.state_dict()


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_one_process_gives_the_weights_of_a_loop_in_torch_alone(precision, tmp_path):
    data, chosen = write_cases(tmp_path / "data"), settings(precision=precision, epochs=2)
    train(chosen, tmp_path / "run", data=data)
    made = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["averaged"]
    wanted = plain_training(chosen, data)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in made.items())


def test_the_shares_of_a_batch_are_together_the_batch_of_one_process(tmp_path):
    data = open_data(write_cases(tmp_path))
    cases = [load_case(case, data, models.spec()) for case in data.cases]

    def images(**share):
        return [batch.image for batch in batches(cases, settings(batch_size=4), epoch=1, **share)]

    parts = zip(images(share=(0, 2)), images(share=(1, 2)), strict=True)
    assert all(torch.equal(torch.cat(pair), whole) for pair, whole in zip(parts, images(), strict=True))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="set batch_size to 8"):
        open_fabric(settings(batch_size=6), choose_for_training("cpu", "float32"))


def test_training_without_its_packages_is_told_before_anything_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    data = write_cases(tmp_path / "data")
    assert run(["train", str(data), "-o", str(tmp_path / "run"), "--epochs", "1", "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert "lightning-fabric is not installed" in told
    assert 'pip install "voxmetry[train]"' in told
    assert not (tmp_path / "run").exists()


RECORDING = """
import hashlib, json, sys
from pathlib import Path
from voxmetry.config import TrainSettings, load_yaml
from voxmetry.io import atomic
from voxmetry.train import loop

config, data, out, notes = map(Path, sys.argv[1:])
kept, written, whole, begin = [], [], atomic.write_bytes, loop.begin
loop.begin = lambda *a, **k: kept.append(begin(*a, **k)) or kept[0]
atomic_path = atomic.atomic_path
atomic.atomic_path = lambda path: written.append(Path(path).name) or atomic_path(path)
loop.train(load_yaml(config, TrainSettings), out, data=data)
state = kept[0]
weights = b"".join(p.detach().numpy().tobytes() for p in state.network.parameters())
(notes / f"{state.fabric.global_rank}.json").write_text(
    json.dumps({"weights": hashlib.sha256(weights).hexdigest(), "written": written})
)
"""


def two_processes(chosen, data, folder):
    """Train by two processes into a folder; return what each says of itself."""
    notes = folder / "notes"
    notes.mkdir()
    config, script = folder / "train.yaml", folder / "record.py"
    config.write_text(dump_yaml(chosen), encoding="utf-8")
    script.write_text(RECORDING, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": f"{SRC}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(script), str(config), str(data), str(folder / "both"), str(notes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads((notes / f"{rank}.json").read_text()) for rank in (0, 1))


@pytest.mark.slow
def test_two_processes_that_pass_their_batches_in_parts_end_with_equal_weights(tmp_path):
    """Gradients are then averaged by the step itself, not by hooks of DDP."""
    data, chosen = write_cases(tmp_path / "data"), settings(epochs=1, batch_size=4, accumulate=2, precision="float32")
    first, second = two_processes(chosen, data, tmp_path)
    assert first["weights"] == second["weights"]
    alone = load_file(train(chosen, tmp_path / "alone", data=data) / "weights.safetensors")
    both = load_file(tmp_path / "both" / "model" / "weights.safetensors")
    assert all(torch.allclose(both[name], tensor, atol=2e-2) for name, tensor in alone.items())


@pytest.mark.slow
def test_two_processes_end_with_equal_weights_and_the_first_alone_writes(tmp_path):
    data = write_cases(tmp_path / "data")
    first, second = two_processes(settings(epochs=2), data, tmp_path)
    assert first["weights"] == second["weights"]
    assert set(second["written"]) == {"entry.json"}, "its share of the prepared cases, and nothing else"
    assert {"checkpoint.pt", "log.csv", "model.yaml", "validation.csv"} <= set(first["written"])
    alone = train(settings(epochs=2), tmp_path / "alone", data=data)
    both = load_file(tmp_path / "both" / "model" / "weights.safetensors")
    # The Dice of a batch is not the mean of its halves' Dice, so the steps are nearly the same, not quite.
    for name, tensor in load_file(alone / "weights.safetensors").items():
        assert torch.allclose(both[name], tensor, atol=2e-2), name
