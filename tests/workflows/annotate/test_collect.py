"""Corrections in every form that they come in, each with the right mL; and those that are refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pydicom
import pytest

import annotation_files as files
import phantoms
from annotation_files import PROGRAMS, Drawn, box
from voxmetry import LabelTable, Segmentation, read_segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.errors import InputError
from voxmetry.io import write_series
from voxmetry.io.annotations.itk_snap import write_itk_snap
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg
from voxmetry.io.seg_nrrd import write_seg_nrrd
from voxmetry.train.dataset import open_data, read_case
from voxmetry.workflows.annotate.collect import collect, read_corrections
from voxmetry.workflows.annotate.plan import plan_annotation
from voxmetry.workflows.correction import CorrectionOptions

BY = CorrectionOptions(author="Reader A")
TABLE = LabelTable.from_names({1: "a", 4: "b"})


def boxes(grid, *, last=5):
    """'a' of 3 x 4 x 2 voxels up to column `last`, 'b' of 2 x 4 x 2."""
    array = np.zeros(grid.shape, np.uint8)
    array[2:last, 3:7, 4:6] = 1
    array[8:10, 3:7, 4:6] = 4
    return Segmentation(array, grid, TABLE)


@pytest.fixture
def loop(tmp_path, make_result):
    """A work list of two studies of one DICOM series each: 'a' has 24 voxels in both, 'b' 16."""
    for number, case in enumerate(("case_1", "case_2"), start=1):
        series = tmp_path / "in" / case
        grid = phantoms.geometry(frame_uid=f"1.2.3.4.{number}")
        write_series(phantoms.volume(grid, seed=number), series, modality="MR", series_uid=f"1.2.9.{number}")
        volume = read_volume(series)
        found = boxes(volume.geometry)
        made = make_result(volume, found)
        source = made.source.model_copy(
            update={"format": "DICOM", "series_uid": f"1.2.9.{number}", "frame_uid": volume.geometry.frame_uid}
        )
        folder = tmp_path / "out" / case
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(made.model_copy(update={"source": source}).model_dump_json())
        save(found, folder / "seg.nii.gz")
    work = tmp_path / "work"
    plan_annotation(tmp_path / "out", work, images=tmp_path / "in", strategy="first")
    return work


def image(loop, case="case_1"):
    return read_volume(loop.parent / "in" / case)


def right(loop, case="case_1"):
    """The correction that each form below holds: 'a' has 32 voxels."""
    return boxes(image(loop, case).geometry, last=6)


def seg_nrrd(loop, folder):
    found = right(loop)
    layers = [
        Segmentation(
            np.where(found.array == x.value, x.value, 0).astype(np.uint8), found.geometry, LabelTable(labels=(x,))
        )
        for x in TABLE
    ]
    write_seg_nrrd(layers, folder / "case_1.seg.nrrd")
    return folder / "case_1.seg.nrrd"


def nifti(loop, folder):
    save(right(loop), folder / "case_1.nii.gz")
    return folder / "case_1.nii.gz"


def mitk(loop, folder):
    """Two groups with values of their own, as MITK saves them."""
    found = right(loop)
    write_seg_nrrd(
        [
            Segmentation((found.array == x.value).astype(np.uint8), found.geometry, LabelTable.from_names({1: x.name}))
            for x in TABLE
        ],
        folder / "case_1.nrrd",
    )
    head, _, voxels = (folder / "case_1.nrrd").read_bytes().partition(b"\n\n")
    lines = [line for line in head.split(b"\n") if not line.startswith(b"Segment")]
    groups = [{"labels": [{"name": x.name, "value": 1}]} for x in TABLE]
    lines.append(b"org.mitk.multilabel.segmentation.labelgroups:=" + json.dumps(groups).encode())
    (folder / "case_1.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    return folder / "case_1.nrrd"


def itk_snap(loop, folder):
    """Other values than the model's, named by a file beside; the label map itself has no names."""
    found = right(loop)
    values = np.where(found.array == 1, 7, np.where(found.array == 4, 9, 0)).astype(np.uint8)
    plain = Segmentation(values, found.geometry, LabelTable.from_names({7: "label_7", 9: "label_9"}))
    save(plain, folder / "case_1.nii.gz")
    write_itk_snap(LabelTable.from_names({7: "a", 9: "b", 11: "c"}), folder / "snap.label")
    return folder / "case_1.nii.gz"


def dicom(kind):
    def made(loop, folder):
        origin = Origin("semiautomatic", "x", "1", author="Reader B")
        write = {"seg": write_seg, "rtstruct": write_rtstruct}[kind]
        write(right(loop), read_source(image(loop)), folder / "sent.dcm", origin=origin)
        return folder / "sent.dcm"

    return made


def monai_label(loop, folder):
    (folder / "labels" / "final").mkdir(parents=True)
    found = right(loop)
    values = np.where(found.array == 1, 2, np.where(found.array == 4, 1, 0)).astype(np.uint8)
    plain = Segmentation(values, found.geometry, LabelTable.from_names({1: "label_1", 2: "label_2"}))
    save(plain, folder / "labels" / "final" / "case_1.nii.gz")
    info = {"ts": 1764408600, "client_id": "user-c", "label_info": [{"name": "b", "idx": 1}, {"name": "a", "idx": 2}]}
    entry = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}}
    (folder / "datastore_v2.json").write_text(json.dumps({"objects": {"case_1": entry}}))
    return folder


def drawn(loop, *, uids):
    """'a' one column wider on its two slices, as polygons in pixels; 'b' as it was."""
    keys = json.loads((loop / "worklist.json").read_text())["items"][0]
    assert keys["case"] == "case_1"
    names = [f"{keys['sop_uids'][k]}.png" if uids else f"case_1_{k:03}.png" for k in (4, 5)]
    return [
        thing for name in names for thing in (Drawn(name, "a", box(2, 3, 6, 7)), Drawn(name, "b", box(8, 3, 10, 7)))
    ]


def program(name, *, uids):
    def made(loop, folder):
        make, file = PROGRAMS[name]
        return make(folder / file, drawn(loop, uids=uids), image(loop).geometry.shape[:2])

    return made


FORMS = {
    "seg.nrrd": (seg_nrrd, "3D Slicer segmentation", "Reader A"),
    "MITK": (mitk, "NRRD", "Reader A"),
    "NIfTI": (nifti, "NIfTI", "Reader A"),
    "ITK-SNAP": (itk_snap, "NIfTI", "Reader A"),
    "DICOM SEG": (dicom("seg"), "DICOM SEG", "Reader B"),
    "RTSTRUCT": (dicom("rtstruct"), "RTSTRUCT", "Reader B"),
    "MONAI Label": (monai_label, "NIfTI", "user-c"),
    **{f"{name} by UID": (program(name, uids=True), name, None) for name in PROGRAMS},
    **{f"{name} by number": (program(name, uids=False), name, None) for name in PROGRAMS},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_the_right_millilitres(form, loop, tmp_path):
    make, kind, author = FORMS[form]
    back = tmp_path / "back"
    back.mkdir()
    path = make(loop, back)
    ml = image(loop).geometry.voxel_ml
    how = BY if author in ("Reader A", None) else CorrectionOptions()
    found, refused = collect(loop, [path], how)
    assert refused == ()
    (case,) = found.cases
    a, b = case.correction.structures
    assert (case.case, case.correction.format) == ("case_1", kind)
    assert case.correction.author == (author or "Reader A")
    assert (a.volume_before_ml, a.volume_after_ml) == pytest.approx((24 * ml, 32 * ml))
    assert a.dice == pytest.approx(48 / 56)
    assert b.status == "unchanged"
    kept = read_segmentation(loop / "corrections" / "case_1.nii.gz")
    assert np.array_equal(kept.array, right(loop).array)
    rows = list(csv.DictReader((loop / "corrections" / "corrections.csv").read_text().splitlines()))
    assert [(row["case"], row["label"], row["status"]) for row in rows] == [
        ("case_1", "a", "changed"),
        ("case_1", "b", "unchanged"),
    ]
    assert float(rows[0]["volume_after_ml"]) == pytest.approx(32 * ml)


def test_what_was_collected_can_be_trained_on(loop, tmp_path):
    collect(loop, [seg_nrrd(loop, tmp_path)], BY)
    data = open_data(loop / "corrections" / "cases.yaml")
    (volume,), label = read_case(data.cases[0], data)
    assert np.array_equal(volume.array, image(loop).array)
    assert np.array_equal(label.array, right(loop).array)
    assert label.labels.names == ("a", "b")


def test_slices_that_nobody_drew_on_keep_the_models_labels(loop, tmp_path):
    one = drawn(loop, uids=False)[:2]
    size = image(loop).geometry.shape[:2]
    path = files.coco(tmp_path / "x.json", one, size)
    (case,) = collect(loop, [path], BY)[0].cases
    ml = image(loop).geometry.voxel_ml
    # One slice of 16 voxels, and the model's 12 on the other.
    assert case.correction.structures[0].volume_after_ml == pytest.approx(28 * ml)
    assert (case.correction.drawn_slices, case.correction.rest) == ((4,), "model")
    (case,) = collect(loop, [path], CorrectionOptions(author="A", rest="empty"))[0].cases
    assert case.correction.structures[0].volume_after_ml == pytest.approx(16 * ml)


def test_one_file_may_hold_slices_of_several_studies(loop, tmp_path):
    both = drawn(loop, uids=False)
    both += [Drawn(x.picture.replace("case_1", "case_2"), x.label, x.points) for x in both]
    found, refused = collect(loop, [files.coco(tmp_path / "x.json", both, image(loop).geometry.shape[:2])], BY)
    assert refused == ()
    assert [case.case for case in found.cases] == ["case_1", "case_2"]


def test_a_second_correction_replaces_the_first_which_is_kept(loop, tmp_path):
    collect(loop, [nifti(loop, tmp_path)], BY)
    save(boxes(image(loop).geometry, last=7), tmp_path / "case_1.nii.gz")
    found, _ = collect(loop, [tmp_path / "case_1.nii.gz"], BY)
    assert found.cases[0].round == 2
    earlier = read_segmentation(loop / "corrections" / ".earlier" / "case_1-1.nii.gz")
    assert np.array_equal(earlier.array, right(loop).array)
    assert read_corrections(loop) == found


class TestRefusals:
    def refuse(self, loop, path, match, how=BY):
        with pytest.raises(InputError, match=match):
            collect(loop, [path], how)

    def test_one_bad_file_costs_none_of_the_others(self, loop):
        final = loop / "labels" / "final"
        seg_nrrd(loop, final)
        save(boxes(phantoms.geometry(origin_mm=(0, 0, 0), shape=image(loop).geometry.shape)), final / "case_2.nii.gz")
        save(right(loop), final / "somebody.nii.gz")
        found, refused = collect(loop, (), BY)
        assert [case.case for case in found.cases] == ["case_1"]
        words = {one.name: one.error.found for one in refused}
        assert "different grids" in words["case_2.nii.gz"]
        assert "no study of the list" in words["somebody.nii.gz"]
        assert run(["annotate", "collect", str(loop), "--author", "Reader A"]) == 1

    def test_a_segmentation_of_another_series(self, loop, tmp_path):
        path = dicom("seg")(loop, tmp_path)
        data = pydicom.dcmread(path)
        data.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.77"
        data.save_as(path)
        self.refuse(loop, path, "a series of 0 studies")

    def test_pictures_of_another_study(self, loop, tmp_path):
        strange = [Drawn("9.8.7.6.5.4.png", "a", box(2, 3, 6, 7))]
        path = files.coco(tmp_path / "x.json", strange, image(loop).geometry.shape[:2])
        self.refuse(loop, path, "no study here")

    def test_an_image_that_changed_since(self, loop, tmp_path):
        path = nifti(loop, tmp_path)
        save(phantoms.volume(image(loop).geometry, seed=9), loop / "images" / "case_1.nii.gz")
        self.refuse(loop, path, "has changed since the list was made")

    def test_a_models_map_that_was_saved_over(self, loop, tmp_path):
        path = nifti(loop, tmp_path)
        write_seg_nrrd([right(loop)], loop / "labels" / "original" / "case_1.seg.nrrd")
        self.refuse(loop, path, "the model's label map of case_1 has changed")

    def test_an_unknown_structure_of_a_drawing(self, loop, tmp_path):
        odd = [Drawn("case_1_004.png", "spleen", box(2, 3, 6, 7))]
        path = files.coco(tmp_path / "x.json", odd, image(loop).geometry.shape[:2])
        self.refuse(loop, path, "does not know: spleen")
        how = CorrectionOptions(author="A", names={"spleen": "a"})
        assert collect(loop, [path], how)[1] == ()

    def test_nothing_that_came_back(self, loop):
        self.refuse(loop, loop / "labels" / "final", "no correction in final")

    def test_an_empty_one_unless_it_is_meant(self, loop, tmp_path):
        found = right(loop)
        save(Segmentation(np.zeros_like(found.array), found.geometry, TABLE), tmp_path / "case_1.nii.gz")
        self.refuse(loop, tmp_path / "case_1.nii.gz", "is empty")
        how = CorrectionOptions(author="A", allow_empty=True)
        (case,) = collect(loop, [tmp_path / "case_1.nii.gz"], how)[0].cases
        assert [row.status for row in case.correction.structures] == ["removed", "removed"]
