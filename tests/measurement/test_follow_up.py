from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import phantoms
from follow_ups import SHAPE, TABLE, boxes, grid, seg
from voxmetry import Geometry, Segmentation, TimePoint, Volume, follow_up, lesions, resample
from voxmetry.core.records import FollowUpSettings
from voxmetry.errors import ConfigError, GeometryError, InputError, LabelError
from voxmetry.measurement.alignment import align

A, B, C = (4, 18, 4, 12, 4, 9), (30, 42, 6, 13, 5, 9), (8, 20, 30, 38, 20, 26)
NONE = FollowUpSettings(registration="none")


def pair(before: np.ndarray, after: np.ndarray, settings: FollowUpSettings = NONE, geometry: Geometry | None = None):
    return follow_up(baseline=TimePoint(seg(before)), current=TimePoint(seg(after, geometry)), settings=settings)


def test_each_kind_of_change_on_one_phantom():
    before = boxes(A, B, C, (30, 36, 30, 36, 20, 24), (30, 36, 38, 44, 20, 24))
    after = boxes(
        (4, 18, 4, 14, 4, 9),  # A grew
        (8, 12, 30, 38, 20, 26),  # C split in two
        (14, 20, 30, 38, 20, 26),
        (30, 36, 30, 44, 20, 24),  # the two merged
        (50, 56, 4, 8, 30, 34),  # new
    )
    found = pair(before, after)
    by_status = {row.status: row for row in found.changes}
    assert sorted(by_status) == ["gone", "matched", "merged", "new", "split"]
    assert len(found.changes) == 5
    grown, first, second = by_status["matched"], found.baseline, found.follow_up
    ids = {x.id: x for x in first}
    assert grown.volume_change_percent == pytest.approx(25)
    assert grown.volume_change_ml == pytest.approx(14 * 2 * 5 * 1.0 * 1.5 * 2.5 / 1000)
    assert grown.overlap == pytest.approx(1)
    assert grown.rule == "overlap"
    assert grown.centroid_distance_mm == pytest.approx(1.5)
    split, merged = by_status["split"], by_status["merged"]
    assert (len(split.baseline_ids), len(split.follow_up_ids)) == (1, 2)
    assert (len(merged.baseline_ids), len(merged.follow_up_ids)) == (2, 1)
    parts = [x.long_axis_mm for x in second if x.id in split.follow_up_ids]
    assert split.diameter_follow_up_mm == pytest.approx(sum(parts))
    assert split.diameter_baseline_mm == ids[split.baseline_ids[0]].long_axis_mm
    assert by_status["gone"].volume_follow_up_ml == 0
    assert by_status["gone"].volume_change_percent == -100
    assert by_status["gone"].rule == ""
    assert math.isnan(by_status["new"].volume_change_percent)
    assert "not at baseline" in by_status["new"].reason
    # Every lesion of both time points is in exactly one row.
    assert sorted(name for row in found.changes for name in row.baseline_ids) == sorted(ids)
    assert sorted(name for row in found.changes for name in row.follow_up_ids) == sorted(x.id for x in second)


def test_a_target_that_merges_with_another_lesion_is_told():
    before = boxes((10, 24, 30, 36, 20, 24), (10, 18, 38, 44, 20, 24))
    after = boxes((10, 24, 30, 44, 20, 24))
    found = pair(before, after, NONE.model_copy(update={"targets": ("tumour-1",)}))
    (row,) = found.changes
    sizes = {x.id: x.long_axis_mm for x in found.baseline}
    # The row is of all that merged, the sum of the target alone.
    assert row.diameter_baseline_mm == pytest.approx(sum(sizes.values()))
    assert found.response.sum_baseline_mm == sizes["tumour-1"]
    assert any("merged with one that is none" in text for text in found.response.caveats)


def test_lesions_are_those_of_the_lesion_room_on_the_own_grids():
    other = grid(spacing_mm=(0.8, 1.1, 3.0), degrees=(0, 0, 0))
    after = resample(seg(boxes(A)), to=other)
    found = follow_up(baseline=TimePoint(seg(boxes(A))), current=TimePoint(after), settings=NONE)
    assert found.follow_up == lesions(after, organs=after)
    (row,) = found.changes
    assert row.status == "matched"
    assert row.volume_follow_up_ml == found.follow_up[0].volume_ml


def test_several_that_hang_together_are_one_group():
    before = boxes((4, 14, 4, 8, 4, 8), (4, 14, 10, 14, 4, 8))
    after = boxes((4, 8, 4, 14, 4, 8), (10, 14, 4, 14, 4, 8))
    (row,) = pair(before, after).changes
    assert row.status == "regrouped"
    assert (len(row.baseline_ids), len(row.follow_up_ids)) == (2, 2)


def test_a_lesion_that_slipped_is_found_by_distance_up_to_the_limit():
    before, after = boxes((4, 8, 4, 8, 4, 8)), boxes((12, 16, 4, 8, 4, 8))
    found = pair(before, after)
    (row,) = found.changes
    assert (row.status, row.rule) == ("matched", "distance")
    assert row.centroid_distance_mm == pytest.approx(8)
    assert row.overlap == 0
    assert [flag.code for flag in found.flags] == ["matched_by_distance"]
    near = NONE.model_copy(update={"max_distance_mm": 7.9})
    assert sorted(row.status for row in pair(before, after, near).changes) == ["gone", "new"]


def test_distance_pairs_as_many_as_possible_one_to_one():
    # The greedy pair (first, middle) would leave the other two without a partner.
    before = boxes((10, 12, 4, 6, 4, 6), (17, 19, 4, 6, 4, 6))
    after = boxes((14, 16, 4, 6, 4, 6), (23, 25, 4, 6, 4, 6))
    rows = pair(before, after, NONE.model_copy(update={"max_distance_mm": 7.0})).changes
    assert [row.status for row in rows] == ["matched", "matched"]


def test_structures_are_not_mixed():
    after = boxes(A, value=2)
    assert sorted(row.status for row in pair(boxes(A), after).changes) == ["gone", "new"]


def test_the_least_overlap_is_a_share_of_the_smaller_side():
    before, after = boxes((0, 20, 4, 8, 4, 8)), boxes((19, 39, 4, 8, 4, 8))
    assert [row.status for row in pair(before, after, NONE.model_copy(update={"min_overlap": 0.05})).changes] == [
        "matched"
    ]
    apart = NONE.model_copy(update={"min_overlap": 0.06})
    assert len(pair(before, after, apart).changes) == 2


def test_a_lesion_outside_the_later_image_is_not_gone():
    small = Geometry(grid().affine, (25, 50, 40))
    found = pair(boxes(A, B), boxes(A)[:25], geometry=small)
    by_status = {row.status: row for row in found.changes}
    assert set(by_status) == {"matched", "not covered"}
    assert math.isnan(by_status["not covered"].volume_change_ml)
    assert "not_covered" in {flag.code for flag in found.flags}
    assert found.needs_review
    assert found.response.category == "NE"


def test_the_same_frame_of_reference_needs_no_registration_and_other_frames_an_image():
    one, two = grid(frame_uid="1.2.3"), grid(frame_uid="1.2.3")
    found = follow_up(baseline=TimePoint(seg(boxes(A), one)), current=TimePoint(seg(boxes(A), two)))
    assert (found.registration.kind, found.registration.ok) == ("none", True)
    assert "same frame" in found.registration.reason
    for frame in ("9.9.9", None):
        with pytest.raises(InputError, match="no image of one of the time points"):
            follow_up(baseline=TimePoint(seg(boxes(A), one)), current=TimePoint(seg(boxes(A), grid(frame_uid=frame))))


def test_the_frame_of_a_label_file_is_that_of_its_image():
    image = Volume(np.zeros(SHAPE, np.uint8), grid(frame_uid="1.2.3"))
    point = TimePoint(seg(boxes(A)), image)
    assert follow_up(baseline=point, current=point).registration.kind == "none"


def test_images_that_hardly_overlap_are_flagged():
    far = grid(origin_mm=(0, 22.25, 104.75))
    _, info = align(baseline=None, current=None, grids=(grid(), far), how="none")
    assert not info.ok
    assert "lies within the baseline image" in info.reason


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"lesions": ("spleen",)}, LabelError, "no label named 'spleen'"),
        ({"nodes": ("liver",)}, ConfigError, "lymph nodes liver"),
        ({"targets": ("tumour-9",)}, LabelError, "tumour-9"),
        ({"targets": ("tumour-1", "tumour-1")}, LabelError, "named twice"),
    ],
)
def test_wrong_settings_are_refused(change, error, match):
    with pytest.raises(error, match=match):
        pair(boxes(A), boxes(A), NONE.model_copy(update=change))


def test_no_lesion_structure_and_an_image_of_another_grid_are_refused():
    organs = TABLE.with_kind("tumour", "organ").with_kind("node", "organ")
    plain = TimePoint(Segmentation(boxes(A), grid(), organs))
    with pytest.raises(LabelError, match="no structure of kind 'lesion'"):
        follow_up(baseline=plain, current=plain, settings=NONE)
    assert (
        follow_up(baseline=plain, current=plain, settings=NONE.model_copy(update={"lesions": ("tumour",)}))
        .changes[0]
        .status
        == "matched"
    )
    image = Volume(np.zeros(SHAPE, np.uint8), grid(spacing_mm=(1, 1, 1)))
    with pytest.raises(GeometryError, match="segmentation and image"):
        follow_up(baseline=TimePoint(seg(boxes(A)), image), current=TimePoint(seg(boxes(A))), settings=NONE)


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_a_transform_that_is_none_is_refused(matrix):
    with pytest.raises(ConfigError, match="a transform of shape"):
        follow_up(baseline=TimePoint(seg(boxes(A))), current=TimePoint(seg(boxes(A))), matrix_ras_mm=matrix)


def test_a_given_transform_goes_from_follow_up_to_baseline():
    # The later scan lies 30 mm further to the right; without the transform nothing is near.
    matrix = np.eye(4)
    matrix[0, 3] = -30.0
    there = dataclasses.replace(grid(), affine=np.linalg.inv(matrix) @ grid().affine)
    found = follow_up(baseline=TimePoint(seg(boxes(A))), current=TimePoint(seg(boxes(A), there)), matrix_ras_mm=matrix)
    assert found.changes[0].status == "matched"
    assert found.changes[0].centroid_distance_mm == pytest.approx(0, abs=1e-6)
    assert len(pair(boxes(A), boxes(A), geometry=there).changes) == 2


@pytest.mark.real_data
def test_real_pet_moved_shrunk_and_split_is_followed_through_a_registration(real_data):
    from voxmetry import read_segmentation, read_volume

    folder = real_data / "sarcoma" / "STS_010"
    image = read_volume(folder / "PET_image.nii.gz", unit="SUVbw")
    mask = read_segmentation(folder / "PET_mask.nii.gz")
    middle = image.geometry.to_mm((np.array(image.geometry.shape) - 1) / 2)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [3, -4, 6], degrees=True).as_matrix()
    turn[:3, 3] = middle - turn[:3, :3] @ middle + [8, -6, 10]
    moved = Geometry(turn @ image.geometry.affine, image.geometry.shape)
    later = mask.array.copy()
    k = int(np.argwhere(later)[:, 2].mean())
    later[:, :, k : k + 3] = 0
    upright = phantoms.geometry(
        shape=(40, 38, 45), spacing_mm=(4.5, 4.5, 4.0), degrees=(0, 0, 0), origin_mm=tuple(moved.corners_mm.min(axis=0))
    )
    settings = FollowUpSettings(lesions=("label_1",))
    found = follow_up(
        baseline=TimePoint(mask, image),
        current=TimePoint(
            resample(Segmentation(later, moved, mask.labels), to=upright),
            resample(Volume(image.array, moved, "SUVbw"), to=upright),
        ),
        settings=settings,
    )
    assert found.registration.kind == "rigid"
    assert found.registration.ok, found.registration.reason
    # The answer is known: places at follow-up go back by the inverse of the turn, to half a voxel of the PET.
    wrong = upright.corners_mm @ (np.array(found.registration.matrix_ras_mm) - np.linalg.inv(turn))[:3, :3].T
    wrong += (np.array(found.registration.matrix_ras_mm) - np.linalg.inv(turn))[:3, 3]
    assert np.linalg.norm(wrong, axis=1).max() < 2.5
    assert found.registration.mutual_information_after > found.registration.mutual_information_before
    (row,) = found.changes
    assert row.status == "split"
    assert len(row.follow_up_ids) == 2
    assert row.overlap > 0.9
    assert row.volume_baseline_ml == pytest.approx(182, abs=0.1)
    assert -25 < row.volume_change_percent < -5
