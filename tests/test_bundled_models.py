"""The bundled models: what each folder holds, and what head-neck-ct and brain-mr find, refuse and leave alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Volume, compare, load_model, read_segmentation, read_volume, save, segment
from voxmetry.cli import run
from voxmetry.io import write_series
from voxmetry.models import BUNDLED, list_models

NAMES = ("brain-mr", "head-neck-ct", "hippocampus-mr", "sarcoma-petct")
ROOT = Path(__file__).parents[1]
MOST_BYTES = 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_small_and_says_what_it_is_of(name):
    folder = BUNDLED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in (
        "Licence of these weights: ",
        "Data and attribution",
        "95 % interval",
        "Known failures",
        "make reproduce-",
    ):
        assert words in card
    spec = next(spec for spec in list_models() if spec.name == name)
    assert f"Licence of these weights: {spec.licence}" in card


@pytest.mark.parametrize("name", ["hippocampus-mr", "sarcoma-petct"])
def test_what_a_new_patient_can_expect_stands_first_and_is_told_alike(name):
    card = (BUNDLED / name / "MODEL_CARD.md").read_text(encoding="utf-8")
    first, _ = card.split("## Accuracy: 5-fold cross-validation")
    _, told = first.split("can expect")
    figures = re.findall(r"\*\*(0\.\d{3})\*\*", told)
    assert figures
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
    assert "kept apart" in row
    page = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    section, _ = page.split(f"## {name}")[1].split("5-fold cross-validation", 1)
    sentence = section[section.index("kept apart") :]
    for figure in figures:
        assert figure in row
        assert figure in sentence


def test_these_are_all():
    assert tuple(spec.name for spec in list_models()) == NAMES


@pytest.fixture(scope="module")
def head_neck():
    return load_model("head-neck-ct", device="cpu")


@pytest.mark.real_data
class TestHeadNeck:
    def test_finds_the_organs_of_a_patient_held_out(self, head_neck, real_data):
        case = "pt_212"
        assert case in json.loads((BUNDLED / "head-neck-ct" / "split.json").read_text())["validation"]
        volume = read_volume(real_data / "head-neck-ct" / "images" / f"{case}.nii.gz", modality="CT")
        names = {1: "brainstem", 2: "spinal_cord", 3: "parotid_gland_right", 4: "parotid_gland_left", 6: "larynx"}
        table = LabelTable.from_names(names | {5: "esophagus", 7: "mandible"})
        truth = read_segmentation(real_data / "head-neck-ct" / "labels" / f"{case}.nii.gz", labels=table)
        found = segment(volume, head_neck)
        known = [name for value, name in names.items() if (truth.array == value).any()]
        dice = {row.label: row.dice for row in compare(prediction=found, reference=truth, labels=known)}
        assert len(dice) >= 4
        assert min(dice.values()) > 0.6
        # Right is right: the sides do not change places.
        assert dice["parotid_gland_right"] > 0.7
        assert dice["parotid_gland_left"] > 0.7

    def test_finds_nothing_in_a_thigh(self, head_neck, real_data):
        volume = read_volume(real_data / "sarcoma" / "STS_002" / "CT_image.nii.gz", modality="CT")
        assert not segment(volume, head_neck).array.any()


@pytest.mark.real_data
class TestBrain:
    def test_finds_the_parts_of_a_head_on_their_sides_however_it_is_stored(self, real_data, tmp_path):
        image = real_data / "brain-mr" / "t1" / "ixi_013.nii.gz"
        if not image.is_file():
            pytest.skip("no brain-mr in the real data: see data/README.md")
        volume = read_volume(image, modality="MR")
        array = np.ascontiguousarray(np.flip(volume.array, 0).transpose(1, 2, 0))
        turned = Volume(array, volume.geometry.flipped(0).permuted((1, 2, 0)), volume.unit)
        found = segment(turned, load_model("brain-mr", device="cpu"))
        regions = read_segmentation(real_data / "brain-mr" / "regions" / "ixi_013.nii.gz").array
        regions = np.flip(regions, 0).transpose(1, 2, 0)
        for name, value in {"thalamus_right": 59, "thalamus_left": 60, "putamen_left": 58, "brain_stem": 35}.items():
            ours, theirs = found.mask(name), regions == value
            assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.75, name

    def test_a_spine_is_rejected(self, real_data, tmp_path, capsys):
        image = real_data / "spine-mr" / "images" / "vb2_02.nii.gz"
        if not image.is_file():
            pytest.skip("no spine-mr in the real data: see data/README.md")
        out = tmp_path / "out"
        arguments = [
            "segment",
            str(image),
            "-m",
            "brain-mr",
            "-o",
            str(out),
            "--set",
            "report=none",
            "--modality",
            "MR",
        ]
        assert run(arguments) == 3
        flags = {flag["code"]: flag["severity"] for flag in json.loads((out / "result.json").read_text())["flags"]}
        assert flags["unlike_training"] == "reject"
        assert "another" in capsys.readouterr().out


def test_a_brain_in_mr_is_refused(tmp_path, capsys):
    write_series(phantoms.volume(phantoms.geometry(shape=(24, 24, 12))), tmp_path / "mr", modality="MR")
    assert run(["segment", str(tmp_path / "mr"), "-m", "head-neck-ct", "-o", str(tmp_path / "out")]) in (1, 2)
    assert "CT" in capsys.readouterr().err
    assert not (tmp_path / "out" / "seg.nii.gz").exists()


def test_air_is_flagged(tmp_path):
    air = phantoms.volume(phantoms.geometry(shape=(48, 48, 24), spacing_mm=(4.0, 4.0, 2.5)))
    save(type(air)(np.full(air.array.shape, -1000, np.int16), air.geometry), tmp_path / "air.nii.gz")
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "air.nii.gz"), "-m", "head-neck-ct", "-o", str(out), "--modality", "CT"]) == 3
    flags = {flag["code"] for flag in json.loads((out / "result.json").read_text())["flags"]}
    assert "empty" in flags
