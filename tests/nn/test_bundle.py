"""MONAI bundles: the labels of MONAI's own runner, configurations read without running code, refusals in words."""

import json
import warnings
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.networks import nets

import nnunet_folders
from voxmetry import read_volume, segment
from voxmetry.errors import ConfigError, MissingExtraError, ModelError
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.nn.interop.bundle_config import Values

RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1}
CHAIN = [
    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
    {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0},
]
NETWORKS = {
    # As in the model zoo's whole-body CT bundle, narrower: 105 classes, and its two grids by an expression.
    "SegResNet": {"blocks_down": [1, 2, 2], "blocks_up": [1, 1], "init_filters": 8, "dropout_prob": 0.2},
    "UNet": {"channels": [6, 8, 12], "strides": [2, 2], "num_res_units": 1, "norm": "batch"},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "use_checkpoint": True},
    "SegResNetDS": {"blocks_down": [1, 1, 2], "init_filters": 8, "norm": "INSTANCE_NVFUSER", "dsdepth": 2},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [6, 8, 8]},
    "BasicUNet": {"features": [6, 6, 8, 8, 12, 6]},
}
NETWORKS["SegResNetDS"]["norm"] = "instance"


def config(name: str, *, n_outputs: int, patch: list[int], intensities: list[dict]) -> dict:
    """An inference configuration as the model zoo writes them, with a plain loop in place of ignite's evaluator."""
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "fine": False,
        "images": "$sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": name, "spatial_dims": 3, "in_channels": 1, "out_channels": n_outputs}
        | NETWORKS[name],
        "network": "$@network_def.to('cpu').eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {
                    "_target_": "Spacingd",
                    "keys": "image",
                    "pixdim": "$[1.5, 1.5, 1.5] if @fine else [1.6, 1.7, 1.8]",
                    "mode": "bilinear",
                },
                *intensities,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": patch,
            "sw_batch_size": 1,
            "overlap": 0.25,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "separate_folder": False,
                    "resample": False,
                    "print_log": False,
                },
            ],
        },
        "load": "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', weights_only=True))",
        "cases": "$[@preprocessing({'image': path}) for path in @images]",
        "scores": "$[@inferer(case['image'][None].as_tensor(), @network)[0].detach() for case in @cases]",
        "run": [
            "$import torch",
            "$@load",
            "$[@postprocessing({'image': c['image'], 'pred': s}) for c, s in zip(@cases, @scores)]",
        ],
    }


def write_bundle(folder: Path, name: str, *, n_outputs: int = 3, patch=(32, 32, 32), intensities=(RANGE,)) -> Path:
    torch.manual_seed(3)
    content = config(name, n_outputs=n_outputs, patch=list(patch), intensities=list(intensities))
    content["bundle_root"] = str(folder)
    content["imports"].append("$import torch")
    content["run"] = content["run"][1:]
    arguments = {key: value for key, value in content["network_def"].items() if key != "_target_"}
    network = getattr(nets, name)(**arguments)
    channels = {str(index): f"part {index}" if index else "background" for index in range(n_outputs)}
    metadata = {
        "name": f"Seeded {name}",
        "version": "0.1.0",
        "monai_version": "1.6.1",
        "description": "Seeded weights.",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"num_channels": n_outputs, "channel_def": channels}},
        },
    }
    for part in ("configs", "models", "images"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    # No voxel is 0: after interpolation, rounding would decide whether `nonzero` counts it.
    case = {"shape": (30, 36, 24), "spacing": (1.9, 1.4, 2.2), "base": 2000 if intensities is CHAIN else 0}
    nnunet_folders.write_image(folder / "images" / "case.nii.gz", case, seed=0)
    return folder


def run_by_monai(folder: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai.bundle.run(run_id="run", config_file=str(folder / "configs" / "inference.json"))
    (path,) = (folder / "eval").glob("*.nii.gz")
    return np.asarray(nibabel.load(path).dataobj)


class TestParity:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("SegResNet", {"n_outputs": 105, "patch": (32, 32, 32), "intensities": CHAIN}),
            ("UNet", {}),
            pytest.param(
                "SwinUNETR", {"patch": (64, 32, 32), "intensities": [RANGE | {"clip": True}]}, marks=pytest.mark.slow
            ),
            ("SegResNetDS", {}),
            ("DynUNet", {"patch": (24, 20, 16)}),
            ("BasicUNet", {}),
        ],
    )
    def test_labels_are_those_of_monais_own_runner(self, name, options, tmp_path):
        folder = write_bundle(tmp_path / "bundle", name, **options)
        expected = run_by_monai(folder)
        import_model(folder, tmp_path / "model")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = segment(read_volume(folder / "images" / "case.nii.gz"), tmp_path / "model", device="cpu").array
        assert len(np.unique(expected)) > 1
        assert (found == expected).mean() > 0.999


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", "UNet")


def refused(folder: Path, words: str, **change) -> None:
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    out = folder.parent / "refused"
    with pytest.raises(ModelError, match=words):
        import_model(folder, out)
    assert not out.exists()


def with_transform(folder: Path, where: str, place: int, transform: dict) -> dict:
    content = json.loads((folder / "configs" / "inference.json").read_text())
    content[where]["transforms"].insert(place, transform)
    return {where: content[where]}


class TestRefusals:
    @pytest.mark.parametrize(
        ("where", "place", "transform", "words"),
        [
            ("preprocessing", 4, {"_target_": "CropForegroundd"}, "preprocessing with CropForegroundd"),
            ("preprocessing", 4, {"_target_": "my.code.Cropd"}, r"my\.code\.Cropd"),
            ("preprocessing", 2, RANGE, "before Spacingd"),
            ("preprocessing", 5, {"_target_": "Orientationd", "axcodes": "LPS"}, "Orientationd after"),
            ("preprocessing", 5, RANGE | {"clip": "$print(1)"}, "is Python code"),
            ("postprocessing", 0, {"_target_": "Activationsd", "sigmoid": True}, "Activationsd with sigmoid"),
            ("postprocessing", 1, {"_target_": "AsDiscreted", "argmax": True}, "Invertd after AsDiscreted"),
            ("postprocessing", 3, {"_target_": "KeepLargestConnectedComponentd"}, "KeepLargestConnectedComponentd"),
        ],
    )
    def test_a_transform_that_is_not_on_the_list_is_named(self, bundle, where, place, transform, words):
        refused(bundle, words, **with_transform(bundle, where, place, transform))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"network_def": {"_target_": "my.networks.Net"}}, r"my\.networks\.Net"),
            ({"network_def": {"_target_": "ViT"}}, "network_def ViT"),
            ({"inferer": {"_target_": "SimpleInferer"}}, "SimpleInferer"),
            ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": 16, "sigma_scale": 0.3}}, "sigma_scale"),
            ({"preprocessing": "$build_it()"}, "is Python code"),
            ({"preprocessing": "@nowhere"}, "'nowhere', which is not there"),
            ({"preprocessing": "@preprocessing"}, "refers to itself"),
        ],
    )
    def test_a_network_an_inferer_or_a_value_that_is_not_plain_is_named(self, bundle, change, words):
        refused(bundle, words, **change)

    def test_weights_of_another_network(self, bundle):
        torch.save({"conv.weight": torch.zeros(3)}, bundle / "models" / "model.pt")
        refused(bundle, "conv.weight with shape|with shape None")

    def test_a_bundle_without_weights_or_with_too_few_names(self, bundle):
        path = bundle / "configs" / "metadata.json"
        metadata = json.loads(path.read_text())
        del metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"]
        path.write_text(json.dumps(metadata))
        refused(bundle, "metadata.json names 2")
        (bundle / "models" / "model.pt").unlink()
        refused(bundle, "models without model.pt")

    def test_a_modality_that_is_not_stated(self, bundle, tmp_path):
        path = bundle / "configs" / "metadata.json"
        path.write_text(path.read_text().replace('"CT"', '"any"'))
        refused(bundle, "modality 'any'")
        arrival = import_model(bundle, tmp_path / "told", ImportOptions(modalities=("MR",)))
        assert arrival.spec.inputs[0].modality == "MR"

    def test_an_argument_that_the_network_does_not_have(self, bundle):
        content = json.loads((bundle / "configs" / "inference.json").read_text())
        network = content["network_def"] | {"colour": "blue"}
        (bundle / "configs" / "inference.json").write_text(json.dumps(content | {"network_def": network}))
        with pytest.raises(ConfigError, match="names colour"):
            import_model(bundle, bundle.parent / "out")

    def test_a_network_that_needs_a_package_which_is_not_there(self, bundle, monkeypatch):
        def build(**_):
            raise ImportError("einops")

        monkeypatch.setattr("monai.networks.nets.UNet", build)
        with pytest.raises(ConfigError, match="names"):
            import_model(bundle, bundle.parent / "out")
        monkeypatch.setattr("inspect.signature", lambda _: type("S", (), {"parameters": NETWORKS["UNet"]})())
        with pytest.raises(MissingExtraError, match="einops"):
            import_model(bundle, bundle.parent / "out")


class TestConfigurations:
    def test_arithmetic_conditions_and_references(self):
        values = Values({"a": 2, "b": "$@a * 3 - 1", "c": "$'x' if @b >= 5 and not (@a in [1]) else 'y'", "d": ["@c"]})
        assert [values.get(key) for key in "abcd"] == [2, 5, "x", ["x"]]

    @pytest.mark.parametrize(
        "text",
        ["$__import__('os').system('true')", "$(1).__class__", "$[x for x in (1,)]", "$'a' * 9", "$1 / 0", "$open"],
    )
    def test_code_is_refused_and_not_run(self, text):
        with pytest.raises(ModelError, match="is Python code"):
            Values({"a": text}).get("a")
