import pytest
import torch

import models
from cases import write_cases
from voxmetry.config import TrainSettings, parse_record
from voxmetry.errors import ConfigError, ModelError
from voxmetry.models import read_spec
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import distinct_tensors, load_into
from voxmetry.train.dataset import open_data
from voxmetry.train.finetune import carry_over, settings_from
from voxmetry.train.fingerprint import scan
from voxmetry.train.plan import make_plan

LABELS = {
    "labels": [
        {"value": 1, "name": "new", "colour": "#E69F00"},
        {"value": 3, "name": "front", "colour": "#56B4E9"},
    ]
}
T1 = {"name": "t1", "modality": "MR", "normalise": {"method": "zscore"}}
PET = {"name": "pet", "modality": "PT", "normalise": {"method": "zscore"}}


@pytest.fixture
def source(tmp_path):
    return models.write(tmp_path / "source", seed=3)


def tensors(folder):
    spec = read_spec(folder)
    network = build_network(spec)
    load_into(network, folder / "weights.safetensors", sha256=spec.weights.sha256)
    return distinct_tensors(network)


def test_structures_are_carried_by_name_wherever_they_stand(source):
    spec = models.spec(labels=LABELS)
    torch.manual_seed(9)
    network = build_network(spec)
    random = {key: tensor.clone() for key, tensor in distinct_tensors(network).items()}
    taken = carry_over(network, spec, source)
    have, old = distinct_tensors(network), tensors(source)
    heads = [key for key in have if "output_block" in key]
    assert heads
    for key in heads:
        assert torch.equal(have[key][0], old[key][0])  # background
        assert torch.equal(have[key][2], old[key][1])  # front
        assert torch.equal(have[key][1], random[key][1])  # new
    assert all(torch.equal(have[key], old[key]) for key in have if key not in heads)
    assert (taken.structures, taken.new_structures) == (("front",), ("new",))
    assert "carried over: inputs t1; structures front" in str(taken)
    assert "started anew: inputs none; structures new" in str(taken)


def test_a_new_input_starts_as_if_it_were_not_there(source):
    spec = models.spec(inputs=[PET, T1])
    network = build_network(spec).eval()
    taken = carry_over(network, spec, source)
    assert (taken.inputs, taken.new_inputs) == (("t1",), ("pet",))
    old = build_network(read_spec(source)).eval()
    load_into(old, source / "weights.safetensors", sha256=read_spec(source).weights.sha256)
    image = torch.randn(1, 1, 16, 24, 8)
    with torch.no_grad():
        both = network(torch.cat([torch.randn_like(image), image], dim=1))
        assert torch.allclose(both, old(image), atol=1e-5)


CLICKS = {"reach_mm": 6.0}
SPACE_TO_DEPTH = {
    "channels": [4, 8, 8],
    "strides": [[1] * 3, [2] * 3, [1] * 3],
    "kernels": [[3] * 3] * 3,
    "space_to_depth": [2, 2, 2],
}
FCN = {"kind": "fcn", "channels": [4, 8, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3, [1] * 3]}


def answers(folder, spec, image):
    """Scores of a folder's model and of a new network of `spec` that starts from it."""
    old, network = build_network(read_spec(folder)).eval(), build_network(spec).eval()
    load_into(old, folder / "weights.safetensors", sha256=read_spec(folder).weights.sha256)
    taken = carry_over(network, spec, folder)
    with torch.no_grad():
        return old, network, taken, old(image)


@pytest.mark.parametrize("network", [None, SPACE_TO_DEPTH, FCN], ids=["dynunet", "space_to_depth", "fcn"])
def test_a_network_with_clicks_starts_as_the_automatic_one(tmp_path, network):
    given = {} if network is None else {"network": network}
    folder = models.write(tmp_path / "plain", seed=3, **given)
    image = torch.randn(1, 1, 16, 24, 8)
    _, made, taken, before = answers(folder, models.spec(**given, clicks=CLICKS), image)
    clicks = torch.rand(1, 3, 16, 24, 8)
    with torch.no_grad():
        torch.testing.assert_close(made(image), before)
        torch.testing.assert_close(made(torch.cat([image, clicks], dim=1)), before)
    assert (taken.left, taken.new_inputs) == ((), ("clicks",))


def test_clicks_are_carried_by_structure(tmp_path):
    folder = models.write(tmp_path / "clicks", seed=3, clicks=CLICKS)
    turned = {"labels": list(reversed(models.spec().model_dump(mode="json")["labels"]["labels"]))}
    image, clicks = torch.randn(1, 1, 16, 24, 8), torch.rand(1, 3, 16, 24, 8)
    old, made, _, _ = answers(folder, models.spec(labels=turned, clicks=CLICKS), image)
    order = [0, 2, 1]
    with torch.no_grad():
        before = old(torch.cat([image, clicks], dim=1))
        torch.testing.assert_close(made(torch.cat([image, clicks[:, order]], dim=1)), before[:, order])
    _, made, _, before = answers(folder, models.spec(), image)
    with torch.no_grad():
        torch.testing.assert_close(made(image), before)


def test_inputs_in_another_order_are_carried_by_name(tmp_path):
    folder = models.write(tmp_path / "two", seed=3, inputs=[T1, PET])
    both = torch.randn(1, 2, 16, 24, 8)
    _, made, _, before = answers(folder, models.spec(inputs=[PET, T1]), both)
    with torch.no_grad():
        torch.testing.assert_close(made(both.flip(1)), before)


def test_a_plan_from_a_model_with_clicks_has_them_too(tmp_path):
    folder = models.write(tmp_path / "clicks", clicks=CLICKS)
    named, _, found = scan(open_data(write_cases(tmp_path / "phantoms-mr")))
    made = settings_from(make_plan(found, named, data="x").settings, folder)
    assert made.model.clicks == read_spec(folder).clicks
    content = made.model_dump(mode="json") | {"learned_only": [made.model.labels.names[0]]}
    with pytest.raises(ConfigError, match="a channel for each structure"):
        parse_record(content, TrainSettings, where="test")


def test_what_has_another_shape_is_named(source):
    network = {"channels": [4, 8, 12], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}
    spec = models.spec(network=network)
    taken = carry_over(build_network(spec), spec, source)
    assert any("bottleneck" in name for name in taken.left)
    assert "of another shape, started anew" in str(taken)
    assert taken.n_tensors < taken.n_of


def test_a_model_of_which_nothing_fits_is_refused(source):
    network = {"channels": [6, 10, 14], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}
    spec = models.spec(network=network)
    with pytest.raises(ModelError, match="no weights of tiny-mr fit"):
        carry_over(build_network(spec), spec, source)


BLOCKS = {
    "channels": [4, 8, 8],
    "strides": [[1] * 3, [2] * 3, [2] * 3],
    "kernels": [[3] * 3] * 3,
    "space_to_depth": [2] * 3,
}
FINER = {"channels": [6, 4, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 4}


def test_a_finer_level_is_put_above_a_network_that_saw_blocks(tmp_path):
    window = {"patch": [16, 24, 16], "overlap": 0.5}
    folder = models.write(tmp_path / "blocks", seed=3, network=BLOCKS, window=window)
    spec = models.spec(network=FINER, window=window)
    network = build_network(spec)
    random = {key: tensor.clone() for key, tensor in distinct_tensors(network).items()}
    carry_over(network, spec, folder)
    have, old = distinct_tensors(network), tensors(folder)
    same = {
        "downsamples.0.conv2.conv.weight": "unet.input_block.conv2.conv.weight",
        "downsamples.1.conv1.conv.weight": "unet.downsamples.0.conv1.conv.weight",
        "bottleneck.conv1.conv.weight": "unet.bottleneck.conv1.conv.weight",
        "upsamples.0.transp_conv.conv.weight": "unet.upsamples.0.transp_conv.conv.weight",
        "upsamples.1.conv_block.conv2.conv.weight": "unet.upsamples.1.conv_block.conv2.conv.weight",
    }
    for new, before in same.items():
        assert torch.equal(have[new], old[before]), new
    anew = (
        "input_block.conv1.conv.weight",
        "downsamples.0.conv1.conv.weight",
        "upsamples.2.conv_block.conv1.conv.weight",
    )
    for key in (*anew, "output_block.conv.conv.weight"):
        assert torch.equal(have[key], random[key]), key


@pytest.mark.parametrize(
    "network",
    [
        FINER | {"strides": [[1] * 3, [2, 2, 1], [2] * 3, [2] * 3]},  # its levels would see other voxels
        FINER | {"channels": [4, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3},
    ],
)
def test_levels_that_saw_other_voxels_are_refused(tmp_path, network):
    window = {"patch": [16, 24, 16], "overlap": 0.5}
    folder = models.write(tmp_path / "blocks", network=BLOCKS, window=window)
    spec = models.spec(network=network, window=window)
    with pytest.raises(ModelError, match=r"space_to_depth \[2, 2, 2\]"):
        carry_over(build_network(spec), spec, folder)


def test_a_plan_takes_grid_patch_and_network_of_the_model(source, tmp_path):
    named, _, found = scan(open_data(write_cases(tmp_path / "phantoms-mr")))
    planned = make_plan(found, named, data="x").settings
    made = settings_from(planned, source)
    spec = read_spec(source)
    assert (made.model.spacing_mm, made.model.window, made.model.network) == (
        spec.spacing_mm,
        spec.window,
        spec.network,
    )
    assert made.model.labels == planned.model.labels
    assert made.start_from == str(source)
    assert parse_record(made.model_dump(), TrainSettings, where="test") == made


def test_a_model_with_two_sides_is_a_start_for_structures_without(tmp_path):
    named, _, found = scan(open_data(write_cases(tmp_path / "phantoms-mr")))
    made = settings_from(make_plan(found, named, data="x").settings, "brain-mr")
    assert made.model.window.patch == read_spec("brain-mr").window.patch
    assert (made.model.window.mirror_axes, made.model.window.swap_on_mirror) == ((), ())
