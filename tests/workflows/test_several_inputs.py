"""A model of several inputs on the straight path: CT and PET on grids of their own."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Geometry, StudySettings, Volume, read_segmentation, resample, save, segment_study
from voxmetry.errors import ConfigError, InputError, SeriesError
from voxmetry.io.dicom.objects.write import write_series

INPUTS = [
    {"name": "ct", "modality": "CT", "normalise": {"method": "window", "low": -200, "high": 300}},
    {"name": "pet", "modality": "PT", "normalise": {"method": "window", "low": 0, "high": 10}},
]


def images():
    """A CT, and a PET on a coarser grid over the same field of view; the tumour is bright in both."""
    fine = phantoms.geometry(shape=(24, 30, 12))
    third = np.array(fine.affine)
    third[:3, :3] *= 3
    # Each coarse voxel has the centre of a fine one, so that the nearest is never a matter of rounding.
    third[:3, 3] += fine.affine[:3, :3] @ np.ones(3)
    coarse = Geometry(third, (8, 10, 4))
    rng = np.random.default_rng(0)
    ct = rng.normal(0, 30, fine.shape).astype(np.float32)
    pet = rng.uniform(0.2, 1.0, coarse.shape).astype(np.float32)
    pet[3:6, 3:6, 1:3] += 6.0
    return Volume(ct, fine, "HU"), Volume(pet, coarse, "SUVbw")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model") / "tiny-petct", name="tiny-petct", inputs=INPUTS)


@pytest.fixture
def files(tmp_path):
    ct, pet = images()
    for name, volume in (("ct", ct), ("pet", pet)):
        save(volume, tmp_path / f"{name}.nii.gz")
    return tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz"


SUV, LIGHT = StudySettings(unit="SUVbw", report="none"), StudySettings(report="none")


def test_one_file_for_each_input_and_suv_is_measured_on_the_pets_own_voxels(files, model, tmp_path):
    result = segment_study(files, tmp_path / "out", model, settings=SUV)
    ct, pet = images()
    (other,) = result.others
    assert (result.source.unit, other.name, other.source.unit) == ("HU", "pet", "SUVbw")
    assert other.source.shape == pet.geometry.shape
    labels = read_segmentation(tmp_path / "out" / "seg.nii.gz")
    assert labels.geometry.is_same(ct.geometry)
    moved = resample(labels, to=pet.geometry)
    for mine, theirs in zip(result.measurements, other.measurements, strict=True):
        assert mine.label == theirs.label
        assert theirs.n_voxels == int((moved.array == mine.value).sum()) > 0
        # A value that was interpolated would not be one of the PET's.
        assert float(np.float32(theirs.intensity_max)) in pet.array
    with (tmp_path / "out" / "other_measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["label"]) for row in rows] == [("pet", m.label) for m in other.measurements]
    assert float(rows[0]["intensity_mean"]) == pytest.approx(other.measurements[0].intensity_mean)
    assert "unit_assumed" not in {flag.code for flag in result.flags}


def test_a_pet_of_unknown_unit_has_no_suv_and_a_note(files, model, tmp_path):
    result = segment_study(files, tmp_path / "out", model, settings=LIGHT)
    assert result.others[0].source.unit == "1"
    assert "unit_assumed" in {flag.code for flag in result.flags}


def test_too_few_files_or_a_series_for_both_are_refused(files, model, tmp_path):
    with pytest.raises(InputError, match="1 image for tiny-petct") as caught:
        segment_study(files[0], tmp_path / "out", model)
    assert "ct (CT), pet (PT)" in caught.value.expected
    with pytest.raises(InputError, match="2 images for tiny"):
        segment_study(files, tmp_path / "out", models.write(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="for 2 inputs"):
        segment_study(files, tmp_path / "out", model, settings=StudySettings(series="1.2"))
    assert not any((tmp_path / "out").glob("*"))


def test_a_dicom_folder_gives_each_input_its_modality(model, tmp_path):
    ct, _ = images()
    whole = Volume(np.round(ct.array).astype(np.int16), ct.geometry, "HU")
    write_series(whole, tmp_path / "study" / "ct", modality="CT")
    with pytest.raises((InputError, SeriesError), match="PT"):
        segment_study(tmp_path / "study", tmp_path / "out", model)


@pytest.mark.real_data
def test_the_ct_and_pet_of_a_patient_in_one_dicom_folder(real_data, tmp_path):
    # On large voxels the whole body is a few windows.
    coarse = models.write(tmp_path / "model", name="tiny-petct", inputs=INPUTS, spacing_mm=[8.0, 8.0, 12.0])
    result = segment_study(real_data / "sarcoma-dicom" / "STS_002", tmp_path / "out", coarse, settings=LIGHT)
    assert (result.source.modality, result.source.unit) == ("CT", "HU")
    assert (result.others[0].source.modality, result.others[0].source.unit) == ("PT", "SUVbw")


@pytest.mark.real_data
@pytest.mark.slow
def test_the_bundled_model_outlines_a_tumour_and_measures_its_uptake(real_data, tmp_path):
    patient = real_data / "sarcoma" / "STS_019"
    files = (patient / "CT_image.nii.gz", patient / "PET_image.nii.gz")
    mask = patient / "CT_mask.nii.gz"
    settings = StudySettings(unit="SUVbw", device="cpu", report="none")
    result = segment_study(files, tmp_path / "out", "sarcoma-petct", reference=mask, settings=settings)
    # The weights saw this patient: how good they are on others is in the model's card.
    assert result.comparisons[0].dice > 0.6
    (lesion,) = result.others[0].lesions
    assert 2 < lesion.suv_peak <= lesion.intensity_max < 30
    assert [row.label for row in result.predicted_dice] == ["tumour"]
