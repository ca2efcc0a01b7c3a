"""The model is loaded while the study is read; what is refused is refused as one after the other."""

import threading
from pathlib import Path

import pytest

import models
import phantoms
from voxmetry import StudySettings, load_model, save, segment_study
from voxmetry.errors import ConfigError, InputError, ModelError
from voxmetry.workflows import loading, segment

LIGHT = StudySettings(report="none", device="cpu")


@pytest.fixture
def folder(tmp_path):
    return models.write(tmp_path / "model")


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), path)
    return path


def test_reading_begins_before_loading_has_ended(folder, study, tmp_path, monkeypatch):
    reading = threading.Event()
    met = []
    load, read = loading.load_any, segment.read_inputs

    def load_when_reading(*given):
        # One after the other, nobody would set it.
        met.append(reading.wait(60))
        return load(*given)

    def tell_and_read(*given):
        reading.set()
        return read(*given)

    monkeypatch.setattr(loading, "load_any", load_when_reading)
    monkeypatch.setattr(segment, "read_inputs", tell_and_read)
    said = []
    result = segment_study(study, tmp_path / "out", folder, settings=LIGHT, tell=said.append)
    assert met == [True]
    assert {"load model", "read", "network"} <= set(result.provenance.seconds)
    assert [line for line in said if line in ("load model", "read", "preprocess")] == [
        "load model",
        "read",
        "preprocess",
    ]
    # What the model says while it is loaded, and afterwards.
    assert any(line.startswith("tiny-mr on cpu") for line in said)
    assert any(line.startswith("plan: ") for line in said)


def test_the_result_is_that_of_a_loaded_model(folder, study, tmp_path):
    named = segment_study(study, tmp_path / "named", folder, settings=LIGHT)
    loaded = segment_study(study, tmp_path / "loaded", load_model(folder, device="cpu"), settings=LIGHT)
    assert named.measurements == loaded.measurements
    assert (tmp_path / "named/seg.nii.gz").read_bytes() == (tmp_path / "loaded/seg.nii.gz").read_bytes()


class TestErrors:
    @pytest.fixture
    def damaged(self, tmp_path) -> Path:
        """A study that is there and cannot be read."""
        path = tmp_path / "no study.nii.gz"
        path.write_bytes(b"no study")
        return path

    def test_that_of_a_path_comes_first(self, folder, tmp_path):
        (folder / "weights.safetensors").write_bytes(b"0" * 100)
        with pytest.raises(InputError, match="nothing"):
            segment_study(tmp_path / "nowhere.nii.gz", tmp_path / "out", folder, settings=LIGHT)

    def test_then_that_of_the_model(self, folder, damaged, tmp_path):
        (folder / "weights.safetensors").write_bytes(b"0" * 100)
        with pytest.raises(ModelError, match="SHA-256"):
            segment_study(damaged, tmp_path / "out", folder, settings=LIGHT)

    def test_then_that_of_what_is_asked_of_it(self, folder, damaged, tmp_path):
        settings = LIGHT.model_copy(update={"maps": ("disagreement",)})
        with pytest.raises(ConfigError, match="disagreement"):
            segment_study(damaged, tmp_path / "out", folder, settings=settings)

    def test_then_that_of_the_study(self, folder, damaged, tmp_path):
        with pytest.raises(InputError, match="no study"):
            segment_study(damaged, tmp_path / "out", folder, settings=LIGHT)

    def test_a_reference_that_is_not_there_is_told_though_not_read(self, folder, study, tmp_path, monkeypatch):
        monkeypatch.setattr(segment, "is_larger", lambda *_: True)
        with pytest.raises(InputError, match="nothing at"):
            segment_study(study, tmp_path / "out", folder, reference=tmp_path / "truth.nii", settings=LIGHT)

    @pytest.mark.parametrize("name", ["no-such-model", "baseline.yaml"])
    def test_a_model_that_is_not_there(self, name, study, tmp_path):
        with pytest.raises((ModelError, InputError, ConfigError)):
            segment_study(study, tmp_path / "out", tmp_path / name, settings=LIGHT)
