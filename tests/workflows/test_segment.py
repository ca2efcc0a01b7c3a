import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import (
    Geometry,
    Segmentation,
    StudyResult,
    Volume,
    load_model,
    read_segmentation,
    read_volume,
    save,
    segment_study,
)
from voxmetry.config import StudySettings
from voxmetry.core.axes import reorientation
from voxmetry.errors import (
    FormatError,
    GeometryError,
    InputError,
    ModelError,
    OutputError,
    OutputExistsError,
    SeriesError,
    VoxmetryError,
)
from voxmetry.flags.study import flag_input
from voxmetry.io import write_series
from voxmetry.measurement import lesions
from voxmetry.nn.uncertainty_maps import FILES as MAP_FILES
from voxmetry.workflows.dicom_names import KEY_IMAGES
from voxmetry.workflows.provenance import peak_memory_mb
from voxmetry.workflows.run_folder import OUTPUTS

FILES = {
    *("seg.nii.gz", "measurements.csv", "lesions.csv", "overview.nii.gz"),
    *("preview.png", "result.json", "report.html"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model"))


LIGHT = StudySettings(report="none")
"""For what no report is looked at: drawing it takes ten times as long as everything else of these small studies."""


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, device="cpu")


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), path)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


class TestOutputs:
    def test_leaves_the_files_and_nothing_else(self, study, model, tmp_path):
        segment_study(study, tmp_path / "out", model)
        assert names(tmp_path / "out") == FILES

    def test_label_map_has_the_sources_shape_affine_and_names(self, study, model, tmp_path):
        segment_study(study, tmp_path / "out", model, settings=LIGHT)
        source, labels = nib.load(study), nib.load(tmp_path / "out" / "seg.nii.gz")
        assert labels.get_data_dtype() == np.uint8
        assert labels.shape == source.shape
        assert np.array_equal(labels.affine, source.affine)
        assert read_segmentation(tmp_path / "out" / "seg.nii.gz").labels.names == ("front", "back")

    def test_a_prior_run_adds_what_changed(self, study, model, tmp_path):
        segment_study(study, tmp_path / "before", model, settings=LIGHT)
        result = segment_study(study, tmp_path / "out", model, prior=tmp_path / "before")
        assert names(tmp_path / "out") == FILES | {"change.json"}
        change = json.loads((tmp_path / "out" / "change.json").read_text())
        assert [row["volume_change_ml"] for row in change["structures"]] == [0.0] * len(change["structures"])
        assert change["structures"]
        assert result.files["change"] == "change.json"
        assert "--prior PRIOR" in (tmp_path / "out" / "report.html").read_text()

    def test_a_prior_that_is_no_run_is_refused_before_any_work(self, study, model, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"no readable result\.json"):
            segment_study(study, tmp_path / "out", model, prior=tmp_path / "empty")
        assert names(tmp_path / "out") == set()

    def test_table_json_and_label_map_say_the_same(self, study, model, tmp_path):
        returned = segment_study(study, tmp_path / "out", model, settings=LIGHT)
        text = (tmp_path / "out" / "result.json").read_text()
        content = json.loads(text)
        rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").read_text().splitlines()))
        segmentation = read_segmentation(tmp_path / "out" / "seg.nii.gz")
        for row, item in zip(rows, content["measurements"], strict=True):
            volume_ml = segmentation.mask(row["label"]).sum() * segmentation.geometry.voxel_ml
            assert float(row["volume_ml"]) == item["volume_ml"] == pytest.approx(volume_ml)
        assert StudyResult.model_validate_json(text).measurements == returned.measurements
        assert content["schema_version"] == 1

    def test_provenance_says_how_it_was_made(self, study, model, tmp_path):
        made = segment_study(study, tmp_path / "out", model, settings=LIGHT).provenance
        assert made.weights_sha256 == model.weights.sha256
        assert {"read", "preprocess", "network", "measure", "total"} <= made.seconds.keys()
        assert made.packages["torch"]
        assert made.device == "cpu"
        assert made.settings["tolerance_mm"] == 1.0

    def test_the_report_is_there_only_if_all_else_is(self, study, model, tmp_path, monkeypatch):
        def fail(*_args, **_kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("voxmetry.io.atomic.Path.write_bytes", fail)
        with pytest.raises(OutputError, match=r"measurements\.csv cannot be written"):
            segment_study(study, make(tmp_path / "out"), model)
        assert "report.html" not in names(tmp_path / "out")
        assert not [name for name in names(tmp_path / "out") if name.startswith(".")]

    def test_refuses_to_overwrite_and_then_does(self, study, model, tmp_path):
        out = tmp_path / "out"
        segment_study(study, out, model)
        with pytest.raises(OutputExistsError, match=r"report\.html"):
            segment_study(study, out, model)
        segment_study(study, out, model, settings=StudySettings(overwrite=True))
        assert names(out) == FILES

    @pytest.mark.parametrize("step", ["nn.Predictor.run", "report.write_report"])
    def test_a_failed_rerun_leaves_the_earlier_results_whole(self, study, model, tmp_path, monkeypatch, step):
        out = tmp_path / "out"
        segment_study(study, out, model)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        monkeypatch.setattr(f"voxmetry.{step}", stop)
        with pytest.raises(KeyboardInterrupt):
            segment_study(study, out, model, settings=StudySettings(overwrite=True))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    def test_a_rerun_without_reference_leaves_no_comparison_behind(self, study, model, tmp_path):
        out = tmp_path / "out"
        segment_study(study, tmp_path / "first", model, settings=LIGHT)
        segment_study(study, out, model, reference=tmp_path / "first" / "seg.nii.gz", settings=LIGHT)
        assert "comparison.csv" in names(out)
        segment_study(study, out, model, settings=StudySettings(overwrite=True))
        assert names(out) == FILES

    def test_lesions_are_in_the_json_the_table_and_the_report(self, study, model, tmp_path):
        out = tmp_path / "out"
        result = segment_study(study, out, model)
        segmentation = read_segmentation(out / "seg.nii.gz")
        by_hand = lesions(segmentation, read_volume(study), organs=segmentation)
        assert len(by_hand) > 1
        assert [row.label for row in by_hand] == ["back"] * len(by_hand)
        assert result.lesions == by_hand
        text = (out / "result.json").read_text()
        assert [row.id for row in StudyResult.model_validate_json(text).lesions] == [row.id for row in by_hand]
        rows = list(csv.DictReader((out / "lesions.csv").read_text().splitlines()))
        assert [row["id"] for row in rows] == [row.id for row in by_hand]
        assert float(rows[0]["centroid_s_mm"]) == by_hand[0].centroid_ras_mm[2]
        assert float(rows[0]["long_axis_end_2_r_mm"]) == by_hand[0].long_axis_ends_ras_mm[1][0]
        assert rows[0]["suv_peak"] == ""
        report = (out / "report.html").read_text()
        assert 'id="lesion-table"' in report
        assert f"{by_hand[0].long_axis_mm:.1f}" in report

    def test_a_model_without_lesions_has_no_table_of_them(self, study, tmp_path):
        organs = models.spec().labels.with_kind("back", "organ")
        folder = models.write(tmp_path / "model", labels=organs.model_dump(mode="json"))
        result = segment_study(study, tmp_path / "out", folder)
        assert result.lesions == ()
        assert names(tmp_path / "out") == FILES - {"lesions.csv"}
        assert "lesion-table" not in (tmp_path / "out" / "report.html").read_text()

    def test_results_name_neither_path_nor_file(self, model, tmp_path):
        path = tmp_path / "DOE^JANE_19700101.nii.gz"
        save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), path)
        segment_study(path, tmp_path / "out", model)
        for name in ("result.json", "report.html", "measurements.csv"):
            text = (tmp_path / "out" / name).read_text()
            assert "DOE^JANE" not in text
            assert "19700101" not in text
            assert str(tmp_path) not in text


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def stop(*_args, **_kwargs):
    raise KeyboardInterrupt


class TestReference:
    def test_a_result_held_against_itself_is_perfect(self, study, model, tmp_path):
        segment_study(study, tmp_path / "first", model, settings=LIGHT)
        result = segment_study(study, tmp_path / "out", model, reference=tmp_path / "first" / "seg.nii.gz")
        found = [row for row in result.comparisons if row.status == "both"]
        assert found
        assert all((row.dice, row.hausdorff_mm, row.surface_dice) == (1, 0, 1) for row in found)
        assert names(tmp_path / "out") == FILES | {"comparison.csv"}
        assert "hd95_mm" in result.definitions

    def test_refuses_a_reference_on_another_grid_before_the_network_runs(self, study, model, tmp_path, monkeypatch):
        other = phantoms.geometry(shape=(21, 27, 11), origin_mm=(0, 0, 0))
        path = tmp_path / "reference.nii.gz"
        save(Segmentation(np.zeros(other.shape, np.uint8), other, models.spec().labels), path)
        monkeypatch.setattr("voxmetry.nn.Predictor.run", stop)
        with pytest.raises(GeometryError, match=r"reference\.nii\.gz and the image"):
            segment_study(study, tmp_path / "out", model, reference=path)


class TestSameAnswer:
    """The same voxels give the same result, however they are stored."""

    @pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (7.0, -11.0, 19.0)], ids=["upright", "oblique"])
    def test_nifti_and_dicom_of_each_plane(self, model, tmp_path, degrees):
        volume = phantoms.volume(phantoms.geometry(shape=(21, 27, 11), degrees=degrees))
        save(volume, tmp_path / "twin.nii.gz")
        expected = segment_study(tmp_path / "twin.nii.gz", tmp_path / "nifti", model, settings=LIGHT)
        truth = read_segmentation(tmp_path / "nifti" / "seg.nii.gz")
        for plane in ("axial", "coronal", "sagittal"):
            series = tmp_path / plane
            write_series(volume, series, modality="MR", description="phantom", plane=plane)
            shuffle_names(series)
            result = segment_study(series, tmp_path / f"{plane}-out", model, settings=LIGHT)
            found = read_segmentation(tmp_path / f"{plane}-out" / "seg.nii.gz")
            assert np.array_equal(on_grid_of(found, truth), truth.array)
            for a, b in zip(result.measurements, expected.measurements, strict=True):
                assert a.volume_ml == pytest.approx(b.volume_ml, rel=1e-6)
                assert a.intensity_mean == pytest.approx(b.intensity_mean, rel=1e-6)
                assert a.extent_si_mm == pytest.approx(b.extent_si_mm, rel=1e-6)


def shuffle_names(series: Path) -> None:
    """Give the files random names, so that neither name nor order helps."""
    order = np.random.default_rng(5).permutation(999)
    for number, path in zip(order, sorted(series.iterdir()), strict=False):
        path.rename(series / f"x{number}")


def on_grid_of(segmentation: Segmentation, other: Segmentation) -> np.ndarray:
    """Look up each voxel of `other` in `segmentation` by its place in the patient."""
    ijk = np.moveaxis(np.indices(other.geometry.shape), 0, -1)
    at = segmentation.geometry.to_ijk(other.geometry.to_mm(ijk))
    assert np.abs(at - np.round(at)).max() < 1e-3
    return segmentation.array[tuple(np.moveaxis(np.round(at).astype(int), -1, 0))]


class TestFlags:
    def test_an_input_outside_the_training_domain_asks_for_review(self, model, tmp_path):
        save(phantoms.volume(phantoms.geometry(shape=(80, 27, 11), spacing_mm=(0.9, 1.3, 5.0))), tmp_path / "x.nii.gz")
        result = segment_study(tmp_path / "x.nii.gz", tmp_path / "out", model, settings=LIGHT)
        codes = {flag.code for flag in result.flags}
        assert {"spacing_out_of_domain", "field_of_view_out_of_domain"} <= codes
        assert result.needs_review

    @pytest.mark.parametrize(("degrees", "flagged"), [(10, False), (14, False), (16, True)])
    def test_an_image_turned_further_than_was_trained_on_asks_for_review(self, degrees, flagged, model):
        """Where the model takes images as they are stored; see tests/nn/test_turned.py for the others."""
        domain = model.spec.training_domain.model_copy(update={"obliqueness_degrees": models.span(0, 10)})
        spec = model.spec.model_copy(update={"training_domain": domain, "orientation": "IJK"})
        _, oriented = reorientation(phantoms.geometry(degrees=(0, 0, degrees)), spec.orientation)
        told = [flag for flag in flag_input(oriented, spec) if flag.code == "turn_out_of_domain"]
        assert bool(told) == flagged
        assert all("16 degrees" in flag.message for flag in told)

    def test_structures_that_are_empty_cut_off_or_too_large(self, study, model, tmp_path, monkeypatch):
        def fake(self, prepared, **_more):
            array = np.zeros(prepared.native.shape, np.uint8)
            array[0:20, 5:20, 2:9] = 2
            return Segmentation(array, prepared.native, self.spec.labels)

        monkeypatch.setattr("voxmetry.nn.Predictor.run", fake)
        narrow = model.spec.training_domain.model_copy(update={"volume_ml": {"front": models.span(0.1, 0.2)}})
        strict = models.replace(model, spec=model.spec.model_copy(update={"training_domain": narrow}))
        result = segment_study(study, tmp_path / "out", strict, settings=LIGHT)
        assert {(flag.code, flag.label) for flag in result.flags} >= {
            ("truncated", "front"),
            ("volume_out_of_range", "front"),
            ("empty", "back"),
        }
        front = result.measurements[0]
        assert front.volume_ml == pytest.approx(20 * 15 * 7 * 0.9 * 1.3 * 2.6 / 1000)
        assert front.touches_border


class TestBadInput:
    """Each is an error that says what was found, what was expected and what to do, and leaves nothing behind."""

    def check(self, study, out, model, kind, words, **arguments):
        with pytest.raises(kind, match=words) as caught:
            segment_study(study, out, model, **arguments)
        assert isinstance(caught.value, VoxmetryError)
        assert caught.value.expected
        assert caught.value.fix
        assert names(out) == set()

    def test_missing_path(self, model, tmp_path):
        self.check(tmp_path / "none.nii.gz", tmp_path / "out", model, InputError, "none")

    def test_a_path_with_a_slip_in_it_waits_for_no_model(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("voxmetry.workflows.loading.load_any", lambda *_: pytest.fail("a model is loaded"))
        self.check(tmp_path / "none.nii.gz", tmp_path / "out", folder, InputError, "nothing at none")

    def test_empty_folder(self, model, tmp_path):
        self.check(make(tmp_path / "empty"), tmp_path / "out", model, InputError, "expected:")

    def test_two_series_are_listed_and_one_is_settled_by_its_uid(self, model, tmp_path):
        uids = ("1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2")
        for uid in uids:
            volume = phantoms.volume(phantoms.geometry(shape=(21, 27, 11)), seed=int(uid[-1]))
            write_series(volume, tmp_path / "study" / uid[-1], modality="MR", description="t1", series_uid=uid)
        for uid in uids:
            self.check(tmp_path / "study", tmp_path / "out", model, SeriesError, uid)
        result = segment_study(
            tmp_path / "study", tmp_path / "out", model, settings=StudySettings(series=uids[1], report="none")
        )
        assert result.source.series_uid == uids[1]

    def test_truncated_file(self, study, model, tmp_path):
        study.write_bytes(study.read_bytes()[:2000])
        self.check(study, tmp_path / "out", model, FormatError, "expected:")

    def test_nifti_without_an_affine_and_with_a_singular_one(self, model, tmp_path):
        image = nib.Nifti1Image(np.ones((8, 9, 10), np.float32), np.eye(4))
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(image, tmp_path / "a.nii.gz")
        self.check(tmp_path / "a.nii.gz", tmp_path / "out", model, GeometryError, "expected:")
        image.set_sform(np.diag([1.0, 1, 0, 1]), 1)
        nib.save(image, tmp_path / "b.nii.gz")
        self.check(tmp_path / "b.nii.gz", tmp_path / "out", model, GeometryError, "expected:")

    def test_nan_voxels(self, model, tmp_path):
        array = np.ones((8, 9, 10), np.float32)
        array[1, 2, 3] = np.nan
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
        self.check(tmp_path / "a.nii.gz", tmp_path / "out", model, InputError, "1 of 720")

    def test_wrong_modality_in_dicom_by_name_and_by_values(self, model, tmp_path):
        volume = phantoms.volume(phantoms.geometry(shape=(21, 27, 11)))
        write_series(volume, tmp_path / "ct", modality="CT", description="ct")
        self.check(tmp_path / "ct", tmp_path / "out", model, InputError, "wrong modality: CT")
        save(volume, tmp_path / "a.nii.gz")
        settings = StudySettings(modality="CT")
        self.check(tmp_path / "a.nii.gz", tmp_path / "out", model, InputError, "CT", settings=settings)
        save(Volume(volume.array - np.int16(1000), volume.geometry), tmp_path / "b.nii.gz")
        self.check(tmp_path / "b.nii.gz", tmp_path / "out", model, InputError, "Hounsfield")
        segment_study(tmp_path / "b.nii.gz", tmp_path / "out", model, settings=StudySettings(modality="MR"))

    def test_weights_with_a_wrong_checksum(self, study, tmp_path):
        folder = models.write(tmp_path / "model")
        with (folder / "weights.safetensors").open("ab") as file:
            file.write(b"x")
        self.check(study, tmp_path / "out", folder, ModelError, "SHA-256")

    def test_unwritable_out(self, study, model, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot be written"):
            segment_study(study, tmp_path / "file" / "out", model)

    def test_ctrl_c_leaves_nothing_half_written(self, study, folder, tmp_path):
        arguments = ["segment", str(study), "-m", str(folder), "-o", str(tmp_path / "out")]
        # A shell's background jobs inherit that Ctrl-C is ignored, and a suite that is run in one hands that on.
        code = (
            "import signal, time, voxmetry.workflows.models as w\n"
            "from voxmetry.cli import run\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def slow(*a, **k):\n"
            "    print('ready', flush=True); time.sleep(3600)\n"
            "w.nn.Predictor.run = slow\n"
            f"raise SystemExit(run({arguments}))"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline().strip() == "ready"
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
            try:
                _, told = child.communicate(timeout=600)
            finally:
                child.kill()
        assert child.returncode == 1
        assert "Interrupted" in told
        assert "Traceback" not in told
        assert names(tmp_path / "out") == set()


def test_outputs_are_named_once():
    objects = {"seg.dcm", "rtstruct.dcm", "sr.dcm", "report.dcm", "images.zip", "report.pdf", *KEY_IMAGES.values()}
    others = {"other_measurements.csv", "other_lesions.csv", "other_overview.nii.gz"}
    chosen = {"comparison.csv", "change.json", "thumbnail.png", *MAP_FILES.values()}
    apart = {"instances.csv", "instances.nii.gz", "panoptic.nii.gz"}
    corrected = {"correction.csv", "model_seg.nii.gz"}
    assert set(OUTPUTS.values()) == FILES | chosen | others | objects | apart | corrected


def test_reading_back_what_was_written(study, model, tmp_path):
    segment_study(study, tmp_path / "out", model)
    assert read_volume(study).geometry.is_same(read_segmentation(tmp_path / "out" / "seg.nii.gz").geometry)


@pytest.mark.parametrize("status", ["VmRSS:\t  100 kB\n", "a line without a name\n", ""])
def test_the_peak_is_known_where_the_system_names_it_in_another_way(status, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: status)
    assert peak_memory_mb() > 10


def test_a_study_is_flagged_for_uneven_sides_and_for_parts(tmp_path):
    sides = [
        {"value": 2, "name": "kidney_left", "colour": "#E69F00"},
        {"value": 7, "name": "kidney_right", "colour": "#56B4E9"},
    ]
    as_it_is = {"method": "window", "low": 0, "high": 200, "mean": 0, "sd": 1}
    folder = models.write(
        tmp_path / "model",
        inputs=[{"name": "t1", "modality": "MR", "normalise": as_it_is}],
        labels={"labels": sides},
        training_domain={},
    )

    def by_brightness(patches):
        """Logits of a network that finds what is 100 bright on the left, and what is 200 bright on the right."""
        return torch.cat([-abs(patches - wanted) for wanted in (0, 100, 200)], dim=1)

    array = np.zeros((30, 32, 14), np.int16)
    array[3:12, 5:20, 3:9] = 100
    array[3:12, 24:29, 3:9] = 100
    array[18:22, 5:12, 3:9] = 200
    affine = np.diag([-1.0, -1.2, 2.5, 1.0])
    save(Volume(array, Geometry(affine, array.shape)), tmp_path / "study.nii.gz")
    model = models.replace(load_model(folder, device="cpu"), members=(by_brightness,))
    result = segment_study(tmp_path / "study.nii.gz", tmp_path / "out", model, settings=StudySettings(report="none"))
    assert [row.n_voxels for row in result.measurements] == [9 * 20 * 6, 4 * 7 * 6]
    found = {(flag.code, flag.label) for flag in result.flags}
    assert {("asymmetry", "kidney_right"), ("islands", "kidney_left")} <= found
