"""Studies of several images: put together from a tree, a BIDS data set or a manifest, and run."""

import csv
import json

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Geometry, StudySettings, Volume, cohort, save, segment_study
from voxmetry.io import write_series
from voxmetry.workflows.cohort.export import export_tables
from voxmetry.workflows.cohort.plan import plan_cohort
from voxmetry.workflows.cohort.records import RunSettings

INPUTS = [
    {"name": "ct", "modality": "CT", "normalise": {"method": "window", "low": -200, "high": 300}},
    {"name": "pet", "modality": "PT", "normalise": {"method": "window", "low": 0, "high": 10}},
]
SETTINGS = RunSettings(study=StudySettings(report="none", device="cpu", unit="SUVbw"))


def ct(seed: int) -> Volume:
    grid = phantoms.geometry(shape=(16, 18, 12))
    return Volume(np.random.default_rng(seed).integers(-100, 200, grid.shape).astype(np.int16), grid, "HU")


def pet(seed: int) -> Volume:
    fine = ct(seed).geometry
    affine = np.array(fine.affine)
    affine[:3, :3] *= 2
    affine[:3, 3] += fine.affine[:3, :3] @ np.full(3, 0.5)
    coarse = Geometry(affine, (8, 9, 6))
    return Volume(np.random.default_rng(seed).uniform(0.2, 8, coarse.shape).astype(np.float32), coarse, "SUVbw")


@pytest.fixture(scope="module")
def petct(tmp_path_factory):
    return str(models.write(tmp_path_factory.mktemp("model") / "tiny-petct", name="tiny-petct", inputs=INPUTS))


def waiting(plan) -> dict[str, list[str]]:
    return {s.case: [image.path.rsplit("/", 1)[-1] for image in s.candidate.images] for s in plan.of("waiting")}


def refused(plan) -> dict[str, str]:
    return {s.case: s.fault.found for s in plan.of("refused")}


def test_files_whose_names_differ_in_the_input_alone_are_one_study(petct, tmp_path):
    folder = tmp_path / "in"
    for seed, names in enumerate((("P1/CT_image", "P1/PET_image"), ("flat_ct", "flat_pet"), ("P3/ct", "P3/pt"))):
        (folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
        save(ct(seed), folder / f"{names[0]}.nii.gz")
        save(pet(seed), folder / f"{names[1]}.nii.gz")
    save(ct(8), folder / "lone_ct.nii.gz")
    save(ct(9), folder / "P1" / "MR_image.nii.gz")
    plan = plan_cohort(folder, tmp_path / "out", [petct], settings=SETTINGS)
    assert waiting(plan) == {
        "P1/image": ["CT_image.nii.gz", "PET_image.nii.gz"],
        "flat": ["flat_ct.nii.gz", "flat_pet.nii.gz"],
        "P3": ["ct.nii.gz", "pt.nii.gz"],
    }
    assert "no image for its input pet (PT) goes with it" in refused(plan)["lone_ct"]
    assert "none of its inputs" in refused(plan)["P1/MR_image"]


def test_numbered_channels_come_in_the_models_order(petct, tmp_path):
    (tmp_path / "in").mkdir()
    save(pet(0), tmp_path / "in" / "Case_7_0001.nii.gz")
    save(ct(0), tmp_path / "in" / "Case_7_0000.nii.gz")
    plan = plan_cohort(tmp_path / "in", tmp_path / "out", [petct], settings=SETTINGS)
    assert waiting(plan) == {"Case_7": ["Case_7_0000.nii.gz", "Case_7_0001.nii.gz"]}


@pytest.fixture(scope="module")
def ctmr(tmp_path_factory):
    inputs = [INPUTS[0], {"name": "t1", "modality": "MR", "normalise": {"method": "zscore"}}]
    return str(models.write(tmp_path_factory.mktemp("model") / "tiny-ctmr", name="tiny-ctmr", inputs=inputs))


def write_study(folder, study: str, *, n_mr: int = 1) -> None:
    """Write a DICOM study of a CT and MR series, each in a folder of its own."""
    write_series(ct(1), folder / "a", modality="CT", series_uid=f"{study}.1", study_uid=study)
    for number in range(n_mr):
        place = folder / f"b{number}"
        write_series(ct(number), place, modality="MR", series_uid=f"{study}.2{number}", study_uid=study)


def test_series_of_one_dicom_study_are_one_and_two_that_would_do_are_refused(ctmr, tmp_path):
    root = "1.2.826.0.1.3680043.8.498"
    write_study(tmp_path / "in" / "one", f"{root}.1")
    write_study(tmp_path / "in" / "two", f"{root}.2", n_mr=2)
    plan = plan_cohort(tmp_path / "in", tmp_path / "out", [ctmr])
    assert waiting(plan) == {"one": ["a", "b0"]}
    assert {case: why.split(": ", 2)[2] for case, why in refused(plan).items()} == dict.fromkeys(
        ("two/a", "two/b0", "two/b1"), "2 images could be its input t1 (MR): name one in a manifest"
    )


def test_the_images_of_a_bids_session_are_one_study_named_after_the_first(petct, tmp_path):
    root = tmp_path / "bids"
    for place in ("ct/sub-01_ses-a_ct", "pet/sub-01_ses-a_pet", "ct/sub-01_ses-b_ct"):
        path = root / "sub-01" / ("ses-b" if "ses-b" in place else "ses-a") / f"{place}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(pet(0) if "pet" in place else ct(0), path)
    (root / "dataset_description.json").write_text("{}")
    plan = plan_cohort(root, None, [petct], settings=SETTINGS)
    assert [len(s.candidate.images) for s in plan.of("waiting")] == [2]
    assert plan.of("waiting")[0].candidate.modality == "CT+PT"
    assert "sub-01/ses-b/ct/sub-01_ses-b_ct" in refused(plan)


class TestManifest:
    def plan(self, tmp_path, petct, text):
        (tmp_path / "list.csv").write_text(text)
        return plan_cohort(tmp_path / "list.csv", tmp_path / "out", [petct], settings=SETTINGS)

    def test_a_column_for_each_further_input(self, petct, tmp_path):
        save(ct(0), tmp_path / "x.nii.gz")
        save(pet(0), tmp_path / "y.nii.gz")
        text = "study,study_2,case,modality\nx.nii.gz,y.nii.gz,first,\nx.nii.gz,,second,\nx.nii.gz,y.nii.gz,third,CT\n"
        plan = self.plan(tmp_path, petct, text)
        assert waiting(plan) == {"first": ["x.nii.gz", "y.nii.gz"]}
        assert "1 image; it takes ct (CT), pet (PT)" in refused(plan)["second"]
        assert "one series or modality for 2 images" in refused(plan)["third"]

    def test_one_dicom_folder_serves_each_model_with_its_series(self, ctmr, tmp_path):
        write_study(tmp_path / "one", "1.2.826.0.1.3680043.8.498.1")
        alone = str(models.write(tmp_path / "ct-model", name="ct-model", inputs=INPUTS[:1]))
        (tmp_path / "list.csv").write_text("study,study_2\none,\none,one\n")
        plan = plan_cohort(tmp_path / "list.csv", tmp_path / "out", [ctmr, alone])
        assert {s.model: s.candidate.modality for s in plan.of("waiting")} == {"tiny-ctmr": "CT+MR", "ct-model": "CT"}
        assert "a folder with 2 series" in refused(plan)["one"]


def test_a_study_that_is_there_twice_runs_once_and_one_with_another_pet_is_no_duplicate(petct, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / "in" / name).mkdir(parents=True)
        save(ct(0), tmp_path / "in" / name / "ct.nii.gz")
        save(pet(seed), tmp_path / "in" / name / "pet.nii.gz")
    plan = plan_cohort(tmp_path / "in", tmp_path / "out", [petct], settings=SETTINGS)
    assert {s.case: s.state for s in plan.studies} == {"a": "waiting", "b": "duplicate", "c": "waiting"}


def test_results_are_those_of_segment_and_another_pet_is_run_again(petct, tmp_path, threads):
    (tmp_path / "in").mkdir()
    files = (tmp_path / "in" / "p_ct.nii.gz", tmp_path / "in" / "p_pet.nii.gz")
    save(ct(0), files[0])
    save(pet(0), files[1])
    (outcome,) = cohort(tmp_path / "in", tmp_path / "out", petct, settings=SETTINGS)
    assert (outcome.case, outcome.state) == ("p", "done")
    segment_study(files, tmp_path / "one", petct, settings=SETTINGS.study)
    place = tmp_path / "out" / "tiny-petct" / "p"
    assert (place / "seg.nii.gz").read_bytes() == (tmp_path / "one" / "seg.nii.gz").read_bytes()
    assert json.loads((place / "result.json").read_text())["others"][0]["source"]["unit"] == "SUVbw"
    rows = list(csv.DictReader(export_tables(tmp_path / "out")[0].read_text().splitlines()))
    suv = {row["label"]: float(row["intensity_max"]) for row in rows if row["level"] == "other structure"}
    assert {row["input"] for row in rows if row["level"].startswith("other")} == {"pet"}
    assert suv == {one.label: one.intensity_max for one in outcome.others[0].measurements}
    assert {row["intensity_unit"] for row in rows if row["level"] == "other structure"} == {"SUVbw"}
    assert plan_cohort(tmp_path / "in", tmp_path / "out", [petct], settings=SETTINGS).of("waiting") == ()
    save(pet(1), files[1])
    assert len(plan_cohort(tmp_path / "in", tmp_path / "out", [petct], settings=SETTINGS).of("waiting")) == 1


def test_a_reference_is_called_as_the_study_is_and_not_as_its_first_image(petct, tmp_path):
    for name in ("in", "truth"):
        (tmp_path / name).mkdir()
    save(ct(0), tmp_path / "in" / "p_ct.nii.gz")
    save(pet(0), tmp_path / "in" / "p_pet.nii.gz")
    save(phantoms.segmentation(ct(0).geometry), tmp_path / "truth" / "p.nii.gz")
    plan = plan_cohort(tmp_path / "in", tmp_path / "out", [petct], references=tmp_path / "truth", settings=SETTINGS)
    assert [s.candidate.reference for s in plan.of("waiting")] == [str(tmp_path / "truth" / "p.nii.gz")]


@pytest.mark.real_data
def test_the_patients_of_a_data_set_are_planned_from_files_and_from_dicom(real_data, tmp_path):
    dicom = plan_cohort(real_data / "sarcoma-dicom", tmp_path / "out", ["sarcoma-petct"])
    assert [s.case for s in dicom.of("waiting")] == ["STS_001", "STS_002", "STS_003"]
    (tmp_path / "rules.csv").write_text(
        "study,study_2,case\n"
        + "".join(
            f"{folder}/CT_image.nii.gz,{folder}/PET_image.nii.gz,{folder.name}\n"
            for folder in sorted((real_data / "sarcoma").glob("STS_*"))
            if (folder / "PET_image.nii.gz").exists()
        )
    )
    files = plan_cohort(tmp_path / "rules.csv", tmp_path / "out", ["sarcoma-petct"])
    assert len(files.of("waiting")) == 27
