import numpy as np
import pytest

import models
import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, Volume
from voxmetry.config import InputSpec, Normalise
from voxmetry.core.axes import reorientation
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.grids import model_grid
from voxmetry.nn.preprocess import normalise, preprocess, preprocess_labels, resample_to

ORIENTATIONS = ["RAS", "LPS", "ASR", "SLA", "PIR", "IRP"]


def stored_as(volume: Volume, codes: str) -> Volume:
    """The same voxels at the same places, stored with the axes `codes`."""
    moved, grid = reorientation(volume.geometry, codes)
    return Volume(np.ascontiguousarray(moved.forward(volume.array)), grid, volume.unit)


class TestReorientation:
    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_each_voxel_stays_where_it_was(self, codes):
        volume = phantoms.volume()
        moved, grid = reorientation(volume.geometry, codes)
        array = moved.forward(volume.array)
        assert grid.axcodes == codes
        bright = np.argwhere(array == 1000)[0]
        assert np.allclose(grid.to_mm(bright), volume.geometry.to_mm(phantoms.MARK), atol=1e-9)

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_inverse_gives_the_array_back(self, codes):
        volume = phantoms.volume()
        moved, _ = reorientation(volume.geometry, codes)
        assert np.array_equal(moved.inverse(moved.forward(volume.array)), volume.array)


class TestModelGrid:
    def test_keeps_the_centre_and_covers_the_field_of_view(self):
        grid = phantoms.geometry()
        target = model_grid(grid, models.spec())
        assert np.allclose(target.spacing_mm, (1.0, 1.2, 2.5))
        middles = [g.to_mm((np.array(g.shape) - 1) / 2) for g in (grid, target)]
        assert np.allclose(*middles, atol=1e-9)
        assert np.all(np.abs(np.array(target.extent_mm) - grid.extent_mm) <= np.array(target.spacing_mm) / 2 + 1e-9)

    def test_keeps_the_voxels_where_the_spacing_is_the_models(self):
        grid = phantoms.geometry(spacing_mm=(1.0, 1.2, 2.5001))
        assert model_grid(grid, models.spec()).shape == grid.shape

    def test_a_single_slice_stays_one(self):
        grid = phantoms.geometry(shape=(20, 30, 1), spacing_mm=(1.0, 1.2, 1.0))
        assert model_grid(grid, models.spec()).shape[2] == 1


class TestPreprocess:
    def test_axes_stored_otherwise_give_bitwise_the_same_input(self):
        volume = phantoms.volume(phantoms.geometry(spacing_mm=(1.0, 1.2, 2.5)))
        expected = preprocess([volume], models.spec()).tensor
        for codes in ORIENTATIONS:
            assert np.array_equal(preprocess([stored_as(volume, codes)], models.spec()).tensor, expected)

    def test_resampling_reproduces_a_linear_ramp(self):
        grid = phantoms.geometry()
        ramp = np.fromfunction(lambda i, j, k: 3.0 * i - 2.0 * j + 5.0 * k, grid.shape)
        target = model_grid(grid, models.spec())
        found = resample_to(ramp, grid, target, "RAS")
        ijk = grid.to_ijk(target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
        inside = ((ijk >= 0) & (ijk <= np.array(grid.shape) - 1)).all(-1)
        assert inside.sum() > 500
        assert np.allclose(found[inside], (ijk @ [3.0, -2.0, 5.0])[inside], atol=1e-3)

    def test_a_second_channel_on_its_own_grid_lands_on_the_first(self):
        first = phantoms.volume(phantoms.geometry(spacing_mm=(1.0, 1.2, 2.5)))
        grid = phantoms.geometry(shape=(30, 35, 20), spacing_mm=(0.7, 0.9, 1.9), origin_mm=(-36.0, 18.0, 99.0))
        along_x = grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 0]
        channel = {"name": "a", "modality": "MR", "normalise": {"method": "window", "low": -100, "high": 100}}
        spec = models.spec(inputs=[channel, channel | {"name": "b"}])
        prepared = preprocess([first, Volume(along_x, grid)], spec)
        expected = prepared.grid.to_mm(np.moveaxis(np.indices(prepared.grid.shape), 0, -1))[..., 0]
        ijk = grid.to_ijk(prepared.grid.to_mm(np.moveaxis(np.indices(prepared.grid.shape), 0, -1)))
        inside = ((ijk >= 0) & (ijk <= np.array(grid.shape) - 1)).all(-1)
        assert inside.mean() > 0.5
        assert np.allclose(prepared.tensor[0, 1].numpy()[inside], expected[inside], atol=1e-2)

    def test_refuses_channels_of_two_frames_of_reference(self):
        channel = {"name": "a", "modality": "MR", "normalise": {"method": "zscore"}}
        volumes = [phantoms.volume(phantoms.geometry(frame_uid=uid)) for uid in ("1.2", "1.3")]
        with pytest.raises(InputError, match="frames of reference"):
            preprocess(volumes, models.spec(inputs=[channel, channel | {"name": "b"}]))

    def test_refuses_the_wrong_number_of_channels(self):
        with pytest.raises(InputError, match="2 volumes"):
            preprocess([phantoms.volume(), phantoms.volume()], models.spec())

    def test_leaves_the_callers_float32_array_as_it_was(self):
        array = np.random.default_rng(0).normal(100, 10, phantoms.SHAPE).astype(np.float32)
        kept = array.copy()
        grid = Geometry(np.diag([1.0, 1.2, 2.5, 1.0]), array.shape)
        prepared = preprocess([Volume(array, grid)], models.spec())
        prepared.tensor.zero_()
        assert np.array_equal(array, kept)


class TestNormalise:
    def test_zscore_leaves_zeros_out_of_the_statistics(self):
        item = InputSpec(name="t1", modality="MR", normalise=Normalise(method="zscore", percentiles=(0, 100)))
        array = np.zeros((4, 5, 6), np.float32)
        array[:2] = np.random.default_rng(0).normal(300, 20, (2, 5, 6))
        found = normalise(array, item)
        assert found[:2].mean() == pytest.approx(0, abs=1e-5)
        assert found[:2].std() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("factor", [0.1, 100.0])
    def test_zscore_does_not_see_the_scale(self, factor):
        item = InputSpec(name="t1", modality="MR", normalise=Normalise(method="zscore"))
        array = np.random.default_rng(0).gamma(3, 100, (9, 8, 7)).astype(np.float32)
        assert np.allclose(normalise(array, item), normalise(array * np.float32(factor), item), atol=1e-4)

    def test_one_hot_pixel_does_not_squash_the_rest(self):
        item = InputSpec(name="t1", modality="MR", normalise=Normalise(method="zscore"))
        array = np.random.default_rng(0).normal(100, 10, (20, 20, 20)).astype(np.float32)
        array[3, 4, 5] = 1.5e6
        assert np.median(np.abs(normalise(array, item))) > 0.5

    def test_window_is_in_the_images_unit(self):
        item = InputSpec(
            name="ct", modality="CT", normalise=Normalise(method="window", low=-100, high=300, mean=100, sd=200)
        )
        array = np.array([[[-1000.0, -100, 100, 300, 3000]]])
        assert normalise(array, item).ravel().tolist() == [-1, -1, 0, 1, 1]

    def test_refuses_an_image_without_contrast(self):
        with pytest.raises(InputError, match="single value"):
            preprocess([Volume(np.full(phantoms.SHAPE, 7.0), phantoms.geometry())], models.spec())


def test_labels_become_class_indices_on_the_models_grid():
    array = np.zeros((16, 24, 8), np.uint8)
    array[2:5, 3:7, 1:4] = 2
    array[8:12, 3:7, 1:4] = 7
    affine = np.diag([-1.0, 1.2, 2.5, 1.0])
    segmentation = Segmentation(array, Geometry(affine, array.shape), models.spec().labels)
    found = preprocess_labels(segmentation, models.spec())
    assert np.array_equal(found == 1, (array == 2)[::-1])
    assert np.array_equal(found == 2, (array == 7)[::-1])


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (7.0, -11.0, 19.0)])
def test_labels_on_another_grid_are_those_of_the_nearest_voxel(degrees):
    # No whole fraction of the model's 1.0 x 1.2 x 2.5 mm, so that hardly any voxel lies half-way between two.
    grid = phantoms.geometry(shape=(23, 29, 17), spacing_mm=(0.7, 0.9, 1.9), degrees=degrees)
    array = np.random.default_rng(0).choice(np.array([0, 2, 7], np.uint8), grid.shape)
    spec = models.spec()
    found, target = preprocess_labels(Segmentation(array, grid, spec.labels), spec), model_grid(grid, spec)
    at = grid.to_ijk(target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-3).all(axis=-1)
    nearest = np.clip(np.rint(at).astype(int), 0, np.array(grid.shape) - 1)
    wanted = np.array([0, 0, 1, 0, 0, 0, 0, 2])[array[tuple(np.moveaxis(nearest, -1, 0))]]
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], wanted[clear])


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.9, 1.9), (2.0, 1.8, 3.1)])
def test_the_middle_of_a_structure_stays_where_it_was(spacing_mm):
    shape = tuple(round(60 / mm) for mm in spacing_mm)
    grid = phantoms.geometry(shape=shape, spacing_mm=spacing_mm, degrees=(7.0, -11.0, 19.0))
    centre = grid.to_mm((np.array(shape) - 1) / 2) + np.array([3.3, -2.1, 1.7])
    mm = grid.to_mm(np.moveaxis(np.indices(shape), 0, -1))
    ball = (np.linalg.norm(mm - centre, axis=-1) < 18).astype(np.uint8) * 2
    spec = models.spec()
    target = model_grid(grid, spec)
    found = preprocess_labels(Segmentation(ball, grid, spec.labels), spec)
    apart = target.to_mm(np.argwhere(found == 1)).mean(axis=0) - centre
    # Half a voxel of the label map's own grid along each axis would be 1.1 mm and more.
    assert np.linalg.norm(apart) < 0.25


def test_more_structures_than_a_class_index_holds_are_refused_in_words():
    labels = LabelTable.from_names({value: f"structure {value}" for value in range(1, 257)})
    spec = models.spec().model_copy(update={"labels": labels})
    segmentation = Segmentation(np.zeros(phantoms.SHAPE, np.uint16), phantoms.geometry(), labels)
    with pytest.raises(ConfigError, match="256 structures to train on"):
        preprocess_labels(segmentation, spec)
