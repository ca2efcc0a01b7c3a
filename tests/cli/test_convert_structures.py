"""`convert` and `segment --reference` on structures that overlap, and series that are read by choice alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Label, LabelTable, Segmentation, StudySettings, Volume, read_segmentation, read_volume, save
from voxmetry.cli import _options_of, run
from voxmetry.io import read_layers, write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.workflows.study_measurements import compare_with
from workflows.test_not_written import BLOB

MADE = ("--made-by", "manual")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A series, and a structure set of it as a planning system writes it: body, tumour and margin overlap."""
    root = tmp_path_factory.mktemp("place")
    grid = phantoms.geometry(shape=(24, 27, 11), frame_uid="1.2.3")
    array = phantoms.volume(grid).array.copy()
    array[8:14, 9:13, 4:7] = 900
    write_series(Volume(array, grid), root / "mr", modality="MR")
    volume = read_volume(root / "mr")
    tumour = volume.array == 900
    places = np.argwhere(tumour)
    body, margin = np.zeros(tumour.shape, bool), np.zeros(tumour.shape, bool)
    body[2:-2, 2:-2] = True
    low, high = places.min(axis=0) - 1, places.max(axis=0) + 2
    margin[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    layers = tuple(
        Segmentation(
            mask.astype(np.uint8) * value,
            volume.geometry,
            LabelTable(labels=(Label(value=value, name=name, colour="#112233"),)),
        )
        for value, (name, mask) in enumerate({"BODY": body, "blob": tumour, "PTV 1/2": margin}.items(), start=1)
    )
    write_rtstruct(layers, read_source(volume), root / "rs.dcm", origin=Origin("manual"))
    (root / "blob.yaml").write_text(BLOB, encoding="utf-8")
    return root, {"BODY": body, "blob": tumour, "PTV 1/2": margin}


def masks_of(path, image=None):
    return {x.name: layer.array == x.value for layer in read_layers(path, image=image) for x in layer.labels}


def go(*words):
    return run([*map(str, words)])


class TestOverlap:
    def test_one_map_is_refused_with_options_that_the_verb_has(self, place, tmp_path, capsys):
        root, _ = place
        assert go("convert", root / "rs.dcm", tmp_path / "a.nii.gz", "--image", root / "mr") == 1
        told = capsys.readouterr().err
        assert "structures overlap: BODY and blob, BODY and PTV 1/2, blob and PTV 1/2" in told
        named = set(re.findall(r"--[a-z][a-z-]*", told))
        assert named == {"--structures", "--split", "--overlap"}
        assert named <= _options_of(["convert"])
        assert "read_layers" not in told

    def test_structures_are_chosen_by_name_or_pattern(self, place, tmp_path):
        root, masks = place
        words = ("convert", root / "rs.dcm", tmp_path / "a.nii.gz", "--image", root / "mr", "--structures", "BLO?")
        assert go(*words) == 0
        found = read_segmentation(tmp_path / "a.nii.gz", image=read_volume(root / "mr"))
        assert found.labels.names == ("blob",)
        assert np.array_equal(found.array > 0, masks["blob"])

    def test_each_becomes_a_mask_of_its_own(self, place, tmp_path, capsys):
        root, masks = place
        words = ("convert", root / "rs.dcm", tmp_path / "masks", "--image", root / "mr", "--split", "--json")
        assert go(*words) == 0
        files = {path.name for path in (tmp_path / "masks").iterdir()}
        assert files == {"BODY.nii.gz", "blob.nii.gz", "PTV 1_2.nii.gz"}
        assert len(json.loads(capsys.readouterr().out)["files"]) == 3
        image = read_volume(root / "mr")
        for name, mask in masks.items():
            found = read_segmentation(tmp_path / "masks" / f"{name.replace('/', '_')}.nii.gz", image=image)
            assert np.array_equal(found.array > 0, mask)
            assert found.labels.names == (name,)
        # A folder that holds something is not written into.
        assert go(*words) == 2

    @pytest.mark.parametrize("to", ["seg", "rtstruct"])
    def test_what_can_hold_overlap_gets_it_all(self, place, tmp_path, to):
        root, masks = place
        out = tmp_path / "x.dcm"
        assert go("convert", root / "rs.dcm", out, "--to", to, "--image", root / "mr", *MADE) == 0
        found = masks_of(out, read_volume(root / "mr"))
        assert set(found) == set(masks)
        for name, mask in masks.items():
            assert np.array_equal(found[name], mask)
        if to == "seg":
            assert pydicom.dcmread(out).SegmentsOverlap == "YES"

    def test_a_label_map_cannot(self, place, tmp_path, capsys):
        root, masks = place
        words = ("convert", root / "rs.dcm", tmp_path / "x.dcm", "--to", "labelmap", "--image", root / "mr", *MADE)
        assert go(*words) == 1
        assert "structures overlap" in capsys.readouterr().err
        assert go(*words, "--overlap", "last") == 0
        found = masks_of(tmp_path / "x.dcm", read_volume(root / "mr"))
        assert np.array_equal(found["PTV 1/2"], masks["PTV 1/2"])

    def test_a_clinical_structure_set_is_a_reference(self, place, tmp_path):
        root, _ = place
        words = ("segment", root / "mr", "-m", root / "blob.yaml", "--reference", root / "rs.dcm", "--report", "none")
        for n, more in enumerate(((), ("--reference-structures", "blob"))):
            assert go(*words, "-o", tmp_path / str(n), *more) in (0, 3)
            rows = json.loads((tmp_path / str(n) / "result.json").read_text())["comparisons"]
            assert {row["label"]: row["dice"] for row in rows} == {"blob": 1.0}

    def test_structures_that_overlap_are_compared_in_full_each(self):
        grid = phantoms.geometry()
        table = LabelTable.from_names({1: "body", 2: "tumour", 3: "absent"})

        def layer(value, low, high):
            array = np.zeros(grid.shape, np.uint8)
            array[low:high, 2:9, 2:9] = value
            return Segmentation(array, grid, table)

        found = layer(1, 1, 9)
        both = found.array.copy()
        both[3:5, 2:9, 2:9] = 2
        reference = (layer(1, 1, 9), layer(2, 3, 5))
        rows = compare_with(reference, Segmentation(both, grid, table), StudySettings())
        assert {row.label: row.dice for row in rows}["tumour"] == 1.0
        assert {row.label: row.dice for row in rows}["body"] == pytest.approx(2 * 6 / (6 + 8))
        assert [row.label for row in rows] == ["body", "tumour", "absent"]
        # A structure that the reference does not know is not one that was missed.
        known = Segmentation(reference[1].array, grid, LabelTable.from_names({2: "tumour"}))
        chosen = compare_with([known], Segmentation(both, grid, table), StudySettings())
        assert [row.label for row in chosen] == ["tumour"]


class TestReadByChoice:
    @pytest.fixture
    def uneven(self, place, tmp_path):
        """The series without a slice."""
        series = tmp_path / "uneven"
        series.mkdir()
        for path in sorted((place[0] / "mr").iterdir()):
            if path.name != "0005.dcm":
                (series / path.name).write_bytes(path.read_bytes())
        return series

    @pytest.fixture
    def leaning(self, place, tmp_path):
        """The series with each slice shifted in its plane, as a gantry that is tilted gives it."""
        series = tmp_path / "leaning"
        series.mkdir()
        for k, path in enumerate(sorted((place[0] / "mr").iterdir())):
            dataset = pydicom.dcmread(path)
            column = np.array(dataset.ImageOrientationPatient[3:], float)
            dataset.ImagePositionPatient = [*(np.array(dataset.ImagePositionPatient, float) + 0.7 * k * column)]
            dataset.save_as(series / path.name)
        return series

    @pytest.mark.parametrize(("kind", "option"), [("uneven", "--allow-uneven"), ("leaning", "--resample-tilt")])
    def test_convert_takes_the_option_that_its_error_names(self, request, tmp_path, capsys, kind, option):
        series = request.getfixturevalue(kind)
        assert go("convert", series, tmp_path / "a.nii.gz") == 1
        told = capsys.readouterr().err
        assert set(re.findall(r"--[a-z][a-z-]*", told)) <= _options_of(["convert"])
        assert go("convert", series, tmp_path / "a.nii.gz", option) == 0
        assert read_volume(tmp_path / "a.nii.gz").array.shape[2] == 11

    def test_a_verb_without_the_option_names_one_that_has_it(self, leaning, place, tmp_path, capsys):
        volume = read_volume(place[0] / "mr")
        label = Segmentation((volume.array > 500).astype("uint8"), volume.geometry, LabelTable.from_names({1: "blob"}))
        save(label, tmp_path / "seg.nii.gz")
        assert go("measure", tmp_path / "seg.nii.gz", "--image", leaning) == 1
        told = capsys.readouterr().err
        foreign = set(re.findall(r"--[a-z][a-z-]*", told)) - _options_of(["measure"])
        assert foreign <= _options_of(["convert"])
        assert not foreign or "voxmetry convert" in told

    def test_segment_and_convert_read_with_the_same_options(self):
        from dataclasses import fields

        from voxmetry.cli.options import Reading

        named = {f"--{field.name.replace('_', '-')}" for field in fields(Reading)}
        assert named == {"--series", "--modality", "--unit", "--suv", "--allow-uneven", "--resample-tilt"}
        for verb in ("segment", "convert"):
            assert named <= _options_of([verb])
