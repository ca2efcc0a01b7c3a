from __future__ import annotations

import math

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, Label, LabelTable, Segmentation, Volume
from voxmetry.errors import ConfigError, GeometryError, LabelError
from voxmetry.measurement import lesions
from voxmetry.measurement.lesions import PEAK_RADIUS_MM, suv_peak

TABLE = LabelTable(
    labels=(
        Label(value=1, name="tumour", colour="#E69F00", kind="lesion"),
        Label(value=2, name="liver", colour="#56B4E9"),
        Label(value=3, name="lung", colour="#009E73"),
    )
)


def seg(array: np.ndarray, grid: Geometry | None = None) -> Segmentation:
    return Segmentation(array.astype(np.uint8), grid or Geometry(np.eye(4), array.shape), TABLE)


def test_axes_by_hand():
    # 10 x 4 pixels of 1 mm: the outline's corners are the middles of the pixels' outer edges, such as (-0.5, 0) and
    # (0, -0.5). The longest pair is (-0.5, 0) to (9.5, 3): sqrt(100 + 9).
    array = np.zeros((16, 16, 5))
    array[2:12, 3:7, 2] = 1
    array[2:4, 3:7, 3] = 1
    (row,) = lesions(seg(array))
    assert (row.id, row.label, row.value, row.n_voxels) == ("tumour-1", "tumour", 1, 48)
    assert (row.slice_axis, row.slice_index) == (2, 2)
    assert row.long_axis_mm == pytest.approx(math.sqrt(109))
    a, b = np.array(row.long_axis_ends_ras_mm)
    assert np.linalg.norm(a - b) == pytest.approx(row.long_axis_mm)
    c, d = np.array(row.short_axis_ends_ras_mm)
    assert np.linalg.norm(c - d) == pytest.approx(row.short_axis_mm)
    assert (a - b) @ (c - d) == pytest.approx(0, abs=1e-9)
    assert {a[2], b[2], c[2], d[2]} == {2.0}
    # The chord leaves the hull through the edges j = -0.5 and j = 3.5: 4 mm across, at the angle of the long axis.
    assert row.short_axis_mm == pytest.approx(4 / math.cos(math.atan2(3, 10)))


def test_a_disc_has_equal_axes_and_a_single_pixel_its_spacing():
    i, j = np.indices((41, 41))
    array = np.zeros((41, 41, 3))
    array[..., 1] = (i - 20) ** 2 + (j - 20) ** 2 <= 15**2
    (row,) = lesions(seg(array))
    assert row.long_axis_mm == pytest.approx(31, abs=0.3)
    assert row.short_axis_mm == pytest.approx(31, abs=0.8)
    array[:] = 0
    array[5, 5, 1] = 1
    (row,) = lesions(seg(array, Geometry(np.diag([2.0, 3.0, 7.0, 1.0]), array.shape)))
    assert (row.long_axis_mm, row.short_axis_mm, row.max_diameter_mm) == (3.0, 2.0, 7.0)


def test_axes_do_not_depend_on_the_way_the_axes_are_stored():
    grid = phantoms.geometry(degrees=(7, -11, 19))
    array = np.random.default_rng(0).random(grid.shape) < 0.15
    expected = lesions(seg(array, grid))
    assert len(expected) > 5
    flip = np.array([[0, -1, 0, grid.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = Geometry(grid.affine @ flip, (grid.shape[2], grid.shape[0], grid.shape[1]))
    found = lesions(seg(array[::-1].transpose(2, 0, 1), turned))
    assert [x.slice_axis for x in found] == [0] * len(found)
    for a, b in zip(expected, found, strict=True):
        assert (a.id, a.n_voxels) == (b.id, b.n_voxels)
        names = ("long_axis_mm", "max_diameter_mm", "volume_ml", "centroid_ras_mm")
        for name in names:
            assert getattr(a, name) == pytest.approx(getattr(b, name))


def test_long_axis_against_all_pairs():
    grid = phantoms.geometry()
    array = np.random.default_rng(1).random(grid.shape) < 0.4
    row = lesions(seg(array, grid))[0]
    best = 0.0
    component = array.copy()
    for k in range(grid.shape[2]):
        points = np.argwhere(component[..., k])
        steps = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0, 0.5, 0], [0, -0.5, 0]])
        mm = grid.to_mm((np.insert(points, 2, k, axis=1)[:, None] + steps).reshape(-1, 3))
        best = max(best, math.sqrt(((mm[:, None] - mm) ** 2).sum(axis=2).max()))
    assert row.n_voxels > 0.9 * array.sum()
    assert row.long_axis_mm == pytest.approx(best)


def test_order_connectivity_and_smallest_volume():
    array = np.zeros((12, 12, 6))
    array[1, 1, 1] = array[2, 2, 2] = 1
    array[6:9, 6:9, 1:4] = 1
    array[11, 0, 5] = 1
    rows = lesions(seg(array))
    assert [(x.id, x.n_voxels) for x in rows] == [("tumour-1", 27), ("tumour-2", 2), ("tumour-3", 1)]
    assert rows[2].border_sides == ("R", "P", "S")
    assert [x.n_voxels for x in lesions(seg(array), connectivity=18)] == [27, 1, 1, 1]
    assert [x.n_voxels for x in lesions(seg(array), min_volume_ml=0.002)] == [27, 2]
    # Of the equal ones the most inferior comes first.
    single = [x.centroid_ras_mm for x in lesions(seg(array), connectivity=6)[1:]]
    assert single == [(1, 1, 1), (2, 2, 2), (11, 0, 5)]


def test_location():
    array = np.zeros((20, 8, 8))
    array[1:3, 2:4, 2:4] = 1
    array[9, 4, 4] = 1
    organs = np.zeros((20, 8, 8))
    organs[0:3, :, :] = 2
    organs[13:18, :, :] = 3
    rows = lesions(
        seg(array, phantoms.geometry(shape=(20, 8, 8), spacing_mm=(2.0, 1.0, 1.0))),
        organs=seg(organs, phantoms.geometry(shape=(20, 8, 8), spacing_mm=(2.0, 1.0, 1.0))),
    )
    assert [(x.location, x.location_distance_mm) for x in rows] == [("liver", 0), ("lung", pytest.approx(8))]
    none = lesions(seg(array), organs=seg(np.zeros((20, 8, 8))))
    assert {x.location for x in none} == {None}
    assert lesions(seg(array))[0].location is None


def test_pet_numbers_by_hand():
    grid = Geometry(np.diag([4.0, 4.0, 4.0, 1.0]), (11, 11, 11))
    array = np.zeros(grid.shape)
    array[4:7, 5, 5] = 1
    suv = np.zeros(grid.shape, np.float32)
    suv[4:7, 5, 5] = (3, 9, 6)
    (row,) = lesions(seg(array, grid), Volume(suv, grid, "SUVbw"))
    assert (row.intensity_max, row.intensity_mean) == (9, 6)
    assert row.total_lesion_glycolysis_suv_ml == pytest.approx(6 * 3 * 0.064)
    # Within 6.2 mm lie the centre, 6 neighbours at 4 mm and 12 at 5.7 mm: 19 voxels.
    assert row.suv_peak == pytest.approx(18 / 19)
    assert row.reason == ""
    (row,) = lesions(seg(array, grid), Volume(suv, grid, "HU"))
    assert math.isnan(row.suv_peak)
    assert "HU" in row.reason


@pytest.mark.parametrize("shear", [0.0, 1.5])
def test_the_sphere_of_the_peak_is_round_in_millimetres_on_an_oblique_grid(shear):
    affine = np.array(phantoms.geometry(spacing_mm=(1.7, 2.9, 4.3), degrees=(17.0, -31.0, 24.0)).affine)
    affine[:3, 2] += shear * affine[:3, 0]
    grid = Geometry(affine, (17, 13, 11))
    suv = np.random.default_rng(0).gamma(2, 2, grid.shape).astype(np.float32)
    mask = np.zeros(grid.shape, bool)
    mask[5:11, 4:9, 3:8] = True
    mm = grid.to_mm(np.argwhere(np.ones(grid.shape, bool)))
    wanted = max(
        suv.ravel()[np.linalg.norm(mm - centre, axis=1) <= PEAK_RADIUS_MM].mean(dtype=np.float64)
        for centre in grid.to_mm(np.argwhere(mask))
    )
    box = tuple(slice(0, n) for n in grid.shape)
    assert suv_peak(mask, box, Volume(suv, grid, "SUVbw")) == pytest.approx(wanted, rel=1e-6)


def test_a_sphere_that_leaves_the_image_counts_what_is_inside():
    grid = Geometry(np.diag([4.0, 4.0, 4.0, 1.0]), (3, 3, 3))
    mask = np.zeros(grid.shape, bool)
    mask[0, 0, 0] = True
    # The corner, 3 neighbours and 3 diagonal ones.
    assert suv_peak(mask, (slice(0, 3),) * 3, Volume(np.full((3, 3, 3), 2.0), grid)) == pytest.approx(2)
    array = np.zeros((3, 3, 3))
    array[0, 0, 0] = 7
    assert suv_peak(mask, (slice(0, 3),) * 3, Volume(array, grid)) == pytest.approx(1)
    assert pytest.approx(6.2035, abs=1e-4) == PEAK_RADIUS_MM


def test_ibsi_global_intensity_peak(real_data):
    # Consensus of the reference manual for the digital phantom: global intensity peak 3.1.
    nibabel = pytest.importorskip("nibabel")
    folder = real_data / "ibsi-phantoms" / "ibsi_1_digital_phantom" / "nifti"
    mask, image = (nibabel.load(folder / x / f"{y}.nii.gz") for x, y in (("mask", "mask"), ("image", "phantom")))
    grid = Geometry(image.affine, image.shape)
    volume = Volume(np.asarray(image.dataobj), grid)
    inside = np.asarray(mask.dataobj) > 0
    assert suv_peak(inside, tuple(slice(0, n) for n in grid.shape), volume) == pytest.approx(3.1, abs=0.05)


def test_nothing_to_measure():
    assert lesions(seg(np.zeros((4, 4, 4)))) == ()
    plain = Segmentation(np.ones((4, 4, 4), np.uint8), Geometry(np.eye(4), (4, 4, 4)), LabelTable.from_names({1: "a"}))
    assert lesions(plain) == ()
    assert lesions(plain, labels=["a"])[0].n_voxels == 64


def test_refusals():
    array = np.zeros((4, 4, 4))
    array[1, 1, 1] = 1
    other = Geometry(np.diag([1, 1, 2, 1]), (4, 4, 4))
    with pytest.raises(GeometryError, match="segmentation and image"):
        lesions(seg(array), Volume(array, other))
    with pytest.raises(GeometryError, match="segmentation and organs"):
        lesions(seg(array), organs=seg(array, other))
    with pytest.raises(ConfigError, match="connectivity"):
        lesions(seg(array), connectivity=8)
    with pytest.raises(ConfigError, match="min_volume_ml"):
        lesions(seg(array), min_volume_ml=math.nan)
    with pytest.raises(LabelError, match="'spleen'"):
        lesions(seg(array), labels=["spleen"])


def test_a_real_tumour(real_data):
    nibabel = pytest.importorskip("nibabel")
    folder = real_data / "sarcoma" / "STS_001"
    path = next(x for x in sorted(folder.rglob("*.nii.gz")) if "CT" in x.as_posix() and "mask" in x.as_posix().lower())
    image = nibabel.load(path)
    array = (np.asarray(image.dataobj) > 0).astype(np.uint8)
    rows = lesions(Segmentation(array, Geometry(image.affine, array.shape), TABLE), min_volume_ml=1)
    assert sum(x.volume_ml for x in rows) == pytest.approx(365.3, abs=1)
    assert rows[0].max_diameter_mm > rows[0].long_axis_mm > rows[0].short_axis_mm > 20


class TestPlaneOfMeasurement:
    """An ellipsoid of 30 x 12 mm, tilted by 40 degrees in the sagittal plane, 16 mm thick across it."""

    @staticmethod
    def scanned(spacing_mm, order=(0, 1, 2)):
        shape = tuple(int(48 / s) for s in spacing_mm)
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = -24
        x, y, z = np.moveaxis(Geometry(affine, shape).to_mm(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
        c, s = np.cos(np.deg2rad(40)), np.sin(np.deg2rad(40))
        inside = ((c * y + s * z) / 15) ** 2 + ((c * z - s * y) / 6) ** 2 + (x / 8) ** 2 <= 1
        grid = Geometry(affine[:, [*order, 3]], tuple(shape[axis] for axis in order))
        (row,) = lesions(seg(inside.transpose(order), grid))
        return row

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    def test_thick_sagittal_slices_are_measured_in_their_own_plane(self, order):
        row = self.scanned((5.0, 1.0, 1.0), order)
        assert (row.plane, row.slice_axis) == ("sagittal", order.index(0))
        assert row.long_axis_mm == pytest.approx(30, abs=1.0)
        assert row.short_axis_mm == pytest.approx(12, abs=1.0)

    def test_axial_slices_otherwise(self):
        for spacing in [(1.0, 1.0, 1.0), (1.6, 1.0, 1.0), (1.0, 1.0, 5.0), (2.0, 2.0, 1.0)]:
            row = self.scanned(spacing)
            assert row.plane == "axial"
            assert row.long_axis_mm < 21

    def test_rounding_does_not_decide(self):
        planes = {self.scanned((2.0 * (1 + noise), 1.0, 1.0)).plane for noise in (-1e-6, 0, 1e-6)}
        assert planes == {"sagittal"}
