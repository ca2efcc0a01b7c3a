import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import models
import phantoms
from cases import write_cases
from voxmetry import Segmentation, save
from voxmetry.errors import ConfigError, GeometryError, InputError
from voxmetry.train.dataset import open_data, patient_folds, read_case, require_structures

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.fixture
def folder(tmp_path):
    return write_cases(tmp_path / "phantoms-mr")


def rename(folder: Path, *, images: str, labels: str, suffix: str = "") -> Path:
    """Turn images/ and labels/ into another layout; `suffix` is put behind the images' names."""
    (folder / "images").rename(folder / images)
    (folder / "labels").rename(folder / labels)
    for path in sorted((folder / images).iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", f"{suffix}.nii.gz")))
    return folder


def add_channel(folder: Path) -> None:
    for path in sorted((folder / "imagesTr").glob("*_0000.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))


class TestLayouts:
    def test_plain_folders_are_paired_by_name_and_the_name_says_the_modality(self, folder):
        data = open_data(folder)
        assert [case.name for case in data.cases] == [f"case_{n}" for n in range(5)]
        assert data.name == "phantoms-mr"
        assert [channel.modality for channel in data.channels] == ["MR"]
        assert data.labels is None

    def test_decathlon(self, folder):
        rename(folder, images="imagesTr", labels="labelsTr")
        entries = [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in (3, 0, 1)]
        described = {
            "name": "Phantoms",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "2": "liver", "7": "liver tumour"},
            "training": entries,
            "test": ["./imagesTs/case_9.nii.gz"],
        }
        (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
        (folder / "imagesTr" / "._case_0.nii.gz").write_bytes(b"what a Mac leaves")
        data = open_data(folder)
        assert [case.name for case in data.cases] == ["case_0", "case_1", "case_3"]
        assert (data.name, data.channels[0].name, data.channels[0].modality) == ("phantoms", "ct", "CT")
        assert [(label.value, label.name, label.kind) for label in data.labels] == [
            (2, "liver", "organ"),
            (7, "liver tumour", "lesion"),
        ]

    def test_nnunet_raw_with_two_channels(self, folder):
        rename(folder, images="imagesTr", labels="labelsTr", suffix="_0000")
        add_channel(folder)
        described = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "front": 2, "back": 7}}
        (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
        data = open_data(folder)
        assert [channel.modality for channel in data.channels] == ["CT", "PT"]
        assert [path.name for path in data.cases[2].images] == ["case_2_0000.nii.gz", "case_2_0001.nii.gz"]
        volumes, label = read_case(data.cases[2], data)
        assert [volume.unit for volume in volumes] == ["HU", "1"]
        assert label.labels.names == ("front", "back")

    def test_a_name_that_ends_in_four_digits_is_no_channel(self, folder):
        for part in ("images", "labels"):
            for path in sorted((folder / part).iterdir()):
                path.rename(path.with_name(path.name.replace("case_", "case_000")))
        assert [case.name for case in open_data(folder).cases] == [f"case_000{n}" for n in range(5)]

    def test_the_case_with_a_channel_less_is_told(self, folder):
        rename(folder, images="imagesTr", labels="labelsTr", suffix="_0000")
        add_channel(folder)
        (folder / "imagesTr" / "case_3_0001.nii.gz").unlink()
        with pytest.raises(InputError, match="different numbers of channels"):
            open_data(folder)

    def test_names_the_case_without_a_label(self, folder):
        (folder / "labels" / "case_3.nii.gz").unlink()
        with pytest.raises(InputError, match="case_3"):
            open_data(folder)

    def test_overlapping_regions_are_refused(self, folder):
        (folder / "dataset.json").write_text('{"labels": {"background": 0, "whole": [1, 2]}}', encoding="utf-8")
        with pytest.raises(ConfigError, match="'whole'"):
            open_data(folder)

    def test_a_listed_file_that_is_not_there_is_named_with_its_case(self, folder):
        rename(folder, images="imagesTr", labels="labelsTr")
        entry = {"image": "imagesTr/case_8.nii.gz", "label": "labelsTr/case_8.nii.gz"}
        (folder / "dataset.json").write_text(json.dumps({"training": [entry]}), encoding="utf-8")
        with pytest.raises(InputError, match=r"case_8 \(image: case_8\.nii\.gz\), case_8 \(label"):
            open_data(folder)

    def test_patients_lie_beside(self, folder):
        (folder / "patients.csv").write_text("case,patient\ncase_0,a\ncase_4,a\n", encoding="utf-8")
        assert [open_data(folder).patients[f"case_{n}"] for n in (0, 1, 4)] == ["a", "case_1", "a"]
        (folder / "patients.csv").write_text("case,patient\ncase_9,a\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="case_9"):
            open_data(folder)

    @pytest.mark.parametrize("path", ["none", "empty", "data.txt"])
    def test_refuses_what_is_no_data_set(self, tmp_path, path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"no (data set|images)"):
            open_data(tmp_path / path)

    def test_dataset_json_that_is_no_json_is_told(self, folder):
        (folder / "dataset.json").write_text("{", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"dataset\.json cannot be read"):
            open_data(folder)


class TestManifests:
    def test_csv(self, folder):
        lines = ["case,patient,t1,label,label_2"]
        lines += [f"c{n},p{n // 2},images/case_{n}.nii.gz,labels/case_{n}.nii.gz," for n in range(3)]
        lines[1] += "labels/case_0.nii.gz"
        path = folder / "list.csv"
        path.write_text("\n".join(lines), encoding="utf-8")
        data = open_data(path)
        assert data.patients == {"c0": "p0", "c1": "p0", "c2": "p1"}
        assert [len(case.other_labels) for case in data.cases] == [1, 0, 0]
        assert (data.channels[0].name, data.channels[0].modality) == ("t1", "MR")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("case,label\nc0,x.nii.gz\n", "a column a channel"),
            ("case,t1,label\nc0,,x.nii.gz\n", "column t1 of the case c0"),
            ("case,t1,label\nc0,a.nii.gz,b.nii.gz\nc0,a.nii.gz,b.nii.gz\n", "c0 more than once"),
            ("case,t1,label\nc0,a.nii.gz,b.nii.gz\n", r"c0 \(t1: a\.nii\.gz\)"),
        ],
    )
    def test_csv_errors_name_column_and_case(self, tmp_path, text, words):
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        with pytest.raises((ConfigError, InputError), match=words):
            open_data(tmp_path / "list.csv")

    def test_yaml_patterns_and_exceptions(self, folder):
        path = folder.parent / "set.yaml"
        path.write_text(
            "name: phantoms\nroot: phantoms-mr\nchannels: [{name: t1, modality: MR, path: 'images/{case}.nii.gz'}]\n"
            "label: 'labels/{case}.nii.gz'\nlabels: {2: front, 7: back}\n"
            "cases: [case_1, {case: odd, patient: case_1, images: {t1: images/case_0.nii.gz}, "
            "label: labels/case_0.nii.gz}]\n",
            encoding="utf-8",
        )
        data = open_data(path)
        assert data.patients == {"case_1": "case_1", "odd": "case_1"}
        assert data.cases[1].images[0].name == "case_0.nii.gz"
        assert read_case(data.cases[0], data)[1].labels.names == ("front", "back")
        assert open_data(path, root=folder).cases[0].label == folder / "labels" / "case_1.nii.gz"

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("label: 'l/{case}'\nlabls: {}\n", "labls"),
            ("", "no label for the case a"),
            ("label: x\ncases: [{case: a, images: {pet: x}}]\n", "channels pet in the case a"),
        ],
    )
    def test_yaml_errors_name_the_key(self, tmp_path, change, words):
        path = tmp_path / "set.yaml"
        text = "name: x\nchannels: [{name: ct, modality: CT, path: '{case}'}]\n"
        path.write_text(text + ("" if "cases" in change else "cases: [a]\n") + change, encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            open_data(path)

    @pytest.mark.real_data
    def test_two_channels_of_the_sarcoma_patients_lie_on_grids_of_their_own(self, real_data, monkeypatch):
        monkeypatch.setenv("VOXMETRY_DATA", str(real_data))
        data = open_data(CONFIGS / "sarcoma-petct.yaml")
        assert len(data.cases) == 27
        (ct, pet), label = read_case(data.cases[0], data)
        assert not ct.geometry.is_same(pet.geometry)
        assert label.geometry.is_same(ct.geometry)
        assert (label.array > 0).sum() * label.geometry.voxel_ml == pytest.approx(365.3, abs=0.1)


class TestReadCase:
    def test_names_the_case_whose_label_lies_elsewhere(self, folder):
        label = Segmentation(
            np.zeros((19, 24, 9), np.uint8), phantoms.geometry(shape=(19, 24, 9)), models.spec().labels
        )
        save(label, folder / "labels" / "case_1.nii.gz")
        data = open_data(folder)
        with pytest.raises(GeometryError, match="case_1"):
            read_case(data.cases[1], data)

    def test_names_the_case_of_a_damaged_file(self, folder):
        path = folder / "images" / "case_2.nii.gz"
        path.write_bytes(path.read_bytes()[:200])
        data = open_data(folder)
        with pytest.raises(InputError, match="case_2"):
            read_case(data.cases[2], data)


class TestFolds:
    def test_all_cases_of_a_patient_are_in_one_fold(self, folder):
        (folder / "patients.csv").write_text("case,patient\ncase_0,a\ncase_2,a\ncase_4,a\n", encoding="utf-8")
        cases = open_data(folder).cases
        for seed in range(5):
            folds = patient_folds(cases, n=3, seed=seed)
            assert sorted(name for fold in folds for name in fold) == [case.name for case in cases]
            assert ("case_0", "case_2", "case_4") in folds

    @pytest.mark.real_data
    def test_sizes_differ_by_one_at_most_where_each_patient_has_one_case(self, real_data):
        cases = open_data(real_data / "hippocampus-mr").cases
        assert sorted(map(len, patient_folds(cases, n=5, seed=1))) == [40, 40, 40, 40, 41]
        assert patient_folds(cases, n=5, seed=1) == patient_folds(cases[::-1], n=5, seed=1)
        assert patient_folds(cases, n=5, seed=1) != patient_folds(cases, n=5, seed=2)

    @pytest.mark.parametrize("n", [1, 6])
    def test_refuses_more_folds_than_patients(self, folder, n):
        with pytest.raises(ConfigError, match=f"{n} folds of 5 patients"):
            patient_folds(open_data(folder).cases, n=n, seed=0)

    def test_a_structure_that_a_fold_could_not_learn_is_named(self):
        volumes = {"a": {"liver": 1.0, "tumour": 0.0}, "b": {"liver": 1.0, "tumour": 2.0}, "c": {"liver": 1.0}}
        with pytest.raises(InputError, match="tumour in no training case of fold 1; only in the held-out case b"):
            require_structures([("a",), ("b",), ("c",)], volumes)
        require_structures([("a",), ("c",)], volumes)


def test_select_keeps_the_named_cases_and_refuses_others(folder):
    data = open_data(folder)
    assert [case.name for case in data.select(["case_3", "case_1"]).cases] == ["case_1", "case_3"]
    with pytest.raises(ConfigError, match="case_9"):
        data.select(["case_9"])
