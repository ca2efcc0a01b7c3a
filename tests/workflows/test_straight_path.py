"""The straight path on real data: what the README promises."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from voxmetry import Geometry, Volume, load_model, read_segmentation, read_volume, save, segment, segment_study
from voxmetry.cli import run
from voxmetry.config import StudySettings
from voxmetry.demo import run_demo
from voxmetry.errors import VoxmetryError
from voxmetry.models import find_model


@pytest.fixture(scope="module")
def model():
    return load_model("hippocampus-mr", device="cpu")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """The demonstration of each side: its folder and its result."""
    folders = {side: tmp_path_factory.mktemp(side) for side in ("left", "right")}
    how = StudySettings(device="cpu")
    return {
        side: (folder, run_demo(folder, model="hippocampus-mr", side=side, settings=how))
        for side, folder in folders.items()
    }


LIGHT = StudySettings(report="none")


@pytest.mark.real_data
class TestHippocampus:
    def test_cases_that_it_has_seen_reach_the_dice_of_cases_that_it_had_not(self, model, real_data, tmp_path):
        """The shipped weights have seen all cases; what they would do on others is the cross-validation in the card."""
        with (find_model("hippocampus-mr") / "validation.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 201
        found = {"anterior": [], "posterior": []}
        told = {"anterior": [], "posterior": []}
        for row in rows[::35]:
            image, label = (
                real_data / "hippocampus-mr" / part / f"{row['case']}.nii.gz" for part in ("images", "labels")
            )
            result = segment_study(image, tmp_path / row["case"], model, reference=label, settings=LIGHT)
            for comparison in result.comparisons:
                found[comparison.label].append(comparison.dice)
                told[comparison.label].append(float(row[f"dice_{comparison.label}"]))
        for label in found:
            assert -0.005 < np.mean(found[label]) - np.mean(told[label]) < 0.05
        assert np.mean(found["anterior"]) > 0.88
        assert np.mean(found["posterior"]) > 0.86

    @pytest.mark.parametrize("factor", [0.1, 100.0])
    def test_the_scale_of_the_intensities_does_not_matter(self, model, real_data, factor):
        volume = read_volume(real_data / "hippocampus-mr" / "images" / "hippocampus_004.nii.gz")
        scaled = Volume(volume.array.astype(np.float32) * np.float32(factor), volume.geometry)
        assert (segment(scaled, model).array == segment(volume, model).array).mean() > 0.9999

    def test_another_region_in_other_voxels_is_flagged_as_out_of_domain(self, real_data, tmp_path):
        whole = read_volume(real_data / "sarcoma-dicom" / "STS_001" / "MR_T1")
        part = np.ascontiguousarray(whole.array[60:140, 60:130, 20:36])
        corner = np.array(whole.geometry.affine)
        corner[:3, 3] = whole.geometry.to_mm((60, 60, 20))
        save(Volume(part, Geometry(corner, part.shape)), tmp_path / "thigh.nii.gz")
        words = ["segment", str(tmp_path / "thigh.nii.gz"), "-m", "hippocampus-mr", "-o", str(tmp_path / "out")]
        assert run([*words, "--report", "none"]) == 3
        content = json.loads((tmp_path / "out" / "result.json").read_text())
        assert {"field_of_view_out_of_domain", "spacing_out_of_domain"} <= {flag["code"] for flag in content["flags"]}

    def test_a_ct_is_refused_by_its_headers_and_by_its_values(self, real_data, tmp_path, capsys):
        for study in (
            real_data / "sarcoma-dicom" / "STS_001" / "CT",
            real_data / "ct-multiorgan" / "example_ct_sm.nii.gz",
        ):
            assert run(["segment", str(study), "-m", "hippocampus-mr", "-o", str(tmp_path / "out")]) == 1
            assert "MR" in capsys.readouterr().err


class TestDemo:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_finds_a_hippocampus_of_plausible_size_in_the_right_place(self, side, demos):
        folder, result = demos[side]
        anterior, posterior = result.measurements
        assert not result.needs_review
        assert 1.0 < anterior.volume_ml < 3.5
        assert 1.0 < posterior.volume_ml < 3.0
        # MNI space is RAS mm: the template's hippocampi lie 15 to 35 mm beside the middle, the anterior part in front.
        sign = 1 if side == "right" else -1
        assert 15 < sign * anterior.centroid_ras_mm[0] < 35
        assert anterior.centroid_ras_mm[1] > posterior.centroid_ras_mm[1]
        assert (folder / "report.html").exists()

    def test_both_sides_of_the_symmetric_template_agree(self, demos):
        totals = []
        for folder, _ in demos.values():
            segmentation = read_segmentation(folder / "seg.nii.gz")
            totals.append(int((segmentation.array > 0).sum()))
        assert abs(totals[0] - totals[1]) < 0.03 * sum(totals)

    def test_removes_its_own_series_and_nothing_else(self, tmp_path):
        quick = StudySettings(device="cpu", report="none")
        run_demo(tmp_path, model="hippocampus-mr", settings=quick)
        (tmp_path / "dicom" / "notes.txt").write_text("mine")
        with pytest.raises(VoxmetryError, match="not empty"):
            run_demo(tmp_path, model="hippocampus-mr", settings=StudySettings(overwrite=True))
        assert (tmp_path / "dicom" / "notes.txt").read_text() == "mine"

    def test_without_a_choice_it_is_a_whole_brain_whose_sides_agree(self, tmp_path):
        result = run_demo(tmp_path, settings=StudySettings(device="cpu", report="none"))
        assert result.provenance.model == "brain-mr"
        found = {row.label: row.volume_ml for row in result.measurements}
        # The template's spinal canal is cut, as in any image of a head: nothing to look at.
        assert {flag.severity for flag in result.flags} <= {"note"}
        assert result.total.volume_ml == pytest.approx(sum(found.values()))
        pairs = [(ml, found[f"{name.removesuffix('_left')}_right"]) for name, ml in found.items() if "_left" in name]
        # The template is symmetric.
        assert pairs
        assert all(abs(left - right) < 0.1 * (left + right) for left, right in pairs)

    def test_a_model_for_which_no_image_ships_is_told_what_to_do(self, tmp_path):
        with pytest.raises(VoxmetryError, match="no CT like it may ship"):
            run_demo(tmp_path, model="head-neck-ct")
        assert not list(tmp_path.iterdir())


@pytest.mark.real_data
def test_inspect_lists_the_three_image_series_of_a_patient(real_data, capsys):
    assert run(["inspect", str(real_data / "sarcoma-dicom" / "STS_001"), "--json"]) == 0
    series = json.loads(capsys.readouterr().out)["series"]
    images = {item["modality"]: item for item in series if item["verdict"] != "not an image"}
    assert images.keys() == {"CT", "MR", "PT"}
    for item in images.values():
        assert (item["n_slices"], item["verdict"]) == (59, "regular")
        assert item["spacing_mm"][2] == pytest.approx(3.27, abs=1e-3)


@pytest.mark.real_data
def test_inspect_refuses_the_broken_series_with_the_reason(real_data, capsys):
    assert run(["inspect", str(real_data / "dicom-conversion" / "failing" / "slicecount"), "--json"]) == 1
    (series,) = json.loads(capsys.readouterr().out)["series"]
    assert series["verdict"] == "missing"
    assert series["reason"]


@pytest.mark.real_data
def test_a_series_of_two_orientations_is_not_read_as_one_volume(real_data, capsys, tmp_path):
    folder = str(real_data / "dicom-conversion" / "failing" / "sliceorientation")
    run(["inspect", folder, "--json"])
    series = json.loads(capsys.readouterr().out)["series"]
    assert {item["axcodes"] for item in series} == {"PIR", "LPS"}
    assert run(["segment", folder, "-m", "hippocampus-mr", "-o", str(tmp_path / "out"), "--json"]) == 1
    assert "2 " in json.loads(capsys.readouterr().out)["found"]
    assert not any((tmp_path / "out").glob("*"))
