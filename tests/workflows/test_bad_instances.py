"""Instance maps that are not as they should be, at each door that takes one."""

from __future__ import annotations

import json

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, Volume, save
from voxmetry.cli import run
from voxmetry.errors import FormatError, LabelError
from voxmetry.io.instances import read_instances
from voxmetry.train.dataset import open_data, read_labelled

GRID = phantoms.geometry(shape=(44, 42, 40), spacing_mm=(1.0, 1.2, 2.5))


def write(array, path, grid=GRID):
    """Write whole numbers as NIfTI, of a type that holds them."""
    import nibabel as nib

    kind = np.uint16 if array.max() < 65536 else np.int32
    nib.save(nib.Nifti1Image(array.astype(kind), grid.affine), path)
    return path


def blocks(values):
    """A row of blocks of 3 x 3 x 3 voxels with these values, a voxel apart."""
    array = np.zeros(GRID.shape, np.int64)
    for place, value in enumerate(values):
        i, j = 1 + 4 * (place % 10), 1 + 4 * (place // 10)
        array[i : i + 3, j : j + 3, 1:4] = value
    return array


def compared(tmp_path, prediction, reference):
    paths = [write(x, tmp_path / f"{name}.nii.gz") for name, x in (("p", prediction), ("r", reference))]
    out = tmp_path / "out"
    code = run(["compare", *map(str, paths), "--apart", "maps", "-o", str(out), "--no-parquet"])
    written = out / "comparison.json"
    return code, json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}


def test_gaps_are_taken_as_they_are(tmp_path):
    code, found = compared(tmp_path, blocks([7, 65535, 300]), blocks([1, 2, 9000]))
    (row,) = found["detection"]
    assert (code, row["n_reference"], row["n_prediction"], row["pq"]["mean"]) == (0, 3, 3, 1.0)


def test_more_instances_than_can_be_numbered_are_refused(tmp_path, capsys):
    many = np.arange(np.prod(GRID.shape)).reshape(GRID.shape)
    assert many.max() > 65535
    assert compared(tmp_path, many, many)[0] == 1
    assert "more than can be numbered" in capsys.readouterr().err


def test_large_values_of_few_instances_are_told_from_too_many(tmp_path, capsys):
    assert compared(tmp_path, blocks([70000, 2]), blocks([1, 2]))[0] == 1
    assert "which could be numbered from 1" in capsys.readouterr().err


@pytest.mark.parametrize(("n_prediction", "n_reference"), [(0, 2), (2, 0), (0, 0)])
def test_a_map_without_an_instance_counts_none(tmp_path, n_prediction, n_reference):
    code, found = compared(tmp_path, blocks(range(1, n_prediction + 1)), blocks(range(1, n_reference + 1)))
    (row,) = found["detection"]
    assert (code, row["n_reference"], row["n_prediction"]) == (0, n_reference, n_prediction)
    assert row["pq"]["mean"] == (0.0 if n_prediction or n_reference else None)
    assert row["count_error"]["mean"] == abs(n_prediction - n_reference)


def test_an_instance_at_the_edge_is_measured_and_said_to_be_cut_off(tmp_path):
    array = blocks([1, 1])
    array[0, 1:4, 1:4] = 1
    image = Volume(np.where(array > 0, 900, 100).astype(np.float32), GRID)
    save(image, tmp_path / "image.nii.gz")
    (tmp_path / "blob.yaml").write_text(
        """kind: baseline
name: blob
version: 1.0.0
summary: What is bright
inputs: [{name: image, modality: MR}]
segment: {method: threshold, low: 500}
labels: {labels: [{value: 1, name: body, colour: "#D55E00"}]}
""",
        encoding="utf-8",
    )
    words = ["segment", str(tmp_path / "image.nii.gz"), "-m", str(tmp_path / "blob.yaml"), "-o", str(tmp_path / "out")]
    assert run([*words, "--instances", "watershed", "--report", "none"]) == 3
    rows = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["instances"]
    assert [bool(row["border_sides"]) for row in rows] == [True, False]
    assert rows[0]["volume_ml"] == pytest.approx(36 * GRID.voxel_ml)


class TestALabelMapOfStructures:
    """Values that lie in several pieces are structures, not instances."""

    ARRAY = blocks([1, 2, 1, 2, 3, 1])

    def test_as_a_reference(self, tmp_path, capsys):
        assert compared(tmp_path, blocks([1, 2]), self.ARRAY)[0] == 1
        assert "2 of 3 values lie in several pieces, up to 3" in capsys.readouterr().err

    @pytest.mark.parametrize("form", ["instances_of", "instances"])
    def test_as_a_data_set_to_train_on(self, tmp_path, form):
        for name in ("image", "label", "inst"):
            write(np.minimum(self.ARRAY, 1) if name == "label" else self.ARRAY, tmp_path / f"{name}_a.nii.gz")
        which = (
            'label: "inst_{case}.nii.gz"\ninstances_of: body'
            if form == "instances_of"
            else 'label: "label_{case}.nii.gz"\nlabels: {1: body}\ninstances: "inst_{case}.nii.gz"'
        )
        text = f'name: a\nchannels: [{{name: mr, modality: MR, path: "image_{{case}}.nii.gz"}}]\n{which}\ncases: [a]\n'
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        data = open_data(tmp_path / "a.yaml")
        with pytest.raises(LabelError, match="the instances of a, in which 2 of 3 values lie in several pieces"):
            read_labelled(data.cases[0], data)

    def test_one_that_lost_a_crumb_is_an_instance(self, tmp_path):
        array = blocks([1, 2, 3])
        array[30, 30, 30] = 1
        assert len(read_instances(write(array, tmp_path / "a.nii.gz"))) == 3
        assert compared(tmp_path, array, array)[0] == 0


class TestTheTableBesideAMap:
    """`a.csv` beside `a.nii.gz`, as people and spreadsheets write it."""

    def read(self, tmp_path, text):
        write(blocks([1, 2, 3]), tmp_path / "a.nii.gz")
        (tmp_path / "a.csv").write_bytes(text.encode())
        return read_instances(tmp_path / "a.nii.gz").detections

    def test_a_value_of_two_structures_is_refused(self, tmp_path):
        with pytest.raises(LabelError, match=r"instance 1 as liver and as kidney in a\.csv"):
            self.read(tmp_path, "instance,label\n1,liver\n2,liver\n1,kidney\n3,kidney\n")

    def test_two_scores_of_one_instance_are_refused(self, tmp_path):
        with pytest.raises(LabelError, match=r"instance 1 as liver of score 0\.9 and as liver of score 0\.2 in a\.csv"):
            self.read(tmp_path, "instance,label,score\n1,liver,0.9\n2,liver,1\n3,liver,1\n1,liver,0.2\n")

    def test_a_row_that_says_the_same_again_is_no_other_structure(self, tmp_path):
        rows = self.read(tmp_path, "instance,label\n1,liver\n2,liver\n1,liver\n3,kidney\n")
        assert [row.label for row in rows] == ["liver", "liver", "kidney"]

    def test_a_table_of_a_spreadsheet_is_read(self, tmp_path):
        rows = self.read(tmp_path, "\ufeffinstance,label,score\r\n1,liver,0.5\r\n2,liver,\r\n3,kidney,1\r\n")
        assert [row.label for row in rows] == ["liver", "liver", "kidney"]

    def test_an_infinite_score_is_refused(self, tmp_path):
        with pytest.raises(FormatError, match="cannot be read as a table of instances"):
            self.read(tmp_path, "instance,label,score\n1,liver,1e999\n2,liver,0\n3,liver,0\n")


@pytest.mark.parametrize("value", [1.4, -3.0, float("nan"), float("inf")])
def test_the_value_that_is_no_instance_is_named(tmp_path, value):
    import nibabel as nib

    array = blocks([1, 2]).astype(np.float32)
    array[0, 0, 0] = value
    nib.save(nib.Nifti1Image(array, GRID.affine), tmp_path / "a.nii.gz")
    with pytest.raises(LabelError, match=f"no whole numbers from 0, such as {value:g}"):
        read_instances(tmp_path / "a.nii.gz")


def test_a_label_table_of_instances_does_not_matter(tmp_path):
    array = blocks([4, 9]).astype(np.uint16)
    table = LabelTable.from_names({4: "L1", 9: "L2"})
    save(Segmentation(array, GRID, table), tmp_path / "named.nii.gz")
    assert [row.label for row in read_instances(tmp_path / "named.nii.gz").detections] == ["instance", "instance"]
