"""Exported models give the same labels in the programs that they are written for."""

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

import models
import phantoms
from parity import restore
from voxmetry import load_model, save, segment
from voxmetry.cli import run
from voxmetry.config import ModelSpec, parse_record
from voxmetry.errors import MissingExtraError, ModelError, OutputError, OutputExistsError
from voxmetry.nn.interop import export_model
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.window import window_scores


@pytest.fixture
def folder(tmp_path):
    return models.write(tmp_path / "model")


@pytest.fixture
def volume():
    return phantoms.volume(phantoms.geometry(shape=(31, 29, 17), spacing_mm=(1.0, 1.2, 2.5), degrees=(0, 0, 0)))


def labels_of(network, volume, folder) -> np.ndarray:
    spec = load_model(folder, device="cpu").spec
    prepared = preprocess([volume], spec)
    scores = window_scores(network, prepared.tensor, spec.window)
    return restore(scores, grid=prepared.grid, native=volume.geometry, spec=spec).array


class TestNetworks:
    def test_onnx_gives_the_same_labels_in_onnxruntime_and_openvino(self, folder, volume, tmp_path):
        (path,) = export_model(folder, tmp_path / "model.onnx", form="onnx")
        expected = segment(volume, folder, device="cpu").array
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        runs = (lambda x: session.run(None, {"image": x})[0], lambda x: compiled(x)[0])
        for network in runs:
            found = labels_of(lambda patches, run=network: torch.from_numpy(run(patches.numpy())), volume, folder)
            assert (found == expected).mean() > 0.999

    def test_the_onnx_file_says_how_to_prepare_an_image(self, folder, tmp_path):
        (path,) = export_model(folder, tmp_path / "model.onnx", form="onnx")
        (entry,) = onnx.load(path).metadata_props
        import yaml

        spec = parse_record(yaml.safe_load(entry.value), ModelSpec, where="onnx")
        assert spec == load_model(folder, device="cpu").spec

    def test_torchscript_gives_the_same_labels(self, folder, volume, tmp_path):
        (path,) = export_model(folder, tmp_path / "model.ts", form="torchscript")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.jit.load(path)
        assert np.array_equal(labels_of(network, volume, folder), segment(volume, folder, device="cpu").array)


class TestBundle:
    def test_labels_are_the_same_in_monais_runner(self, folder, volume, tmp_path):
        import monai.bundle

        files = export_model(folder, tmp_path / "bundle", form="monai-bundle")
        assert all(path.is_file() for path in files)
        (tmp_path / "bundle" / "images").mkdir()
        save(volume, tmp_path / "bundle" / "images" / "case.nii.gz")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monai.bundle.run(
                run_id="run",
                config_file=str(tmp_path / "bundle" / "configs" / "inference.json"),
                bundle_root=str(tmp_path / "bundle"),
            )
        (written,) = (tmp_path / "bundle" / "eval").glob("*.nii.gz")
        found = np.asarray(nibabel.load(written).dataobj)
        expected = segment(volume, folder, device="cpu").array
        assert set(np.unique(found)) == {0, 2, 7}
        assert (found == expected).mean() > 0.999

    def test_what_a_bundle_cannot_say_is_named(self, tmp_path):
        folder = models.write(tmp_path / "model", resampling={"rule": "nnunet"}, regions=[2, 7])
        with pytest.raises(ModelError, match="regions, resampling by the rule 'nnunet'"):
            export_model(folder, tmp_path / "bundle", form="monai-bundle")
        assert not (tmp_path / "bundle").exists()

    def test_the_readme_says_what_differs(self, tmp_path):
        window = {"patch": [16, 24, 8], "mirror_axes": [0]}
        folder = models.write(tmp_path / "model", window=window)
        export_model(folder, tmp_path / "bundle", form="monai-bundle")
        text = (tmp_path / "bundle" / "docs" / "README.md").read_text()
        assert "mirror images" in text
        assert "starts its grid" in text


class TestVerb:
    def test_writes_and_refuses_to_replace(self, folder, tmp_path, capsys):
        arguments = ["models", "export", str(folder), "-o", str(tmp_path / "m.ts"), "--format", "torchscript"]
        assert run([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "m.ts")]
        assert run(arguments) == OutputExistsError.exit_code
        assert run([*arguments, "--overwrite"]) == 0

    def test_a_folder_that_is_not_there(self, folder, tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            export_model(folder, tmp_path / "none" / "m.onnx", form="onnx")
        with pytest.raises(ModelError, match="no model"):
            export_model(Path("none"), tmp_path / "m.onnx", form="onnx")

    def test_onnx_needs_its_package(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match="interop"):
            export_model(folder, tmp_path / "m.onnx", form="onnx")
