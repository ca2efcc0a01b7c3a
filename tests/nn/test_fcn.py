"""The fully convolutional baseline."""

import numpy as np
import onnxruntime
import pytest
import torch

import models
from voxmetry import load_model
from voxmetry.config import ModelSpec, parse_record
from voxmetry.errors import ConfigError
from voxmetry.nn.interop import export_model
from voxmetry.nn.networks.fcn import Upsample

FCN = {
    "kind": "fcn",
    "channels": [4, 6, 8, 8],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],
    "convolutions": 1,
}


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 4), (8, 8, 8), (3, 1, 2)])
def test_upsampling_begins_as_linear_interpolation(stride):
    """Exact on an affine field, but for the half voxel at the border, where the outermost voxels are held."""
    shape = (4, 5, 6)
    centres = [torch.arange(n) * s + (s - 1) / 2 for n, s in zip(shape, stride, strict=True)]
    i, j, k = torch.meshgrid(*centres, indexing="ij")
    with torch.inference_mode():
        found = Upsample(2, stride)(torch.stack([2 * i - j + 3 * k, i])[None])[0]
    assert found.shape[1:] == tuple(n * s for n, s in zip(shape, stride, strict=True))
    fine = torch.meshgrid(
        *[torch.arange(n * s, dtype=torch.float32) for n, s in zip(shape, stride, strict=True)], indexing="ij"
    )
    inside = tuple(slice(s // 2, n * s - s // 2) for n, s in zip(shape, stride, strict=True))
    want = torch.stack([2 * fine[0] - fine[1] + 3 * fine[2], fine[0]])
    torch.testing.assert_close(found[(slice(None), *inside)], want[(slice(None), *inside)], atol=1e-4, rtol=0)


def test_scores_have_the_patchs_size_and_onnx_gives_the_same(tmp_path):
    folder = models.write(tmp_path / "model", network=FCN)
    model = load_model(folder, device="cpu")
    patch = torch.randn(1, 1, 16, 24, 8)
    with torch.inference_mode():
        scores = model.members[0](patch)
    assert scores.shape == (1, 3, 16, 24, 8)
    (path,) = export_model(folder, tmp_path / "fcn.onnx", form="onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": patch.numpy()})[0], scores.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"strides": [[1, 1, 1], [2, 2, 2]]}, "one of each"), ({"channels": [4, 4]}, "at least 4")],
)
def test_levels_that_do_not_fit_are_refused_in_words(change, words):
    with pytest.raises(ConfigError, match=words):
        parse_record(models.spec().model_dump(mode="json") | {"network": FCN | change}, ModelSpec, where="test")


def test_a_patch_that_its_strides_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        models.spec(network=FCN, window={"patch": [12, 24, 8]})
