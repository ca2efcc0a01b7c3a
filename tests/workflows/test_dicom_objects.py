"""`voxmetry segment` with DICOM objects, and `voxmetry convert`."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

import phantoms
from validators import assert_valid
from voxmetry import (
    Label,
    LabelTable,
    Segmentation,
    StudySettings,
    read_segmentation,
    read_volume,
    save,
    segment_study,
)
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.demo import FOLDER
from voxmetry.errors import ConfigError, InputError, OutputError
from voxmetry.io import write_series
from voxmetry.measurement import lesions
from voxmetry.workflows import models
from voxmetry.workflows.dicom_objects import lesions_apart


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory):
    """The demo's region as a sagittal series."""
    folder = tmp_path_factory.mktemp("study") / "mr"
    write_series(read_volume(FOLDER / "icbm152-hippocampus-right.nii.gz"), folder, modality="MR", plane="sagittal")
    return folder


def test_segment_leaves_objects_that_others_accept(hippocampus, tmp_path):
    out = tmp_path / "out"
    code = run(
        [
            "segment",
            str(hippocampus),
            "-m",
            "hippocampus-mr",
            "-o",
            str(out),
            "--dicom-seg",
            "--rtstruct",
            "--sr",
            "--pdf",
        ]
    )
    assert code in (0, 3)
    volume, truth = read_volume(hippocampus), read_segmentation(out / "seg.nii.gz")
    files = json.loads((out / "result.json").read_text())["files"]
    assert (files["dicom_seg"], files["rtstruct"], files["sr"]) == ("seg.dcm", "rtstruct.dcm", "sr.dcm")
    for name in ("seg.dcm", "rtstruct.dcm"):
        back = read_segmentation(out / name, truth.labels, image=volume)
        assert np.array_equal(back.array, read_segmentation(out / "seg.nii.gz", image=volume).array)
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm", "report.dcm"):
        assert_valid(out / name, volume.source.files)
    pdf = pydicom.dcmread(out / "report.dcm").EncapsulatedDocument
    assert pdf.rstrip(b"\0") == (out / "report.pdf").read_bytes().rstrip(b"\0")
    segments = pydicom.dcmread(out / "seg.dcm").SegmentSequence
    kinds = [x.SegmentedPropertyTypeCodeSequence[0] for x in segments]
    assert [(x.CodeValue, x.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) for x in kinds] == [
        ("5366008", "Anterior"),
        ("5366008", "Posterior"),
    ]


def test_segment_without_the_patient_brings_the_series_along(hippocampus, tmp_path):
    wanted = StudySettings(dicom=DicomOutput(seg=True, rtstruct=True, deidentify=True))
    result = segment_study(hippocampus, tmp_path, "hippocampus-mr", settings=wanted)
    assert result.files["images"] == "images.zip"
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        archive.extractall(tmp_path / "images")
    images = read_volume(tmp_path / "images")
    assert np.array_equal(images.array, read_volume(hippocampus).array)
    for name in ("seg.dcm", "rtstruct.dcm"):
        assert read_segmentation(tmp_path / name, image=images).array.any()
    assert images.source.series_uid != read_volume(hippocampus).source.series_uid


def test_an_image_file_has_no_patient_for_dicom_output(tmp_path):
    save(read_volume(FOLDER / "icbm152-hippocampus-right.nii.gz"), tmp_path / "mr.nii.gz")
    with pytest.raises(InputError, match="no patient"):
        segment_study(
            tmp_path / "mr.nii.gz",
            tmp_path / "out",
            "hippocampus-mr",
            settings=StudySettings(dicom=DicomOutput(seg=True)),
        )
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ConfigError, match="--deidentify without"):
        segment_study(
            tmp_path / "mr.nii.gz",
            tmp_path / "out",
            "hippocampus-mr",
            settings=StudySettings(dicom=DicomOutput(deidentify=True)),
        )


def test_each_lesion_becomes_a_segment_of_its_own():
    grid = phantoms.geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[1:4, 1:4, 1:4], array[8:10, 8:10, 6:8], array[6, 14, 9] = 3, 3, 1
    table = LabelTable(
        labels=(
            Label(value=1, name="liver", colour="#111111"),
            Label(value=3, name="tumour", colour="#222222", kind="lesion"),
        )
    )
    whole = Segmentation(array, grid, table)
    apart = lesions_apart(whole, lesions(whole))
    assert apart.labels.names == ("liver", "tumour-1", "tumour-2")
    assert (apart.mask("tumour-1").sum(), apart.mask("tumour-2").sum(), apart.mask("liver").sum()) == (27, 8, 1)
    other = Segmentation((array == 1).astype(np.uint8) * 3, grid, table)
    with pytest.raises(InputError, match="are not those of the segmentation"):
        lesions_apart(other, lesions(whole))


class TestConvert:
    @pytest.fixture
    def study(self, tmp_path):
        volume = phantoms.volume(phantoms.geometry(frame_uid="1.2.3.4"))
        write_series(volume, tmp_path / "mr", modality="MR")
        return tmp_path

    def go(self, *words):
        return run(["convert", *map(str, words)])

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
    def test_a_series_to_a_file_and_back(self, study, suffix):
        path = study / f"image{suffix}"
        assert self.go(study / "mr", path) == 0
        assert self.go(path, study / "again", "--modality", "MR") == 0
        first, again = read_volume(study / "mr"), read_volume(study / "again")
        assert np.array_equal(first.array, again.array)
        np.testing.assert_allclose(first.geometry.affine, again.geometry.affine, atol=1e-5)

    @pytest.mark.parametrize("to", ["seg", "labelmap", "rtstruct"])
    def test_a_label_map_to_dicom_and_back(self, study, to):
        truth = phantoms.segmentation()
        save(truth, study / "labels.nii.gz")
        options = ("--image", study / "mr", "--to", to, "--made-by", "automatic", "--algorithm", "m/1")
        assert self.go(study / "labels.nii.gz", study / "x.dcm", *options) == 0
        assert self.go(study / "x.dcm", study / "back.nrrd", "--image", study / "mr") == 0
        back = read_segmentation(study / "back.nrrd", image=truth.geometry)
        for name in truth.labels.names:
            assert np.array_equal(back.mask(name), truth.mask(name))

    @pytest.mark.parametrize("source", ["series", "nii.gz", "nrrd", "mha"])
    def test_every_image_becomes_every_other(self, study, source):
        truth = read_volume(study / "mr")
        held = study / "mr"
        if source != "series":
            held = study / f"held.{source}"
            save(truth, held)
        for target in ("nii.gz", "nrrd", "mha", *(() if source == "series" else ("folder",))):
            made = study / ("made" if target == "folder" else f"made.{target}")
            assert self.go(held, made, "--modality", "MR") == 0, target
            back = read_volume(made)
            assert np.array_equal(back.array, truth.array), target
            np.testing.assert_allclose(back.geometry.affine, truth.geometry.affine, atol=1e-5, err_msg=target)

    @pytest.mark.parametrize("source", ["labels.nii.gz", "labels.nrrd", "labels.mha", "seg", "labelmap", "rtstruct"])
    def test_every_segmentation_becomes_every_other(self, study, source):
        image = read_volume(study / "mr")
        dicom = ("--image", study / "mr", "--made-by", "manual")
        save(phantoms.segmentation(), study / "first.nrrd")
        # On the grid of the series, whose axes run the other way.
        truth = read_segmentation(study / "first.nrrd", image=image)
        held = study / (source if "." in source else f"{source}.dcm")
        options = () if "." in source else (*dicom, "--to", source)
        assert self.go(study / "first.nrrd", held, *options) == 0
        for target in ("made.nii.gz", "made.nrrd", "made.mha", "seg", "labelmap", "rtstruct"):
            made = study / (target if "." in target else f"made-{target}.dcm")
            options = ("--image", study / "mr") if "." in target else (*dicom, "--to", target)
            assert self.go(held, made, *options) == 0, target
            back = read_segmentation(made, image=image)
            assert set(back.labels.names) == set(truth.labels.names), target
            for name in truth.labels.names:
                assert np.array_equal(back.mask(name), truth.mask(name)), (target, name)

    def test_names_stay_from_file_to_file(self, study):
        save(phantoms.segmentation(), study / "labels.nrrd")
        assert self.go(study / "labels.nrrd", study / "labels.nii.gz") == 0
        assert read_segmentation(study / "labels.nii.gz").labels == phantoms.segmentation().labels

    def test_a_copy_without_the_patient(self, study):
        for path in (study / "mr").iterdir():
            dataset = pydicom.dcmread(path)
            dataset.PatientName = "Doe^Jane"
            dataset.save_as(path)
        assert self.go(study / "mr", study / "clean", "--deidentify") == 0
        assert np.array_equal(read_volume(study / "clean").array, read_volume(study / "mr").array)
        assert not any(b"Doe" in path.read_bytes() for path in (study / "clean").iterdir())

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("mr", "x.dcm"), "without what the .dcm file becomes"),
            (("mr", "copy"), "a DICOM series for a DICOM series"),
            (("labels.nii.gz", "folder"), "for a folder of image slices"),
            (("plain.nii.gz", "folder"), "of modality unknown"),
            (("mr", "x.png"), "no format to write x.png in"),
            (("rs.dcm", "x.nii.gz"), "nothing at rs.dcm"),
            (("mr", "x.dcm", "--to", "seg", "--image", "mr", "--made-by", "manual"), "mr holds 0 DICOM SEG"),
            (("labels.nii.gz", "x.dcm", "--to", "seg", "--image", "plain.nii.gz", "--made-by", "manual"), "no patient"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, study, monkeypatch, capsys, words, told):
        monkeypatch.chdir(study)
        save(phantoms.segmentation(), "labels.nii.gz")
        save(phantoms.volume(), "plain.nii.gz")
        before = sorted(study.iterdir())
        assert self.go(*words) == 1
        assert told in capsys.readouterr().err
        assert sorted(study.iterdir()) == before

    def test_an_earlier_file_stays_unless_told(self, study, capsys):
        assert self.go(study / "mr", study / "a.nii.gz") == 0
        assert self.go(study / "mr", study / "a.nii.gz") == 2
        assert "there already" in capsys.readouterr().err
        assert self.go(study / "mr", study / "a.nii.gz", "--overwrite") == 0


@pytest.fixture(scope="module")
def pictured(hippocampus, tmp_path_factory):
    """A run with key images."""
    out = tmp_path_factory.mktemp("keys") / "out"
    assert run(["segment", str(hippocampus), "-m", "hippocampus-mr", "-o", str(out), "--key-images"]) in (0, 3)
    return out


class TestKeyImages:
    def test_one_series_of_pictures_of_the_patients_study(self, hippocampus, pictured):
        volume = read_volume(hippocampus)
        found = [pydicom.dcmread(path) for path in sorted(pictured.glob("key_image_*.dcm"))]
        # All structures together, and each of the two.
        assert [x.InstanceNumber for x in found] == [1, 2, 3]
        assert len({x.SeriesInstanceUID for x in found}) == 1
        assert {x.SOPClassUID.name for x in found} == {"Secondary Capture Image Storage"}
        assert {x.StudyInstanceUID for x in found} == {volume.source.study_uid}
        for name in ("key_image_01.dcm", "key_image_02.dcm"):
            assert_valid(pictured / name, volume.source.files)
        files = json.loads((pictured / "result.json").read_text())["files"]
        assert files["key_image_03"] == "key_image_03.dcm"

    def test_others_read_the_pixels_and_the_outlines_are_in_their_colours(self, pictured):
        labels = read_segmentation(pictured / "seg.nii.gz").labels
        picture = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(pictured / "key_image_01.dcm")))[0]
        assert picture.shape == (*pydicom.dcmread(pictured / "key_image_01.dcm").pixel_array.shape[:2], 3)
        for label in labels:
            colour = [int(label.colour[at : at + 2], 16) for at in (1, 3, 5)]
            assert np.count_nonzero((picture == colour).all(axis=2)) > 50
        # Words in white on black above and below the pictures.
        assert (picture[:40] > 200).all(axis=2).any()
        assert (picture[-40:] > 200).all(axis=2).any()

    def test_the_report_verb_writes_them_again(self, hippocampus, pictured, tmp_path, capsys):
        again = tmp_path / "again"
        shutil.copytree(pictured, again)
        (again / "key_image_09.dcm").write_bytes(b"of a run with more structures")
        words = ["report", str(again), "--key-images", "--image", str(hippocampus), "--json"]
        assert run(words) == 2
        capsys.readouterr()
        assert run([*words, "--overwrite"]) == 0
        names = [Path(path).name for path in json.loads(capsys.readouterr().out)["key_images"]]
        assert names == [f"key_image_0{n}.dcm" for n in (1, 2, 3)]
        assert names == sorted(path.name for path in again.glob("key_image_*.dcm"))
        for name in names:
            one, two = (pydicom.dcmread(folder / name).pixel_array for folder in (pictured, again))
            assert np.array_equal(one, two)

    def test_the_report_verb_needs_the_study(self, pictured, capsys):
        assert run(["report", str(pictured), "--key-images"]) == 1
        assert "pass the study with --image" in capsys.readouterr().err
        nifti = pictured.parent / "image.nii.gz"
        save(read_volume(FOLDER / "icbm152-hippocampus-right.nii.gz"), nifti)
        assert run(["report", str(pictured), "--key-images", "--image", str(nifti)]) == 1
        assert "no patient" in capsys.readouterr().err


class TestDamage:
    """Nothing half-written, whatever happens on the way."""

    def test_a_damaged_slice_stops_the_study_before_anything_is_written(self, hippocampus, tmp_path, capsys):
        study = tmp_path / "study"
        shutil.copytree(hippocampus, study)
        path = sorted(study.iterdir())[5]
        path.write_bytes(path.read_bytes()[:-600])
        out = tmp_path / "out"
        words = ["segment", str(study), "-m", "hippocampus-mr", "-o", str(out), "--dicom-seg", "--rtstruct", "--sr"]
        assert run(words) == 1
        assert "damaged" in capsys.readouterr().err
        assert list(out.iterdir()) == []

    @pytest.mark.parametrize("when", ["seg.dcm", "rtstruct.dcm", "sr.dcm"])
    def test_a_disk_that_fills_leaves_the_earlier_results_whole(self, hippocampus, tmp_path, monkeypatch, when):
        out = tmp_path / "out"
        wanted = DicomOutput(seg=True, rtstruct=True, sr=True)
        settings = StudySettings(dicom=wanted, report="none", overwrite=True)
        segment_study(hippocampus, out, "hippocampus-mr", settings=settings)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        whole = pydicom.Dataset.save_as

        def fill(self, path, *rest, **options):
            kind = {"SEG": "seg.dcm", "RTSTRUCT": "rtstruct.dcm", "SR": "sr.dcm"}.get(self.Modality)
            if kind == when:
                Path(path).write_bytes(b"half of it")
                raise OSError(28, "No space left on device")
            return whole(self, path, *rest, **options)

        monkeypatch.setattr(pydicom.Dataset, "save_as", fill)
        with pytest.raises(OutputError, match="the disk is full"):
            segment_study(hippocampus, out, "hippocampus-mr", settings=settings)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    def test_a_source_that_vanishes_before_the_objects_are_written(self, hippocampus, tmp_path, monkeypatch):
        study, out = tmp_path / "study", tmp_path / "out"
        shutil.copytree(hippocampus, study)
        clean = models.clean

        def lose(*given, **options):
            sorted(study.iterdir())[3].unlink()
            return clean(*given, **options)

        monkeypatch.setattr(models, "clean", lose)
        settings = StudySettings(dicom=DicomOutput(seg=True), report="none")
        with pytest.raises(InputError, match=r"0004\.dcm cannot be read: No such file"):
            segment_study(study, out, "hippocampus-mr", settings=settings)
        assert list(out.iterdir()) == []
