"""The last digits of an affine decide nothing: voxel sizes that are compared are those that a header states."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

import models
import phantoms
from voxmetry import Geometry, read_volume
from voxmetry.config import Resampling, TrainingDomain
from voxmetry.nn.grids import edge_grid, is_turned, model_grid, thick_axis

NNUNET = Resampling(rule="nnunet")


def oblique(spacing_mm, *, shape=(20, 22, 12), degrees=(0, 0, 8), noise=0.0, seed=0):
    """A grid as a NIfTI header holds it: an affine in float32, and noise of some share of each of its numbers."""
    made = phantoms.geometry(shape=shape, spacing_mm=spacing_mm, degrees=degrees)
    affine = np.array(made.affine)
    affine[:3, :3] *= 1 + noise * np.random.default_rng(seed).normal(size=(3, 3))
    return Geometry(affine.astype(np.float32).astype(float), shape)


TURNS = [(0, 0, 0), (0, 0, 8), (7, -11, 19), (33, 21, -40), (90, 0, 90)]


class TestNominalSpacing:
    @pytest.mark.parametrize("degrees", TURNS)
    @pytest.mark.parametrize("spacing_mm", [(1, 1, 3), (0.8, 0.8, 2.4), (0.9765625, 0.9765625, 5), (0.732422, 1.25, 4)])
    def test_is_what_the_header_states_in_float32(self, spacing_mm, degrees):
        found = oblique(spacing_mm, degrees=degrees).nominal_spacing_mm
        assert found == tuple(float(np.float32(mm)) for mm in spacing_mm)

    def test_a_stated_size_wins_unless_it_contradicts_the_affine(self):
        affine = np.diag([1.0004, 1.0, 3.0, 1.0])
        assert Geometry(affine, (2, 2, 2), None, (1.0, 1.0, 3.0)).nominal_spacing_mm == (1.0, 1.0, 3.0)
        assert Geometry(affine, (2, 2, 2), None, (2.0, 1.0, 3.0)).nominal_spacing_mm[0] == np.float32(1.0004)

    @pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
    def test_the_readers_hand_on_what_the_file_states(self, suffix, tmp_path):
        affine = np.round(oblique((1, 1, 3)).affine, 3)
        file = nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), affine)
        file.header.set_xyzt_units("mm")
        file.header["pixdim"][1:4] = (1, 1, 3)
        nibabel.save(file, tmp_path / "a.nii.gz")
        if suffix == ".mha":
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.mha"))
        read = read_volume(tmp_path / f"a{suffix}").geometry
        assert read.nominal_spacing_mm == (1, 1, 3)

    def test_at_45_degrees_the_axes_are_named_the_same_whatever_the_last_digit(self):
        found = {oblique((1, 1, 2), degrees=(0, 0, 45), noise=1e-9, seed=seed).axcodes for seed in range(20)}
        assert len(found) == 1


class TestGrids:
    @pytest.mark.parametrize("degrees", TURNS)
    @pytest.mark.parametrize("spacing_mm", [(1, 1, 3), (1.25, 1.25, 0.4), (3, 1, 1), (0.8, 0.8, 2.4)])
    def test_thick_slices_are_found_whatever_the_angle(self, spacing_mm, degrees):
        upright = Geometry(np.diag([*(np.float32(spacing_mm)), 1.0]), (9, 9, 9))
        turned = oblique(spacing_mm, degrees=degrees)
        apart = [thick_axis(grid.nominal_spacing_mm, (1.5, 1.5, 1.5), NNUNET) for grid in (upright, turned)]
        assert apart[0] == apart[1]

    @pytest.mark.parametrize("degrees", TURNS)
    @pytest.mark.parametrize(("size", "expected"), [(25, 38), (27, 40), (23, 34)])
    def test_half_a_voxel_is_rounded_to_even_as_nnunet_does(self, size, expected, degrees):
        grid = oblique((1.5, 1.5, 1.5), shape=(size, size, size), degrees=degrees)
        assert edge_grid(grid, (1.0, 1.0, 1.0)).shape == (expected,) * 3

    @pytest.mark.parametrize("seed", range(10))
    def test_the_centred_grid_does_not_hang_on_the_last_digit(self, seed):
        made = models.spec(spacing_mm=[1.0, 2.0, 2.0])
        grid = oblique((1.001, 1.0, 1.0), shape=(21, 25, 27), degrees=(0, 0, 5), noise=2e-8, seed=seed)
        assert model_grid(grid, made).shape == (21, 12, 14)

    @pytest.mark.parametrize("shape", [(6, 8, 12), (7, 10, 11), (30, 14, 16)])
    @pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 8), (7, -11, 19)])
    def test_the_monai_grid_has_the_shape_of_monais_spacing(self, shape, degrees):
        grid = oblique((1.0, 1.0, 1.5), shape=shape, degrees=degrees)
        image = MetaTensor(np.zeros((1, *shape), np.float32), affine=np.array(grid.affine))
        expected = Spacing(pixdim=(2.0, 2.0, 3.0))(Orientation("RAS", labels=None)(image)).shape[1:]
        made = models.spec(spacing_mm=[2.0, 2.0, 3.0], resampling={"rule": "monai"})
        assert model_grid(grid, made).shape == tuple(expected)

    @pytest.mark.parametrize("seed", range(10))
    def test_a_study_at_the_very_margin_is_taken_as_it_is(self, seed):
        seen = TrainingDomain(obliqueness_degrees={"low": 0, "high": 0})
        grid = oblique((1, 1, 1), degrees=(0, 0, 12), noise=1e-8, seed=seed)
        assert not is_turned(grid, models.spec(training_domain=seen))
