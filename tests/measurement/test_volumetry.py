from __future__ import annotations

import math

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Measurement, Segmentation, Volume
from voxmetry.errors import GeometryError
from voxmetry.measurement import measure
from voxmetry.measurement.volumetry import max_diameter_mm


def brute_extents(mask: np.ndarray, grid: Geometry) -> np.ndarray:
    """From all eight corners of all voxels."""
    halves = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    return np.ptp(grid.to_mm((np.argwhere(mask)[:, None] + halves).reshape(-1, 3)), axis=0)


def test_a_box_by_hand():
    # 3 x 4 x 2 voxels of 0.9 x 1.3 x 2.6 mm from index (2, 3, 4), upright: centre index (3, 4.5, 4.5).
    grid = phantoms.geometry(degrees=(0, 0, 0))
    row, other = measure(phantoms.segmentation(grid))
    assert (row.label, row.value, row.n_voxels) == ("a", 1, 24)
    assert row.volume_ml == pytest.approx(24 * 0.9 * 1.3 * 2.6 / 1000, rel=1e-12)
    assert (row.extent_rl_mm, row.extent_ap_mm, row.extent_si_mm) == pytest.approx((2.7, 5.2, 5.2))
    centre = (-31.5 + 3 * 0.9, 22.25 + 4.5 * 1.3, 104.75 + 4.5 * 2.6)
    assert row.centroid_ras_mm == pytest.approx(centre)
    assert (row.touches_border, row.border_sides) == (False, ())
    assert (other.label, other.value, other.n_voxels) == ("b", 4, 16)


def test_oblique_grid_moves_the_centroid_and_keeps_the_volume():
    upright, oblique = (
        measure(phantoms.segmentation(phantoms.geometry(degrees=d)))[0] for d in [(0, 0, 0), (7, -11, 19)]
    )
    assert oblique.volume_ml == pytest.approx(upright.volume_ml, rel=1e-12)
    assert oblique.centroid_ras_mm == pytest.approx(phantoms.geometry().to_mm([3, 4.5, 4.5]).tolist())


def test_extents_on_oblique_and_sheared_grids_against_all_voxel_corners():
    rng = np.random.default_rng(1)
    sheared = phantoms.geometry().affine.copy()
    sheared[0, 1] += 0.4
    for grid in (phantoms.geometry(), phantoms.geometry(degrees=(80, 40, -130)), Geometry(sheared, phantoms.SHAPE)):
        array = (rng.random(grid.shape) < 0.01).astype(np.uint8)
        (row,) = measure(Segmentation(array, grid, LabelTable.from_names({1: "x"})))
        found = (row.extent_rl_mm, row.extent_ap_mm, row.extent_si_mm)
        assert found == pytest.approx(brute_extents(array, grid).tolist())


def test_the_same_patient_in_other_axes_and_memory_orders():
    grid = phantoms.geometry()
    array = phantoms.segmentation(grid).array
    volume = phantoms.volume(grid)
    flip = np.array([[0, -1, 0, grid.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = Geometry(grid.affine @ flip, (grid.shape[2], grid.shape[0], grid.shape[1]))
    table = LabelTable.from_names({1: "a", 4: "b"})
    expected = measure(Segmentation(array, grid, table), volume)
    for order in "CF":

        def turn(x: np.ndarray, order: str = order) -> np.ndarray:
            return np.asarray(x[::-1].transpose(2, 0, 1), order=order)

        found = measure(Segmentation(turn(array), turned, table), Volume(turn(volume.array), turned))
        for a, b in zip(expected, found, strict=True):
            for name, value in a:
                if name == "max_diameter_ends_ras_mm":
                    # Of two ends, or equally long lines, the axes say which comes first.
                    assert np.linalg.norm(np.subtract(*getattr(b, name))) == pytest.approx(a.max_diameter_mm)
                    continue
                assert getattr(b, name) == (pytest.approx(value) if isinstance(value, (float, tuple)) else value)


def test_border_sides_in_patient_directions():
    # i runs towards the left, j towards the inferior, k towards the anterior.
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    grid = Geometry(affine, (4, 5, 6))
    array = np.zeros(grid.shape, np.uint8)
    array[0, 2, 3] = 1
    array[2, 4, 5] = 2
    array[1, 1, 1] = 3
    rows = measure(Segmentation(array, grid, LabelTable.from_names({1: "a", 2: "b", 3: "c"})))
    assert [row.border_sides for row in rows] == [("R",), ("A", "I"), ()]
    assert [row.touches_border for row in rows] == [True, True, False]


def test_intensities():
    grid = phantoms.geometry()
    seg = phantoms.segmentation(grid)
    array = np.zeros(grid.shape, np.int16)
    array[seg.mask("a")] = np.arange(24) * 10 - 1000
    row = measure(seg, Volume(array, grid, "HU"))[0]
    assert row.intensity_unit == "HU"
    assert (row.intensity_min, row.intensity_max, row.intensity_mean) == (-1000, -770, -885)
    assert row.intensity_median == -885
    # Ranks 0.05 * 23 = 1.15 and 0.95 * 23 = 21.85.
    assert (row.intensity_p05, row.intensity_p95) == pytest.approx((-988.5, -781.5))
    # Population SD of 0..23 times 10: 10 * sqrt((24^2 - 1) / 12).
    assert row.intensity_sd == pytest.approx(10 * math.sqrt((24**2 - 1) / 12))
    assert row.reason == ""


def test_an_empty_structure_is_a_row_with_a_reason():
    grid = phantoms.geometry()
    seg = Segmentation(np.zeros(grid.shape, np.uint8), grid, LabelTable.from_names({3: "none"}))
    (row,) = measure(seg, phantoms.volume(grid))
    assert (row.n_voxels, row.volume_ml, row.touches_border) == (0, 0.0, False)
    assert math.isnan(row.extent_rl_mm)
    assert all(map(math.isnan, row.centroid_ras_mm))
    assert math.isnan(row.intensity_mean)
    assert "no voxel" in row.reason
    assert '"extent_rl_mm":null' in row.model_dump_json()


def test_an_image_on_another_grid_is_refused():
    with pytest.raises(GeometryError, match="segmentation and image lie on different grids"):
        measure(phantoms.segmentation(), phantoms.volume(phantoms.geometry(degrees=(0, 0, 0))))


def test_a_whole_image_structure_is_not_zero():
    grid = phantoms.geometry()
    (row,) = measure(Segmentation(np.ones(grid.shape, np.uint8), grid, LabelTable.from_names({1: "all"})))
    assert row.volume_ml == pytest.approx(13 * 17 * 11 * 0.9 * 1.3 * 2.6 / 1000)
    assert row.border_sides == ("L", "R", "P", "A", "I", "S")


def test_published_voxel_volume_of_the_ibsi_phantom(real_data):
    nibabel = pytest.importorskip("nibabel")
    folder = real_data / "ibsi-phantoms" / "ibsi_1_digital_phantom" / "nifti"
    mask = nibabel.load(folder / "mask" / "mask.nii.gz")
    array = np.asarray(mask.dataobj).astype(np.uint8)
    (row,) = measure(Segmentation(array, Geometry(mask.affine, array.shape), LabelTable.from_names({1: "ROI"})))
    assert (row.n_voxels, row.volume_ml) == (74, pytest.approx(0.592))


def ball(grid: Geometry, centre_ijk: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> np.ndarray:
    """Ellipsoid along the patient's axes."""
    points = grid.to_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    return (((points - grid.to_mm(centre_ijk)) / radii_mm) ** 2).sum(axis=-1) <= 1


def only(mask: np.ndarray, grid: Geometry) -> Measurement:
    return measure(Segmentation(mask.astype(np.uint8), grid, LabelTable.from_names({1: "x"})))[0]


def test_ibsi_digital_phantom(real_data):
    # Consensus values of the reference manual, arXiv 1612.07003, to their printed digits.
    nibabel = pytest.importorskip("nibabel")
    folder = real_data / "ibsi-phantoms" / "ibsi_1_digital_phantom" / "nifti"
    mask = nibabel.load(folder / "mask" / "mask.nii.gz")
    row = only(np.asarray(mask.dataobj) > 0, Geometry(mask.affine, mask.shape))
    assert row.volume_ml == pytest.approx(0.592)
    assert row.mesh_volume_ml == pytest.approx(0.556, abs=0.0005)
    assert row.surface_area_mm2 == pytest.approx(388, abs=0.5)
    assert row.sphericity == pytest.approx(0.843, abs=0.0005)
    assert row.max_diameter_mm == pytest.approx(13.1, abs=0.05)


def test_mesh_of_one_voxel_by_hand():
    # An octahedron with half axes of half a spacing: volume 4/3 abc, area 8 triangles of |(bc, ac, ab)| / 2.
    grid = phantoms.geometry(spacing_mm=(2.0, 4.0, 6.0))
    mask = np.zeros(grid.shape)
    mask[3, 4, 5] = 1
    row = only(mask, grid)
    assert row.mesh_volume_ml == pytest.approx(4 / 3 * 1 * 2 * 3 / 1000)
    assert row.surface_area_mm2 == pytest.approx(4 * math.hypot(6, 3, 2))
    assert row.max_diameter_mm == pytest.approx(6)


def test_mesh_against_scikit_image_on_any_mask_and_grid():
    measure_ = pytest.importorskip("skimage.measure")
    sheared = phantoms.geometry().affine.copy()
    sheared[0, 1] += 0.4
    sheared[:, 0] *= -1
    rng = np.random.default_rng(5)
    for share, grid in [
        (0.5, phantoms.geometry()),
        (0.05, Geometry(sheared, phantoms.SHAPE)),
        (0.9, phantoms.geometry(spacing_mm=(0.3, 3, 1))),
    ]:
        mask = rng.random(grid.shape) < share
        points, faces, _, _ = measure_.marching_cubes(
            np.pad(mask, 1).astype(np.float32), 0.5, method="lorensen", allow_degenerate=False
        )
        corners = (points.astype(float) @ grid.affine[:3, :3].T)[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        volume = abs((corners[:, 0] * normals).sum() / 3)
        for order in "CF":
            row = only(np.asarray(mask, order=order), grid)
            assert row.surface_area_mm2 == pytest.approx(np.linalg.norm(normals, axis=1).sum(), rel=1e-9)
            assert row.mesh_volume_ml == pytest.approx(volume / 1000, rel=1e-9)


def test_ellipsoid_at_an_oblique_grid_gets_better_with_smaller_voxels():
    radii = (9.0, 12.0, 15.0)
    volume_ml = 4 / 3 * math.pi * math.prod(radii) / 1000
    errors = []
    for size, n in [(2.0, 24), (1.0, 46), (0.5, 90)]:
        grid = phantoms.geometry(spacing_mm=(size, size, size), shape=(n, n, n))
        row = only(ball(grid, ((n - 1) / 2, (n - 1) / 2, (n - 1) / 2), radii), grid)
        errors.append((abs(row.volume_ml / volume_ml - 1), abs(row.mesh_volume_ml / volume_ml - 1)))
        assert row.max_diameter_mm == pytest.approx(30, abs=1.5 * size)
        assert row.extent_si_mm == pytest.approx(30, abs=2 * size)
        assert row.centroid_ras_mm == pytest.approx(grid.to_mm([(n - 1) / 2] * 3).tolist(), abs=0.05 * size)
    assert errors[2][0] < errors[0][0] < 0.03
    assert errors[2][1] < errors[0][1] < 0.03
    assert errors[2][1] < 0.01


def test_max_diameter_against_all_pairs():
    rng = np.random.default_rng(3)
    for degrees, share in [((7, -11, 19), 0.01), ((0, 0, 0), 0.1), ((60, 5, 80), 0.001)]:
        grid = phantoms.geometry(degrees=degrees)
        mask = rng.random(grid.shape) < share
        steps = np.concatenate([np.eye(3), -np.eye(3)]) / 2
        points = grid.to_mm((np.argwhere(mask)[:, None] + steps).reshape(-1, 3))
        expected = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2).max())
        length, ends = max_diameter_mm(mask, grid)
        assert length == pytest.approx(expected)
        assert np.linalg.norm(np.subtract(*grid.to_mm(ends))) == pytest.approx(expected)
