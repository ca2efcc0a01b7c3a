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
from bundle_folders import CHAIN, NETWORKS, RANGE, write_bundle
from voxmetry import read_volume, segment
from voxmetry.errors import ConfigError, MissingExtraError, ModelError
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.nn.interop.bundle_config import Values, read_config


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


def change_config(folder: Path, change) -> None:
    path = folder / "configs" / "inference.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def transforms(content: dict, where: str, *names: str) -> list[dict]:
    """Some transforms of a configuration, by name and in this order."""
    there = {item["_target_"]: item for item in content[where]["transforms"]}
    return [there[name] for name in names]


class TestZoo:
    """What the model zoo's configurations do beyond the plain one, each in a seeded bundle of its shape."""

    def agree(self, folder: Path, tmp_path: Path, orientation=None, *, images=("case.nii.gz",), least=0.999):
        expected = run_by_monai(folder)
        arrival = import_model(folder, tmp_path / "model", ImportOptions(orientation=orientation))
        volumes = [read_volume(folder / "images" / name) for name in images]
        found = segment(volumes, tmp_path / "model", device="cpu").array
        assert len(np.unique(expected)) > 1
        assert (found == expected).mean() > least
        return arrival

    def test_labels_on_the_networks_grid_and_the_nearest_as_whole_body_ct_has_it(self, tmp_path):
        folder = write_bundle(tmp_path / "bundle", "SegResNet", n_outputs=105, intensities=CHAIN)

        def change(content):
            soft, inverse, chosen, saved = content["postprocessing"]["transforms"]
            content["postprocessing"]["transforms"] = [soft, chosen, inverse | {"nearest_interp": True}, saved]
            content["inferer"]["padding_mode"] = "replicate"

        change_config(folder, change)
        # Where the nearest of two voxels is a tie, MONAI's rounding of a float32 position decides.
        spec = self.agree(folder, tmp_path, least=0.995).spec
        assert spec.resampling.score_order == 0
        assert spec.window.padding == "replicate"

    @pytest.mark.parametrize("nearest", [True, False])
    def test_the_largest_component_as_prostate_mri_has_it(self, nearest, tmp_path):
        folder = write_bundle(tmp_path / "bundle", "UNet")
        largest = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2]}

        def change(content):
            inverse, chosen, saved = transforms(content, "postprocessing", "Invertd", "AsDiscreted", "SaveImaged")
            content["postprocessing"]["transforms"] = [chosen, largest, inverse | {"nearest_interp": nearest}, saved]

        change_config(folder, change)
        if nearest:
            arrival = self.agree(folder, tmp_path, least=0.99)
        else:
            arrival = import_model(folder, tmp_path / "model")
            assert any("invents values between" in note for note in arrival.notes)
        (step,) = arrival.spec.clean
        assert (step.step, step.labels, step.together) == ("largest", ("part 1", "part 2"), False)

    def test_the_length_of_a_list_and_weights_of_another_name_as_pediatric_ct_has_it(self, tmp_path):
        folder = write_bundle(tmp_path / "bundle", "DynUNet", patch=(24, 20, 16))

        def change(content):
            content["spatial_size"] = [96, 96, 96]
            content["network_def"]["spatial_dims"] = "$len(@spatial_size)"
            content["load"] = content["load"].replace("model.pt", "dynunet_FT.pt")

        change_config(folder, change)
        (folder / "models" / "model.pt").rename(folder / "models" / "dynunet_FT.pt")
        self.agree(folder, tmp_path)

    def test_sigmoid_outputs_on_the_images_own_voxels_as_brats_has_it(self, tmp_path):
        folder = write_bundle(tmp_path / "bundle", "SegResNet")
        channels = [f"image_{index}.nii.gz" for index in range(4)]
        case = {"shape": (30, 36, 24), "spacing": (1.0, 1.0, 1.0), "border": 4}
        for index, name in enumerate(channels):
            nnunet_folders.write_image(folder / "images" / name, case, seed=index)
        (folder / "images" / "case.nii.gz").unlink()

        def change(content):
            content["network_def"]["in_channels"] = 4
            (load,) = transforms(content, "preprocessing", "LoadImaged")
            norm = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}
            content["preprocessing"]["transforms"] = [load, norm]
            content["cases"] = "$[@preprocessing({'image': @images})]"
            inverse, saved = transforms(content, "postprocessing", "Invertd", "SaveImaged")
            content["postprocessing"]["transforms"] = [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                inverse,
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
                {
                    "_target_": "Lambdad",
                    "keys": "pred",
                    "func": "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, "
                    "torch.where(x[[1]] > 0, 2, 0)))",
                },
                saved,
            ]

        change_config(folder, change)
        arguments = NETWORKS["SegResNet"] | {"spatial_dims": 3, "in_channels": 4, "out_channels": 3}
        torch.save(nets.SegResNet(**arguments).state_dict(), folder / "models" / "model.pt")
        path = folder / "configs" / "metadata.json"
        metadata = json.loads(path.read_text())
        metadata["network_data_format"]["inputs"]["image"] |= {"modality": "MR", "num_channels": 4, "channel_def": {}}
        metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {
            "0": "core",
            "1": "whole",
            "2": "enhancing",
        }
        path.write_text(json.dumps(metadata))
        with pytest.raises(ModelError, match="no Orientationd"):
            import_model(folder, tmp_path / "refused")
        arrival = self.agree(folder, tmp_path, "stored", images=channels)
        assert arrival.spec.regions == (2, 1, 4)
        assert arrival.spec.labels.names == ("core outside enhancing", "whole outside core, enhancing", "enhancing")
        assert any("does not say the voxel size" in note for note in arrival.notes)


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
            ("preprocessing", 2, RANGE, "Orientationd after Spacingd or after a change of intensities"),
            ("preprocessing", 5, {"_target_": "Orientationd", "axcodes": "LPS"}, "Orientationd after"),
            ("preprocessing", 5, RANGE | {"clip": "$print(1)"}, "is Python code"),
            ("postprocessing", 1, {"_target_": "Activationsd", "sigmoid": True}, "AsDiscreted with argmax"),
            ("postprocessing", 1, {"_target_": "KeepLargestConnectedComponentd"}, "KeepLargestConnectedComponentd"),
            (
                "postprocessing",
                3,
                {"_target_": "KeepLargestConnectedComponentd", "applied_labels": [1, 9]},
                r"KeepLargestConnectedComponentd of the labels \[9\]",
            ),
            ("postprocessing", 3, {"_target_": "Lambdad", "func": "$lambda x: x.cpu()"}, "Lambdad"),
            ("postprocessing", 3, {"_target_": "FillHolesd"}, "FillHolesd"),
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

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"network_def": {"_target_": "UNet", "in_channels": "x"}}, "not as its format has it: ValueError"),
            ({"network_def": {"_target_": "UNet", "channels": [4, 8], "strides": [[1]]}}, "IndexError"),
            ({"network_def": {"_target_": "UNet"}}, "KeyError: 'strides'"),
            ({"inferer": {"_target_": "SlidingWindowInferer"}}, "roi_size None"),
            ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": 16, "padding_mode": "circular"}}, "circular"),
            ({"preprocessing": 3}, "no Compose"),
        ],
    )
    def test_what_is_not_as_the_format_has_it(self, bundle, change, words):
        refused(bundle, words, **change)

    def test_a_network_that_would_take_all_memory(self, bundle):
        change_config(bundle, lambda content: content["network_def"].update(channels=[16000, 16000, 16000]))
        refused(bundle, "million parameters")
        change_config(bundle, lambda content: content["network_def"].update(channels=[10**9, 8, 12]))
        with pytest.raises(ConfigError, match="no network has more than"):
            import_model(bundle, bundle.parent / "out")

    def test_damaged_safetensors(self, bundle):
        (bundle / "models" / "model.pt").unlink()
        (bundle / "models" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
        refused(bundle, "no safetensors file")

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
    def test_references_that_multiply_are_refused(self):
        content = {f"a{n}": [f"@a{n + 1}"] * 10 for n in range(12)} | {"a12": 1}
        with pytest.raises(ModelError, match="comes to more than"):
            Values(content).get("a0")

    def test_a_file_nested_too_deep_or_too_long(self, tmp_path):
        for text in ("[" * 100_000, '{"a": ' + "[" * 5000 + "]" * 5000 + "}"):
            (tmp_path / "inference.json").write_text(text)
            with pytest.raises(ModelError, match="cannot be read"):
                read_config(tmp_path / "inference.json")

    def test_the_length_of_a_list(self):
        assert Values({"size": [9, 8, 7], "n": "$len(@size) * 2"}).get("n") == 6

    def test_arithmetic_conditions_and_references(self):
        values = Values({"a": 2, "b": "$@a * 3 - 1", "c": "$'x' if @b >= 5 and not (@a in [1]) else 'y'", "d": ["@c"]})
        assert [values.get(key) for key in "abcd"] == [2, 5, "x", ["x"]]

    @pytest.mark.parametrize(
        "text",
        [
            "$__import__('os').system('true')",
            "$(1).__class__",
            "$[x for x in (1,)]",
            "$'a' * 9",
            "$1 / 0",
            "$open",
            "$len()",
            "$len(3)",
            "$[0] * 64 * 64 * 64",
            "$999999999 * 999999999",
            "$" + "(" * 500 + "1" + ")" * 500,
        ],
    )
    def test_code_is_refused_and_not_run(self, text):
        with pytest.raises(ModelError, match="is Python code"):
            Values({"a": text}).get("a")
