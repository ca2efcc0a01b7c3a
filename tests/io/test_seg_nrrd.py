"""3D Slicer's `.seg.nrrd`: layers that overlap and terminology, both ways; pynrrd reads what is written."""

from __future__ import annotations

import gzip
import json

import nrrd as pynrrd
import numpy as np
import pytest

import phantoms
from io_headers import nrrd
from voxmetry import Geometry, Label, LabelTable, Segmentation, read_segmentation, save
from voxmetry.cli import run
from voxmetry.core.labels import Code
from voxmetry.errors import GeometryError, InputError, LabelError
from voxmetry.io import read_layers
from voxmetry.io.seg_nrrd import write_seg_nrrd

SIZES = (2, 11, 9, 7)
LAYERS = {"dimension": "4", "sizes": "2 11 9 7", "type": "uchar", "encoding": "gzip", "endian": None}
LAYERS |= {"space_directions": "none (2,0,0) (0,2.5,0) (0,0,3)", "kinds": "list domain domain domain"}
LIVER = "TerminologyEntry:General~SCT^85756007^Tissue~SCT^10200004^Liver~^^~Anatomic codes~^^~^^|"
KIDNEY = "Segmentation.Status:done|TerminologyEntry:x~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
KIDNEY += "~SCT^24028007^Right~Anatomic codes~^^~^^|"
TUMOUR = (
    "TerminologyEntry:x~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~y~SCT^10200004^Liver~^^|"
)


def voxels():
    array = np.zeros(SIZES, np.uint8)
    array[0, 2:9, 2:7, 1:6] = 1
    array[0, 0, :, :] = 2
    array[1, 4:6, 3:5, 2:4] = 1
    return array


def segment(number, name, value, layer, **more):
    fields = {"Name": name, "LabelValue": value, "Layer": layer, **more}
    return "".join(f"Segment{number}_{key}:={text}\n" for key, text in fields.items())


SLICER = segment(0, "liver", 1, 0, Tags=LIVER, Color="1 0.5 0") + segment(1, "kidney", 2, 0, Tags=KIDNEY)
SLICER += segment(2, "tumour", 1, 1, Tags=TUMOUR)


def written(path, tail=SLICER, array=None):
    array = voxels() if array is None else array
    return nrrd(path, gzip.compress(array.tobytes(order="F")), tail=tail, **LAYERS)


class TestReading:
    def test_layers_and_terminology(self, tmp_path):
        first, second = read_layers(written(tmp_path / "a.seg.nrrd"))
        liver, kidney, (tumour,) = *first.labels, second.labels
        assert [label.name for label in (liver, kidney, tumour)] == ["liver", "kidney", "tumour"]
        assert liver.code == Code(value="10200004", meaning="Liver")
        assert liver.category == Code(value="85756007", meaning="Tissue")
        assert liver.colour == "#FF8000"
        assert (kidney.laterality, kidney.kind, kidney.category) == ("right", "organ", None)
        assert (tumour.kind, tumour.code.value, tumour.region.value) == ("lesion", "4147007", "10200004")
        np.testing.assert_array_equal(first.mask("liver"), voxels()[0] == 1)
        np.testing.assert_array_equal(first.mask("kidney"), voxels()[0] == 2)
        np.testing.assert_array_equal(second.mask("tumour"), voxels()[1] == 1)
        assert first.geometry.axcodes == "LPS"
        assert first.geometry.spacing_mm == (2, 2.5, 3)

    def test_values_that_are_one_file_wide_are_kept(self, tmp_path):
        array = voxels()
        array[1][array[1] == 1] = 7
        tail = SLICER.replace("Segment2_LabelValue:=1", "Segment2_LabelValue:=7")
        layers = read_layers(written(tmp_path / "a.seg.nrrd", tail, array))
        assert [label.value for layer in layers for label in layer.labels] == [1, 2, 7]

    def test_an_overlap_is_refused_or_decided(self, tmp_path):
        path = written(tmp_path / "a.seg.nrrd")
        with pytest.raises(LabelError, match="structures overlap: liver and tumour"):
            read_segmentation(path)
        inside = int(np.count_nonzero(voxels()[1]))
        assert np.count_nonzero(read_segmentation(path, overlap="last").mask("tumour")) == inside
        assert np.count_nonzero(read_segmentation(path, overlap="first").mask("tumour")) == 0
        assert read_segmentation(path, structures=["tumour", "kidney"]).labels.names == ("kidney", "tumour")

    def test_layers_that_do_not_overlap_are_one_map(self, tmp_path):
        array = voxels()
        array[0][array[1] == 1] = 0
        assert read_segmentation(written(tmp_path / "a.seg.nrrd", array=array)).labels.names == (
            "liver",
            "kidney",
            "tumour",
        )

    def test_on_the_image_in_another_order_of_axes(self, tmp_path):
        layers = read_layers(written(tmp_path / "a.seg.nrrd"))
        grid = layers[0].geometry
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = 6
        turned = read_layers(tmp_path / "a.seg.nrrd", image=Geometry(grid.affine @ flip, grid.shape))
        np.testing.assert_array_equal(turned[1].array, layers[1].array[:, :, ::-1])
        with pytest.raises(GeometryError, match="different grids"):
            read_layers(tmp_path / "a.seg.nrrd", image=phantoms.geometry())

    @pytest.mark.parametrize(
        ("tail", "words"),
        [
            (SLICER.replace("Segment2_Layer:=1", "Segment2_Layer:=2"), "segments of others"),
            (SLICER.replace("Segment2_LabelValue:=1", "Segment2_LabelValue:=3"), r"values \[1\] in layer 1"),
            (SLICER.replace("Segment1_LabelValue:=2", "Segment1_LabelValue:=1"), "used more than once"),
            (SLICER.replace("Segment1_LabelValue:=2", "Segment1_LabelValue:=x"), "segment 1 has no whole-number"),
        ],
    )
    def test_segments_that_contradict_the_layers(self, tmp_path, tail, words):
        with pytest.raises(LabelError, match=words):
            read_layers(written(tmp_path / "a.seg.nrrd", tail))

    def test_channels_without_segments_are_no_layers(self, tmp_path):
        with pytest.raises(InputError, match="2 numbers a voxel"):
            read_segmentation(written(tmp_path / "a.nrrd", ""))


class TestWriting:
    TABLE = (
        Label(
            value=3,
            name='Läsion "~|^\\ links',
            colour="#123456",
            kind="lesion",
            code=Code(value="4147007", meaning="Mass"),
            modifier=Code(value="255549009", meaning="Anterior"),
            laterality="left",
            region=Code(value="10200004", meaning="Liver"),
        ),
        Label(
            value=5, name="kidney", colour="#00FF00", code=Code(value="64033007", meaning="Kidney"), laterality="right"
        ),
    )

    def layers(self):
        grid = phantoms.geometry()
        arrays = [np.zeros(grid.shape, np.uint8) for _ in self.TABLE]
        arrays[0][2:6, 3:7, 2:5] = 3
        arrays[1][4:9, 5:9, 4:8] = 5
        pairs = zip(arrays, self.TABLE, strict=True)
        return [Segmentation(array, grid, LabelTable(labels=(label,))) for array, label in pairs]

    def test_layers_come_back(self, tmp_path):
        layers = self.layers()
        write_seg_nrrd(layers, tmp_path / "a.seg.nrrd")
        again = read_layers(tmp_path / "a.seg.nrrd")
        for one, other in zip(layers, again, strict=True):
            np.testing.assert_array_equal(one.array, other.array)
            assert one.labels == other.labels
            assert other.geometry.difference(one.geometry) is None

    def test_as_pynrrd_reads_them(self, tmp_path):
        layers = self.layers()
        write_seg_nrrd(layers, tmp_path / "a.seg.nrrd")
        array, header = pynrrd.read(str(tmp_path / "a.seg.nrrd"))
        np.testing.assert_array_equal(array, np.stack([layer.array for layer in layers]))
        assert header["kinds"] == ["list", "domain", "domain", "domain"]
        assert (header["Segment1_Name"], header["Segment1_LabelValue"], header["Segment1_Layer"]) == (
            "kidney",
            "5",
            "1",
        )
        assert "~SCT^64033007^Kidney~SCT^24028007^Right~" in header["Segment1_Tags"]

    def test_one_layer_holds_the_terminology_too(self, tmp_path):
        grid = phantoms.geometry()
        table = LabelTable(labels=self.TABLE)
        save(Segmentation(np.zeros(grid.shape, np.uint8), grid, table), tmp_path / "a.seg.nrrd")
        content = (tmp_path / "a.seg.nrrd").read_bytes()
        (tmp_path / "a.seg.nrrd").write_bytes(content.replace(b"voxmetry_labels", b"xoxmetry_labels"))
        assert read_segmentation(tmp_path / "a.seg.nrrd").labels == table

    def test_convert_keeps_what_overlaps(self, tmp_path):
        source, target = written(tmp_path / "a.seg.nrrd"), tmp_path / "b.seg.nrrd"
        assert run(["convert", str(source), str(target)]) == 0
        assert [layer.labels for layer in read_layers(target)] == [layer.labels for layer in read_layers(source)]
        assert run(["convert", str(source), str(target)]) == 2
        assert run(["convert", str(source), str(tmp_path / "c.nii.gz")]) == 1
        assert (
            run(["convert", str(source), str(tmp_path / "c.nii.gz"), "--overlap", "last", "--map", "tumour=GTV"]) == 0
        )
        assert read_segmentation(tmp_path / "c.nii.gz").labels.names[-1] == "GTV"


def mitk(*groups):
    """Groups of labels as MITK's header has them: (name, value, colour) each."""
    content = [
        {
            "labels": [
                {
                    "color": {"type": "ColorProperty", "value": colour},
                    "locked": True,
                    "name": name,
                    "opacity": 0.6,
                    "value": value,
                    "visible": True,
                }
                for name, value, colour in group
            ]
        }
        for group in groups
    ]
    return (
        "modality:=org.mitk.multilabel.segmentation\n"
        f"org.mitk.multilabel.segmentation.labelgroups:={json.dumps(content)}\n"
        "org.mitk.multilabel.segmentation.version:=1\n"
    )


class TestMitk:
    def test_groups_that_overlap_and_labels_of_one_name(self, tmp_path):
        tail = mitk(
            [("Exterior", 0, [0, 0, 0]), ("liver", 1, [1, 0.5, 0]), ("node", 2, [0, 0, 1])], [("node", 1, [0, 1, 0])]
        )
        first, second = read_layers(written(tmp_path / "a.nrrd", tail))
        assert [(x.name, x.value, x.colour) for x in (*first.labels, *second.labels)] == [
            ("liver", 1, "#FF8000"),
            ("node", 2, "#0000FF"),
            ("node_3", 3, "#00FF00"),
        ]
        np.testing.assert_array_equal(first.mask("liver"), voxels()[0] == 1)
        np.testing.assert_array_equal(second.mask("node_3"), voxels()[1] == 1)

    def test_one_group_is_a_plain_file_with_names(self, tmp_path):
        fields = LAYERS | {"dimension": "3", "sizes": "11 9 7", "kinds": "domain domain domain"}
        fields["space_directions"] = "(2,0,0) (0,2.5,0) (0,0,3)"
        tail = mitk([("liver", 1, [1, 0.5, 0]), ("kidney", 2, [0, 0, 1])])
        path = nrrd(tmp_path / "a.nrrd", gzip.compress(voxels()[0].tobytes(order="F")), tail=tail, **fields)
        found = read_segmentation(path)
        assert found.labels.names == ("liver", "kidney")
        np.testing.assert_array_equal(found.array, voxels()[0])

    @pytest.mark.parametrize(
        ("groups", "words"),
        [
            ("[]]", "no list of groups"),
            ('[{"labels": [{"name": "a"}]}]', "no list of groups"),
            ('[{"labels": [{"name": "a", "value": "1"}]}]', "no list of groups"),
            ("[" * 100_000, "no list of groups"),
            ('[{"labels": [{"value": 1}, {"value": 1}]}]', "used more than once"),
            ('[{"labels": [{"value": -4}]}]', "value"),
            ('[{"labels": []}, {"labels": []}, {"labels": [{"value": 1}, {"value": 2}]}]', "segments of others"),
        ],
    )
    def test_damaged_groups_are_refused(self, tmp_path, groups, words):
        tail = f"org.mitk.multilabel.segmentation.labelgroups:={groups}\n"
        with pytest.raises(LabelError, match=words):
            read_layers(written(tmp_path / "a.nrrd", tail))

    def test_the_form_before_is_refused_and_not_read_without_names(self, tmp_path):
        fields = LAYERS | {"dimension": "3", "sizes": "11 9 7", "kinds": "domain domain domain"}
        fields["space_directions"] = "(2,0,0) (0,2.5,0) (0,0,3)"
        tail = "modality:=org.mitk.image.multilabel\nlayers:=1\n"
        path = nrrd(tmp_path / "a.nrrd", gzip.compress(voxels()[0].tobytes(order="F")), tail=tail, **fields)
        with pytest.raises(LabelError, match="save it again"):
            read_segmentation(path)
