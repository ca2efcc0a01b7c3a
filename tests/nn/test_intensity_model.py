"""Scores weighed by how likely each voxel's intensity is in each structure."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import nn

import models
import phantoms
from parity import restore
from voxmetry import Volume, load_model, save, segment
from voxmetry.errors import ConfigError, ModelError
from voxmetry.nn.interop import export_model
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.networks.intensity_model import LEAST_SD, MOST_EVIDENCE, VOXELS_A_PART, IntensityModel
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.window import window_scores
from voxmetry.train.finetune import carry_over
from voxmetry.train.learned_only import without_structures
from voxmetry.workflows.quantise_model import QuantiseOptions, quantise_model


class Given(nn.Module):
    """A network that says what it was told."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _: torch.Tensor) -> Any:
        return self.outputs


def two_halves(size: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an image of two grey values with noise, the truth, and logits that know the border roughly."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(size).view(-1, 1, 1).expand(size, size, size).float()
    wave = 3 * torch.sin(torch.arange(size) / 2).view(1, -1, 1)
    truth = (place > size / 2 + wave).long()
    image = truth * 2.0 - 1 + 0.4 * torch.randn(truth.shape, generator=generator)
    rough = (place - size / 2) / 4
    logits = torch.stack([torch.full_like(rough, -4), -rough, rough])
    return image[None, None], truth + 1, logits[None]


def by_hand(image: np.ndarray, logits: np.ndarray, alike: bool = False) -> np.ndarray:
    """Return the probabilities that one step gives, from the formula, for one image channel."""
    shares = np.exp(logits) / np.exp(logits).sum(0)
    inside = shares[1:].sum(0)
    weights = shares[1:].reshape(len(shares) - 1, -1)
    x = image.ravel()
    if alike:
        weights = np.repeat(weights.sum(0, keepdims=True), len(weights), 0)
    mean = (weights @ x) / weights.sum(1)
    variance = np.maximum((weights * (x - mean[:, None]) ** 2).sum(1) / weights.sum(1), LEAST_SD**2)[:, None]
    likelihood = np.exp(-np.minimum((x - mean[:, None]) ** 2 / (2 * variance), MOST_EVIDENCE)) / np.sqrt(variance)
    posterior = shares[1:].reshape(weights.shape) * likelihood
    posterior = posterior / posterior.sum(0) * inside.ravel()
    return np.concatenate([shares[:1].reshape(1, -1), posterior]).reshape(shares.shape)


def test_a_rough_border_follows_the_image() -> None:
    image, truth, logits = two_halves()
    weighed = IntensityModel(Given(logits), n_images=1, n_classes=3)
    with torch.no_grad():
        before, after = ((scores.argmax(1)[0] == truth).float().mean() for scores in (logits, weighed(image)))
    assert before < 0.93
    assert after > 0.98


@pytest.mark.parametrize("alike", [False, True])
def test_it_is_the_formula(alike: bool) -> None:
    image, _, logits = two_halves(16)
    pairs = [(1, 2)] if alike else []
    weighed = IntensityModel(Given(logits), n_images=1, n_classes=3, alike=pairs)
    with torch.no_grad():
        found = weighed(image).softmax(1)[0].numpy()
    expected = by_hand(image[0, 0].double().numpy(), logits[0].double().numpy(), alike)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if alike:
        # One distribution for both says nothing between them.
        np.testing.assert_allclose(found, logits.softmax(1)[0].numpy(), atol=1e-5)


def test_the_background_stays_as_likely_as_the_network_says() -> None:
    image, _, logits = two_halves()
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    weighed = IntensityModel(Given(logits), n_images=1, n_classes=3)
    with torch.no_grad():
        found = weighed(image).softmax(1)
    torch.testing.assert_close(found[:, 0], logits.softmax(1)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_image_changes_nothing(value: float) -> None:
    _, _, logits = two_halves()
    weighed = IntensityModel(Given(logits), n_images=1, n_classes=3)
    with torch.no_grad():
        found = weighed(torch.full((1, 1, 24, 24, 24), value))
    torch.testing.assert_close(found.softmax(1), logits.softmax(1), atol=1e-4, rtol=0)


def test_a_structure_that_is_nowhere_harms_nothing() -> None:
    image, _, logits = two_halves()
    logits = torch.cat([logits, torch.full_like(logits[:, :1], -200.0)], dim=1)
    with torch.no_grad():
        found = IntensityModel(Given(logits), n_images=1, n_classes=4)(image)
    assert torch.isfinite(found).all()
    assert not (found.argmax(1) == 3).any()


def test_several_images_count_together() -> None:
    image, _, logits = two_halves()
    other = -image.flip(2)
    both = torch.cat([image, other], dim=1)
    with torch.no_grad():
        found = IntensityModel(Given(logits), n_images=2, n_classes=3)(both)
        one = IntensityModel(Given(logits), n_images=1, n_classes=3)(both)
    assert not torch.allclose(found, one)
    first = by_hand(image[0, 0].double().numpy(), logits[0].double().numpy())
    np.testing.assert_allclose(one.softmax(1)[0].numpy(), first, atol=2e-5)


def test_in_parts_and_with_gradients_it_is_the_same() -> None:
    image, _, logits = two_halves(40)
    assert image.numel() > 3 * VOXELS_A_PART
    weighed = IntensityModel(Given(logits.requires_grad_()), n_images=1, n_classes=3)
    whole = weighed(image)
    with torch.no_grad():
        torch.testing.assert_close(weighed(image), whole.detach(), atol=1e-4, rtol=1e-4)
    whole.square().mean().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert weighed.strength.grad is not None
    assert (weighed.strength.grad != 0).all()


def test_coarser_outputs_of_deep_supervision_stay() -> None:
    image, _, logits = two_halves()
    for outputs in (torch.stack([logits, logits + 1], dim=1), (logits, logits[..., ::2])):
        weighed = IntensityModel(Given(outputs), n_images=1, n_classes=3)
        found = weighed(image)
        finest, coarse = (found[0], found[1]) if isinstance(outputs, tuple) else (found[:, 0], found[:, 1])
        torch.testing.assert_close(coarse, outputs[1] if isinstance(outputs, tuple) else outputs[:, 1])
        assert not torch.allclose(finest, logits)


class TestInAModel:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return models.write(tmp_path / "tiny-mr", intensity_model=True)

    @pytest.fixture
    def volume(self) -> Volume:
        return phantoms.volume(phantoms.geometry(shape=(31, 29, 17), spacing_mm=(1.0, 1.2, 2.5), degrees=(0, 0, 0)))

    def test_the_same_weights_give_other_labels_than_without(self, folder, volume, tmp_path) -> None:
        plain = models.write(tmp_path / "plain")
        with_it, without = (segment(volume, where, device="cpu").array for where in (folder, plain))
        assert not np.array_equal(with_it, without)

    def test_openvino_gives_the_same_labels(self, folder, volume, tmp_path, monkeypatch) -> None:
        pytest.importorskip("openvino")
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "cache"))
        expected = segment(volume, folder, device="cpu", precision="float32").array
        found = segment(volume, folder, device="openvino", precision="float32").array
        assert (found == expected).mean() > 0.999

    def test_exports_give_the_same_labels(self, folder, volume, tmp_path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        spec = load_model(folder, device="cpu").spec
        prepared = preprocess([volume], spec)
        expected = segment(volume, folder, device="cpu").array
        (onnx,) = export_model(folder, tmp_path / "model.onnx", form="onnx")
        (script,) = export_model(folder, tmp_path / "model.ts", form="torchscript")
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.load(script)
        for run in (traced, lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])):
            scores = window_scores(run, prepared.tensor, spec.window)
            found = restore(scores, grid=prepared.grid, native=volume.geometry, spec=spec).array
            assert (found == expected).mean() > 0.999

    def test_a_bundle_of_monai_cannot_say_it(self, folder, tmp_path) -> None:
        with pytest.raises(ModelError, match="intensity_model"):
            export_model(folder, tmp_path / "bundle", form="monai-bundle")

    def test_without_a_structure_the_others_keep_their_strength(self) -> None:
        labels = [
            {"value": place, "name": name, "colour": "#E69F00"}
            for place, name in enumerate(("a_left", "a_right", "b_left", "b_right", "c"), start=1)
        ]
        pairs = [["a_left", "a_right"], ["b_left", "b_right"]]
        window = {"patch": [16, 24, 8], "mirror_axes": [0], "swap_on_mirror": pairs}
        domain = models.spec().training_domain.model_copy(update={"volume_ml": {}}).model_dump()
        spec = models.spec(labels={"labels": labels}, window=window, intensity_model=True, training_domain=domain)
        network = build_network(spec)
        assert isinstance(network, IntensityModel)
        assert network.twin.tolist() == [1, 0, 3, 2, 4]
        network.strength.data = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
        made, less = without_structures(network, spec, ["a_left", "a_right"])
        assert less.labels.names == ("b_left", "b_right", "c")
        assert isinstance(made, IntensityModel)
        assert made.twin.tolist() == [1, 0, 2]
        assert made.strength.tolist() == pytest.approx([0.3, 0.4, 0.5])
        again = build_network(less)
        again.load_state_dict(made.state_dict())
        x = torch.randn(1, 1, 16, 24, 8)
        with torch.no_grad():
            torch.testing.assert_close(again(x), made.eval()(x))

    def test_a_run_starts_from_a_model_without_it(self, tmp_path) -> None:
        plain = models.write(tmp_path / "plain", seed=3)
        spec = models.spec(intensity_model=True)
        network = build_network(spec)
        carried = carry_over(network, spec, plain)
        assert carried.left == ("strength",)
        old = load_model(plain, device="cpu").torch_member
        assert old is not None
        for name, tensor in old(0).state_dict().items():
            assert torch.equal(network.state_dict()[f"network.{name}"], tensor)

    @pytest.mark.parametrize(
        "change",
        [
            {"regions": [2, 7]},
            {"labels": {"labels": [{"value": 2, "name": "front", "colour": "#E69F00"}]}},
        ],
    )
    def test_what_it_does_not_go_with_is_named(self, change) -> None:
        with pytest.raises(ConfigError, match="intensity_model weighs structures against each other"):
            models.spec(intensity_model=True, **change)

    @pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the extra int8 is not installed")
    def test_in_8_bits_intensities_stay_in_float(self, folder, volume, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "cache"))
        save(volume, tmp_path / "mr.nii.gz")
        options = QuantiseOptions(windows=4, least_dice=0.0)
        _, short = quantise_model(folder, [tmp_path / "mr.nii.gz"], out=tmp_path / "short" / "tiny-mr", options=options)
        graph = openvino.Core().read_model(short / "int8-1.xml")
        for node in graph.get_ops():
            if node.get_type_name() in ("MatMul", "SoftMax", "ReduceLogSumExp"):
                sources = {node.input_value(place).get_node().get_type_name() for place in range(node.get_input_size())}
                assert "FakeQuantize" not in sources
