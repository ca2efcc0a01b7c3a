import json

import numpy as np
import pytest
import torch

import models
from cases import write_cases
from voxmetry import load_model, read_volume, segment
from voxmetry.cli import run
from voxmetry.config import CleanStep
from voxmetry.errors import ConfigError
from voxmetry.models import read_spec
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import load_into
from voxmetry.train.dataset import open_data
from voxmetry.train.ensemble import (
    PostProcessingChoice,
    candidates,
    choose_clean,
    fold_models,
    rank,
    write_clean,
    write_ensemble,
)


@pytest.fixture
def folder(tmp_path):
    return write_cases(tmp_path / "phantoms-mr", 4)


@pytest.fixture
def folds(tmp_path):
    held_out = [["case_0", "case_2"], ["case_1", "case_3"]]
    for fold, names in enumerate(held_out):
        made = models.write(tmp_path / "run" / f"fold-{fold}" / "model", seed=fold)
        split = {"training": held_out[1 - fold], "validation": names}
        (made / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return tmp_path / "run"


def network_of(path):
    spec = read_spec(path)
    network = build_network(spec).eval()
    load_into(network, path / spec.weights.file, sha256=spec.weights.sha256)
    return network


def test_the_scores_are_the_mean_of_the_folds(folds, folder, tmp_path):
    made = load_model(write_ensemble(folds, tmp_path / "made"), device="cpu")
    assert made.spec.members == 2
    patch = torch.randn(1, 1, 16, 24, 8)
    with torch.no_grad():
        parts = [network_of(path)(patch) for path in fold_models(folds)]
        assert torch.allclose(network_of(tmp_path / "made")(patch), (parts[0] + parts[1]) / 2, atol=1e-5)
    volume = read_volume(folder / "images" / "case_0.nii.gz")
    assert segment(volume, made).geometry.is_same(volume.geometry)
    split = json.loads((tmp_path / "made" / "split.json").read_text(encoding="utf-8"))
    assert split["training"] == ["case_0", "case_1", "case_2", "case_3"]


def test_one_fold_or_unequal_folds_are_refused(folds, tmp_path):
    other = {"channels": [4, 8, 12], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}
    models.write(folds / "fold-1" / "model", network=other)
    with pytest.raises(ConfigError, match="different networks"):
        write_ensemble(folds, tmp_path / "made")
    with pytest.raises(ConfigError, match="0 finished folds"):
        write_ensemble(tmp_path / "none", tmp_path / "made")


def choice(name, front, back):
    return PostProcessingChoice(name, candidates(["front", "back"])[name], {"front": front, "back": back})


def test_a_clean_up_is_taken_only_where_it_gains_and_no_structure_loses():
    nothing = choice("nothing", 0.8, 0.8)
    gains = choice("fill holes", 0.81, 0.80)
    loses = choice("largest part of each structure", 0.9, 0.79)
    little = choice("drop parts below 1 mL", 0.8005, 0.8)
    assert rank([nothing, loses, gains, little])[0] is gains
    assert rank([nothing, loses, little])[0] is nothing


def test_recipes_are_judged_on_the_cases_that_each_fold_held_out(folds, folder, monkeypatch):
    """The true label with a far speck in place of a network: the largest part is right, and nothing else is."""
    from voxmetry import Segmentation
    from voxmetry.nn import Predictor

    labels = iter(sorted((folder / "labels").iterdir(), key=lambda path: "0213".index(path.name[5])))

    def truth_with_specks(self, prepared, **_):
        from voxmetry import read_segmentation

        label = read_segmentation(next(labels))
        array = np.array(label.array)
        array[0, 20:, 6:] = 2
        array[0, :3, 6:] = 7
        return Segmentation(array, label.geometry, label.labels)

    monkeypatch.setattr(Predictor, "run", truth_with_specks)
    found = choose_clean(folds, open_data(folder), device="cpu")
    assert found[0].name in ("largest part of each structure", "largest part, fill holes")
    assert found[0].mean == pytest.approx(1.0)


def test_the_verb_writes_the_chosen_clean_up(folds, folder, tmp_path, capsys):
    other = models.write(tmp_path / "all" / "model", clean=[{"step": "drop_small", "min_volume_ml": 0.5}])
    command = ["ensemble", str(folds), "-o", str(tmp_path / "made"), "--clean-into", str(other), "--json"]
    assert run(command) == 2
    assert "add --data" in capsys.readouterr().err
    assert run([*command, "--data", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["choices"]) == 7
    steps = candidates(["front", "back"])[told["choices"][0]["clean"]]
    assert read_spec(tmp_path / "made").clean == steps
    assert read_spec(other).clean == steps
    assert load_model(other, device="cpu").spec.weights is not None


def test_a_clean_up_of_structures_that_a_model_lacks_is_refused(tmp_path):
    other = models.write(tmp_path / "model")
    before = (other / "model.yaml").read_bytes()
    with pytest.raises(ConfigError, match="spleen"):
        write_clean(other, [CleanStep(step="largest", labels=("spleen",))])
    assert (other / "model.yaml").read_bytes() == before
