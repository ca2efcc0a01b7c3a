"""Model folders: where they are found, and what in them is refused before it takes memory or time."""

import os

import pytest
import yaml

import models
from voxmetry import load_model
from voxmetry.errors import ConfigError, ModelError
from voxmetry.models import find_model, read_spec


class TestFinding:
    def test_the_folder_of_a_training_run_stands_for_the_model_in_it(self, tmp_path):
        models.write(tmp_path / "run" / "model")
        assert find_model(tmp_path / "run") == tmp_path / "run" / "model"
        assert find_model(tmp_path / "run" / "model") == tmp_path / "run" / "model"
        assert load_model(tmp_path / "run", device="cpu").spec == read_spec(tmp_path / "run")

    def test_a_run_without_a_model_yet_is_no_model(self, tmp_path):
        (tmp_path / "run").mkdir()
        with pytest.raises(ModelError, match="no model"):
            find_model(tmp_path / "run")


def changed(folder, **change):
    """A model folder whose model.yaml says something else."""
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    return folder


class TestRefusals:
    @pytest.mark.parametrize("name", ["/dev/zero", "../weights.safetensors", "a/b", "..", "", ".", "x\\y", "a\nb"])
    def test_weights_outside_of_the_folder(self, name, tmp_path):
        folder = changed(models.write(tmp_path), weights={"file": name, "sha256": "0" * 64})
        with pytest.raises(ConfigError, match="not the name of a file"):
            load_model(folder, device="cpu")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_weights_that_are_a_pipe_or_a_device(self, tmp_path):
        folder = models.write(tmp_path)
        (folder / "weights.safetensors").unlink()
        os.mkfifo(folder / "weights.safetensors")
        with pytest.raises(ModelError, match="it is no file"):
            load_model(folder, device="cpu")
        (folder / "weights.safetensors").unlink()
        (folder / "weights.safetensors").symlink_to("/dev/zero")
        with pytest.raises(ModelError, match="it is no file"):
            load_model(folder, device="cpu")

    def test_weights_larger_than_memory_are_not_read(self, tmp_path, monkeypatch):
        folder = models.write(tmp_path)
        monkeypatch.setattr("voxmetry.nn.weights.free_bytes", lambda: 1000)
        with pytest.raises(ModelError, match=r"weights\.safetensors of 0\.00 GB, and 0\.00 GB of memory are free"):
            load_model(folder, device="cpu")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"members": 1_000_000_000}, "members: .*less than or equal to 100"),
            ({"window": {"patch": [10**9] * 3}}, "patch"),
            ({"spacing_mm": [float("inf"), 1, 1]}, "finite"),
        ],
    )
    def test_sizes_that_no_model_has(self, change, words, tmp_path):
        with pytest.raises(ConfigError, match=words):
            load_model(changed(models.write(tmp_path), **change), device="cpu")

    def test_a_network_that_its_weights_cannot_fill_is_not_built(self, tmp_path):
        network = models.spec().network.model_dump(mode="json") | {"channels": [16_000, 16_000, 16_000]}
        folder = changed(models.write(tmp_path), network=network)
        with pytest.raises(ModelError, match="million parameters"):
            load_model(folder, device="cpu")
        network["channels"] = [10**9, 8, 8]
        with pytest.raises(ConfigError, match=r"network\.dynunet\.channels\.0"):
            load_model(changed(folder, network=network), device="cpu")
