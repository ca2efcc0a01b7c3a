"""Networks other than the DynUNet, trained by the same loop, and what their models are good for."""

import numpy as np
import pytest

import models
from cases import train_settings, write_cases
from voxmetry import load_model, read_volume, segment
from voxmetry.errors import ConfigError
from voxmetry.nn.interop import export_model
from voxmetry.train import train

NETWORKS = {
    "fcn": {"kind": "fcn", "channels": [4, 6, 8, 8], "strides": [[1] * 3, [2, 2, 1], [2] * 3, [2] * 3]},
    "SegResNet": {"kind": "monai", "name": "SegResNet", "arguments": {"init_filters": 8}, "multiple_of": [8, 8, 8]},
    "MedNeXt": {
        "kind": "monai",
        "name": "MedNeXt",
        "arguments": {"init_filters": 4, "kernel_size": 3, "blocks_down": [1, 1, 1], "blocks_up": [1, 1, 1]},
        "multiple_of": [8, 8, 8],
    },
    "SwinUNETR": {
        "kind": "monai",
        "name": "SwinUNETR",
        "arguments": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "use_v2": False},
        "multiple_of": [32, 32, 32],
    },
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_run_of_each_leaves_a_model_that_runs_and_is_exported(name, tmp_path):
    data = write_cases(tmp_path / "data", 3)
    # Two voxels at least on the coarsest level, as instance normalisation needs them.
    patch = {"SwinUNETR": [64, 32, 32], "SegResNet": [32, 32, 32]}.get(name, [16, 24, 8])
    model = models.spec(network=NETWORKS[name], window={"patch": patch}).model_dump(mode="json")
    run = train_settings(model=model, epochs=1, batch_size=1, precision="float32")
    folder = train(run, tmp_path / "run", data=data)
    volume = read_volume(data / "images" / "case_0.nii.gz")
    found = segment(volume, load_model(folder, device="cpu"))
    assert found.geometry.is_same(volume.geometry)
    assert set(np.unique(found.array)) <= {0, 2, 7}
    (path,) = export_model(folder, tmp_path / "network.onnx", form="onnx")
    assert path.stat().st_size > 1000


def test_an_initial_bias_by_frequency_is_refused_where_the_last_layer_is_not_known():
    model = models.spec(network=NETWORKS["fcn"]).model_dump(mode="json")
    with pytest.raises(ConfigError, match="initial_bias"):
        train_settings(model=model, initial_bias="frequency")


def test_what_another_framework_trained_is_refused():
    network = {
        "kind": "nnunet",
        "encoder": "plain",
        "channels": [4, 8],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "kernels": [[3, 3, 3], [3, 3, 3]],
        "encoder_blocks": [1, 1],
        "decoder_convolutions": [1],
    }
    with pytest.raises(ConfigError, match="'dynunet', 'maskrcnn', 'fcn' or 'monai'"):
        train_settings(model=models.spec(network=network).model_dump(mode="json"))
