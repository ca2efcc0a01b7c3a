"""The same answer for an array however it lies in memory, and the answer is that of the plain way."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.measurement import measure
from voxmetry.ops.components import component_sizes
from voxmetry.ops.layout import line_ends, memory_axes, sections, values_in

STORED = [*itertools.permutations(range(3)), "flipped"]
"""Orders of the axes in memory, and one array that runs backwards."""


def stored(array: np.ndarray, order) -> np.ndarray:
    """The same array, lying in memory in another order."""
    if order == "flipped":
        return np.array(array[::-1, :, ::-1])[::-1, :, ::-1]
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(300, 21, 34)), 2.5)
    return noise > 0.05


@pytest.mark.parametrize("order", STORED, ids=str)
def test_sections_count_each_slice(mask, order):
    turned = stored(mask, order)
    assert np.array_equal(turned, mask)
    for counts, others in zip(sections(turned), ((1, 2), (0, 2), (0, 1)), strict=True):
        assert counts.tolist() == np.count_nonzero(mask, axis=others).tolist()


@pytest.mark.parametrize("order", STORED, ids=str)
def test_line_ends_are_enough_for_any_linear_function(mask, order):
    ends = line_ends(stored(mask, order))
    voxels = np.argwhere(mask)
    assert mask[tuple(ends.T)].all()
    assert len(ends) < len(voxels) / 5
    for direction in np.random.default_rng(4).normal(size=(50, 3)):
        assert (ends @ direction).max() == (voxels @ direction).max()
        assert (ends @ direction).min() == (voxels @ direction).min()


def test_line_ends_of_one_voxel():
    mask = np.zeros((5, 6, 7), bool)
    mask[4, 0, 3] = True
    assert set(map(tuple, line_ends(mask).tolist())) == {(4, 0, 3)}


@pytest.mark.parametrize("order", STORED, ids=str)
def test_values_in_a_mask(mask, order):
    image = np.random.default_rng(5).integers(-1000, 1000, mask.shape).astype(np.int16)
    found = values_in(stored(image, order), mask)
    assert np.array_equal(np.sort(found), np.sort(image[mask]))


def test_the_axes_of_a_view():
    array = np.zeros((3, 4, 5))
    assert memory_axes(array.transpose(1, 2, 0)[::-1]) == (2, 0, 1)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("order", STORED, ids=str)
def test_components_of_all_values_are_those_of_each(connectivity, order):
    labels = np.random.default_rng(6).integers(0, 4, (12, 13, 14)).astype(np.uint8) * 7
    labels[:2] = 0
    grid = Geometry(np.eye(4), labels.shape)
    table = LabelTable.from_names({7: "a", 14: "b", 21: "c", 28: "absent"})
    found = component_sizes(Segmentation(stored(labels, order), grid, table), connectivity)
    assert set(found) == {7, 14, 21}
    near = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    for value, sizes in found.items():
        numbers, n = ndimage.label(labels == value, near)
        assert sorted(sizes.tolist()) == sorted(np.bincount(numbers.ravel())[1:].tolist())
        assert len(sizes) == n


def test_no_component_where_there_is_nothing():
    empty = Segmentation(np.zeros((3, 4, 5), np.uint8), Geometry(np.eye(4), (3, 4, 5)), LabelTable.from_names({1: "a"}))
    assert component_sizes(empty, 26) == {}


@pytest.mark.parametrize("order", STORED, ids=str)
def test_measurements_do_not_depend_on_the_layout(mask, order):
    grid = Geometry(np.array([[0.7, 0.1, 0, 3], [-0.1, 0.7, 0.2, 5], [0, -0.2, 1.4, 9], [0, 0, 0, 1]]), mask.shape)
    table = LabelTable.from_names({1: "a"})
    (plain,) = measure(Segmentation(mask.astype(np.uint8), grid, table))
    (row,) = measure(Segmentation(stored(mask.astype(np.uint8), order), grid, table))
    for name, value in plain.model_dump().items():
        found = getattr(row, name)
        is_number = isinstance(value, (int, float)) or (isinstance(value, tuple) and isinstance(value[0], float))
        # A piece of the mesh that is not flat may be cut into two triangles along its other diagonal.
        slack = 1e-5 if name in ("surface_area_mm2", "mesh_volume_ml", "sphericity") else 1e-12
        # nan where no image was given.
        assert found == (pytest.approx(value, rel=slack, nan_ok=True) if is_number else value), name
