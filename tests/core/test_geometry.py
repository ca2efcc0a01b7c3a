import numpy as np
import pytest

import phantoms
from voxmetry import Geometry
from voxmetry.core.geometry import SAME_GRID_TOLERANCE_MM, swap_lps_ras
from voxmetry.errors import GeometryError


class TestGeometry:
    def test_affine_is_a_read_only_copy(self):
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        grid = Geometry(affine, (4, 5, 6))
        affine[0, 0] = 9
        assert grid.affine[0, 0] == 1
        with pytest.raises(ValueError, match="read-only"):
            grid.affine[0, 0] = 2

    def test_spacing_and_volume_of_an_oblique_grid(self):
        grid = phantoms.geometry()
        assert np.allclose(grid.spacing_mm, phantoms.SPACING_MM, atol=1e-12)
        assert grid.voxel_ml == pytest.approx(0.9 * 1.3 * 2.6 / 1000, rel=1e-12)

    def test_volume_of_a_sheared_voxel_is_base_times_height(self):
        affine = np.diag([2.0, 3.0, 4.0, 1.0])
        affine[0, 2] = 1.5  # each slice is shifted along x; the height along z stays 4 mm
        grid = Geometry(affine, (2, 2, 2))
        assert grid.voxel_ml == pytest.approx(2 * 3 * 4 / 1000)
        assert not grid.is_orthogonal
        assert phantoms.geometry().is_orthogonal

    def test_indices_and_millimetres_are_inverse(self):
        grid = phantoms.geometry()
        ijk = np.array([[0, 0, 0], [3.5, 12, 8], [-2, 40, 1]])
        assert np.allclose(grid.to_ijk(grid.to_mm(ijk)), ijk, atol=1e-9)

    @pytest.mark.parametrize(
        ("columns", "codes"),
        [
            (([-1, 0, 0], [0, -1, 0], [0, 0, 1]), "LPS"),
            (([0, 1, 0], [0, 0, 1], [1, 0, 0]), "ASR"),
            (([0, 0, -1], [1, 0, 0], [0, -1, 0]), "IRP"),
        ],
    )
    def test_axcodes(self, columns, codes):
        affine = np.eye(4)
        affine[:3, :3] = np.array(columns, float).T
        assert Geometry(affine, (2, 3, 4)).axcodes == codes

    def test_axcodes_at_nearly_45_degrees_still_name_each_axis_once(self):
        grid = phantoms.geometry(degrees=(44.0, 44.0, 46.0))
        assert len({code.replace("L", "R").replace("P", "A").replace("I", "S") for code in grid.axcodes}) == 3

    def test_diagonal_counts_voxel_edges(self):
        assert Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), (3, 4, 12)).diagonal_mm == pytest.approx(13.0)

    @pytest.mark.parametrize(
        ("affine", "shape", "words"),
        [
            (np.eye(3), (2, 2, 2), "shape"),
            (np.diag([1, 1, np.nan, 1]), (2, 2, 2), "finite"),
            (np.diag([1, 1, 0, 1.0]), (2, 2, 2), "singular"),
            (np.array([[1, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), (2, 2, 2), "singular"),
            (np.eye(4), (2, 2), "grid of shape"),
            (np.eye(4), (2, 0, 2), "grid of shape"),
        ],
    )
    def test_refuses_what_is_no_grid(self, affine, shape, words):
        with pytest.raises(GeometryError, match=words):
            Geometry(affine, shape)


class TestRequireSame:
    def test_accepts_rounding_noise(self):
        a = phantoms.geometry()
        a.require_same(phantoms.geometry(origin_mm=(-31.505, 22.25, 104.75)))

    def test_refuses_a_shift_of_more_than_a_hundredth_of_a_millimetre(self):
        with pytest.raises(GeometryError, match="mm apart"):
            phantoms.geometry().require_same(phantoms.geometry(origin_mm=(-31.52, 22.25, 104.75)))

    def test_refuses_a_rotation_that_only_the_far_corner_feels(self):
        with pytest.raises(GeometryError, match="mm apart"):
            phantoms.geometry().require_same(phantoms.geometry(degrees=(7.0, -11.0, 19.1)))

    def test_one_corner_too_far_is_enough_whatever_the_others_do(self):
        # A step that is 0.0015 mm longer moves the last of 11 voxels by 0.015 mm and the first by none.
        near, far = (Geometry(np.diag([step, 1.0, 2.0, 1.0]), (11, 5, 7)) for step in (1.0, 1.0015))
        assert np.linalg.norm(near.corners_mm - far.corners_mm, axis=1).mean() < SAME_GRID_TOLERANCE_MM
        with pytest.raises(GeometryError, match=r"0\.015 mm apart"):
            near.require_same(far)

    def test_refuses_another_shape(self):
        with pytest.raises(GeometryError, match="shapes"):
            phantoms.geometry().require_same(phantoms.geometry(shape=(13, 17, 12)))

    def test_refuses_another_frame_of_reference_though_the_numbers_agree(self):
        with pytest.raises(GeometryError, match="frames of reference"):
            phantoms.geometry(frame_uid="1.2.3").require_same(phantoms.geometry(frame_uid="1.2.4"))

    def test_does_not_hold_an_unknown_frame_against_a_file(self):
        phantoms.geometry(frame_uid="1.2.3").require_same(phantoms.geometry())


def test_swap_lps_ras_is_its_own_inverse_for_affines_and_points():
    affine = np.array(phantoms.geometry().affine)
    assert np.array_equal(swap_lps_ras(swap_lps_ras(affine)), affine)
    points = np.arange(12.0).reshape(4, 3)
    assert np.array_equal(swap_lps_ras(points), points * [-1, -1, 1])
    with pytest.raises(GeometryError, match="shape"):
        swap_lps_ras(np.zeros((3, 2)))
