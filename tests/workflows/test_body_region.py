"""The guard before the network: a study of another part of the body, or of another modality."""

from __future__ import annotations

import pydicom
import pytest

import models
import phantoms
from voxmetry.cli import run
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import InputError
from voxmetry.io import write_series
from voxmetry.workflows.body_region import flag_region, regions_in


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("HEAD", {"head"}),
        ("ABDOMENPELVIS", {"abdomen", "pelvis"}),
        ("CHESTABDPELVIS", {"chest", "abdomen", "pelvis"}),
        ("HEADNECK", {"head", "neck"}),
        ("LSPINE", {"abdomen"}),
        ("KNEE", {"leg"}),
        ("WHOLEBODY", set()),
        ("", set()),
        ("not stated", set()),
        ("soft-tissue tumour", set()),
        ("phantom", set()),
    ],
)
def test_terms_of_the_standard_and_of_models_name_regions(text, regions):
    assert regions_in(text) == regions


def info(part):
    return SeriesInfo(series_uid="1", modality="CT", n_files=1, n_slices=1, verdict="regular", body_part=part)


@pytest.mark.parametrize("part", ["ABDOMEN", "CHEST", "PELVIS", "ABDOMENPELVIS", "", "SPECIAL", "WHOLEBODY"])
def test_what_is_near_or_says_nothing_passes(part):
    assert flag_region(info(part), "liver", "abdomen", any_region=False) == ()
    assert flag_region(None, "liver", "abdomen", any_region=False) == ()
    assert flag_region(info("HEAD"), "total", "whole body", any_region=False) == ()


def test_a_head_is_refused_by_a_model_of_the_abdomen_unless_it_is_meant():
    with pytest.raises(InputError, match="Body Part Examined"):
        flag_region(info("HEAD"), "liver", "abdomen", any_region=False)
    (flag,) = flag_region(info("HEAD"), "liver", "abdomen", any_region=True)
    assert (flag.code, flag.severity) == ("other_region", "review")


def write(folder, modality, part):
    for path in write_series(phantoms.volume(phantoms.geometry(shape=(30, 28, 14))), folder, modality=modality):
        dataset = pydicom.dcmread(path)
        dataset.BodyPartExamined = part
        dataset.save_as(path)
    return folder


def test_before_the_network_runs(tmp_path, monkeypatch, capsys):
    model = models.write(tmp_path / "model", body_part="abdomen")
    study = write(tmp_path / "study", "MR", "HEAD")
    command = ["segment", str(study), "-m", str(model), "-o", str(tmp_path / "out"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("voxmetry.nn.Predictor.prepare", lambda *_, **__: pytest.fail("the network ran"))
        assert run(command) == 1
    assert "--any-region" in capsys.readouterr().err
    assert run([*command, "--any-region", "--report", "none"]) == 3


def test_a_ct_given_to_a_model_for_mr_is_told_so(tmp_path, capsys):
    model = models.write(tmp_path / "model")
    study = write(tmp_path / "study", "CT", "HEAD")
    assert run(["segment", str(study), "-m", str(model), "-o", str(tmp_path / "out"), "--device", "cpu"]) == 1
    told = capsys.readouterr().err
    assert "MR" in told
    assert "voxmetry models list" in told
    assert "export the series again" not in told
