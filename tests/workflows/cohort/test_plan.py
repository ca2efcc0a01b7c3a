import json

import numpy as np
import pytest

import models
import phantoms
from voxmetry import StudySettings, save
from voxmetry.errors import ConfigError, InputError
from voxmetry.io import write_series
from voxmetry.workflows.cohort.bids import read_sidecar
from voxmetry.workflows.cohort.layout import bids_sidecar
from voxmetry.workflows.cohort.plan import plan_cohort
from voxmetry.workflows.cohort.records import RunSettings
from voxmetry.workflows.cohort.rules import Rule, Rules
from workflows.cohort.conftest import image


def states(plan) -> dict[str, str]:
    return {study.case: study.state for study in plan.studies}


def reason(plan, case: str) -> str:
    return next(s.fault.found for s in plan.studies if s.case == case and s.fault)


class TestTree:
    def test_a_mixture_of_formats_is_found_and_nothing_is_written(self, studies, tiny, tmp_path):
        write_series(image(1), studies / "dicom" / "t1", modality="MR", description="t1")
        (studies / "notes.txt").write_text("no image")
        (studies / ".hidden.nii.gz").write_bytes(b"")
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
        assert states(plan) == dict.fromkeys(("a", "b", "site_b/c", "site_b/d", "dicom/t1"), "waiting")
        assert not (tmp_path / "out").exists()
        assert plan.forecast.n == 5
        assert plan.forecast.seconds > 0

    def test_two_series_of_one_folder_are_two_studies(self, tiny, tmp_path):
        for number in (1, 2):
            uid = f"1.2.826.0.1.3680043.8.498.{number}"
            write_series(image(number), tmp_path / f"x{number}", modality="MR", series_uid=uid)
        (tmp_path / "in").mkdir()
        for folder in ("x1", "x2"):
            for file in (tmp_path / folder).iterdir():
                file.rename(tmp_path / "in" / f"{folder}-{file.name}")
        plan = plan_cohort(tmp_path / "in", tmp_path / "out", [str(tiny)])
        assert len(plan.of("waiting")) == 2
        assert len({s.case for s in plan.studies}) == 2
        assert {s.candidate.series[-1] for s in plan.studies} == {"1", "2"}

    def test_what_is_there_twice_runs_once(self, studies, tiny, tmp_path):
        (studies / "copy.nii.gz").write_bytes((studies / "b.nii.gz").read_bytes())
        for place in ("p", "q"):
            write_series(image(1), studies / place, modality="MR", series_uid="1.2.826.0.1.3680043.8.498.5")
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
        assert {case for case, state in states(plan).items() if state == "duplicate"} == {"copy", "q"}
        assert reason(plan, "copy") == "the same image as b"

    def test_parts_of_a_series_in_two_folders_are_refused(self, studies, tiny, tmp_path):
        files = write_series(image(1), studies / "p", modality="MR")
        (studies / "q").mkdir()
        for file in files[:4]:
            file.rename(studies / "q" / file.name)
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
        assert states(plan)["p"] == states(plan)["q"] == "refused"
        assert "its series is in" in reason(plan, "q")

    def test_a_damaged_file_refuses_the_series_beside_it(self, studies, tiny, tmp_path):
        files = write_series(image(1), studies / "dicom", modality="MR")
        files[-1].write_bytes(files[-1].read_bytes()[:-200])
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
        assert [(s.case, s.state) for s in plan.studies if s.case.startswith("dicom")] == [("dicom", "refused")]
        assert "1 damaged file beside it" in reason(plan, "dicom")

    def test_what_headers_show_is_refused_with_its_reason(self, studies, tiny, tmp_path):
        write_series(image(1), studies / "ct", modality="CT")
        gap = write_series(image(1), studies / "gap", modality="MR")
        gap[4].unlink()
        (studies / "x.nii.gz").write_bytes(b"not gzip")
        (studies / "a.nrrd").write_bytes(b"NRRD0004\n")
        plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
        refused = {case for case, state in states(plan).items() if state == "refused"}
        assert {"ct", "gap", "x"} <= refused
        assert "modality CT, not MR" in reason(plan, "ct")
        assert "missing" in reason(plan, "gap")
        assert [s.state for s in plan.studies if s.case == "a"].count("waiting") == 1

    def test_an_empty_folder_a_missing_one_and_a_lone_file_are_errors(self, tiny, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "x.txt").write_text("")
        for source, words in (("in", "no image"), ("none", "no folder"), ("x.txt", "is a file")):
            with pytest.raises(InputError, match=words):
                plan_cohort(tmp_path / source, tmp_path / "out", [str(tiny)])

    def test_no_model_and_no_out_are_errors(self, studies, tiny, tmp_path):
        with pytest.raises(ConfigError, match="no model"):
            plan_cohort(studies, tmp_path / "out")
        with pytest.raises(ConfigError, match="no folder for the results"):
            plan_cohort(studies, None, [str(tiny)])


class TestRules:
    def test_each_study_takes_the_models_whose_rules_it_fits(self, studies, tiny, tmp_path):
        other = models.write(tmp_path / "other", name="other-mr")
        rules = Rules(rules=(Rule(model=str(tiny)), Rule(model=str(other), case="site_b/*")))
        plan = plan_cohort(studies, tmp_path / "out", rules=rules)
        assert {s.case for s in plan.of("waiting") if s.model == "other-mr"} == {"site_b/c", "site_b/d"}
        assert len(plan.of("waiting")) == 6

    def test_a_description_is_matched_and_a_bad_expression_refused(self, tiny, tmp_path):
        write_series(image(1), tmp_path / "in" / "x", modality="MR", description="Sag T1 MPRAGE")
        write_series(image(2), tmp_path / "in" / "y", modality="MR", description="T2 tse")
        rules = Rules(rules=(Rule(model=str(tiny), description="t1"),))
        plan = plan_cohort(tmp_path / "in", tmp_path / "out", rules=rules)
        assert states(plan) == {"x": "waiting", "y": "refused"}
        with pytest.raises(ValueError, match="no regular expression"):
            Rule(model="x", description="(")


class TestManifest:
    def write(self, tmp_path, text):
        (tmp_path / "list.csv").write_text(text)
        return tmp_path / "list.csv"

    def test_names_modality_and_reference_come_from_it(self, studies, tiny, tmp_path):
        save(phantoms.segmentation(image(0).geometry), tmp_path / "truth.nii.gz")
        text = "study,case,modality,reference,patient\nin/a.nii.gz,first,MR,truth.nii.gz,P7\nin/site_b/c.nii.gz,,CT,,\n"
        plan = plan_cohort(self.write(tmp_path, text), tmp_path / "out", [str(tiny)])
        assert states(plan) == {"first": "waiting", "in/site_b/c": "refused"}
        assert plan.studies[0].candidate.reference == str(tmp_path / "truth.nii.gz")

    def test_a_row_without_its_study_is_an_entry_and_the_rest_runs(self, studies, tiny, tmp_path):
        text = "study\nin/a.nii.gz\nin/none.nii.gz\nin/nowhere\n\n"
        plan = plan_cohort(self.write(tmp_path, text), tmp_path / "out", [str(tiny)])
        assert [s.state for s in plan.studies] == ["waiting", "refused", "refused"]

    def test_the_same_row_twice_and_a_name_twice(self, studies, tiny, tmp_path):
        text = "study,case\nin/a.nii.gz,x\nin/a.nii.gz,y\nin/b.nii.gz,x\n"
        plan = plan_cohort(self.write(tmp_path, text), tmp_path / "out", [str(tiny)])
        assert [s.state for s in plan.studies] == ["waiting", "duplicate", "refused"]

    def test_an_unknown_column_is_named(self, studies, tiny, tmp_path):
        with pytest.raises(ConfigError, match="modalty"):
            plan_cohort(self.write(tmp_path, "study,modalty\n"), tmp_path / "out", [str(tiny)])


class TestBids:
    @pytest.fixture
    def data_set(self, tmp_path):
        root = tmp_path / "bids"
        images = (("01", "a", "T1w"), ("01", "a", "bold"), ("02", "b", "T2w"))
        for seed, (sub, ses, suffix) in enumerate(images):
            folder = root / f"sub-{sub}" / f"ses-{ses}" / "anat"
            folder.mkdir(parents=True, exist_ok=True)
            save(image(seed), folder / f"sub-{sub}_ses-{ses}_{suffix}.nii.gz")
        (root / "dataset_description.json").write_text("{}")
        (root / "T1w.json").write_text(json.dumps({"EchoTime": 0.1, "PatientName": "DOE^JANE", "FlipAngle": 8}))
        own = root / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.json"
        own.write_text(json.dumps({"EchoTime": 0.2}))
        return root

    def test_images_with_three_axes_are_taken_and_results_go_to_derivatives(self, data_set, tiny):
        plan = plan_cohort(data_set, None, [str(tiny)])
        assert plan.layout == "bids"
        assert plan.out == str(data_set / "derivatives" / "voxmetry")
        assert {s.candidate.entities["suffix"] for s in plan.studies} == {"T1w", "T2w"}

    def test_the_nearest_sidecar_wins_and_no_identity_is_kept(self, data_set):
        path = data_set / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.nii.gz"
        assert read_sidecar(path, data_set) == {"EchoTime": 0.2, "PatientName": "DOE^JANE", "FlipAngle": 8}
        kept = bids_sidecar(read_sidecar(path, data_set), inside=["x"], model="m", sha256="0")
        assert kept["EchoTime"] == 0.2
        assert "DOE" not in json.dumps(kept)

    def test_a_damaged_sidecar_refuses_its_image_alone(self, data_set, tiny):
        (data_set / "sub-02" / "ses-b" / "anat" / "sub-02_ses-b_T2w.json").write_text("[")
        plan = plan_cohort(data_set, None, [str(tiny)])
        assert sorted(states(plan).values()) == ["refused", "waiting"]

    def test_names_keep_the_entities(self, data_set, tiny, threads):
        from voxmetry import StudySettings, cohort
        from voxmetry.workflows.cohort.records import RunSettings

        settings = RunSettings(study=StudySettings(report="none", device="cpu"))
        assert all(o.state == "done" for o in cohort(data_set, None, tiny, settings=settings))
        place = data_set / "derivatives" / "voxmetry" / "sub-01" / "ses-a" / "anat"
        stem = "sub-01_ses-a_desc-tinymrT1w"
        assert {p.name for p in place.iterdir()} == {
            f"{stem}_{end}"
            for end in (
                *(
                    "dseg.nii.gz",
                    "dseg.json",
                    "dseg.tsv",
                    "measurements.csv",
                    "lesions.csv",
                    "result.json",
                    "preview.png",
                ),
            )
        }
        assert json.loads((place / f"{stem}_dseg.json").read_text())["EchoTime"] == 0.2
        description = data_set / "derivatives" / "voxmetry" / "dataset_description.json"
        assert json.loads(description.read_text())["DatasetType"] == "derivative"
        assert plan_cohort(data_set, None, [str(tiny)], settings=settings).of("waiting") == ()


def test_a_fast_run_is_foreseen_with_fewer_windows(tiny, tmp_path):
    save(phantoms.volume(phantoms.geometry(shape=(60, 60, 40))), tmp_path / "a.nii.gz")
    seconds = []
    for fast in (False, True):
        settings = RunSettings(study=StudySettings(fast=fast))
        seconds.append(plan_cohort(tmp_path, tmp_path / "out", [str(tiny)], settings=settings).forecast.seconds)
    assert 0 < seconds[1] < 0.6 * seconds[0]


def test_a_patch_that_covers_the_image_is_one_window(tiny):
    from voxmetry.models import read_spec
    from voxmetry.workflows.cohort.forecast import n_windows
    from voxmetry.workflows.cohort.records import Candidate

    spec = read_spec(str(tiny))
    small = Candidate(case="x", path="x", shape=(8, 8, 8), spacing_mm=(1.0, 1.2, 2.5))
    assert n_windows(small, spec) == 1
    assert n_windows(small.model_copy(update={"shape": (160, 160, 160)}), spec) > 100
    assert np.isnan(n_windows(small.model_copy(update={"shape": None}), spec))
