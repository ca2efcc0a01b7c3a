"""From `segment` to instances: maps, table, result, and what is refused."""

from __future__ import annotations

import csv
import json
import re

import nibabel as nib
import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Geometry, Segmentation, StudySettings, Volume, read_segmentation, read_volume, save, segment_study
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.errors import ConfigError, FormatError, LabelError
from voxmetry.io import write_series
from voxmetry.io.instances import read_instances, save_instances
from voxmetry.ops.instances import tell_apart
from voxmetry.report.instances import drawn_result, drawn_segmentation, instance_table, numbers_of
from voxmetry.report.language import load_language
from voxmetry.report.pictures.planning import plan_pictures
from voxmetry.workflows.instances import read_instances_again
from voxmetry.workflows.report import Wishes, rewrite_report
from voxmetry.workflows.run_folder import read_result

BLOB = """kind: baseline
name: blob
version: 1.0.0
summary: What is bright
inputs: [{name: image, modality: MR}]
segment: {method: threshold, low: 500}
labels: {labels: [{value: 3, name: body, colour: "#D55E00"}]}
"""
GRID = phantoms.geometry(shape=(48, 40, 20), spacing_mm=(1.0, 1.2, 2.5))
TRUTH = phantoms.balls(GRID, ((14, 24, 25), 9), ((29, 24, 25), 8.5), ((39, 8, 10), 7))
"""Two balls that touch, and one by itself."""
MAPS = {"instances.nii.gz", "panoptic.nii.gz", "instances.csv"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("balls")
    noise = np.random.default_rng(0).normal(0, 20, GRID.shape)
    save(Volume(np.where(TRUTH > 0, 900, 100) + noise.astype(np.float32), GRID), root / "image.nii.gz")
    (root / "blob.yaml").write_text(BLOB, encoding="utf-8")
    return root


def segmented(place, out, **settings):
    return segment_study(place / "image.nii.gz", out, place / "blob.yaml", settings=StudySettings(**settings))


class TestSegment:
    def test_watershed_gives_maps_a_table_and_rows(self, place, tmp_path):
        result = segmented(place, tmp_path, instances="watershed")
        assert {path.name for path in tmp_path.iterdir()} > MAPS
        assert set(result.files.values()) == {path.name for path in tmp_path.iterdir()}
        assert result.instances_by == "watershed"
        assert "islands" not in {flag.code for flag in result.flags}
        assert [row.id for row in result.instances] == ["body-1", "body-2", "body-3"]
        for row, number in zip(result.instances, (1, 2, 3), strict=True):
            true_ml = (number == TRUTH).sum() * GRID.voxel_ml
            assert row.volume_ml == pytest.approx(true_ml, rel=0.08)
            assert row.instance == number
        again = read_result(tmp_path)
        assert [row.model_dump_json() for row in again.instances] == [row.model_dump_json() for row in result.instances]
        maps = {name: nib.load(tmp_path / f"{name}.nii.gz") for name in ("seg", "instances", "panoptic")}
        seg, instances, panoptic = (np.asarray(x.dataobj) for x in maps.values())
        assert instances.dtype == np.uint16
        assert np.array_equal(instances > 0, seg == 3)
        assert np.array_equal(panoptic, seg.astype(np.int64) * 65536 + instances)
        assert np.array_equal(maps["instances"].affine, maps["seg"].affine)
        rows = list(csv.DictReader((tmp_path / "instances.csv").read_text().splitlines()))
        assert [(x["id"], x["instance"], x["score"]) for x in rows] == [(f"body-{n}", str(n), "") for n in (1, 2, 3)]
        assert float(rows[0]["box_low_r_mm"]) == result.instances[0].box_low_ras_mm[0]

    def test_components_take_what_touches_for_one(self, place, tmp_path):
        result = segmented(place, tmp_path, instances="components", report="none")
        assert (len(result.instances), result.instances_by) == (2, "components")

    def test_nothing_is_told_apart_unless_it_is_asked_for(self, place, tmp_path):
        result = segmented(place, tmp_path, report="none")
        assert (result.instances, result.instances_by) == ((), "")
        assert not MAPS & {path.name for path in tmp_path.iterdir()}
        assert "islands" in {flag.code for flag in result.flags}
        assert '"instance"' not in json.dumps(result.files)

    def test_an_image_without_any_instance(self, tmp_path, place):
        dark = np.random.default_rng(0).integers(90, 110, GRID.shape).astype(np.int16)
        save(Volume(dark, GRID), tmp_path / "dark.nii.gz")
        settings = StudySettings(instances="watershed", report="none")
        result = segment_study(tmp_path / "dark.nii.gz", tmp_path / "out", place / "blob.yaml", settings=settings)
        assert (result.instances, result.instances_by) == ((), "watershed")
        assert len(read_instances(tmp_path / "out" / "instances.nii.gz")) == 0
        assert (tmp_path / "out" / "instances.csv").read_text().startswith("id,label,value")

    def test_structures_without_a_method_are_refused_before_any_work(self, place, tmp_path):
        with pytest.raises(ConfigError, match="--instances watershed"):
            segmented(place, tmp_path / "out", instance_labels=("body",))
        with pytest.raises(LabelError, match="liver"):
            segmented(place, tmp_path / "out", instances="components", instance_labels=("liver",))
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    def test_from_the_command_line(self, place, tmp_path, capsys):
        words = ["segment", str(place / "image.nii.gz"), "-m", str(place / "blob.yaml"), "-o", str(tmp_path)]
        assert run([*words, "--instances", "watershed", "--set", "report=none"]) in (0, 3)
        assert "body-3" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run_of_dicom(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("dicom")
    image = read_volume(place / "image.nii.gz")
    write_series(Volume(image.array.astype(np.int16), image.geometry), out / "mr", modality="MR")
    settings = StudySettings(instances="watershed", dicom=DicomOutput(seg=True, sr=True, rtstruct=True, pdf=True))
    return segment_study(out / "mr", out / "run", place / "blob.yaml", settings=settings), out / "run"


class TestShown:
    def test_a_segment_and_a_tracking_identifier_an_instance(self, run_of_dicom):
        result, out = run_of_dicom
        assert result.not_written == {}
        seg = pydicom.dcmread(out / "seg.dcm")
        names = [item.SegmentLabel for item in seg.SegmentSequence]
        assert names == [item.TrackingID for item in seg.SegmentSequence] == ["body-1", "body-2", "body-3"]
        assert len({item.TrackingUID for item in seg.SegmentSequence}) == 3
        back = read_segmentation(out / "seg.dcm")
        for row in result.instances:
            assert back.mask(row.id).sum() == row.n_voxels
        contours = pydicom.dcmread(out / "rtstruct.dcm")
        assert [item.ROIName for item in contours.StructureSetROISequence] == names
        tracked = {str(item.value) for item in text_items(pydicom.dcmread(out / "sr.dcm")) if "-" in str(item.value)}
        assert set(names) <= tracked

    def test_the_page_lists_numbers_and_jumps_to_each(self, run_of_dicom):
        _, out = run_of_dicom
        page = (out / "report.html").read_text()
        assert 'id="instance-table"' in page
        assert "3 instances, told apart by watershed." in page
        scene = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
        assert [(x["id"], x["name"]) for x in scene["targets"]] == [(f"lesion-{n}", f"body-{n}") for n in (1, 2, 3)]
        assert len({x["colour"] for x in scene["surfaces"]}) == 3
        assert all(f'data-go="lesion-{n}"' in page for n in (1, 2, 3))
        assert 'data-go="structure-3"' not in page

    def test_the_report_is_written_again_with_the_instances(self, run_of_dicom):
        _, out = run_of_dicom
        path = rewrite_report(out, Wishes(language="de"))
        page = path.read_text()
        assert "3 Instanzen, getrennt durch Wasserscheiden." in page
        assert page.count('data-go="lesion-') == 3

    def test_a_number_stands_inside_of_each_instance_of_the_overview(self, run_of_dicom):
        result, out = run_of_dicom
        drawn, seg = drawn_result(result), read_segmentation(out / "seg.nii.gz")
        apart = read_instances_again(out, result, seg)
        both = drawn_segmentation(result, seg, apart)
        plan = plan_pictures(drawn, read_volume(out / "overview.nii.gz"), both, whole=seg, numbers=numbers_of(result))
        assert dict(plan.pictures[0].panels[0].numbers) == {4: "1", 5: "2", 6: "3"}
        assert [x.lesion for x in plan.pictures if x.kind == "lesion"] == ["body-1", "body-2", "body-3"]
        assert [label.name for label in both.labels] == ["body-1", "body-2", "body-3"]
        assert [drawn.labels[name] for name in both.labels.names] == list(both.labels)


def text_items(dataset):
    return [element for element in dataset.iterall() if element.keyword == "TextValue"]


class TestFiles:
    def test_what_a_run_wrote_comes_back(self, place, tmp_path):
        result = segmented(place, tmp_path, instances="watershed", report="none")
        found = read_instances(tmp_path / "instances.nii.gz")
        assert [(row.value, row.label) for row in found.detections] == [(1, "body"), (2, "body"), (3, "body")]
        named = read_segmentation(tmp_path / "instances.nii.gz")
        assert named.labels.names == tuple(row.id for row in result.instances)
        assert len({label.colour for label in named.labels}) == 3

    def test_gaps_are_no_matter(self, tmp_path):
        save(instance_map(TRUTH * np.uint16(7)), tmp_path / "gaps.nii.gz")
        assert [row.value for row in read_instances(tmp_path / "gaps.nii.gz").detections] == [7, 14, 21]

    def test_a_table_names_structures_and_scores(self, tmp_path):
        save(instance_map(TRUTH), tmp_path / "a.nii.gz")
        (tmp_path / "a.csv").write_text("instance,label,score\n1,node,0.9\n2,node,\n3,vessel,0.25\n9,gone,1\n")
        found = read_instances(tmp_path / "a.nii.gz")
        assert [row.label for row in found.detections] == ["node", "node", "vessel"]
        assert found.detections[2].score == 0.25
        assert np.isnan(found.detections[1].score)
        assert np.array_equal(found.segmentation.mask("vessel"), TRUTH == 3)

    @pytest.mark.parametrize(
        ("text", "error", "words"),
        [
            ("a,b\n1,2\n", FormatError, "without the column instance and label"),
            ("instance,label\n1,node\n", LabelError, r"instances \[2, 3\] of a\.nii\.gz"),
            ("instance,label,score\n1,node,high\n", FormatError, "cannot be read as a table"),
            ("instance,label\none,node\n", FormatError, "cannot be read as a table"),
        ],
    )
    def test_a_table_that_is_none_is_refused(self, tmp_path, text, error, words):
        save(instance_map(TRUTH), tmp_path / "a.nii.gz")
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(error, match=words):
            read_instances(tmp_path / "a.nii.gz")

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (TRUTH.astype(np.int32) * 40000, "3 instances with values up to 120000.*numbered from 1"),
            (np.arange(70000, dtype=np.int32).reshape(70, 100, 10), "69999 instances.*more than can be numbered"),
            (TRUTH.astype(np.int16) - 1, "no whole numbers from 0, such as -1"),
            (TRUTH * np.float32(0.4), "no whole numbers"),
        ],
    )
    def test_values_that_number_nothing_are_refused(self, tmp_path, array, words):
        save(Volume(array, phantoms.geometry(shape=array.shape)), tmp_path / "wide.nii.gz")
        with pytest.raises(LabelError, match=words):
            read_instances(tmp_path / "wide.nii.gz")


def instance_map(array: np.ndarray) -> Segmentation:
    from voxmetry import LabelTable

    values = {int(value): f"instance-{value}" for value in np.unique(array) if value}
    return Segmentation(array.astype(np.uint16), GRID, LabelTable.from_names(values))


class TestNetwork:
    def test_instances_of_a_network_are_written_with_their_scores(self, tmp_path, monkeypatch):
        import balls
        import models
        from voxmetry import Predictor
        from voxmetry.nn.instance_merging import MergedInstance
        from voxmetry.nn.instances import InstanceCollector

        def merged(_):
            whole = np.ones((6, 8, 8), np.float32)
            rows = [(0.9, (slice(2, 8), slice(4, 12), slice(4, 12))), (0.3, (slice(9, 15), slice(4, 12), slice(4, 12)))]
            return [MergedInstance(score, 0, place, whole) for score, place in rows]

        monkeypatch.setattr(InstanceCollector, "merged", merged)
        folder = models.write(tmp_path / "model", **balls.specification())
        image = Volume(balls.image(balls.pair()), Geometry(np.eye(4), (24, 24, 24)))
        save(image, tmp_path / "image.nii.gz")
        result = segment_study(tmp_path / "image.nii.gz", tmp_path / "out", Predictor(folder, device="cpu"))
        assert result.instances_by == "network"
        assert [(row.label, row.score) for row in result.instances] == [("ball", 0.9), ("ball", 0.3)]
        found = read_segmentation(tmp_path / "out" / "instances.nii.gz").array
        assert [int((found == value).sum()) for value in (1, 2)] == [6 * 8 * 8] * 2
        # The semantic map has a ball where an instance is, and nowhere else.
        seg = read_segmentation(tmp_path / "out" / "seg.nii.gz").array
        np.testing.assert_array_equal(seg == 3, found > 0)
        # Counted, and said to be more likely none.
        said = {flag.code: (flag.severity, flag.message) for flag in result.flags}
        message = "1 of 2 instances of ball have a score below 0.5: ball-2 (0.30)."
        assert said["uncertain_instances"] == ("review", message)
        remarks = [row.cells[-1].text for row in instance_table(result).rows]
        assert remarks == ["", "uncertain"]
        assert str(load_language("de").retell(message)).startswith(
            "1 von 2 Instanzen von ball haben einen Score unter 0,5"
        )


class TestNames:
    def test_saved_names_count_within_a_structure(self, tmp_path):
        save_instances(tell_apart(phantoms.segmentation()), tmp_path / "a.nii.gz")
        assert read_segmentation(tmp_path / "a.nii.gz").labels.names == ("a-1", "b-1")
