import errno
import json
import os

import nibabel as nib
import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, save
from voxmetry.cli import run
from voxmetry.core.axes import reorientation
from voxmetry.errors import ConfigError, InferenceError, OutputError
from voxmetry.nn.grids import interpolate, positions
from voxmetry.nn.mirroring import averaged
from voxmetry.nn.uncertainty_maps import with_disagreement
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


def stored(folder, name):
    """What a viewer sees of a map."""
    return nib.load(folder / f"{name}.nii").get_fdata(dtype=np.float32)


def test_probabilities_and_entropy_equal_those_of_whole_scores(ensemble, volume, tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.nn.uncertainty_maps.BLOCK_VALUES", 20_000)
    found = ensemble(volume, maps=["probabilities", "entropy"], maps_to=tmp_path)
    odds = np.moveaxis(stored(tmp_path, "probabilities"), 3, 0)
    expected = odds_by_hand(ensemble, volume)
    assert odds.shape == (3, *SHAPE)
    assert np.abs(odds - expected).max() < 2e-5
    entropy = stored(tmp_path, "entropy")
    assert np.abs(entropy + (expected * np.log(expected)).sum(0)).max() < 3e-5
    clear = np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2] > 0.01
    assert np.array_equal(np.array([0, 2, 7])[odds.argmax(0)][clear], found.array[clear])
    said = json.loads((tmp_path / "maps.json").read_text())
    assert said["classes"] == ["background", "front", "back"]
    assert set(said["maps"]) == {"probabilities", "entropy"}
    header = nib.load(tmp_path / "probabilities.nii").header
    assert header.get_data_dtype().itemsize == 2
    assert np.allclose(header.get_best_affine(), volume.geometry.affine, atol=1e-4)


def test_disagreement_is_0_where_members_agree_and_not_where_they_do_not(ensemble, volume, tmp_path):
    ensemble(volume, maps=["disagreement"], maps_to=tmp_path / "two")
    assert stored(tmp_path / "two", "disagreement").max() > 0.01
    same = models.replace(ensemble.model, members=ensemble.model.members[:1] * 2)
    found = Predictor(same)(volume, maps=["disagreement"], maps_to=tmp_path / "same")
    assert stored(tmp_path / "same", "disagreement").max() < 1e-3
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


def test_a_disk_without_room_is_found_before_the_network_runs(ensemble, volume, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def never(_):
        raise AssertionError("the network ran")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    idle = Predictor(models.replace(ensemble.model, members=(never, never)))
    with pytest.raises(OutputError, match="disk is full"):
        idle(volume, maps=["entropy"], maps_to=tmp_path / "maps")
    assert list((tmp_path / "maps").iterdir()) == []


def test_a_file_system_that_cannot_reserve_gets_the_size_alone(ensemble, volume, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    ensemble(volume, maps=["entropy"], maps_to=tmp_path)
    assert stored(tmp_path, "entropy").max() > 0


def test_slabs_follow_the_axis_that_runs_slowest_in_the_file_unless_the_ring_would_be_much_larger(ensemble):
    for shape, axis in (((50, 30, 50), 2), ((50, 30, 100), 2), ((60, 50, 20), 0)):
        volume = phantoms.volume(phantoms.geometry(shape=shape, spacing_mm=(1.0, 1.2, 2.5), degrees=(0, 0, 0)))
        assert ensemble.plan(volume).how.axis == axis
        assert ensemble.plan(volume, maps=["entropy"]).how.axis == axis


class TestSameAnswer:
    """Asking for a map changes no label: not by the direction of slabs, nor the ring's type, nor the order of sums."""

    MAPS = (["probabilities"], ["entropy"], ["disagreement"], ["probabilities", "entropy", "disagreement"])

    @pytest.mark.parametrize("shape", [SHAPE, (50, 30, 20), (20, 30, 60)])
    @pytest.mark.parametrize("mirror_axes", [[], [0, 2]])
    @pytest.mark.parametrize("precision", ["float32", "bf16"])
    def test_labels_are_the_same_bytes(self, shape, mirror_axes, precision, tmp_path):
        change = {"members": 3, "window": {"patch": [16, 24, 8], "overlap": 0.5, "mirror_axes": mirror_axes}}
        ready = Predictor(models.write(tmp_path / "model", **change), device="cpu", precision=precision)
        volume = phantoms.volume(phantoms.geometry(shape=shape))
        expected = ready(volume).array
        for maps in self.MAPS[2:]:
            assert np.array_equal(ready(volume, maps=maps, maps_to=tmp_path / "maps").array, expected)

    def test_the_sums_of_an_ensemble_are_the_same_to_the_last_digit(self):
        generator = torch.Generator().manual_seed(0)
        members = tuple(torch.nn.Conv3d(1, 3, 3, padding=1) for _ in range(5))
        patches = torch.randn(2, 1, 8, 8, 8, generator=generator)
        with torch.inference_mode():
            for mirror_axes in ((), (0, 1)):
                expected = averaged(members, mirror_axes)(patches)
                found = with_disagreement(members, mirror_axes)(patches)
                assert torch.equal(found[:, :3], expected)

    def test_memory_that_holds_the_study_but_not_the_maps_is_a_refusal_not_a_narrower_ring(self, ensemble, monkeypatch):
        volume = phantoms.volume(phantoms.geometry(shape=SHAPE))
        monkeypatch.setattr("voxmetry.nn.memory.resident_bytes", lambda: 10**8)
        plain, with_maps = (ensemble.plan(volume, maps=maps) for maps in ([], ["probabilities"]))
        assert (plain.how, with_maps.how.dtype) == (with_maps.how, torch.float32)
        between = Predictor(ensemble.model, memory_gb=(plain.needed + with_maps.needed) / 2e9)
        assert between.plan(volume).how.dtype is torch.float32
        with pytest.raises(InferenceError, match="leave out --maps"):
            between.plan(volume, maps=["probabilities"])


class TestVerb:
    def segment(self, tmp_path, capsys, *options):
        image = tmp_path / "image.nii.gz"
        save(phantoms.volume(phantoms.geometry(shape=SHAPE)), image)
        model = models.write(tmp_path / "model", members=2)
        words = ["segment", str(image), "-m", str(model), "-o", str(tmp_path / "out"), "--report", "none", "--json"]
        code = run([*words, *options])
        return code, json.loads(capsys.readouterr().out)

    def test_writes_them_beside_the_result_and_lists_them(self, tmp_path, capsys):
        code, result = self.segment(
            tmp_path, capsys, "--maps", "entropy", "--maps", "disagreement", "--maps", "probabilities"
        )
        assert code in (0, 3)
        names = ["probabilities.nii", "entropy.nii", "disagreement.nii", "maps.json"]
        assert [name for name in result["files"].values() if name in names] == names
        odds = stored(tmp_path / "out", "probabilities")
        labels = np.asarray(nib.load(tmp_path / "out" / "seg.nii.gz").dataobj)
        first, second = np.sort(odds, axis=-1)[..., [-1, -2]].T
        sure = (first - second > 0.001).T
        assert sure.mean() > 0.9
        assert np.array_equal(np.array([0, 2, 7])[odds.argmax(-1)][sure], labels[sure])

    def test_a_rerun_without_them_removes_the_earlier_ones(self, tmp_path, capsys):
        self.segment(tmp_path, capsys, "--maps", "entropy")
        code, result = self.segment(tmp_path, capsys, "--overwrite")
        assert code in (0, 3)
        assert not {"entropy.nii", "maps.json"} & (
            {*result["files"].values()} | {path.name for path in (tmp_path / "out").iterdir()}
        )

    def test_an_unknown_one_is_wrong_usage(self, tmp_path, capsys):
        code, said = self.segment(tmp_path, capsys, "--maps", "doubt")
        assert code == 2
        assert "'probabilities', 'entropy' or 'disagreement'" in said["found"]

    def test_refuses_those_of_a_baseline_before_it_reads(self, tmp_path, capsys):
        baseline = "configs/models/otsu.yaml"
        code = run(["segment", "nowhere.nii", "-m", baseline, "-o", str(tmp_path / "out"), "--maps", "entropy"])
        assert code == 2
        assert "decides by thresholds" in capsys.readouterr().err
