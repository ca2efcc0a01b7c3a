import json
import shutil

import numpy as np
import pytest

import models
import phantoms
from cases import write_cases
from voxmetry import Geometry, Segmentation, Volume, read_segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.errors import InputError
from voxmetry.train.data_check import agreement_lines, check_data
from voxmetry.train.dataset import open_data
from voxmetry.train.outliers import robust_z, thumbnail


@pytest.fixture
def folder(tmp_path):
    made = write_cases(tmp_path / "phantoms-ct", 7)
    # One random texture a case: images that are alike in nothing but the structures.
    for number, path in enumerate(sorted((made / "images").iterdir())):
        volume = read_volume(path)
        low = np.random.default_rng(number).normal(0, 60, tuple(-(-n // 4) for n in volume.array.shape))
        texture = np.kron(low, np.ones((4, 4, 4)))[tuple(slice(n) for n in volume.array.shape)]
        save(Volume((volume.array + texture).astype(np.float32), volume.geometry), path)
    return made


def findings(folder, **options):
    return {(row.case, row.code): row for row in check_data(open_data(folder), **options).findings}


def relabel(folder, case, change):
    path = folder / "labels" / f"{case}.nii.gz"
    label = read_segmentation(path)
    array = label.array.copy()
    change(array)
    save(Segmentation(array, label.geometry, label.labels), path)


def test_a_clean_data_set_has_no_finding(folder):
    found = check_data(open_data(folder))
    assert (found.findings, found.n_read, found.n_cases) == ((), 7, 7)


def test_a_label_on_another_grid_and_a_damaged_file_are_errors_and_the_rest_is_still_looked_at(folder):
    label = Segmentation(np.zeros((19, 24, 9), np.uint8), phantoms.geometry(shape=(19, 24, 9)), models.spec().labels)
    save(label, folder / "labels" / "case_1.nii.gz")
    (folder / "images" / "case_3.nii.gz").write_bytes(b"x")
    found = findings(folder)
    assert found["case_1", "geometry"].severity == "error"
    assert found["case_3", "unreadable"].severity == "error"
    assert check_data(open_data(folder)).n_read == 5


def test_unknown_values_are_an_error_where_the_data_set_names_its_labels(folder):
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "front": 2}}), encoding="utf-8")
    assert all(findings(folder)[f"case_{n}", "unknown_label"].severity == "error" for n in range(7))


def test_empty_label_missing_structure_and_specks(folder):
    relabel(folder, "case_0", lambda array: array.fill(0))
    relabel(folder, "case_1", lambda array: array.__setitem__(array == 7, 0))

    def speck(array):
        array[0, 0, 0] = 2
        array[17, 20, 7] = 2

    relabel(folder, "case_2", speck)
    found = findings(folder)
    assert found["case_0", "empty_label"].severity == "review"
    assert found["case_1", "missing_structure"].structure == "back"
    assert "2 specks of 1 to 1 voxels" in found["case_2", "specks"].message


class TestDuplicates:
    def copy(self, folder, change=lambda array: array):
        volume = read_volume(folder / "images" / "case_0.nii.gz")
        save(Volume(change(volume.array), volume.geometry), folder / "images" / "case_5.nii.gz")
        shutil.copy(folder / "labels" / "case_0.nii.gz", folder / "labels" / "case_5.nii.gz")

    def test_of_another_patient_is_an_error(self, folder):
        self.copy(folder)
        row = findings(folder)["case_5", "duplicate"]
        assert (row.severity, row.other) == ("error", "case_0")
        assert "another patient" in row.message

    def test_of_the_same_patient_is_a_note(self, folder):
        self.copy(folder)
        (folder / "patients.csv").write_text("case,patient\ncase_0,a\ncase_5,a\n", encoding="utf-8")
        assert findings(folder)["case_5", "duplicate"].severity == "note"

    def test_with_noise_scaled_and_shifted_it_is_nearly_one(self, folder):
        noise = np.random.default_rng(0).normal(0, 1, read_volume(folder / "images" / "case_0.nii.gz").array.shape)
        self.copy(folder, lambda array: (array * 1.1 + 3 + noise).astype(np.float32))
        assert findings(folder)["case_5", "near_duplicate"].severity == "review"


class TestOutliers:
    def test_intensity_of_a_ct_but_not_of_an_mr(self, folder):
        volume = read_volume(folder / "images" / "case_4.nii.gz")
        save(Volume(volume.array + np.float32(5000), volume.geometry), folder / "images" / "case_4.nii.gz")
        assert "5" in findings(folder)["case_4", "intensity"].message
        folder.rename(folder.with_name("phantoms-mr"))
        assert not findings(folder.with_name("phantoms-mr"))

    def test_which_structures_a_case_shows_is_no_odd_intensity(self, folder):
        for path in sorted((folder / "images").iterdir()):
            volume, label = read_volume(path), read_segmentation(folder / "labels" / path.name)
            save(Volume(volume.array + np.float32(1000) * (label.array == 7), volume.geometry), path)
        relabel(folder, "case_4", lambda array: array.__setitem__(array == 2, 0))
        assert ("case_4", "intensity") not in findings(folder)

    def test_spacing(self, folder):
        for part in ("images", "labels"):
            path = folder / part / "case_4.nii.gz"
            thing = read_volume(path) if part == "images" else read_segmentation(path)
            grid = Geometry(np.diag([1.0, 1.2, 7.5, 1.0]), thing.geometry.shape)
            made = Volume(thing.array, grid) if part == "images" else Segmentation(thing.array, grid, thing.labels)
            save(made, path)
        assert "7.5" in findings(folder)["case_4", "spacing"].message

    def test_volume(self, folder):
        def shrink(array):
            array[array == 2] = 0
            array[5, 7, 3] = 2

        relabel(folder, "case_6", shrink)
        assert findings(folder)["case_6", "volume"].structure == "front"

    def test_few_cases_have_none(self):
        assert robust_z([float("nan")]) != robust_z([1.0])
        assert all(np.isnan(robust_z([float("nan"), float("nan")])))


class TestAgreement:
    def manifest(self, folder, other):
        lines = ["case,ct,label,label_2"]
        for n in range(7):
            second = f"{other}/case_{n}.nii.gz" if n != 3 else ""
            lines.append(f"case_{n},images/case_{n}.nii.gz,labels/case_{n}.nii.gz,{second}")
        path = folder / "list.csv"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def test_raters_who_differ_are_found_and_listed_first(self, folder):
        shutil.copytree(folder / "labels", folder / "second")
        path = folder / "second" / "case_2.nii.gz"
        label = read_segmentation(path)
        array = np.where(label.array == 7, 0, label.array)
        array[10:13, 6:14, 2:5][:1] = 7
        save(Segmentation(array.astype(np.uint8), label.geometry, label.labels), path)
        found = check_data(open_data(self.manifest(folder, "second")))
        (row,) = found.findings
        assert (row.case, row.code, row.structure) == ("case_2", "raters", "back")
        assert (found.agreements[0].case, found.agreements[0].dice) == ("case_2", pytest.approx(0.4))
        assert len(found.agreements) == 12
        back, front = agreement_lines(found.agreements)
        assert back == "back, two raters: mean Dice 0.900 over 6; lowest case_2 0.400, " + ", ".join(
            f"case_{n} 1.000" for n in (0, 1, 4, 5)
        )
        assert front.startswith("front, two raters: mean Dice 1.000 over 6")

    def test_labels_that_the_predictions_disagree_with(self, folder, tmp_path):
        shutil.copytree(folder / "labels", tmp_path / "predictions")
        relabel(folder, "case_4", lambda array: array.__setitem__(slice(0, 7), 0))
        row = findings(folder, predictions=tmp_path / "predictions")["case_4", "disagreement"]
        assert row.structure == "front"

    def test_a_folder_without_predictions_is_refused(self, folder, tmp_path):
        with pytest.raises(InputError, match="no prediction of a case"):
            check_data(open_data(folder), predictions=tmp_path)


def test_the_thumbnail_does_not_depend_on_gain_and_offset():
    volume = Volume(np.random.default_rng(0).normal(size=(25, 13, 31)), phantoms.geometry(shape=(25, 13, 31)))
    other = Volume(volume.array * 7 - 40, volume.geometry)
    assert thumbnail(volume).shape == (12 * 12 * 12,)
    assert np.allclose(thumbnail(volume), thumbnail(other), atol=1e-5)


class TestVerb:
    def test_writes_json_and_a_page_with_pictures(self, folder, tmp_path, capsys):
        relabel(folder, "case_2", lambda array: array.__setitem__((0, 0, 0), 2))
        assert run(["data", "check", str(folder), "-o", str(tmp_path / "out")]) == 3
        assert "specks" in capsys.readouterr().out
        content = json.loads((tmp_path / "out" / "data-check.json").read_text(encoding="utf-8"))
        assert content["findings"][0]["case"] == "case_2"
        page = (tmp_path / "out" / "data-check.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64") == 3
        assert ">Case</th>" in page

    def test_exit_codes_and_json(self, folder, capsys):
        assert run(["data", "check", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["findings"] == []
        (folder / "images" / "case_3.nii.gz").write_bytes(b"x")
        assert run(["data", "check", str(folder), "--json"]) == 1

    @pytest.mark.real_data
    def test_the_one_speck_of_the_hippocampus_cases_nearby(self, real_data, tmp_path):
        for part in ("images", "labels"):
            (tmp_path / "mr" / part).mkdir(parents=True)
            for number in ("001", "156", "003"):
                name = f"hippocampus_{number}.nii.gz"
                (tmp_path / "mr" / part / name).symlink_to(real_data / "hippocampus-mr" / part / name)
        (row,) = check_data(open_data(tmp_path / "mr")).findings
        assert (row.case, row.code) == ("hippocampus_156", "specks")
