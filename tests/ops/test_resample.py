from __future__ import annotations

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, Volume, resample
from voxmetry.errors import ConfigError, GeometryError


def ramp(grid: Geometry, dtype: str = "float32") -> Volume:
    """A linear function of the position in the patient, which linear interpolation must return exactly."""
    points = grid.to_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    return Volume((points @ [1.0, -2.0, 0.5] + 30).astype(dtype), grid)


@pytest.mark.parametrize(
    "to",
    [
        phantoms.geometry(degrees=(12, 5, -20), spacing_mm=(0.5, 0.4, 0.5), shape=(6, 5, 8), origin_mm=(-29, 27, 112)),
        phantoms.geometry(degrees=(7, -11, 19), spacing_mm=(0.3, 0.4, 0.5), shape=(7, 8, 9), origin_mm=(-29, 27, 112)),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_linear_field_is_returned_exactly_on_an_oblique_grid(to, order):
    source = ramp(phantoms.geometry(), "float64")
    source = Volume(np.asarray(source.array, order=order), source.geometry)
    inside = source.geometry.to_ijk(to.corners_mm)
    assert (inside > 0).all()
    assert (inside < np.array(source.geometry.shape) - 1).all()
    found = resample(source, to=to)
    assert found.geometry is to
    np.testing.assert_allclose(found.array, ramp(to, "float64").array, atol=1e-9)


def test_sheared_and_left_handed_grids():
    source = ramp(phantoms.geometry(), "float64")
    affine = phantoms.geometry(origin_mm=(-28, 28, 112)).affine.copy()
    affine[:3, :3] *= 0.3
    affine[0, 1] += 0.1
    affine[:3, 0] *= -1
    to = Geometry(affine, (4, 5, 6))
    assert not to.is_orthogonal
    np.testing.assert_allclose(resample(source, to=to).array, ramp(to, "float64").array, atol=1e-9)


def test_reoriented_axes_are_a_permutation_of_the_voxels():
    volume, seg = phantoms.volume(), phantoms.segmentation()
    flip = np.array([[0, -1, 0, volume.array.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    to = Geometry(volume.geometry.affine @ flip, (11, 13, 17))
    for x in (volume, seg):
        expected = x.array[::-1].transpose(2, 0, 1)
        assert np.array_equal(resample(x, to=to).array, expected)
        assert np.array_equal(resample(resample(x, to=to), to=x.geometry).array, x.array)


def test_labels_stay_labels_and_background_is_outside():
    seg = phantoms.segmentation()
    to = phantoms.geometry(spacing_mm=(0.5, 0.5, 0.5), shape=(40, 50, 60), origin_mm=(-40, 20, 100))
    found = resample(seg, to=to)
    assert found.labels is seg.labels
    assert found.array.dtype == np.uint8
    assert set(np.unique(found.array)) == {0, 1, 4}
    for label in seg.labels:
        volume_mm3 = found.mask(label.name).sum() * 0.125
        assert volume_mm3 == pytest.approx(seg.mask(label.name).sum() * 0.9 * 1.3 * 2.6, rel=0.2)


def test_values_outside():
    grid = Geometry(np.eye(4), (3, 3, 3))
    to = Geometry(np.eye(4), (5, 3, 3))
    array = np.full((3, 3, 3), 40, np.int16)
    array[0, 0, 0] = 7
    for unit, expected in [("HU", -1024), ("SUVbw", 0), ("Bq/mL", 0), ("1", 7)]:
        found = resample(Volume(array, grid, unit), to=to)
        assert found.unit == unit
        assert set(found.array[3:].ravel()) == {expected}
        assert found.array[2, 1, 1] == 40
    assert set(resample(Volume(array, grid, "HU"), to=to, outside=-2000).array[3:].ravel()) == {-2000}


def test_half_a_voxel_round_the_border_is_inside():
    grid = Geometry(np.eye(4), (3, 3, 3))
    affine = np.diag([0.25, 1.0, 1.0, 1.0])
    affine[0, 3] = -0.625
    found = resample(Volume(np.ones((3, 3, 3), np.float32), grid, "HU"), to=Geometry(affine, (14, 3, 3)))
    assert found.array[:, 1, 1].tolist() == [-1024, *[1] * 12, -1024]


@pytest.mark.parametrize(
    ("dtype", "linear"),
    [("uint8", "float32"), ("int16", "float32"), (">i2", "float32"), ("int32", "float64"), ("float64", "float64")],
)
def test_types(dtype, linear):
    source = phantoms.volume(dtype="int16")
    source = Volume((source.array % 200).astype(dtype), source.geometry)
    to = phantoms.geometry(shape=(5, 6, 7))
    assert resample(source, to=to).array.dtype == linear
    nearest = resample(source, to=to, interpolation="nearest", outside=0)
    assert nearest.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(nearest.array, source.array[:5, :6, :7])
    np.testing.assert_allclose(
        resample(source, to=to, interpolation="cubic").array, source.array[:5, :6, :7], atol=1e-3
    )


def test_the_same_grid_is_a_copy():
    volume = phantoms.volume()
    found = resample(volume, to=volume.geometry)
    assert np.array_equal(found.array, volume.array)
    assert not np.shares_memory(found.array, volume.array)


def test_frames_of_reference():
    a, b = phantoms.geometry(frame_uid="1.2.3"), phantoms.geometry(frame_uid="1.2.4")
    for x in (phantoms.volume(a), phantoms.segmentation(a)):
        with pytest.raises(GeometryError, match="two frames of reference"):
            resample(x, to=b)
        assert resample(x, to=phantoms.geometry(shape=(2, 2, 2))).array.shape == (2, 2, 2)


def test_refusals():
    seg, volume = phantoms.segmentation(), phantoms.volume()
    to = phantoms.geometry(shape=(2, 2, 2))
    with pytest.raises(ConfigError, match="for a label map"):
        resample(seg, to=to, interpolation="linear")
    with pytest.raises(ConfigError, match="for a label map"):
        resample(seg, to=to, outside=3)
    with pytest.raises(ConfigError, match="interpolation="):
        resample(volume, to=to, interpolation="sinc")
    for wrong in (float("nan"), 0.5, 1e6):
        with pytest.raises(ConfigError, match="outside="):
            resample(volume, to=to, interpolation="nearest", outside=wrong)


def test_a_real_scan_and_its_mask(real_data):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(real_data / "ct-multiorgan" / "example_seg.nii.gz")
    array = np.asarray(image.dataobj).astype(np.uint8)
    table = LabelTable.from_names({int(v): f"label_{v}" for v in np.unique(array) if v})
    seg = Segmentation(array, Geometry(image.affine, array.shape), table)
    affine = image.affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    affine[:3, 3] = (image.affine @ [-1 / 3, -1 / 3, -1 / 3, 1])[:3]
    finer = resample(seg, to=Geometry(affine, tuple(3 * n for n in array.shape)))
    assert np.array_equal(finer.array, array.repeat(3, 0).repeat(3, 1).repeat(3, 2))
