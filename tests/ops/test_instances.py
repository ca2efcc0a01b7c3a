"""Instances told apart by components and by watershed, on phantoms of touching spheres and ellipsoids."""

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.labels import Label
from voxmetry.errors import LabelError
from voxmetry.ops.instances import cut_to, tell_apart, with_boxes

TABLE = LabelTable.from_names({1: "node"})
SHAPE, SPACING = (48, 40, 20), (1.0, 1.2, 2.5)
GRID = phantoms.geometry(shape=SHAPE, spacing_mm=SPACING)


def one(array: np.ndarray, grid: Geometry = GRID) -> Segmentation:
    return Segmentation((array > 0).astype(np.uint8), grid, TABLE)


def dices(found: InstanceSegmentation, truth: np.ndarray) -> list[float]:
    """Dice of each true instance with the one that it shares most with."""
    made = []
    for value in range(1, truth.max() + 1):
        mask = truth == value
        shared = np.bincount(found.array[mask], minlength=2)
        best = int(shared[1:].argmax()) + 1
        made.append(2 * shared[best] / (mask.sum() + found.mask(best).sum()))
    return made


# Name: the ellipsoids, in mm on the grid of 48 x 48 x 50 mm; how many components they make.
TOUCHING = {
    "two spheres of one size": ([((14, 24, 25), 9), ((29, 24, 25), 9)], 1),
    "a large and a small one": ([((16, 24, 25), 12), ((32, 24, 25), 6)], 1),
    "three in a row": ([((24, 24, 9), 8), ((24, 24, 23), 8), ((24, 24, 37), 8)], 1),
    "discs face to face": ([((15, 24, 25), (6.5, 14, 14)), ((27.5, 24, 25), (6.5, 14, 14))], 1),
    "sticks end to end": ([((24, 12, 25), (5, 11, 5)), ((24, 32, 25), (5, 11, 5))], 1),
    "two that do not touch": ([((12, 12, 12), 7), ((34, 34, 36), 8)], 2),
}


class TestPhantoms:
    @pytest.mark.parametrize("name", TOUCHING)
    def test_watershed_splits_what_touches_and_components_do_not(self, name):
        shapes, n_components = TOUCHING[name]
        truth = phantoms.balls(GRID, *shapes)
        assert len(tell_apart(one(truth))) == n_components
        found = tell_apart(one(truth), "watershed")
        assert len(found) == len(shapes)
        # Where two overlap the truth gives the lens to the last one, the watershed halves it.
        assert min(dices(found, truth)) > 0.93

    @pytest.mark.parametrize(
        "radii", [(12, 12, 12), (20, 7, 7), (7, 20, 12), (20, 20, 6), (1.5, 20, 3)], ids=lambda radii: str(radii)
    )
    def test_one_ellipsoid_is_one_instance(self, radii):
        found = tell_apart(one(phantoms.balls(GRID, ((24, 24, 25), radii))), "watershed")
        assert len(found) == 1

    def test_a_neck_is_cut_below_its_share_and_not_above(self):
        # Two spheres of 9 mm, and half of the way between them: sqrt(9^2 - 6^2) = 6.7 mm, 0.75 of 9.
        truth = phantoms.balls(GRID, ((13, 24, 25), 9), ((25, 24, 25), 9))
        assert [len(tell_apart(one(truth), "watershed", neck=neck)) for neck in (0.5, 0.95)] == [1, 2]

    def test_the_cut_does_not_depend_on_how_voxels_are_stored(self):
        truth = phantoms.balls(GRID, *TOUCHING["three in a row"][0])
        c, f = (tell_apart(one(layout(truth)), "watershed") for layout in (np.ascontiguousarray, np.asfortranarray))
        assert np.array_equal(c.array, f.array)
        assert c.detections == f.detections

    def test_a_structure_that_the_border_cuts_off_is_not_narrow_there(self):
        truth = phantoms.balls(GRID, ((0, 24, 25), 9), ((15, 24, 25), 9))
        found = tell_apart(one(truth), "watershed")
        assert len(found) == 2
        assert min(dices(found, truth)) > 0.93

    def test_fragments_by_the_noise_of_an_edge_are_no_instances(self):
        truth = phantoms.balls(GRID, ((24, 24, 25), 16))
        rough = np.random.default_rng(3).random(SHAPE) < 0.5
        edge = phantoms.balls(GRID, ((24, 24, 25), 17.5)) > truth
        assert len(tell_apart(one(truth + (edge & rough)), "watershed")) == 1


class TestRows:
    def test_the_largest_is_number_one_and_the_box_holds_outer_edges(self):
        array = np.zeros((12, 9, 7), np.uint8)
        array[1:3, 1, 1] = 1
        array[5:9, 2:4, 3:6] = 1
        grid = Geometry(np.diag([-2.0, 3.0, 4.0, 1.0]), array.shape)
        found = tell_apart(Segmentation(array, grid, TABLE))
        assert [row.value for row in found.detections] == [1, 2]
        assert found.detections[0].box_ras_mm == ((-17.0, 4.5, 10.0), (-9.0, 10.5, 22.0))
        assert np.isnan(found.detections[0].score)
        assert np.array_equal(found.mask(2), array * (np.arange(12) < 4)[:, None, None] == 1)

    def test_an_oblique_box_is_that_of_the_corners_of_all_voxels(self):
        array = np.zeros(phantoms.SHAPE, np.uint8)
        array[2:6, 3:9, 4:7] = 1
        grid = phantoms.geometry()
        (row,) = tell_apart(Segmentation(array, grid, TABLE)).detections
        corners = grid.to_mm(np.array(np.meshgrid([1.5, 5.5], [2.5, 8.5], [3.5, 6.5])).reshape(3, -1).T)
        assert np.allclose(row.box_ras_mm, [corners.min(axis=0), corners.max(axis=0)])

    def test_structures_of_kind_lesion_are_told_apart_unless_others_are_named(self):
        labels = LabelTable(
            labels=(
                Label(value=1, name="liver", colour="#E69F00"),
                Label(value=2, name="spot", colour="#56B4E9", kind="lesion"),
            )
        )
        array = np.zeros((12, 6, 6), np.uint8)
        array[0:3], array[4, 1, 1], array[6, 1, 1], array[9:11] = 1, 2, 2, 1
        whole = Segmentation(array, Geometry(np.eye(4), array.shape), labels)
        assert [row.label for row in tell_apart(whole).detections] == ["spot", "spot"]
        found = tell_apart(whole, labels=["Liver"])
        assert [row.label for row in found.detections] == ["liver", "liver"]
        assert found.panoptic()[4, 1, 1] == 2 * 65536
        assert found.panoptic()[0, 0, 0] == 65536 + 1
        with pytest.raises(LabelError, match="kidney"):
            tell_apart(whole, labels=["kidney"])

    def test_small_parts_are_no_instances_and_stay_in_the_label_map(self):
        array = np.zeros((12, 6, 6), np.uint8)
        array[0:3, 0:3, 0:3], array[8, 4, 4] = 1, 1
        found = tell_apart(Segmentation(array, Geometry(np.eye(4), array.shape), TABLE), min_volume_ml=0.002)
        assert len(found) == 1
        assert found.segmentation.array[8, 4, 4] == 1
        assert found.array[8, 4, 4] == 0

    def test_nothing_to_tell_apart_is_no_instance(self):
        for method in ("components", "watershed"):
            found = tell_apart(one(np.zeros(SHAPE)), method)
            assert len(found) == 0
            assert not found.panoptic().any()

    def test_more_instances_than_a_map_can_number_are_refused(self):
        # Every second voxel along each axis: 70,304 voxels that do not touch.
        array = np.zeros((104, 104, 52), np.uint8)
        array[::2, ::2, ::2] = 1
        assert np.count_nonzero(array) == 70304
        with pytest.raises(LabelError, match="70304 instances"):
            tell_apart(Segmentation(array, Geometry(np.eye(4), array.shape), TABLE))


class TestCut:
    def test_to_what_a_clean_up_left(self):
        array = np.zeros((12, 6, 6), np.uint8)
        array[0:4, 1:3, 1:3], array[8:10, 1:3, 1:3] = 1, 1
        grid = Geometry(np.eye(4), array.shape)
        found = tell_apart(Segmentation(array, grid, TABLE))
        array = array.copy()
        array[3], array[8:] = 0, 0
        left = cut_to(found, Segmentation(array, grid, TABLE))
        assert [row.value for row in left.detections] == [1]
        assert left.detections[0].box_ras_mm[1] == (2.5, 2.5, 2.5)
        assert not left.mask(2).any()

    def test_a_structure_that_is_not_wanted_takes_its_instances_with_it(self):
        seg = phantoms.segmentation()
        found = tell_apart(seg)
        only = Segmentation(np.where(seg.array == 4, 4, 0).astype(np.uint8), seg.geometry, seg.labels)
        only = Segmentation(only.array, only.geometry, LabelTable.from_names({4: "b"}))
        assert [row.label for row in cut_to(found, only).detections] == ["b"]


class TestNoun:
    def test_a_row_without_a_voxel_and_a_voxel_without_a_row_are_refused(self):
        found = tell_apart(phantoms.segmentation())
        with pytest.raises(LabelError, match=r"instances \[2\]"):
            InstanceSegmentation(found.segmentation, found.array, found.detections[:1])
        with pytest.raises(LabelError, match=r"instances \[1\]"):
            InstanceSegmentation(found.segmentation, np.where(found.array == 1, 0, found.array), found.detections)

    def test_an_instance_outside_of_its_structure_is_refused(self):
        found = tell_apart(phantoms.segmentation())
        array = found.array.copy()
        array[0, 0, 0] = 1
        with pytest.raises(LabelError, match="1 voxels of instances"):
            InstanceSegmentation(found.segmentation, array, found.detections)

    @pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32])
    def test_another_type_is_refused(self, kind):
        found = tell_apart(phantoms.segmentation())
        with pytest.raises(LabelError, match="65535"):
            InstanceSegmentation(found.segmentation, found.array.astype(kind), found.detections)

    def test_values_may_have_gaps(self):
        found = tell_apart(phantoms.segmentation())
        rows = [row.model_copy(update={"value": row.value * 300}) for row in found.detections]
        gaps = with_boxes(found.segmentation, found.array * np.uint16(300), rows)
        assert [row.value for row in gaps.detections] == [300, 600]
