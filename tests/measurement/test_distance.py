from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_closing, gaussian_filter

import phantoms
from measurement.brute import boundary_numbers
from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.errors import ConfigError, GeometryError
from voxmetry.measurement import distance as m
from voxmetry.ops import nearest, surface
from voxmetry.ops.surface import element_areas_mm2

KINDS = ("elements", "border voxels")


def grid_of(mask: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Geometry:
    return Geometry(np.diag([*spacing_mm, 1.0]), mask.shape)


def seg(array: np.ndarray, grid: Geometry) -> Segmentation:
    values = [int(v) for v in np.unique(array) if v] or [1]
    return Segmentation(array, grid, LabelTable.from_names({v: f"s{v}" for v in values}))


def distances(p: np.ndarray, r: np.ndarray, grid: Geometry, kind: str = "elements") -> m.SurfaceDistances:
    p, r = p.astype(np.uint8), r.astype(np.uint8)
    return m.surface_distances(prediction=seg(p, grid), reference=seg(r, grid), pairs=[(1, 1)], kind=kind, workers=1)[0]


def numbers(d: m.SurfaceDistances, tolerance_mm: float) -> dict[str, float]:
    return {
        "hausdorff": m.hausdorff_distance_mm(d),
        "hd95": m.hausdorff_distance_mm(d, 95),
        "hd95 pooled": m.hausdorff_distance_mm(d, 95, "pooled"),
        "assd": m.average_symmetric_surface_distance_mm(d),
        "mean p to r": m.mean_surface_distances_mm(d)[0],
        "mean r to p": m.mean_surface_distances_mm(d)[1],
        "surface dice": m.surface_dice(d, tolerance_mm),
        "boundary iou": m.boundary_iou(d),
    }


def blob(seed: int, shape: tuple[int, int, int], cut: float = 0.0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return binary_closing(noise > cut * noise.std())


@pytest.mark.parametrize(("pieces", "area"), [(60, 0.7), (100, 1 / 3), (100, 2.3), (200, 0.1)])
def test_an_exact_share_of_the_area_is_not_moved_on_by_rounding(pieces, area):
    # 95 % of the pieces lie within 1 mm, the rest at 9 mm; added up, their areas fall short of 95 % of the sum.
    near = pieces * 95 // 100
    side = m.Directed(
        np.r_[np.linspace(0.1, 1, near), np.linspace(9, 10, pieces - near)], np.full(pieces, area), pieces * area
    )
    summed = np.cumsum(side.weight)
    assert 0 < 0.95 * summed[-1] - summed[near - 1] < 1e-10
    d = m.SurfaceDistances(side, side, "elements")
    assert m.hausdorff_distance_mm(d, 95) == 1.0
    assert m.hausdorff_distance_mm(d, 95.01) == 9.0


def test_area_table_by_hand():
    i, j, k = 0.7, 1.1, 3.0
    areas = element_areas_mm2((i, j, k))
    # One corner: the triangle through the middles of its three edges, area |((jk, ik, ij) / 8)|.
    corner = math.hypot(j * k, i * k, i * j) / 8
    assert [areas[1 << bit] for bit in range(8)] == pytest.approx([corner] * 8)
    # Two corners along k: a rectangle of length k across the middles of the edges along i and j.
    assert areas[0b11000000] == pytest.approx(k * math.hypot(i / 2, j / 2))
    # A whole face normal to i, j, k.
    assert [areas[0b11110000], areas[0b11001100], areas[0b10101010]] == pytest.approx([j * k, i * k, i * j])
    # Two opposite corners of the block: two separate triangles.
    assert areas[0b10000001] == pytest.approx(2 * corner)
    assert areas.tolist() == pytest.approx(areas[::-1].tolist())
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


@pytest.mark.filterwarnings("ignore")
def test_area_table_is_that_of_surface_distance():
    tables = pytest.importorskip("surface_distance.lookup_tables")
    for spacing in [(1.0, 1.0, 1.0), (0.5, 2.0, 5.0), (3.0, 0.3, 0.7)]:
        theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(element_areas_mm2(spacing), theirs, rtol=1e-12)


def test_two_single_voxels():
    # Voxels at i = 1 and i = 4, 2 mm apart each step: each of eight elements (the corners of the voxel) has its twin
    # 3 steps away, the nearest of the other voxel's elements is 2 steps away for half of them.
    p, r = np.zeros((6, 3, 3)), np.zeros((6, 3, 3))
    p[1, 1, 1] = r[4, 1, 1] = 1
    d = distances(p, r, grid_of(p, (2.0, 1.0, 1.0)))
    assert m.hausdorff_distance_mm(d) == 6.0
    assert m.hausdorff_distance_mm(d, 50) == 4.0
    assert m.average_symmetric_surface_distance_mm(d) == pytest.approx((6 + 4) / 2)
    assert [m.surface_dice(d, x) for x in (3.99, 4.0, 5.99, 6.0)] == pytest.approx([0, 0.5, 0.5, 1])
    # As border voxels each is one point.
    d = distances(p, r, grid_of(p, (2.0, 1.0, 1.0)), "border voxels")
    assert m.hausdorff_distance_mm(d) == m.average_symmetric_surface_distance_mm(d) == 6.0
    assert d.prediction.size == 1


def test_border_voxels_by_hand():
    # A row of 1 x 1 x 4 voxels against its first 1 x 1 x 2, spacing 3 mm along k: 0 0 3 6 one way, 0 0 the other.
    p, r = np.zeros((3, 3, 6)), np.zeros((3, 3, 6))
    p[1, 1, 1:5] = 1
    r[1, 1, 1:3] = 1
    d = distances(p, r, grid_of(p, (1.0, 1.0, 3.0)), "border voxels")
    assert m.hausdorff_distance_mm(d) == 6
    assert m.mean_surface_distances_mm(d) == (9 / 4, 0)
    assert m.average_symmetric_surface_distance_mm(d) == 9 / 6
    # numpy's rank of the 95th percentile of four values is 0.95 * 3 = 2.85, between 3 and 6.
    assert m.hausdorff_distance_mm(d, 95) == pytest.approx(3 + 0.85 * 3)
    # Of the six values taken together 0.95 * 5 = 4.75, between 3 and 6 as well.
    assert m.hausdorff_distance_mm(d, 95, "pooled") == pytest.approx(3 + 0.75 * 3)
    assert m.surface_dice(d, 3) == 5 / 6
    assert m.boundary_iou(d) == 2 / 4


@st.composite
def mask_pairs(draw):
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    spacing = draw(st.tuples(*[st.sampled_from([0.3, 0.5, 1.0, 1.7, 3.0])] * 3))
    share = draw(st.sampled_from([0.1, 0.4, 0.8, 0.97]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = rng.random((2, *shape)) < share
    for mask in pair:
        mask[tuple(rng.integers(0, shape))] = True
    return pair[0], pair[1], spacing


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pair=mask_pairs())
def test_all_numbers_against_all_pairs_of_points(kind, pair):
    p, r, spacing = pair
    grid = phantoms.geometry(shape=p.shape, spacing_mm=spacing)
    expected = boundary_numbers(p, r, grid, kind, 1.0)
    found = numbers(distances(p, r, grid, kind), 1.0)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_far_points_and_extreme_anisotropy_against_all_pairs(kind):
    for seed, spacing in enumerate([(0.5, 0.5, 5.0), (4.0, 0.4, 0.4), (0.05, 1.0, 20.0)]):
        p, r = blob(seed, (14, 12, 9)), blob(seed + 10, (14, 12, 9), 1.2)
        p[:6], r[9:] = False, False
        r[0, 0, 0] = True
        grid = phantoms.geometry(shape=p.shape, spacing_mm=spacing)
        found = numbers(distances(p, r, grid, kind), 2.0)
        assert found == pytest.approx(boundary_numbers(p, r, grid, kind, 2.0), abs=1e-6)


@pytest.mark.parametrize("n_offsets", [1, 7, 60])
def test_shells_and_tree_agree(monkeypatch, n_offsets):
    p, r = blob(1, (20, 22, 18)), blob(2, (20, 22, 18))
    grid = phantoms.geometry(shape=p.shape)
    expected = numbers(distances(p, r, grid), 1.0)
    monkeypatch.setattr(nearest, "_N_OFFSETS", n_offsets)
    nearest._shells.cache_clear()
    try:
        assert numbers(distances(p, r, grid), 1.0) == pytest.approx(expected, abs=1e-9)
    finally:
        nearest._shells.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_slabs_do_not_show(monkeypatch, kind):
    labels = np.random.default_rng(0).integers(0, 5, (9, 7, 6)).astype(np.uint8)
    whole = surface.surfaces(labels, kind)
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)
    sliced = surface.surfaces(labels, kind)
    assert list(whole) == list(sliced) == [1, 2, 3, 4]
    for value, one in whole.items():
        assert len(np.unique(one.index)) == len(one)
        order, other = np.argsort(one.index), np.argsort(sliced[value].index)
        assert np.array_equal(one.index[order], sliced[value].index[other])
        if kind == "elements":
            assert np.array_equal(one.code[order], sliced[value].code[other])


@pytest.mark.parametrize("kind", KINDS)
def test_each_label_of_a_map_is_as_if_alone(kind):
    rng = np.random.default_rng(3)
    p, r = rng.integers(0, 4, (2, 8, 9, 7)).astype(np.uint8)
    grid = phantoms.geometry(shape=p.shape)
    pairs = [(1, 1), (2, 3), (3, 2)]
    found = m.surface_distances(prediction=seg(p, grid), reference=seg(r, grid), pairs=pairs, kind=kind)
    for (a, b), d in zip(pairs, found, strict=True):
        alone = distances(p == a, r == b, grid, kind)
        assert numbers(d, 1.0) == pytest.approx(numbers(alone, 1.0), abs=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["elements", "border voxels"])
def test_structures_one_by_one_have_the_very_same_distances(kind, order, monkeypatch):
    rng = np.random.default_rng(3)
    p, r = np.zeros((2, 21, 17, 26), np.uint8)
    for value in (1, 2, 3, 4):
        for array in (p, r):
            i, j, k = rng.integers(0, 12, 3)
            block = array[i : i + 9, j : j + 8, k : k + 13]
            block[rng.random(block.shape) < 0.7] = value
    # One is far away, of one there is no point in the one map, and one is in neither.
    p[r == 3] = 0
    p[p == 3] = 0
    p[20, 16, 25], r[0, 0, 0] = 5, 5
    p, r = (np.asarray(array, order=order) for array in (p, r))
    names = LabelTable.from_names({value: str(value) for value in range(1, 7)})
    grid = Geometry(np.diag([0.7, 1.3, 2.9, 1.0]), p.shape)
    maps = {"prediction": Segmentation(p, grid, names), "reference": Segmentation(r, grid, names)}
    pairs = [(value, value) for value in names.values]
    whole = m.surface_distances(**maps, pairs=pairs, kind=kind)
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 700)
    apart = m.distances_one_by_one(**maps, pairs=pairs, kind=kind)
    assert {d.status for d in whole} == {"both", "missed", "absent"}
    for one, other in zip(whole, apart, strict=True):
        for ours, theirs in ((one.prediction, other.prediction), (one.reference, other.reference)):
            assert ours.size == theirs.size
            assert ours.distance_mm.tolist() == theirs.distance_mm.tolist()
            assert ours.weight.tolist() == theirs.weight.tolist()
    monkeypatch.setattr(m, "fits_memory", lambda needed: needed < 20_000)
    few = m.distances_one_by_one(**maps, pairs=pairs, kind=kind)
    assert [d is None for d in few[:2]] == [True, True]
    assert [d.status for d in few[4:]] == ["both", "absent"]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_order_and_axis_order_of_one_patient(kind):
    p, r = blob(4, (11, 13, 9)).astype(np.uint8), blob(5, (11, 13, 9)).astype(np.uint8)
    grid = phantoms.geometry(shape=p.shape)
    expected = numbers(distances(p, r, grid, kind), 1.0)
    for a, b in [(np.asfortranarray(p), np.asfortranarray(r)), (p, np.asfortranarray(r)), (np.asfortranarray(p), r)]:
        assert numbers(distances(a, b, grid, kind), 1.0) == pytest.approx(expected, abs=1e-12)
    # The same patient with the axes stored as k, i, j and i reversed.
    flip = np.array([[0, -1, 0, p.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = Geometry(grid.affine @ flip, (9, 11, 13))
    p2, r2 = p[::-1].transpose(2, 0, 1), r[::-1].transpose(2, 0, 1)
    # The classic marching-cubes table cuts non-planar pieces along one fixed diagonal: areas are not quite symmetric.
    found = numbers(distances(p2, r2, turned, kind), 1.0)
    assert found == pytest.approx(expected, abs=1e-9 if kind == "border voxels" else 0.02)
    assert found["hausdorff"] == pytest.approx(expected["hausdorff"], abs=1e-9)


def test_oblique_is_as_upright():
    p, r = blob(6, (11, 13, 9)), blob(7, (11, 13, 9))
    upright = phantoms.geometry(shape=p.shape, degrees=(0, 0, 0), origin_mm=(0, 0, 0))
    oblique = phantoms.geometry(shape=p.shape, degrees=(33, -21, 64))
    for kind in KINDS:
        a, b = (numbers(distances(p, r, grid, kind), 1.3) for grid in (upright, oblique))
        assert a == pytest.approx(b, abs=1e-9)


def test_masks_cut_off_by_the_border_are_closed_there():
    mask = np.ones((4, 5, 3))
    d = distances(mask, mask, grid_of(mask, (1.0, 2.0, 3.0)))
    assert m.hausdorff_distance_mm(d) == 0
    # All 4 * 5 * 3 voxels: faces between block centres 3 x 4 x 2, twelve edges and eight corners of the box.
    faces = 2 * (4 * 2 * 2 * 3 + 3 * 2 * 1 * 3 + 3 * 4 * 1 * 2)
    edges = 4 * (3 * 1 * math.hypot(1, 1.5) + 4 * 2 * math.hypot(0.5, 1.5) + 2 * 3 * math.hypot(0.5, 1))
    corners = math.hypot(6, 3, 2)
    assert d.prediction.size == pytest.approx(faces + edges + corners)


def test_one_slice_mask():
    p, r = np.zeros((6, 6, 1)), np.zeros((6, 6, 1))
    p[1:5, 1:5], r[1:5, 2:6] = 1, 1
    for kind in KINDS:
        d = distances(p, r, grid_of(p, (1.0, 1.0, 10.0)), kind)
        assert m.hausdorff_distance_mm(d) == 1.0


def test_hundred_and_twenty_labels_and_values_above_255():
    values = np.arange(1, 121) * 500
    labels = np.zeros((60, 12, 3), np.uint16)
    labels[::6, :, 1].flat = values
    moved = np.roll(labels, 2, axis=0)
    grid = grid_of(labels)
    found = m.surface_distances(
        prediction=seg(moved, grid), reference=seg(labels, grid), pairs=[(int(v), int(v)) for v in values]
    )
    assert len(found) == 120
    assert {m.hausdorff_distance_mm(d) for d in found} == {2.0}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_masks(kind):
    full, none = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    full[1:3, 1:3, 1:3] = 1
    grid = grid_of(full)
    for p, r, status, dice in [(none, full, "missed", 0), (full, none, "extra", 0), (none, none, "absent", math.nan)]:
        d = distances(p, r, grid, kind)
        assert d.status == status
        found = numbers(d, 1.0)
        assert (found.pop("surface dice"), found.pop("boundary iou")) == pytest.approx((dice, dice), nan_ok=True)
        assert all(math.isnan(x) for x in found.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_against_surface_distance(seed):
    theirs = pytest.importorskip("surface_distance")
    p, r = blob(seed, (22, 25, 17)), blob(seed + 20, (22, 25, 17), 0.5)
    spacing = [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (0.9, 1.3, 2.6), (3.0, 0.3, 0.3)][seed]
    d = distances(p, r, grid_of(p, spacing))
    e = theirs.compute_surface_distances(r, p, spacing)
    assert m.hausdorff_distance_mm(d) == pytest.approx(theirs.compute_robust_hausdorff(e, 100), abs=1e-9)
    assert m.hausdorff_distance_mm(d, 95) == pytest.approx(theirs.compute_robust_hausdorff(e, 95), abs=1e-9)
    reference_to_prediction, prediction_to_reference = theirs.compute_average_surface_distance(e)
    assert m.mean_surface_distances_mm(d) == pytest.approx((prediction_to_reference, reference_to_prediction), abs=1e-9)
    for tolerance in (0.0, 0.5, 1.1, 3.3):
        expected = theirs.compute_surface_dice_at_tolerance(e, tolerance)
        assert m.surface_dice(d, tolerance) == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_border_voxels_against_monai(seed):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    p, r = blob(seed, (22, 25, 17)), blob(seed + 20, (22, 25, 17), 0.5)
    spacing = [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (0.9, 1.3, 2.6)][seed]
    d = distances(p, r, grid_of(p, spacing), "border voxels")
    a, b = (torch.from_numpy(x)[None, None] for x in (p, r))
    both = {"include_background": True, "spacing": spacing}
    assert m.hausdorff_distance_mm(d) == pytest.approx(
        float(metrics.compute_hausdorff_distance(a, b, **both)), abs=1e-4
    )
    hd95 = float(metrics.compute_hausdorff_distance(a, b, percentile=95, **both))
    assert m.hausdorff_distance_mm(d, 95) == pytest.approx(hd95, abs=1e-4)
    assd = float(metrics.compute_average_surface_distance(a, b, symmetric=True, **both))
    assert m.average_symmetric_surface_distance_mm(d) == pytest.approx(assd, abs=1e-4)
    dice = float(metrics.compute_surface_dice(a, b, class_thresholds=[1.05], **both))
    assert m.surface_dice(d, 1.05) == pytest.approx(dice, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_pooled_border_voxels_against_medpy():
    binary = pytest.importorskip("medpy.metric.binary")
    p, r = blob(3, (22, 25, 17)), blob(33, (22, 25, 17), 0.5)
    spacing = (0.9, 1.3, 2.6)
    d = distances(p, r, grid_of(p, spacing), "border voxels")
    assert m.hausdorff_distance_mm(d, 95, "pooled") == pytest.approx(binary.hd95(p, r, spacing), abs=1e-9)
    assert m.hausdorff_distance_mm(d) == pytest.approx(binary.hd(p, r, spacing), abs=1e-9)
    assert m.average_symmetric_surface_distance_mm(d) == pytest.approx(binary.assd(p, r, spacing), abs=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.real_data
def test_real_organs_against_surface_distance(real_data):
    nibabel = pytest.importorskip("nibabel")
    theirs = pytest.importorskip("surface_distance")
    image = nibabel.load(real_data / "ct-multiorgan" / "example_seg.nii.gz")
    r = np.asarray(image.dataobj).astype(np.uint8)
    p = np.roll(r, 1, axis=1)
    grid = Geometry(image.affine, r.shape)
    values = [int(v) for v in np.unique(r) if v][:12]
    found = m.surface_distances(prediction=seg(p, grid), reference=seg(r, grid), pairs=[(v, v) for v in values])
    for value, d in zip(values, found, strict=True):
        e = theirs.compute_surface_distances(r == value, p == value, grid.spacing_mm)
        assert m.hausdorff_distance_mm(d, 95) == pytest.approx(theirs.compute_robust_hausdorff(e, 95), abs=1e-9)
        dice = theirs.compute_surface_dice_at_tolerance(e, 2.9)
        assert m.surface_dice(d, 2.9) == pytest.approx(dice, abs=1e-9)


def test_refusals():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1, 1, 1] = 1
    grid = grid_of(mask)
    sheared = np.eye(4)
    sheared[1, 2] = 0.2
    sheared = Geometry(sheared, mask.shape)
    with pytest.raises(GeometryError, match="sheared"):
        distances(mask, mask, sheared)
    with pytest.raises(GeometryError, match="different grids"):
        m.surface_distances(
            prediction=seg(mask, grid), reference=seg(mask, grid_of(mask, (1.0, 1.0, 1.1))), pairs=[(1, 1)]
        )
    with pytest.raises(ConfigError, match="surface="):
        distances(mask, mask, grid, "mesh")
    d = distances(mask, mask, grid)
    for wrong in (0, -1, 100.5, math.nan):
        with pytest.raises(ConfigError, match="percentile"):
            m.hausdorff_distance_mm(d, wrong)
    with pytest.raises(ConfigError, match="rule="):
        m.hausdorff_distance_mm(d, 95, "mean")
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigError, match="tolerance"):
            m.surface_dice(d, wrong)
