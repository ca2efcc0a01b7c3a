import json

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor
from voxmetry.errors import ConfigError
from voxmetry.nn.grids import interpolate, positions, reorientation
from voxmetry.nn.window import window_scores

SHAPE = (41, 37, 23)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return Predictor(models.write(tmp_path_factory.mktemp("model"), members=2), device="cpu")


@pytest.fixture(scope="module")
def volume():
    return phantoms.volume(phantoms.geometry(shape=SHAPE, degrees=(0, 0, 90)))


def odds_by_hand(predictor, volume):
    """Probabilities (n_classes, I, J, K) from scores that are held whole."""
    prepared = predictor.prepare(volume)

    def mean(patches):
        return sum(member(patches) for member in predictor.model.members) / 2

    scores = window_scores(mean, prepared.tensor, predictor.spec.window)[0]
    moved, oriented = reorientation(volume.geometry, predictor.spec.orientation)
    for axis, at in enumerate(positions(prepared.grid, oriented), start=1):
        scores = interpolate(scores, at, axis)
    return np.stack([moved.inverse(channel) for channel in scores.softmax(0).numpy()])


def test_probabilities_and_entropy_equal_those_of_whole_scores(ensemble, volume, tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.nn.maps.BLOCK_VALUES", 20_000)
    found = ensemble(volume, maps=["probabilities", "entropy"], maps_to=tmp_path)
    odds = np.load(tmp_path / "probabilities.npy")
    expected = odds_by_hand(ensemble, volume)
    assert odds.dtype == np.float16
    assert odds.shape == (3, *SHAPE)
    assert np.abs(odds - expected).max() < 2e-3
    entropy = np.load(tmp_path / "entropy.npy")
    assert np.abs(entropy + (expected * np.log(expected)).sum(0)).max() < 3e-3
    clear = np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2] > 0.01
    assert np.array_equal(np.array([0, 2, 7])[odds.argmax(0)][clear], found.array[clear])
    said = json.loads((tmp_path / "maps.json").read_text())
    assert said["classes"] == ["background", "front", "back"]
    assert np.array_equal(said["affine_to_ras_mm"], volume.geometry.affine)


def test_disagreement_is_0_where_members_agree_and_not_where_they_do_not(ensemble, volume, tmp_path):
    ensemble(volume, maps=["disagreement"], maps_to=tmp_path / "two")
    assert np.load(tmp_path / "two" / "disagreement.npy").max() > 0.01
    same = models.replace(ensemble.model, members=ensemble.model.members[:1] * 2)
    found = Predictor(same)(volume, maps=["disagreement"], maps_to=tmp_path / "same")
    assert np.load(tmp_path / "same" / "disagreement.npy").max() < 1e-3
    assert np.array_equal(found.array, Predictor(same)(volume).array)


def test_one_network_cannot_disagree_and_unknown_maps_are_refused(tmp_path, volume):
    single = Predictor(models.write(tmp_path), device="cpu")
    with pytest.raises(ConfigError, match="disagreement"):
        single(volume, maps=["disagreement"], maps_to=tmp_path)
    with pytest.raises(ConfigError, match="uncertainty"):
        single(volume, maps=["uncertainty"], maps_to=tmp_path)


def test_a_failure_leaves_no_map_behind(ensemble, volume, tmp_path):
    def broken(patches):
        return torch.full((len(patches), 3, *patches.shape[2:]), torch.nan)

    failing = Predictor(models.replace(ensemble.model, members=(broken, broken)))
    with pytest.raises(Exception, match="not finite"):
        failing(volume, maps=["entropy"], maps_to=tmp_path / "maps")
    assert list((tmp_path / "maps").iterdir()) == []
