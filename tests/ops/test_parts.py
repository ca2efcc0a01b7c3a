import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.config import CleanStep
from voxmetry.measurement import lesions, measure
from voxmetry.measurement.volumetry import intensities
from voxmetry.ops import boxes, parts
from voxmetry.ops.components import clean, component_sizes, components
from voxmetry.ops.parts import find_parts
from voxmetry.ops.ranks import percentiles, ranked
from voxmetry.report import reduction


def random_labels(seed, *, order="F", shape=(11, 9, 14), share=0.6):
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.uint8, order=order)
    array[...] = rng.integers(1, 4, shape) * (rng.random(shape) < share)
    return array


@pytest.fixture
def slabs(monkeypatch):
    """Slabs of one plane and more, whatever the array."""

    def set_voxels(voxels):
        for module, name in ((parts, "SLAB_VOXELS"), (boxes, "_AT_ONCE"), (reduction, "_AT_ONCE")):
            monkeypatch.setattr(module, name, voxels)

    return set_voxels


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("order", ["C", "F", "crop"])
@pytest.mark.parametrize("share", [0.15, 0.35, 0.8])
class TestParts:
    def both(self, slabs, seed, connectivity, order, share, select):
        array = random_labels(seed, order="C" if order == "C" else "F", share=share)
        array = array[2:10, 1:, 3:12] if order == "crop" else array
        slabs(1 << 25)
        whole = find_parts(array, select, connectivity)
        slabs(200)
        return array, whole, find_parts(array, select, connectivity)

    @pytest.mark.parametrize("select", [lambda slab: slab == 1, lambda slab: slab], ids=["mask", "labels"])
    def test_those_of_slabs_are_those_of_the_whole(self, slabs, connectivity, order, share, select):
        for seed in range(2):
            array, whole, cut = self.both(slabs, seed, connectivity, order, share, select)
            numbers, sizes = components(np.array(select(array), order="K"), connectivity)
            assert np.array_equal(whole.sizes, sizes)
            assert len(list(cut.slabs())) > 1
            for name in ("sizes", "values", "boxes", "sums"):
                assert np.array_equal(getattr(cut, name), getattr(whole, name)), name
            for found in (whole, cut):
                joined = np.zeros(array.shape, np.uint32)
                for place, own in found.slabs():
                    joined[place] = own
                assert np.array_equal(joined, numbers)

    def test_each_has_its_mask_box_and_centroid(self, slabs, connectivity, order, share):
        array, whole, cut = self.both(slabs, 7, connectivity, order, share, lambda slab: slab == 2)
        numbers, sizes = components(array == 2, connectivity)
        for number in range(1, len(sizes) + 1):
            voxels = np.argwhere(numbers == number)
            assert np.array_equal(whole.boxes[number - 1, :, 0], voxels.min(axis=0))
            assert np.array_equal(whole.boxes[number - 1, :, 1], voxels.max(axis=0) + 1)
            assert np.allclose(cut.centroid(number), voxels.mean(axis=0))
            box = tuple(slice(low, high) for low, high in whole.boxes[number - 1])
            for found in (whole, cut):
                assert np.array_equal(found.mask(number), numbers[box] == number)


STEPS = [
    [CleanStep(step="largest")],
    [CleanStep(step="largest", together=True)],
    [CleanStep(step="drop_small", min_volume_ml=0.007)],
    [CleanStep(step="fill_holes")],
    [CleanStep(step="fill_holes", together=True)],
    [CleanStep(step="fill_holes", labels=("a", "b"), together=True), CleanStep(step="largest")],
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: "+".join(f"{x.step}{x.together}" for x in steps))
def test_clean_up_by_slabs_is_that_of_the_whole(slabs, order, steps):
    table = LabelTable.from_names({1: "a", 2: "b", 3: "c"})
    changed = 0
    for seed in range(6):
        array = random_labels(seed, order=order, share=(0.12, 0.5, 0.85)[seed % 3])
        segmentation = Segmentation(array, Geometry(np.diag([1.0, 1.2, 2.5, 1]), array.shape), table)
        slabs(1 << 25)
        whole = clean(segmentation, steps).array
        slabs(130)
        assert np.array_equal(clean(segmentation, steps).array, whole)
        changed += int((whole != array).sum())
    assert changed


def hole_owner(array, mask, hole):
    """The label with most voxels on a hole's rim, one voxel after the other."""
    rim = set()
    for voxel in np.argwhere(hole):
        for axis in range(3):
            for step in (-1, 1):
                beside = voxel.copy()
                beside[axis] += step
                if not hole[tuple(beside)] and mask[tuple(beside)]:
                    rim.add(tuple(beside.tolist()))
    counts = np.bincount([array[voxel] for voxel in rim], minlength=3)
    return int(counts[1:].argmax()) + 1


@pytest.mark.parametrize("voxels", [1 << 25, 60])
def test_a_hole_goes_to_the_structure_with_most_of_its_rim(slabs, voxels):
    table = LabelTable.from_names({1: "a", 2: "b"})
    slabs(voxels)
    owners = set()
    for seed in range(12):
        array = np.random.default_rng(seed).integers(1, 3, (7, 8, 9)).astype(np.uint8)
        hole = np.zeros(array.shape, bool)
        hole[2:5, 3, 2:6] = hole[3, 3:6, 4] = True
        array[hole] = 0
        owner = hole_owner(array, array > 0, hole)
        grid = Geometry(np.eye(4), array.shape)
        done = clean(Segmentation(array, grid, table), [CleanStep(step="fill_holes", together=True)])
        assert (done.array[hole] == owner).all()
        owners.add(owner)
    assert owners == {1, 2}


def test_numbers_do_not_hang_on_slabs(slabs, monkeypatch):
    """Every figure is the same to the last bit, of structures and of lesions."""
    from voxmetry.measurement import volumetry

    table = LabelTable(
        labels=[
            {"value": 1, "name": "a", "colour": "#E69F00"},
            {"value": 2, "name": "b", "colour": "#56B4E9", "kind": "lesion"},
            {"value": 3, "name": "c", "colour": "#009E73", "kind": "organ"},
        ]
    )
    grid = phantoms.geometry(shape=(21, 17, 26))
    for kind in (np.int16, np.float32, np.int32):
        array = random_labels(3, shape=grid.shape, share=0.3)
        image = np.asfortranarray(np.random.default_rng(1).normal(20, 300, grid.shape).astype(kind))
        segmentation, volume = Segmentation(array, grid, table), phantoms.Volume(image, grid, "HU")
        slabs(1 << 25)
        whole = measure(segmentation, volume), lesions(segmentation, volume, organs=segmentation)
        whole_islands = component_sizes(segmentation, 26)
        slabs(400)
        monkeypatch.setattr(volumetry, "SLAB_VOXELS", 400)
        monkeypatch.setattr("voxmetry.ops.surface._SLAB_VOXELS", 700)
        again = Segmentation(array, grid, table)
        cut = measure(again, volume), lesions(again, volume, organs=again)
        monkeypatch.undo()
        slabs(400)
        assert len(whole[1]) > 20
        assert [x.model_dump_json() for rows in whole for x in rows] == [
            x.model_dump_json() for rows in cut for x in rows
        ]
        cut_islands = component_sizes(again, 26)
        assert all(np.array_equal(cut_islands[value], sizes) for value, sizes in whole_islands.items())


class TestRanks:
    @pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f2", "f4", "f8"])
    def test_they_are_those_of_the_sorted_values(self, kind):
        rng = np.random.default_rng(0)
        values = (rng.normal(0, 60, 700)).clip(0 if kind[0] == "u" else -100, 100).astype(kind)
        values[:50] = 0
        order = np.sort(values)
        found = ranked(lambda: iter(np.array_split(values, 7)), [0, 1, 350, 698, 699])
        assert {rank: value.tobytes() for rank, value in found.items()} == {
            rank: order[rank].tobytes() for rank in found
        } or all(found[rank] == order[rank] for rank in found)
        assert all(value.dtype == values.dtype for value in found.values())

    @pytest.mark.parametrize("kind", ["i2", "u1", "f4", "f8"])
    def test_percentiles_of_blocks_are_numpys(self, kind):
        values = np.random.default_rng(0).normal(90, 30, 1001).clip(0, 250).astype(kind)
        wanted = (0, 5, 50, 95, 99.5, 100)
        found = percentiles(lambda: iter(np.array_split(values, 5)), wanted)
        assert found == tuple(np.percentile(values, wanted).tolist())

    def test_of_nothing_they_are_0(self):
        assert percentiles(lambda: iter([np.zeros(0), np.zeros(0)]), (5, 50)) == (0.0, 0.0)


def test_statistics_are_those_of_numpy():
    values = np.random.default_rng(0).normal(5, 300, 3001).astype(np.float32)
    found = intensities(values.copy())
    assert found["intensity_mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert found["intensity_sd"] == pytest.approx(values.std(dtype=np.float64), rel=1e-12)
    p05, median, p95 = np.percentile(values.astype(np.float64), (5, 50, 95))
    assert [found[f"intensity_{name}"] for name in ("p05", "median", "p95")] == pytest.approx([p05, median, p95])


@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 2, 1), (3, 2, 4)])
def test_pictures_are_reduced_alike(slabs, steps):
    for order in "CF":
        labels = random_labels(2, order=order, shape=(23, 17, 29))
        image = np.array(np.random.default_rng(0).normal(0, 90, labels.shape).astype(np.int16), order=order)
        slabs(1 << 25)
        whole = reduction.block_mean(image, steps), reduction.block_label(labels, steps, present=(1, 2, 3))
        slabs(700)
        cut = reduction.block_mean(image, steps), reduction.block_label(labels, steps, present=(1, 2, 3))
        assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))
