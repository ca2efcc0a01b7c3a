"""Clicks: channels of how near they are, and a network that is the automatic one without them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, Volume
from voxmetry.core.records.clicks import Click, parse_click
from voxmetry.errors import ConfigError, InferenceError, InputError, ModelError
from voxmetry.nn.clicks import class_of, guidance, with_clicks
from voxmetry.nn.interop.export import export_model
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.preprocess import preprocess

GRID = phantoms.geometry(shape=(24, 26, 12), spacing_mm=(1.0, 1.2, 2.5))
WITH = {"clicks": {"reach_mm": 6.0}}


@pytest.fixture(scope="module")
def image():
    return Volume(np.random.default_rng(0).normal(100, 20, GRID.shape).astype(np.float32), GRID)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(models.write(tmp_path_factory.mktemp("clicks") / "tiny", **WITH), device="cpu")


def test_a_click_is_one_and_falls_with_the_distance_in_mm():
    channels = guidance([(2, (3, 4, 1))], (8, 8, 4), (1.0, 1.2, 2.5), n_classes=3, reach_mm=6.0)
    assert channels.shape == (3, 8, 8, 4)
    assert channels[:2].max() == 0
    assert channels[2, 3, 4, 1] == 1
    assert channels[2, 5, 4, 1] == pytest.approx(1 - 2 / 6)
    assert channels[2, 3, 5, 2] == pytest.approx(1 - np.hypot(1.2, 2.5) / 6)
    assert channels[2, 3, 4, 3] == pytest.approx(1 - 5 / 6)


def test_two_clicks_are_the_nearer_one():
    both = guidance([(1, (0, 0, 0)), (1, (4, 0, 0))], (5, 1, 1), (1.0, 1.0, 1.0), n_classes=2, reach_mm=4.0)
    assert both[1].ravel().tolist() == [1.0, 0.75, 0.5, 0.75, 1.0]


def test_a_click_is_drawn_within_its_reach_alone():
    """Hundreds of clicks on a whole body take no longer than on an organ."""
    shape, spacing, reach = (160, 150, 140), (1.0, 1.5, 2.0), 7.5
    rng = np.random.default_rng(0)
    inside = [(1, tuple(rng.uniform(0, np.array(shape) - 1))) for _ in range(40)]
    points = [*inside, (0, (-0.5, 149.5, 70.0)), (0, (-40.0, 10.0, 10.0))]
    channels = np.zeros((2, *shape), np.float32)
    tracemalloc.start()
    guidance(points, shape, spacing, n_classes=2, reach_mm=reach, out=channels)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < channels.nbytes / 100
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    expected = np.zeros_like(channels)
    for place, voxel in points:
        far = np.linalg.norm((grid - voxel) * spacing, axis=-1)
        np.maximum(expected[place], 1 - far / reach, out=expected[place])
    np.testing.assert_allclose(channels, expected, atol=1e-6)


def test_the_channels_of_clicks_count_in_the_plan_of_memory(predictor):
    grid = phantoms.geometry(shape=(300, 300, 200), spacing_mm=(1.0, 1.2, 2.5))
    large = Volume(np.broadcast_to(np.float32(0), grid.shape), grid)
    plain, clicked = predictor.plan(large), predictor.plan(large, clicks=True)
    channel = plain.parts["network input"]
    assert clicked.parts["network input"] == channel * (1 + predictor.spec.n_classes)
    assert clicked.needed >= plain.needed + channel * predictor.spec.n_classes
    between = (plain.needed + clicked.needed) / 2e9
    tight = Predictor(predictor.model, memory_gb=between)
    with pytest.raises(InferenceError, match="network input"):
        tight(large, clicks=[Click(at=(0, 0, 0), label="front", space="voxel")])


def test_without_clicks_it_is_the_network_of_empty_channels():
    spec = models.spec(**WITH)
    torch.manual_seed(0)
    network = build_network(spec).eval()
    x = torch.randn(1, 1, 16, 24, 8)
    empty = torch.cat([x, torch.zeros(1, 3, 16, 24, 8)], dim=1)
    with torch.inference_mode():
        assert torch.equal(network(x), network(empty))


def test_the_place_in_mm_and_the_voxel_are_one_click(image, predictor):
    spec = predictor.spec
    voxel = (5, 20, 3)
    mm = GRID.to_mm(np.array([voxel]))[0]
    prepared = preprocess([image], spec)
    by_voxel = with_clicks(prepared, [Click(at=voxel, label="back", space="voxel")], spec).tensor
    by_mm = with_clicks(prepared, [Click(at=tuple(mm), label="back")], spec).tensor
    assert by_mm.shape[1] == 1 + 3
    torch.testing.assert_close(by_mm, by_voxel, atol=1e-5, rtol=0)
    # It lies where the network sees that place.
    i, j, k = np.unravel_index(int(by_mm[0, 3].argmax()), by_mm.shape[2:])
    assert np.linalg.norm(prepared.grid.to_mm(np.array([[i, j, k]]))[0] - mm) < 1.6
    assert by_mm[0, 1:3].max() == 0


def test_the_later_of_two_clicks_in_one_voxel_counts(image, predictor):
    spec, voxel = predictor.spec, np.array([5, 20, 3])
    beside = GRID.to_mm(voxel[None] + 0.3)[0]
    first = Click(at=(5, 20, 3), label="back", space="voxel")
    taken_back = Click(at=tuple(beside), label="background")
    prepared = preprocess([image], spec)
    both = with_clicks(prepared, [first, taken_back], spec).tensor
    assert torch.equal(both, with_clicks(prepared, [taken_back], spec).tensor)
    again = with_clicks(prepared, [first, taken_back, first], spec).tensor
    assert torch.equal(again, with_clicks(prepared, [first], spec).tensor)
    with pytest.raises(ConfigError, match="liver"):
        with_clicks(prepared, [first.model_copy(update={"label": "liver"}), first], spec)


def test_clicks_change_the_answer_and_none_do_not(image, predictor):
    plain = predictor(image)
    assert np.array_equal(plain.array, predictor(image, clicks=[]).array)
    clicked = predictor(image, clicks=[Click(at=(12, 12, 6), label="front", space="voxel")])
    assert not np.array_equal(plain.array, clicked.array)


def test_what_a_click_may_name():
    spec = models.spec(**WITH)
    assert [class_of(Click(at=(0, 0, 0), label=name), spec) for name in ("front", "back", "background")] == [1, 2, 0]
    with pytest.raises(ConfigError, match="names no structure"):
        class_of(Click(at=(0, 0, 0)), spec)
    with pytest.raises(ConfigError, match="front, back, background"):
        class_of(Click(at=(0, 0, 0), label="liver"), spec)


def test_a_click_outside_of_the_image_is_refused(image, predictor):
    with pytest.raises(InputError, match="outside of the image"):
        predictor(image, clicks=[Click(at=(500, 0, 0), label="front")])
    with pytest.raises(InputError, match="voxels, outside of the image"):
        predictor(image, clicks=[Click(at=(24, 0, 0), label="front", space="voxel")])


def test_a_model_without_clicks_refuses_them(image, tmp_path):
    predictor = Predictor(models.write(tmp_path / "plain"), device="cpu")
    with pytest.raises(ConfigError, match="trained without"):
        predictor(image, clicks=[Click(at=(0, 0, 0), label="front")])


def test_clicks_do_not_go_with_regions():
    with pytest.raises(ConfigError, match="clicks do not go with regions"):
        models.spec(**WITH, regions=[2, 7])


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,nan", "1,2,3,", ""])
def test_what_is_no_click_is_refused(text):
    with pytest.raises(ConfigError, match="the click"):
        parse_click(text)


def test_a_name_may_hold_a_comma():
    assert parse_click("1, 2, 3, node, left").label == "node, left"


def test_onnx_is_the_automatic_network_and_a_bundle_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = models.write(tmp_path / "tiny", **WITH)
    (path,) = export_model(folder, tmp_path / "tiny.onnx", form="onnx")
    (shape,) = [x.type.tensor_type.shape.dim for x in onnx.load(path).graph.input]
    assert shape[1].dim_value == 1
    with pytest.raises(ModelError, match="takes clicks"):
        export_model(folder, tmp_path / "bundle", form="monai-bundle")
