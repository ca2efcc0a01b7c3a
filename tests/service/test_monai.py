"""The protocol of MONAI Label, called as 3D Slicer and OHIF call it."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import phantoms
from service_clients import SHAPE, Slicer, call, call_json, parts_of, send_form
from voxmetry import LabelTable, Segmentation, read_segmentation, read_volume, save
from voxmetry.io.annotations.monai_label import read_monai_label


@pytest.fixture
def slicer(live, tmp_path):
    return Slicer(live.host, tmp_path)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An oblique image whose three sizes and spacings differ."""
    path = tmp_path_factory.mktemp("image") / "tmp1.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=SHAPE), seed=3), path)
    return path


def read_itk(path):
    """The array (I, J, K) and where its corner and far corner lie."""
    found = sitk.ReadImage(str(path))
    corners = [found.TransformIndexToPhysicalPoint(each) for each in ((0, 0, 0), tuple(n - 1 for n in found.GetSize()))]
    return sitk.GetArrayFromImage(found).transpose(2, 1, 0), np.array(corners)


class TestSlicer:
    def test_info_has_what_the_module_reads_and_nothing_that_stops_it(self, slicer):
        found = slicer.info()
        assert "config" not in found
        assert found["labels"] == ["front", "back"]
        assert found["models"]["tiny-mr"]["labels"] == {"front": 1, "back": 2}
        assert found["models"]["tiny-mr"]["type"] == "segmentation"
        assert set(found) >= {"trainers", "strategies", "scoring", "train_stats", "datastore"}
        assert set(found["datastore"]) >= {"total", "completed", "label_tags"}

    def test_upload_segment_correct_save_and_next(self, slicer, image, live, tmp_path):
        name = "5: T1 axial, 2.5 mm/é"
        assert slicer.upload(name, image) == {"image": name}
        answer, params = slicer.infer("tiny-mr", name)
        # The network's values are 2 and 7: the module names by position.
        assert params["label_names"] == {"front": 1, "back": 2}
        array, corners = read_itk(answer)
        wanted = read_volume(image)
        assert array.shape == SHAPE
        assert set(np.unique(array)) <= {0, 1, 2}
        assert array.any()
        np.testing.assert_allclose(corners, read_itk(image)[1], atol=1e-4)
        # What came back is what the job wrote, on the image's own grid.
        status, files = call_json(slicer.host, "GET", f"/v1/jobs/{params['job']}/files")
        assert status == 200
        assert "seg.nii.gz" in [each["name"] for each in files]
        # A person takes some of it away, and saves.
        array[:5] = 0
        array[:3] = 1
        table = LabelTable.from_names({1: "a", 2: "b"})
        save(Segmentation(array, wanted.geometry, table), tmp_path / "label.nii.gz")
        info = [{"name": "front", "idx": 1}, {"name": "back", "idx": 2}]
        assert slicer.save_label(name, tmp_path / "label.nii.gz", info) == {"image": name, "label": name}
        status, headers, body = call(slicer.host, "GET", f"/datastore/label?label={quote_plus(name)}&tag=final")
        assert status == 200
        assert 'filename="' in headers["content-disposition"]
        (tmp_path / "back.nii.gz").write_bytes(body)
        kept = read_segmentation(tmp_path / "back.nii.gz")
        assert kept.labels.names == ("front", "back")
        assert (kept.array == array).all()
        wanted.geometry.require_same(kept.geometry)
        # `voxmetry annotate` reads the folder as it reads one of MONAI Label.
        (saved,) = [each for each in read_monai_label(live.data / "datastore") if each.image == name]
        assert saved.labels.names == ("front", "back")
        assert (saved.author, saved.path.is_file(), saved.made[:2]) == ("user-1", True, "20")
        # It is done, and is not offered again.
        status, store = call_json(slicer.host, "GET", "/datastore/?output=all")
        assert store["objects"][name]["labels"]["final"]["info"]["client_id"] == "user-1"
        assert all(slicer.next_sample("first").get("id") != name for _ in range(3))
        assert not slicer.training_runs()

    def test_an_image_of_ones_own_goes_by_a_session(self, slicer, image):
        session = slicer.begin_session(image)
        assert call_json(slicer.host, "GET", f"/session/{session}")[0] == 200
        answer, params = slicer.infer("tiny-mr", "Volume", session)
        assert read_itk(answer)[0].shape == SHAPE
        assert params["label_names"] == {"front": 1, "back": 2}
        assert call(slicer.host, "DELETE", f"/session/{session}")[0] == 200
        assert call(slicer.host, "GET", f"/session/{session}")[0] == 404

    def test_a_next_sample_is_an_image_below_a_root_that_can_be_fetched(self, slicer, live, tmp_path):
        found = slicer.next_sample("first")
        assert found["id"] == "research/b"
        assert str(live.root) not in json.dumps(found)
        status, headers, body = call(slicer.host, "GET", f"/datastore/image?image={quote_plus(found['id'])}")
        assert status == 200
        assert "content-disposition" in headers
        (tmp_path / found["name"]).write_bytes(body)
        read_volume(live.root / "b.nii.gz").geometry.require_same(read_volume(tmp_path / found["name"]).geometry)

    def test_the_next_sample_by_quality_is_one_that_was_segmented(self, slicer, live):
        assert set(slicer.info()["strategies"]) == {"quality", "disagreement", "random", "first"}
        content = {"model": "tiny-mr", "path": "research/group/a.nii.gz"}
        _, job = call_json(live.host, "POST", "/v1/jobs", content)
        assert job["image"] == "research/group/a"
        while call_json(live.host, "GET", f"/v1/jobs/{job['id']}")[1]["state"] in ("waiting", "running"):
            call(live.host, "GET", f"/v1/jobs/{job['id']}/events?wait=5")
        assert slicer.next_sample("quality")["id"] in ("research/group/a", "research/b")
        assert slicer.next_sample("disagreement")["id"]

    def test_segments_come_by_name_where_the_client_asks_for_its_own_format(self, slicer, image):
        slicer.upload("seg", image)
        answer, _ = slicer.infer("tiny-mr", "seg", result_extension=".seg.nrrd")
        assert answer.name.endswith(".seg.nrrd")
        header = nrrd.read_header(str(answer))
        assert [header[f"Segment{n}_Name"] for n in (0, 1)] == ["front", "back"]

    def test_a_label_of_another_grid_is_refused_in_words_and_the_one_before_stays(self, slicer, image, tmp_path):
        slicer.upload("kept", image)
        grid = read_volume(image).geometry
        table = LabelTable.from_names({1: "front"})
        good = np.zeros(SHAPE, np.uint8)
        good[3, 4, 5] = 1
        save(Segmentation(good, grid, table), tmp_path / "good.nii.gz")
        info = [{"name": "front", "idx": 1}]
        slicer.save_label("kept", tmp_path / "good.nii.gz", info)
        other = phantoms.geometry(shape=SHAPE, spacing_mm=(1.0, 1.1, 1.2))
        save(Segmentation(np.zeros(other.shape, np.uint8), other, table), tmp_path / "bad.nii.gz")
        content = (tmp_path / "bad.nii.gz").read_bytes()
        params = {"params": json.dumps({"label_info": info})}
        status, _, body = send_form(
            slicer.host, "PUT", "/datastore/label?image=kept", params, [("label", "/x/bad.nii.gz", content)]
        )
        assert status == 422
        assert set(json.loads(body)) == {"error", "found", "expected", "fix"}
        _, _, body = call(slicer.host, "GET", "/datastore/label?label=kept&tag=final")
        (tmp_path / "now.nii.gz").write_bytes(body)
        assert (read_segmentation(tmp_path / "now.nii.gz").array == good).all()

    def test_idx_that_counts_what_was_left_out_is_a_position(self, slicer, image, tmp_path):
        # The module leaves segments out as it saves: idx is 2 and 3, the file holds 1 and 2.
        slicer.upload("positions", image)
        array = np.zeros(SHAPE, np.uint8)
        array[1], array[2] = 1, 2
        names = LabelTable.from_names({1: "x", 2: "y"})
        save(Segmentation(array, read_volume(image).geometry, names), tmp_path / "l.nrrd")
        slicer.save_label("positions", tmp_path / "l.nrrd", [{"name": "front", "idx": 2}, {"name": "back", "idx": 3}])
        _, _, body = call(slicer.host, "GET", "/datastore/label?label=positions&tag=final")
        (tmp_path / "now.nii.gz").write_bytes(body)
        now = read_segmentation(tmp_path / "now.nii.gz")
        assert now.mask("front").sum() == array[1].size
        assert (now.mask("back") == (array == 2)).all()


class TestOhif:
    def test_raw_voxels_for_a_viewer_that_reads_no_packed_ones(self, slicer, image):
        slicer.upload("1.2.3", image)
        params = json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False})
        where = "/infer/tiny-mr?image=1.2.3&output=image"
        status, headers, body = send_form(slicer.host, "POST", where, {"params": params})
        assert status == 200
        assert headers["content-type"] == "application/octet-stream"
        head, voxels = body.split(b"\n\n", 1)
        assert b"encoding: raw" in head
        assert b"\r" not in head
        assert len(voxels) == np.prod(SHAPE)
        packed, _ = slicer.infer("tiny-mr", "1.2.3")
        assert (np.frombuffer(voxels, np.uint8).reshape(SHAPE, order="F") == read_itk(packed)[0]).all()

    def test_a_form_of_16_bits_with_centres_for_the_newer_plugin(self, slicer, image):
        slicer.upload("1.2.4", image)
        sent = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
        where = "/infer/tiny-mr?image=1.2.4&output=all"
        status, headers, body = send_form(slicer.host, "POST", where, {"params": json.dumps(sent)})
        assert status == 200
        parts = parts_of(headers, body)
        assert parts["params"][1] == "application/json"
        assert parts["image"][1] == "application/octet-stream"
        voxels = np.frombuffer(parts["image"][2].split(b"\n\n", 1)[1], "<u2").reshape(SHAPE, order="F")
        for value, *centre in json.loads(parts["params"][2])["centroids"].values():
            np.testing.assert_allclose(centre, np.argwhere(voxels == value).mean(axis=0))

    def test_flat_bytes_get_the_geometry_of_their_image(self, slicer, image, tmp_path):
        slicer.upload("1.2.5", image)
        array = np.zeros(SHAPE, np.uint8)
        array[2, 3:5, 4:8] = 7
        params = {"params": json.dumps({"label_info": [{"name": "lesion", "idx": 7}]})}
        label = [("label", "label.bin", array.tobytes(order="F"))]
        status, _, body = send_form(slicer.host, "PUT", "/datastore/label?image=1.2.5", params, label)
        assert status == 200, body
        _, _, body = call(slicer.host, "GET", "/datastore/label?label=1.2.5")
        (tmp_path / "l.nii.gz").write_bytes(body)
        found = read_segmentation(tmp_path / "l.nii.gz")
        assert (found.mask("lesion") == (array == 7)).all()
        read_volume(image).geometry.require_same(found.geometry)
        short = [("label", "label.bin", array.tobytes()[:-1])]
        status, _, body = send_form(slicer.host, "PUT", "/datastore/label?image=1.2.5", params, short)
        assert status == 422
        assert b"one or two for each voxel" in body


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/infer/nothing?image=research/b", 422),
            ("POST", "/infer/tiny-mr?image=nowhere", 404),
            ("POST", "/infer/tiny-mr", 422),
            ("POST", "/infer/tiny-mr?session_id=../../etc", 404),
            ("GET", "/datastore/image?image=/etc/passwd", 404),
            ("GET", "/datastore/label?label=x&tag=../../..", 422),
            ("POST", "/activelearning/magic", 404),
            ("POST", "/train/tiny-mr", 501),
            ("DELETE", "/datastore/?id=research/b", 404),
        ],
    )
    def test_each_is_told_in_words(self, live, method, path, status):
        found, content = call_json(live.host, method, path)
        assert found == status
        assert content.get("found") or content.get("detail")

    def test_what_is_wrong_with_a_request_is_told_before_its_image_is_fetched(self, live):
        """Else what was fetched for it stays."""
        params = {"params": json.dumps({"structures": 5})}
        where = "/infer/tiny-mr?image=nowhere"
        assert send_form(live.host, "POST", where, params)[0] == 422

    def test_an_image_that_cannot_be_read_fails_in_the_words_of_the_reader(self, live):
        status, _, _ = send_form(live.host, "PUT", "/datastore/?image=bad", (), [("file", "x.nii.gz", b"nonsense")])
        assert status == 200
        status, content = call_json(live.host, "POST", "/infer/tiny-mr?image=bad")
        assert status == 422
        assert "NIfTI" in content["found"]
