"""Studies that are turned against the patient: onto the patient's axes for the network, and back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

import models
import phantoms
from parity import Blobs, blobs, check, plain, predictor
from voxmetry import Geometry, Predictor, Segmentation, Volume
from voxmetry.config import TrainingDomain
from voxmetry.core.axes import reorientation
from voxmetry.flags.study import flag_input
from voxmetry.nn.grids import is_turned, model_grid, upright_grid
from voxmetry.nn.oblique import Places, sample
from voxmetry.nn.preprocess import normalise, preprocess, preprocess_labels
from voxmetry.nn.slabs import Slab

UPRIGHT = {"obliqueness_degrees": {"low": 0, "high": 0}}


def spec(**change):
    return models.spec(training_domain=UPRIGHT, **change)


def indices(shape):
    return np.moveaxis(np.indices(shape), 0, -1)


class TestGrid:
    @pytest.mark.parametrize("degrees", [(0, 0, 20), (7, -11, 19), (40, 10, -35), (170, 12, 95)])
    @pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR"])
    def test_covers_each_voxel_along_the_patients_axes(self, degrees, orientation):
        native = phantoms.geometry(degrees=degrees)
        grid = upright_grid(native, orientation, (1.0, 1.2, 2.5))
        assert grid.axcodes == orientation
        assert grid.obliqueness_degrees == pytest.approx(0, abs=1e-5)
        assert np.allclose(grid.spacing_mm, (1.0, 1.2, 2.5))
        corners = indices((2, 2, 2)).reshape(-1, 3) * np.array(native.shape) - 0.5
        at = grid.to_ijk(native.to_mm(corners))
        slack = 2e-3 * np.array(grid.shape)
        assert (at >= -0.5 - slack).all()
        assert (at <= np.array(grid.shape) - 0.5 + slack).all()
        # No slice more than is needed.
        assert (at.max(0) - at.min(0) > np.array(grid.shape) - 1.01).all()

    def test_only_where_the_model_has_not_seen_it(self):
        turned = phantoms.geometry(degrees=(0, 0, 20))
        assert is_turned(turned, spec())
        assert not is_turned(phantoms.geometry(degrees=(0, 0, 11.9)), spec())
        assert not is_turned(turned, models.spec())
        seen = {"obliqueness_degrees": {"low": 0, "high": 8.5}}
        assert not is_turned(turned, models.spec(training_domain=seen))
        assert not is_turned(turned, spec(orientation="KJI"))
        assert not is_turned(turned, spec(resampling={"rule": "nnunet"}))
        assert not is_turned(phantoms.geometry(degrees=(90, 0, 90)), spec())


CASES = {
    "anisotropic": {"shape": (41, 37, 23)},
    "smaller than the patch": {"shape": (9, 11, 5)},
    "long": {"shape": (31, 23, 120)},
    "turned far": {"shape": (35, 33, 21), "degrees": (40, 10, -35)},
    "stored in other axes": {"shape": (33, 47, 29), "degrees": (98, 12, 77)},
    "two slices": {"shape": (35, 33, 2)},
}


class TestParity:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_plain_way(self, case, tmp_path):
        volume, made = blobs(phantoms.geometry(**CASES[case])), spec()
        assert is_turned(volume.geometry, made)
        network = Blobs(1, made.n_classes)
        check(predictor(network, made, tmp_path)(volume).array, plain([volume], made, network))

    def test_regions(self, tmp_path):
        made = spec(regions=[7, 2])
        volume, network = blobs(phantoms.geometry(shape=(41, 37, 23))), Blobs(1, 2)
        found = predictor(network, made, tmp_path)(volume)
        prepared = preprocess([volume], made)
        from voxmetry.nn.window import window_scores

        with torch.inference_mode():
            scores = window_scores(network, prepared.tensor, made.window)[0].numpy()
        at = np.moveaxis(prepared.grid.to_ijk(volume.geometry.to_mm(indices(volume.geometry.shape))), -1, 0)
        seven, two = (map_coordinates(score, at, order=1, mode="nearest") > 0 for score in scores)
        check(found.array, np.where(two, 2, np.where(seven, 7, 0)))

    def test_what_lies_upright_is_segmented_as_without_the_rule(self, tmp_path):
        volume = blobs(phantoms.geometry(shape=(41, 37, 23), degrees=(0, 0, 0)))
        network = Blobs(1, 3)
        with_rule = predictor(network, spec(), tmp_path / "a")(volume)
        without = predictor(network, models.spec(), tmp_path / "b")(volume)
        assert np.array_equal(with_rule.array, without.array)

    def test_the_same_patient_turned_gives_the_same_structures(self, tmp_path):
        """A grid that is turned by 25 degrees over the same patient finds what the upright one does."""
        upright = phantoms.geometry(shape=(60, 50, 30), spacing_mm=(1.0, 1.2, 2.5), degrees=(0, 0, 0))
        turned = upright_about(upright, phantoms.rotation((0, 0, 25)))
        volume, made, network = blobs(upright), spec(), Blobs(1, 3)
        image = Volume(sample(volume.array, upright, turned, outside=0), turned)
        predict = predictor(network, made, tmp_path)
        expected = sample(predict(volume).array, upright, turned, outside=0, mode="nearest")
        at = upright.to_ijk(turned.to_mm(indices(turned.shape)))
        inside = ((at > 4) & (at < np.array(upright.shape) - 5)).all(-1)
        found = predict(image).array
        foreground = inside & ((expected > 0) | (found > 0))
        # What is lost was lost when the image was interpolated.
        assert (found == expected)[foreground].mean() > 0.9


def upright_about(grid, rotation):
    affine = np.array(grid.affine)
    affine[:3, :3] = rotation @ grid.affine[:3, :3]
    middle = (np.array(grid.shape) - 1) / 2
    affine[:3, 3] = grid.to_mm(middle) - affine[:3, :3] @ middle
    return Geometry(affine, grid.shape)


class TestPlaces:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("degrees", [(7, -11, 19), (98, 12, 77), (-170, 33, 5), (0, 0, 30)])
    def test_each_voxel_comes_once_whatever_the_slabs(self, axis, degrees, monkeypatch):
        monkeypatch.setattr("voxmetry.nn.oblique.LOT", 700)
        native = phantoms.geometry(shape=(13, 17, 11), degrees=degrees)
        grid = model_grid(native, spec())
        places = Places(grid, native)
        count = np.zeros(native.shape, int)
        start = 0
        while start < grid.shape[axis]:
            size = [*grid.shape]
            stop = min(start + 4, grid.shape[axis])
            first = max(0, start - 1)
            size[axis] = stop - first
            slab = Slab(axis, first, start, torch.zeros(2, *size), torch.ones(size))
            for lot in places.reached(slab):
                np.add.at(count, lot.voxels, 1)
                at = lot.low.double() + lot.share
                at[:, axis] += first
                mm = native.to_mm(np.stack(lot.voxels, -1))
                expected = np.clip(grid.to_ijk(mm), 0, np.array(grid.shape) - 1)
                assert np.abs(at.numpy() - expected).max() < 1e-4
                assert ((lot.low + (lot.share > 0)) < torch.tensor(size)).all()
            start = stop
        assert (count == 1).all()


class TestInput:
    def test_the_mean_is_the_studys_own_and_corners_are_nothing(self):
        volume, made = blobs(phantoms.geometry(shape=(41, 37, 23), degrees=(0, 0, 30))), spec()
        prepared = preprocess([volume], made)
        own = normalise(volume.array, made.inputs[0])
        at = prepared.grid.to_ijk(volume.geometry.to_mm((np.array(volume.geometry.shape) - 1) / 2))
        assert np.allclose(at, (np.array(prepared.grid.shape) - 1) / 2)
        ijk = volume.geometry.to_ijk(prepared.grid.to_mm(indices(prepared.grid.shape)))
        beyond = ((ijk < -1) | (ijk > np.array(volume.geometry.shape))).any(-1)
        inside = ((ijk > 0) & (ijk < np.array(volume.geometry.shape) - 1)).all(-1)
        found = prepared.tensor[0, 0].numpy()
        assert beyond.sum() > 1000
        assert (found[beyond] == 0).all()
        expected = map_coordinates(own, np.moveaxis(ijk, -1, 0), order=1, mode="nearest")
        assert np.abs(found - expected)[inside].max() < 1e-3

    def test_round_a_ct_there_is_air(self):
        window = {"method": "window", "low": -1024, "high": 976, "mean": 0, "sd": 1000}
        made = spec(inputs=[{"name": "ct", "modality": "CT", "normalise": window}])
        grid = phantoms.geometry(shape=(30, 30, 12), degrees=(0, 0, 40))
        prepared = preprocess([Volume(np.full(grid.shape, 40, np.int16), grid, "HU")], made)
        assert prepared.tensor.min() == pytest.approx(-1.024, abs=1e-5)
        assert prepared.tensor.max() == pytest.approx(0.04, abs=1e-5)

    def test_labels_follow_the_image(self):
        grid, made = phantoms.geometry(shape=(40, 40, 20), degrees=(0, 0, 25)), spec()
        array = np.zeros(grid.shape, np.uint8)
        array[10:30, 10:30, 5:15] = 7
        found = preprocess_labels(Segmentation(array, grid, made.labels), made)
        target = model_grid(grid, made)
        assert found.shape == target.shape
        ijk = np.floor(grid.to_ijk(target.to_mm(indices(target.shape))) + 0.5)
        expected = ((ijk >= (10, 10, 5)) & (ijk < (30, 30, 15))).all(-1) * 2
        # A place on the face between two voxels may go either way.
        assert (found == expected).mean() > 0.999
        assert (found == 2).sum() > 1000


def test_maps_hold_the_interpolated_scores(tmp_path):
    volume, made, network = blobs(phantoms.geometry(shape=(41, 37, 23))), spec(), Blobs(1, 3)
    predict = predictor(network, made, tmp_path / "model")
    labels = predict(volume, maps=["probabilities", "entropy"], maps_to=tmp_path / "maps")
    odds = np.asarray(nib.load(tmp_path / "maps" / "probabilities.nii").dataobj)
    assert odds.shape == (*volume.geometry.shape, 3)
    assert np.abs(odds.sum(-1) - 1).max() < 1e-4
    chosen = np.array([0, 2, 7])[odds.argmax(-1)]
    close = np.sort(odds, -1)[..., -1] - np.sort(odds, -1)[..., -2] < 2e-5
    assert ((chosen == labels.array) | close).all()
    entropy = np.asarray(nib.load(tmp_path / "maps" / "entropy.nii").dataobj)
    assert np.allclose(entropy, -(odds * np.log(odds.clip(1e-9))).sum(-1), atol=2e-3)


def test_a_note_says_so_and_review_is_not_asked_for():
    _, oriented = reorientation(phantoms.geometry(degrees=(0, 0, 16)), "RAS")
    (flag,) = flag_input(oriented, spec())
    assert (flag.code, flag.severity) == ("turned_upright", "note")
    assert "16 degrees" in flag.message
    assert not flag_input(oriented, models.spec(training_domain=TrainingDomain().model_dump()))


def test_what_it_takes_is_predicted(tmp_path):
    """The upright grid is larger than the study's own, and the plan says so."""
    made = Predictor(models.write(tmp_path / "a", training_domain=UPRIGHT), device="cpu")
    straight = phantoms.volume(phantoms.geometry(shape=(200, 200, 40), degrees=(0, 0, 0)))
    turned = phantoms.volume(phantoms.geometry(shape=(200, 200, 40), degrees=(0, 0, 45)))
    small, large = (made.plan(volume).parts["network input"] for volume in (straight, turned))
    assert large > 1.8 * small


def test_nothing_found_is_an_empty_label_map(tmp_path):
    """No voxel whose neighbours disagree, so that there are no scores to interpolate."""

    class Background(torch.nn.Module):
        def forward(self, x):
            return torch.cat([torch.ones_like(x), torch.zeros_like(x), torch.zeros_like(x)], dim=1)

    volume = blobs(phantoms.geometry(shape=(41, 37, 23)))
    found = predictor(Background(), spec(), tmp_path / "model")(volume, maps=["entropy"], maps_to=tmp_path / "maps")
    assert found.array.shape == volume.geometry.shape
    assert not found.array.any()
