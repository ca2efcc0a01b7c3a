"""Preparation on a device beside that on the host; on a machine without a GPU the device is the processor."""

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, Volume
from voxmetry.errors import InputError
from voxmetry.nn import predictor as predictors
from voxmetry.nn.device_preprocess import percentiles, preprocess_on
from voxmetry.nn.preprocess import preprocess

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
NORMALISE = {
    "zscore": {"method": "zscore"},
    "zscore of what is not 0": {"method": "zscore", "nonzero": True, "percentiles": [1.0, 97.0]},
    "zeros kept": {"method": "zscore", "nonzero": True, "keep_zeros": True},
    "window": {"method": "window", "low": -50.0, "high": 130.0, "mean": 20.0, "sd": 37.0},
    "shift": {"method": "shift", "mean": 20.0, "sd": 37.0},
    "minmax": {"method": "minmax", "low": -1.0, "high": 1.0},
}


def study(dtype=np.int16, order="C", seed=0):
    grid = phantoms.geometry(shape=(41, 37, 23), spacing_mm=(0.7, 1.3, 2.1))
    values = np.random.default_rng(seed).normal(40, 60, grid.shape).clip(0, 250)
    return Volume(np.asarray(values, dtype=dtype, order=order), grid)


@pytest.mark.parametrize("device", ["cpu", CUDA])
class TestSameInput:
    @pytest.mark.parametrize("name", NORMALISE)
    def test_of_each_normalisation(self, name, device):
        spec = models.spec(inputs=[{"name": "t1", "modality": "MR", "normalise": NORMALISE[name]}])
        host, found = preprocess([study()], spec), preprocess_on(device, [study()], spec)
        assert found.grid.is_same(host.grid)
        assert found.native.is_same(host.native)
        assert found.tensor.device.type == device
        assert torch.allclose(found.tensor.cpu(), host.tensor, atol=2e-5)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_of_each_type_and_order_in_memory(self, dtype, order, device):
        volume, spec = study(dtype, order), models.spec(orientation="SLP")
        host, found = preprocess([volume], spec), preprocess_on(device, [volume], spec)
        assert torch.allclose(found.tensor.cpu(), host.tensor, atol=2e-5)

    @pytest.mark.parametrize("rule", ["centred", "monai"])
    def test_of_two_channels_on_grids_of_their_own_in_small_parts(self, rule, device, monkeypatch):
        monkeypatch.setattr("voxmetry.nn.device_preprocess.RESAMPLE_VALUES", 200)
        inputs = [{"name": name, "modality": "MR", "normalise": {"method": "zscore"}} for name in ("t1", "t2")]
        spec = models.spec(inputs=inputs, resampling={"rule": rule})
        other = Volume(study(seed=1).array[::2, :, ::2].copy(), phantoms.geometry(shape=(21, 37, 12)))
        host, found = preprocess([study(), other], spec), preprocess_on(device, [study(), other], spec)
        assert torch.allclose(found.tensor.cpu(), host.tensor, atol=2e-5)


def test_what_the_host_does_is_left_to_it():
    turned = Volume(study().array, phantoms.geometry(shape=(41, 37, 23), degrees=(40, 10, -35)))
    spec = models.spec(training_domain={"obliqueness_degrees": {"low": 0, "high": 0}})
    assert preprocess_on("cpu", [turned], spec) is None
    assert preprocess_on("cpu", [study()], models.spec(resampling={"rule": "nnunet"})) is None


def test_a_study_of_one_value_is_refused_in_the_same_words():
    flat = Volume(np.full((20, 20, 20), 3, np.int16), phantoms.geometry(shape=(20, 20, 20)))
    said = []
    for way in (preprocess, lambda volumes, spec: preprocess_on("cpu", volumes, spec)):
        with pytest.raises(InputError) as caught:
            way([flat], models.spec())
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    for wanted in ((0.5, 99.5), (0.0, 100.0), (33.3, 66.6)):
        assert percentiles(torch.from_numpy(values), wanted) == pytest.approx(np.percentile(values, wanted), abs=1e-6)


class TestWhere:
    def predictor(self, tmp_path, monkeypatch, way):
        """One whose input is planned for a GPU, which is the processor here."""
        made = Predictor(models.write(tmp_path), device="cpu")
        monkeypatch.setattr(type(made.model), "tensor_device", property(lambda _: "cuda"))
        monkeypatch.setattr(predictors, "preprocess_on", way)
        return made

    def test_the_input_is_made_where_it_is_to_lie(self, tmp_path, monkeypatch):
        made = self.predictor(tmp_path, monkeypatch, lambda device, *rest: (device, preprocess_on("cpu", *rest))[1])
        monkeypatch.setattr(predictors, "preprocess", lambda *_: pytest.fail("on the host"))
        assert made.prepare(study()).plan is not None

    def test_without_room_there_it_is_made_on_the_host(self, tmp_path, monkeypatch):
        def full(*_):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

        made = self.predictor(tmp_path, monkeypatch, full)
        assert torch.equal(made.prepare(study()).tensor, preprocess([study()], made.spec).tensor)
