"""What the viewer gets, read back from the page's own blocks."""

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, Volume
from voxmetry.core.records import OtherInput
from voxmetry.report import viewer as scene_module
from voxmetry.report import write_report
from voxmetry.report.viewer import (
    block_label,
    block_mean,
    build_scene,
    overview,
    overview_of_labels,
    reduced_grid,
    reduction,
)


def unpacked(text):
    return gzip.decompress(base64.b64decode(text))


def image_of(text):
    image = nib.Nifti1Image.from_bytes(unpacked(text))
    return np.asarray(image.dataobj), image.affine


def test_a_small_image_is_there_in_full_where_it_was(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    scene = build_scene(make_result(volume, segmentation), volume, segmentation)
    assert scene.reduced == (1, 1, 1)
    array, affine = image_of(scene.image)
    assert np.allclose(affine, volume.geometry.affine, atol=1e-4)
    inside = np.clip(volume.array, scene.low, scene.high)
    assert np.abs(array - inside).max() <= (scene.high - scene.low) / scene_module.LEVELS
    labels, _ = image_of(scene.labels)
    # Structures are numbered as the table lists them: values may be too large for a table of colours.
    assert segmentation.labels.values == (1, 4)
    assert np.array_equal(labels, np.where(segmentation.array == 4, 2, segmentation.array))
    assert labels.dtype == np.uint8
    assert [surface.value for surface in scene.surfaces] == [1, 2]


def test_targets_lie_inside_their_structures(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    scene = build_scene(make_result(volume, segmentation), volume, segmentation)
    assert [target.id for target in scene.targets] == ["structure-1", "structure-4"]
    for target in scene.targets:
        voxel = np.linalg.solve(volume.geometry.affine, [*target.ras_mm, 1])[:3].round().astype(int)
        assert segmentation.array[tuple(voxel)] == segmentation.labels.values[target.value - 1]


def test_the_second_image_comes_along_on_its_own_grid(make_result, tmp_path):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    grid = Geometry(np.diag([4.0, 4.0, 5.0, 1.0]), (9, 8, 7))
    suv = np.random.default_rng(1).gamma(2.0, 2.0, grid.shape).astype(np.float32)
    result = make_result(volume, segmentation)
    other = OtherInput(name="pet <b>", source=result.source, measurements=())
    result = result.model_copy(update={"others": (other,)})
    scene = build_scene(result, volume, segmentation, [Volume(suv, grid, "SUVbw")])
    array, affine = image_of(scene.overlay.image)
    assert np.allclose(affine, grid.affine)
    assert np.abs(array - np.clip(suv, 0, scene.overlay.high)).max() <= scene.overlay.high / scene_module.LEVELS
    assert (scene.overlay.unit, scene.overlay.name) == ("SUV", "pet <b>")
    assert 5 <= scene.overlay.top <= 15
    write_report(
        result, tmp_path / "r.html", volume=volume, segmentation=segmentation, others=[Volume(suv, grid, "SUVbw")]
    )
    assert scene.overlay.image in (tmp_path / "r.html").read_text()
    assert "<b>" not in (tmp_path / "r.html").read_text().partition('id="viewer-section"')[2]
    assert build_scene(result, volume, segmentation).overlay is None


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_surface_encloses_its_structure_and_faces_outward(make_result, flip):
    grid = Geometry(np.diag([flip * 1.0, 1.5, 2.0, 1.0]), (30, 24, 20))
    array = np.zeros(grid.shape, np.uint8)
    array[8:20, 6:16, 5:13] = 3
    segmentation = Segmentation(array, grid, LabelTable.from_names({3: "a"}))
    volume = Volume(np.random.default_rng(0).normal(100, 20, grid.shape), grid)
    scene = build_scene(make_result(volume, segmentation), volume, segmentation)
    (surface,) = scene.surfaces
    data = unpacked(scene.mesh)
    points = np.frombuffer(data[: surface.points * 12], "<f4").reshape(-1, 3).astype(float)
    triangles = np.frombuffer(data[surface.points * 12 :], "<u4").reshape(-1, 3)
    assert len(triangles) == surface.triangles
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    volume_ml = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 / 1000
    # Positive only if every triangle faces outward; the blur rounds the corners off.
    assert volume_ml == pytest.approx(12 * 10 * 8 * 3 / 1000, rel=0.1)


def test_a_large_image_is_merged_to_the_budget_without_losing_a_structure():
    grid = Geometry(np.diag([0.8, 0.8, 4.0, 1.0]), (512, 512, 70))
    steps = reduction(grid, 3_000_000)
    assert steps == (3, 3, 1)
    array = np.zeros((9, 9, 4), np.uint8)
    array[:, :5] = 2
    array[7, 7, 1] = 9
    reduced = block_label(array, (3, 3, 1), present=(2, 9))
    assert reduced.shape == (3, 3, 4)
    assert reduced[0, 1, 0] == 2
    assert reduced[2, 2, 1] == 9
    assert reduced[2, 2, 0] == 0


def test_merged_voxels_keep_their_mean_and_their_place():
    array = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5)
    steps = (2, 3, 1)
    merged = block_mean(array, steps)
    assert merged.shape == (4, 2, 5)
    assert merged[1, 1, 2] == array[2:4, 3:6, 2].mean()
    grid = reduced_grid(phantoms.geometry(shape=array.shape), steps)
    middle = phantoms.geometry().to_mm(np.array([[2.5, 4.0, 2.0]]))[0]
    assert grid.shape == merged.shape
    assert np.allclose(grid.to_mm([1, 1, 2]), middle)


def test_an_image_of_one_value_and_no_structure_has_a_scene(make_result):
    volume = Volume(np.full(phantoms.SHAPE, 7, np.int16), phantoms.geometry())
    segmentation = Segmentation(np.zeros(phantoms.SHAPE, np.uint8), volume.geometry, LabelTable(labels=()))
    scene = build_scene(make_result(volume, segmentation), volume, segmentation)
    assert (scene.low, scene.high) == (6.5, 7.5)
    assert scene.surfaces == scene.targets == ()


@pytest.mark.parametrize("seed", range(4))
def test_a_structure_is_jumped_to_in_its_voxel_nearest_to_its_middle(seed):
    """A ring, whose middle is not in it, and specks far from each other."""
    rng = np.random.default_rng(seed)
    grid = phantoms.geometry(shape=(40, 50, 30), spacing_mm=(0.7, 1.3, 3.0))
    i, j, _ = np.indices(grid.shape)
    ring = abs(np.hypot(i - 20, j - 25) - 15) < 1.5
    array = np.where(ring, 1, 0).astype(np.uint8)
    array[tuple(rng.integers(0, n, 3) for n in grid.shape)] = 2
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "ring", 2: "specks"}))
    for value in (1, 2):
        voxels = np.argwhere(array == value)
        mm = grid.to_mm(voxels)
        centroid = tuple(mm.mean(0))
        box = tuple(slice(int(a), int(b) + 1) for a, b in zip(voxels.min(0), voxels.max(0), strict=True))
        found = scene_module._inside(segmentation, value, box, centroid)
        nearest = np.linalg.norm(mm - centroid, axis=1).min()
        assert np.linalg.norm(np.array(found) - centroid) == pytest.approx(nearest, abs=1e-6)
        assert array[tuple(np.rint(grid.to_ijk(found)).astype(int))] == value


def test_the_overview_is_the_image_where_it_is_small_and_its_blocks_where_not(monkeypatch):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    assert np.array_equal(overview(volume).array, volume.array)
    assert np.array_equal(overview_of_labels(segmentation).array, segmentation.array)
    monkeypatch.setattr(scene_module, "MOST_VOXELS", volume.array.size // 6)
    reduced, labels = overview(volume, volume.array.size // 6), overview_of_labels(segmentation)
    assert reduced.array.size <= volume.array.size // 6
    assert reduced.array.dtype == volume.array.dtype
    assert reduced.geometry.is_same(labels.geometry)
    assert set(np.unique(labels.array)) == set(np.unique(segmentation.array))
    # A block's centre keeps its place in the patient.
    extent = np.array(volume.geometry.extent_mm)
    assert np.all(np.array(reduced.geometry.extent_mm) - extent < np.array(reduced.geometry.spacing_mm))
