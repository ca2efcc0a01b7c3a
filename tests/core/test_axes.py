"""Grids that are cropped, padded, flipped and permuted: every voxel stays where it is in the patient."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import phantoms
from voxmetry import Geometry
from voxmetry.core.axes import Reorientation, reorientation
from voxmetry.errors import GeometryError

FEW = settings(max_examples=40, deadline=None)
sizes = st.tuples(*[st.integers(1, 9)] * 3)
steps = st.tuples(*[st.floats(0.2, 7.0)] * 3)
angles = st.tuples(*[st.floats(-180.0, 180.0)] * 3)


@st.composite
def grids(draw: st.DrawFn) -> Geometry:
    """Oblique and sheared grids, of either handedness, far from the origin."""
    affine = np.array(phantoms.geometry(spacing_mm=draw(steps), degrees=draw(angles)).affine)
    affine[:3, 2] += draw(st.floats(-0.5, 0.5)) * affine[:3, 0]
    affine[:3, 0] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500.0, 500.0)] * 3))
    return Geometry(affine, draw(sizes), "1.2.3")


def places(geometry: Geometry) -> np.ndarray:
    """Where each voxel lies, (I, J, K, 3) in mm."""
    return geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))


def assert_same_places(found: Geometry, expected: np.ndarray) -> None:
    assert found.shape == expected.shape[:3]
    assert np.allclose(places(found), expected, atol=1e-9)
    assert found.frame_uid == "1.2.3"


@FEW
@given(grids(), st.permutations([0, 1, 2]))
def test_permuted_as_numpy_transposes(geometry, order):
    assert_same_places(geometry.permuted(order), places(geometry).transpose(*order, 3))


@FEW
@given(grids(), st.sets(st.integers(0, 2)))
def test_flipped_as_numpy_flips(geometry, axes):
    assert_same_places(geometry.flipped(*axes), np.flip(places(geometry), tuple(axes)))


@FEW
@given(grids(), st.data())
def test_cropped_as_an_array_is_indexed(geometry, data):
    box = []
    for n in geometry.shape:
        start = data.draw(st.integers(0, n - 1))
        stop = data.draw(st.integers(start + 1, n))
        shown = st.sampled_from([(start, stop), (start - n, stop), (start, stop - n if stop < n else None)])
        box.append(slice(*data.draw(shown)))
    assert_same_places(geometry.cropped(box), places(geometry)[tuple(box)])


@FEW
@given(grids(), sizes, sizes)
def test_padded_holds_the_old_grid_where_it_was(geometry, before, after):
    wider = geometry.padded(before, after)
    inside = tuple(slice(low, low + n) for low, n in zip(before, geometry.shape, strict=True))
    assert wider.shape == tuple(n + a + b for n, a, b in zip(geometry.shape, before, after, strict=True))
    assert_same_places(wider.cropped(inside), places(geometry))


@FEW
@given(grids(), sizes, steps, st.tuples(*[st.floats(-3.0, 3.0)] * 3))
def test_resized_counts_in_voxels_of_the_old_grid(geometry, shape, step, start):
    found = geometry.resized(shape, step=step, start=start)
    ijk = np.moveaxis(np.indices(shape), 0, -1) * np.array(step) + np.array(start)
    assert_same_places(found, geometry.to_mm(ijk))
    assert found.spacing_mm == pytest.approx(np.array(geometry.spacing_mm) * step)


@FEW
@given(grids(), st.permutations("RAS"), st.tuples(*[st.booleans()] * 3))
def test_an_orientation_is_reached_and_undone(geometry, letters, turned):
    opposite = dict(zip("RAS", "LPI", strict=True))
    wanted = "".join(opposite[x] if turn else x for x, turn in zip(letters, turned, strict=True))
    # At 45 degrees an axis lies as close to one letter as to another.
    cosines = np.abs(geometry.directions)
    sums = sorted(sum(cosines[axis, column] for column, axis in enumerate(order)) for order in permutations(range(3)))
    assume(sums[-1] - sums[-2] > 1e-6)
    moved, oriented = reorientation(geometry, wanted)
    assert oriented.axcodes == wanted
    assert_same_places(oriented, np.stack([moved.forward(part) for part in np.moveaxis(places(geometry), -1, 0)], -1))
    array = np.arange(np.prod(geometry.shape)).reshape(geometry.shape)
    assert np.array_equal(moved.inverse(moved.forward(array)), array)


@FEW
@given(grids(), st.permutations("IJK"))
def test_axes_as_they_are_stored_are_never_turned_round(geometry, letters):
    moved, oriented = reorientation(geometry, "".join(letters))
    assert moved == Reorientation(tuple("IJK".index(x) for x in letters), (False, False, False))
    assert_same_places(oriented, places(geometry).transpose(*moved.order, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.permuted((0, 0, 1)), "order of axes"),
        (lambda g: g.cropped(np.s_[3:3, :, :]), "one voxel at least"),
        (lambda g: g.cropped(np.s_[::2, :, :]), "steps of 1"),
        (lambda g: g.cropped(np.s_[40:50, :, :]), "one voxel at least"),
        (lambda g: g.padded((0, -1, 0), (0, 0, 0)), "0 or more"),
    ],
)
def test_what_gives_no_grid_is_refused(change, words):
    with pytest.raises(GeometryError, match=words):
        change(phantoms.geometry())
