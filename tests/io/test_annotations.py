"""Slice annotations of five programs, ITK-SNAP's labels and MONAI Label's folder: right places, or a refusal."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

import annotation_files as files
import phantoms
from annotation_files import PROGRAMS, Drawn, box
from voxmetry import Geometry, LabelTable, read_volume
from voxmetry.errors import FormatError, GeometryError, InputError, LabelError
from voxmetry.io import write_series
from voxmetry.io.annotations import coco, label_studio
from voxmetry.io.annotations.formats import read_drawings
from voxmetry.io.annotations.itk_snap import itk_snap_beside, read_itk_snap, write_itk_snap
from voxmetry.io.annotations.monai_label import is_monai_label, read_monai_label
from voxmetry.io.annotations.series import by_case, keys_of
from voxmetry.io.annotations.shapes import SliceKeys, masks_of

GRID = Geometry(np.diag([2.0, 2.5, 4.0, 1.0]), (13, 17, 11))
"""A voxel of 0.02 mL."""
SIZE = (13, 17)
LIVER = [Drawn(f"case_{k:03}.png", "liver", box(2, 3, 7, 9)) for k in (4, 5, 6)]
"""5 x 6 pixels on three slices: columns 2 to 6, rows 3 to 8; 90 voxels are 1.8 mL."""
HOLE = [Drawn("case_004.png", "liver", box(4, 5, 6, 7))]
"""2 x 2 pixels inside: 86 voxels are left."""
SPLEEN = [Drawn("case_005.png", "spleen", box(9, 10, 12, 12))]
"""3 x 2 pixels on one slice: 0.12 mL."""


def masks(path, keys=None, grid=GRID, **how):
    return masks_of(read_drawings(path), keys or SliceKeys("case"), grid, **how)


def write(program, folder, drawn, size=SIZE):
    make, name = PROGRAMS[program]
    return make(folder / name, drawn, size)


def voxels(layers, name):
    return next(np.argwhere(layer.mask(name)) for layer in layers if name in layer.labels.names)


@pytest.mark.parametrize("program", PROGRAMS)
class TestEachProgram:
    def test_a_polygon_is_where_it_was_drawn_and_as_large(self, program, tmp_path):
        layers, pairs, slices = masks(write(program, tmp_path, LIVER + SPLEEN))
        assert (slices, pairs) == ((4, 5, 6), ())
        liver, spleen = voxels(layers, "liver"), voxels(layers, "spleen")
        assert len(liver) * GRID.voxel_ml == pytest.approx(1.8)
        assert len(spleen) * GRID.voxel_ml == pytest.approx(0.12)
        assert (liver.min(axis=0).tolist(), liver.max(axis=0).tolist()) == ([2, 3, 4], [6, 8, 6])
        assert (spleen.min(axis=0).tolist(), spleen.max(axis=0).tolist()) == ([9, 10, 5], [11, 11, 5])

    def test_a_polygon_inside_another_is_a_hole(self, program, tmp_path):
        layers, _, _ = masks(write(program, tmp_path, LIVER + HOLE))
        assert len(voxels(layers, "liver")) == 86

    def test_who_and_when(self, program, tmp_path):
        found = read_drawings(write(program, tmp_path, LIVER))
        assert found.program == program
        if program != "VIA":
            assert found.author.startswith("reader_a")
            assert found.made.startswith("2026-11-28T09:30")

    def test_pictures_of_another_size_are_refused(self, program, tmp_path):
        path = write(program, tmp_path, LIVER, size=(26, 34))
        if program == "VIA":
            # It does not keep the size of a picture.
            assert masks(path)[2] == (4, 5, 6)
            return
        with pytest.raises(GeometryError, match=r"(?s)26 x 34 pixels for slices of 13 x 17"):
            masks(path)

    def test_pictures_of_another_study_are_refused(self, program, tmp_path):
        with pytest.raises(GeometryError, match="no picture of this image"):
            masks(write(program, tmp_path, LIVER), SliceKeys("other"))

    def test_a_picture_is_known_by_the_uid_of_its_slice(self, program, tmp_path):
        uids = tuple(f"1.2.840.99.7.{k + 1}" for k in range(11))
        drawn = [Drawn(f"{uids[k]}.png", x.label, x.points) for k, x in zip((4, 5, 6), LIVER, strict=True)]
        _, _, slices = masks(write(program, tmp_path, drawn), SliceKeys("case", uids))
        assert slices == (4, 5, 6)
        with pytest.raises(GeometryError, match="no picture of this image"):
            masks(write(program, tmp_path, drawn), SliceKeys("case", tuple(f"{uid}9" for uid in uids)))

    def test_a_damaged_file_is_refused_in_words(self, program, tmp_path):
        path = write(program, tmp_path, LIVER)
        text = path.read_text()
        path.write_text(text[: len(text) // 2])
        with pytest.raises(FormatError):
            masks(path)


class TestNumbers:
    def test_of_slices_from_one_and_of_instances(self, tmp_path):
        path = files.coco(tmp_path / "a.json", LIVER, SIZE)
        assert masks(path, numbers="index-from-1")[2] == (3, 4, 5)
        numbers = tuple(range(100, 89, -1))
        keys = SliceKeys("case", (), numbers)
        drawn = [Drawn("case_097.png", "liver", box(2, 3, 7, 9))]
        assert masks(files.coco(tmp_path / "b.json", drawn, SIZE), keys, numbers="instance")[2] == (3,)

    @pytest.mark.parametrize("name", ["case_011.png", "case.png"])
    def test_a_picture_of_no_slice_is_refused(self, tmp_path, name):
        path = files.coco(tmp_path / "a.json", [Drawn(name, "liver", box(2, 3, 7, 9))], SIZE)
        with pytest.raises(GeometryError, match="slice"):
            masks(path)

    def test_one_slice_twice_is_refused(self, tmp_path):
        drawn = [LIVER[0], Drawn("case_4.png", "liver", box(2, 3, 7, 9))]
        with pytest.raises(FormatError, match="two pictures of one slice"):
            masks(files.coco(tmp_path / "a.json", drawn, SIZE))

    def test_the_longest_name_of_a_case_wins(self, tmp_path):
        drawn = [Drawn("case_1_004.png", "liver", box(2, 3, 7, 9)), Drawn("case_10_005.png", "liver", box(2, 3, 7, 9))]
        found = read_drawings(files.coco(tmp_path / "a.json", drawn, SIZE))
        parts = by_case(found, [SliceKeys("case"), SliceKeys("case_1"), SliceKeys("case_10")])
        assert {case: [x.name for x in part.pictures] for case, part in parts.items()} == {
            "case_1": ["case_1_004.png"],
            "case_10": ["case_10_005.png"],
        }
        with pytest.raises(InputError, match="no study here"):
            by_case(found, [SliceKeys("case_1")])


def test_slices_of_a_series_are_known_by_their_uids(tmp_path):
    write_series(phantoms.volume(phantoms.geometry(frame_uid="1.2.3.4.5.6")), tmp_path / "s", modality="MR")
    volume = read_volume(tmp_path / "s")
    keys = keys_of("case", volume)
    assert len(set(keys.sop_uids)) == 11
    # As a program for pictures sees it: the brightest pixel of a file, its column and its row.
    headers = [pydicom.dcmread(path) for path in volume.source.files]
    bright = max(headers, key=lambda header: int(header.pixel_array.max()))
    row, column = np.unravel_index(bright.pixel_array.argmax(), bright.pixel_array.shape)
    drawn = [Drawn(f"{bright.SOPInstanceUID}.png", "spot", box(column, row, column + 1, row + 1))]
    size = (bright.Columns, bright.Rows)
    layers, _, _ = masks(files.cvat(tmp_path / "a.xml", drawn, size), keys, volume.geometry)
    assert volume.array[layers[0].mask("spot")].tolist() == [1000]


class TestPainted:
    mask = np.zeros((17, 13), bool)
    mask[3:9, 2:7] = True
    mask[5, 4] = False

    def picture(self, path):
        layers, _, slices = masks(path)
        assert slices == (4,)
        assert np.array_equal(layers[0].array[:, :, 4].T > 0, self.mask)

    @pytest.mark.parametrize("kind", ["list", "text"])
    def test_run_lengths_of_coco(self, kind, tmp_path):
        flat = self.mask.T.ravel()
        changes = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *changes, len(flat)]).tolist()
        content = json.loads(files.coco(tmp_path / "a.json", LIVER[:1], SIZE).read_text())
        counts = runs if kind == "list" else self.text(runs)
        content["annotations"][0]["segmentation"] = {"size": [17, 13], "counts": counts}
        path = tmp_path / "b.json"
        path.write_text(json.dumps(content))
        self.picture(path)

    def text(self, runs):
        """COCO's code, written from its description: differences from the run two before, five bits a character."""
        made = ""
        for place, run in enumerate(runs):
            x = run - (runs[place - 2] if place > 2 else 0)
            more = True
            while more:
                group = x & 31
                x >>= 5
                more = x != (-1 if group & 16 else 0)
                made += chr(48 + (group | (32 if more else 0)))
        return made

    def test_a_mask_of_cvat(self, tmp_path):
        inside = self.mask[3:9, 2:7].ravel()
        changes = np.flatnonzero(np.diff(inside)) + 1
        runs = [0, *np.diff([0, *changes, len(inside)]).tolist()]
        path = files.cvat(tmp_path / "a.xml", LIVER[:1], SIZE)
        mask = f'<mask label="liver" rle="{", ".join(map(str, runs))}" left="2" top="3" width="5" height="6"/>'
        text = path.read_text()
        start, stop = text.index("<polygon"), text.index("</image>")
        path.write_text(text[:start] + mask + text[stop:])
        self.picture(path)

    def test_brush_strokes_of_label_studio(self, tmp_path):
        content = json.loads(files.label_studio(tmp_path / "a.json", LIVER[:1], SIZE).read_text())
        result = content[0]["annotations"][0]["result"][0]
        result["type"] = "brushlabels"
        result["value"] = {"format": "rle", "rle": files.packed_brush(self.mask), "brushlabels": ["liver"]}
        path = tmp_path / "b.json"
        path.write_text(json.dumps(content))
        self.picture(path)

    def test_runs_that_do_not_fill_the_picture_are_refused(self):
        content = {
            "images": [{"id": 1, "file_name": "case_004.png", "width": 13, "height": 17}],
            "categories": [{"id": 1, "name": "liver"}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "segmentation": {"size": [17, 13], "counts": [5, 5]}},
            ],
        }
        with pytest.raises(FormatError, match="make 10 pixels"):
            coco.read(content)


class TestShapes:
    def test_a_shape_that_encloses_nothing_is_refused(self, tmp_path):
        path = files.cvat(tmp_path / "a.xml", LIVER[:1], SIZE)
        path.write_text(path.read_text().replace("<polygon", "<polyline").replace("</polygon>", "</polyline>"))
        with pytest.raises(FormatError, match="polyline"):
            read_drawings(path)

    def test_a_box_of_cvat_turned_by_a_right_angle(self, tmp_path):
        path = files.cvat(tmp_path / "a.xml", LIVER[:1], SIZE)
        text = path.read_text()
        start, stop = text.index("<polygon"), text.index("</image>")
        turned = '<box label="liver" xtl="2" ytl="5" xbr="8" ybr="7" rotation="90.0"/>'
        path.write_text(text[:start] + turned + text[stop:])
        found = voxels(masks(path)[0], "liver")
        # About its centre (5, 6): 2 columns wide and 6 rows high.
        assert (found.min(axis=0).tolist(), found.max(axis=0).tolist()) == ([4, 3, 4], [5, 8, 4])

    def test_two_people_on_one_picture_are_refused(self, tmp_path):
        content = json.loads(files.label_studio(tmp_path / "a.json", LIVER[:1], SIZE).read_text())
        content[0]["annotations"] *= 2
        with pytest.raises(FormatError, match="2 annotations of one picture"):
            label_studio.read(content)

    def test_a_region_without_a_name_is_refused(self, tmp_path):
        path = files.via(tmp_path / "a.json", LIVER[:1], SIZE)
        path.write_text(path.read_text().replace('{"label": "liver"}', "{}"))
        with pytest.raises(FormatError, match="names the structure"):
            read_drawings(path)

    def test_masks_on_a_server_are_refused(self, tmp_path):
        path = files.labelbox(tmp_path / "a.ndjson", LIVER[:1], SIZE)
        content = json.loads(path.read_text())
        thing = content["projects"]["p"]["labels"][0]["annotations"]["objects"][0]
        del thing["polygon"]
        thing["mask"] = {"url": "https://example.org/mask.png"}
        path.write_text(json.dumps(content))
        with pytest.raises(FormatError, match="server"):
            read_drawings(path)

    def test_xml_with_definitions_of_its_own_is_refused(self, tmp_path):
        path = tmp_path / "a.xml"
        path.write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotations>&a;</annotations>')
        with pytest.raises(FormatError, match="definitions"):
            read_drawings(path)


class TestItkSnap:
    table = LabelTable.from_names({1: "liver", 4: 'spleen "left"'})

    def test_there_and_back(self, tmp_path):
        write_itk_snap(self.table, tmp_path / "labels.txt")
        back = read_itk_snap(tmp_path / "labels.txt")
        assert [(x.value, x.colour) for x in back] == [(x.value, x.colour) for x in self.table]
        assert back.names[0] == "liver"

    def test_it_is_found_beside_its_label_map(self, tmp_path):
        for name in ("case.nii.gz", "other.nii.gz", "note.txt"):
            (tmp_path / name).write_text("x")
        assert itk_snap_beside(tmp_path / "case.nii.gz") is None
        write_itk_snap(self.table, tmp_path / "labels.txt")
        assert itk_snap_beside(tmp_path / "case.nii.gz") == tmp_path / "labels.txt"
        write_itk_snap(self.table, tmp_path / "case.label")
        assert itk_snap_beside(tmp_path / "case.nii.gz") == tmp_path / "case.label"
        # Two of them, and none of its name: nothing says which is meant.
        assert itk_snap_beside(tmp_path / "other.nii.gz") is None

    @pytest.mark.parametrize("line", ['1 300 0 0 1 1 1 "x"', "1 0 0 0 1 1", '1 0 0 0 1 1 1 ""'])
    def test_a_line_that_is_none_is_refused(self, tmp_path, line):
        (tmp_path / "a.txt").write_text(line + "\n")
        with pytest.raises(LabelError, match="ITK-SNAP"):
            read_itk_snap(tmp_path / "a.txt")


class TestMonaiLabel:
    def write(self, folder, ext=".nii.gz", **info):
        (folder / "labels" / "final").mkdir(parents=True)
        entry = {"ext": ext, "info": {"ts": 1764408600, "client_id": "user-a", **info}}
        objects = {"case_1": {"image": {"ext": ".nii.gz"}, "labels": {"final": entry, "original": {"ext": ".nii.gz"}}}}
        (folder / "datastore_v2.json").write_text(json.dumps({"name": "x", "objects": objects}))

    def test_what_was_finished_is_listed(self, tmp_path):
        self.write(tmp_path, label_info=[{"name": "liver", "idx": 3}, {"name": "spleen", "idx": 5}])
        (tmp_path / "labels" / "final" / "case_1.nii.gz").write_bytes(b"x")
        assert is_monai_label(tmp_path)
        (found,) = read_monai_label(tmp_path)
        assert (found.image, found.author, found.made) == ("case_1", "user-a", "2025-11-29T09:30:00+00:00")
        assert {x.value: x.name for x in found.labels} == {3: "liver", 5: "spleen"}

    def test_what_is_not_there_is_named(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(InputError, match="not there: case_1"):
            read_monai_label(tmp_path)

    def test_a_path_out_of_the_folder_is_refused(self, tmp_path):
        self.write(tmp_path, ext="/../../../etc/passwd")
        with pytest.raises(FormatError):
            read_monai_label(tmp_path)
