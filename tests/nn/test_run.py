import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample

import models
import phantoms
from parity import restore
from voxmetry import load_model, segment
from voxmetry.config import WindowSpec
from voxmetry.errors import ConfigError, InferenceError, ModelError
from voxmetry.nn.grids import model_grid
from voxmetry.nn.mirroring import averaged, swapped_sides
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.runtime import choose_device
from voxmetry.nn.window import window_scores


class TestRestore:
    def test_equals_interpolation_of_the_scores_by_monai(self):
        native, spec = phantoms.geometry(shape=(23, 17, 11)), models.spec()
        grid = model_grid(native, spec)
        scores = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, *grid.shape)).astype(np.float32))
        found = restore(scores, grid=grid, native=native, spec=spec)
        image = MetaTensor(scores[0], affine=torch.from_numpy(np.array(grid.affine)))
        resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)
        plain = resample(image, dst_affine=torch.from_numpy(np.array(native.affine)), spatial_size=native.shape)
        expected = np.array([0, 2, 7])[plain.numpy().argmax(0)]
        # Ties between interpolated scores may fall either way in the last bit.
        assert (found.array == expected).mean() > 0.999
        assert found.geometry is native

    def test_slabs_do_not_change_the_answer(self, monkeypatch):
        native, spec = phantoms.geometry(shape=(23, 17, 11)), models.spec()
        grid = model_grid(native, spec)
        scores = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, *grid.shape)).astype(np.float32))
        whole = restore(scores, grid=grid, native=native, spec=spec)
        monkeypatch.setattr("voxmetry.nn.restore.SLAB_VALUES", 1)
        monkeypatch.setattr("voxmetry.nn.corner_scores.CHUNK_VALUES", 1000)
        assert np.array_equal(restore(scores, grid=grid, native=native, spec=spec).array, whole.array)

    @pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 180), (90, 0, 0), (0, 90, 90), (100, 20, -80)])
    def test_a_mark_in_the_scores_comes_back_to_its_place(self, degrees):
        native = phantoms.geometry(shape=(23, 17, 11), degrees=degrees)
        spec = models.spec(spacing_mm=[0.9, 1.3, 2.6])
        grid = model_grid(native, spec)
        scores = torch.zeros(1, 3, *grid.shape)
        place = np.array([n // 3 for n in grid.shape])
        scores[(0, 2, *place)] = 100
        found = restore(scores, grid=grid, native=native, spec=spec)
        weight_centre = np.argwhere(found.array == 7).mean(0)
        assert np.abs(native.to_mm(weight_centre) - grid.to_mm(place)).max() < 1.5


class TestWindow:
    def test_equals_monai_and_pads_small_volumes(self):
        network = torch.nn.Conv3d(1, 3, 3, padding=1)
        for shape in ((40, 30, 20), (9, 30, 5)):
            tensor = torch.randn(1, 1, *shape)
            found = window_scores(network, tensor, WindowSpec(patch=(16, 24, 8)))
            plain = SlidingWindowInferer((16, 24, 8), overlap=0.5, mode="gaussian")
            with torch.inference_mode():
                assert torch.allclose(found, plain(tensor, network), atol=1e-5)

    def test_mirroring_averages_over_both_images_along_each_axis(self):
        network = torch.nn.Conv3d(1, 3, 3, padding=1)
        tensor = torch.randn(1, 1, 16, 24, 8)
        found = window_scores(network, tensor, WindowSpec(patch=(16, 24, 8), mirror_axes=(0, 2)))
        with torch.inference_mode():
            turns = [(), (2,), (4,), (2, 4)]
            expected = sum(torch.flip(network(torch.flip(tensor, turn)), turn) for turn in turns) / 4
        assert torch.allclose(found, expected, atol=1e-5)

    def test_sides_change_places_in_an_image_mirrored_from_left_to_right(self, tmp_path):
        window = {"patch": [16, 24, 8], "mirror_axes": [0, 2], "swap_on_mirror": [["front", "back"]]}
        spec = models.spec(window=window)
        network = torch.nn.Conv3d(1, 3, 3, padding=1)
        run = averaged([network], (0, 2), swapped=swapped_sides(spec))
        patches = torch.randn(2, 1, 16, 24, 8)
        with torch.inference_mode():
            found, mirrored = run(patches), run(torch.flip(patches, (2,)))
        # What is found in the mirror image is the mirror image of what is found, with the sides exchanged.
        assert torch.allclose(torch.flip(mirrored, (2,))[:, [0, 2, 1]], found, atol=1e-5)
        assert not torch.allclose(torch.flip(mirrored, (2,)), found, atol=1e-3)

    def test_refuses_scores_that_are_not_finite(self):
        with pytest.raises(InferenceError, match="not finite"):
            window_scores(lambda patches: patches * torch.nan, torch.ones(1, 1, 8, 8, 8), WindowSpec(patch=(8, 8, 8)))


class TestSegment:
    def test_gives_the_same_bytes_twice_on_the_volumes_own_grid(self, tmp_path):
        model = load_model(models.write(tmp_path), device="cpu")
        volume = phantoms.volume(phantoms.geometry(shape=(31, 29, 17)))
        first, second = segment(volume, model), segment(volume, model)
        assert first.geometry is volume.geometry
        assert np.array_equal(first.array, second.array)
        assert set(np.unique(first.array)) <= {0, 2, 7}

    def test_openvino_gives_the_same_labels(self, tmp_path):
        folder = models.write(tmp_path)
        volume = phantoms.volume(phantoms.geometry(shape=(31, 29, 17)))
        labels = [segment(volume, folder, device=device, precision="float32").array for device in ("cpu", "openvino")]
        assert (labels[0] == labels[1]).mean() > 0.999

    def test_a_volume_smaller_than_the_patch_and_one_of_a_single_slice(self, tmp_path):
        model = load_model(models.write(tmp_path), device="cpu")
        for shape in ((5, 6, 3), (20, 25, 1)):
            assert segment(phantoms.volume(phantoms.geometry(shape=shape)), model).array.shape == shape


class TestLoadModel:
    def test_names_the_bundled_models_where_there_is_none_of_the_name(self):
        with pytest.raises(ModelError, match="hippocampus-mr"):
            load_model("liver")

    def test_refuses_weights_with_another_checksum(self, tmp_path):
        path = models.write(tmp_path) / "weights.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(ModelError, match="SHA-256"):
            load_model(tmp_path)

    def test_refuses_weights_that_are_missing_or_of_another_network(self, tmp_path):
        folder = models.write(tmp_path)
        text = (folder / "model.yaml").read_text().replace("- 4\n", "- 6\n", 1)
        (folder / "model.yaml").write_text(text)
        with pytest.raises(ModelError, match="with shape"):
            load_model(folder)
        (folder / "weights.safetensors").unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            load_model(folder)

    def test_refuses_a_file_that_is_no_safetensors_though_its_checksum_fits(self, tmp_path):
        from voxmetry.nn.weights import sha256_of

        folder = models.write(tmp_path)
        path = folder / "weights.safetensors"
        text = (folder / "model.yaml").read_text().replace(sha256_of(path.read_bytes()), sha256_of(b"no weights"))
        (folder / "model.yaml").write_text(text)
        path.write_bytes(b"no weights")
        with pytest.raises(ModelError, match="no safetensors file"):
            load_model(folder)


class TestDevice:
    def test_auto_is_cuda_only_where_there_is_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("voxmetry.nn.runtime.cuda_trouble", lambda: "")
        assert choose_device("auto") == "cuda"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose_device("auto") == "cpu"
        with pytest.raises(InferenceError, match="no CUDA device"):
            choose_device("cuda")

    def test_refuses_an_unknown_name(self):
        with pytest.raises(ConfigError, match="tpu"):
            choose_device("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_labels_of_the_cpu(tmp_path):
    folder = models.write(tmp_path)
    volume = phantoms.volume(phantoms.geometry(shape=(31, 29, 17)))
    labels = [segment(volume, folder, device=device).array for device in ("cpu", "cuda")]
    assert (labels[0] == labels[1]).mean() > 0.999


def test_prepared_input_is_float32_and_has_a_batch_axis():
    prepared = preprocess([phantoms.volume()], models.spec())
    assert prepared.tensor.dtype == torch.float32
    assert prepared.tensor.shape == (1, 1, *prepared.grid.shape)
