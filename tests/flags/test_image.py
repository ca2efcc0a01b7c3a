"""Flags of an image by itself: each fires on what it is for, and on no ordinary image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from voxmetry import Geometry, LabelTable, Segmentation, Volume, measure, read_volume
from voxmetry.config import Range, TrainingDomain
from voxmetry.flags.image import flag_image, landmarks, landmarks_seen
from voxmetry.flags.study import flag_asymmetry, flag_islands

WHOLE = TrainingDomain()
REGION = TrainingDomain(field_of_view_mm=(Range(low=130, high=220),) * 3)
GRID = Geometry(np.array([[-1.0, 0, 0, 40], [0, -1.2, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1]]), (60, 50, 24))


def ct(**change: object) -> Volume:
    """A body of soft tissue in air, clear of the image's sides, with noise."""
    i, j, _ = np.indices(GRID.shape)
    body = ((i - 30) / 22) ** 2 + ((j - 25) / 18) ** 2 < 1
    array = np.where(body, 40, -1000) + np.random.default_rng(0).normal(0, 12, GRID.shape)
    return Volume(array.round().astype(np.int16), GRID, "HU")


def changed(volume: Volume, place: object, value: object) -> Volume:
    array = volume.array.copy()
    array[place] = value
    return Volume(array, volume.geometry, volume.unit)


def codes(volume: Volume, domain: TrainingDomain = WHOLE, modality: str = "CT") -> list[str]:
    return [flag.code for flag in flag_image(volume, "ct", modality, domain)]


def test_an_ordinary_image_has_no_flag():
    assert codes(ct()) == []


@pytest.mark.parametrize("at", [slice(7, 9), slice(1, 2), slice(22, 23)])
def test_blank_slices_between_others(at):
    flags = flag_image(changed(ct(), np.s_[:, :, at], -1000), "ct", "CT", WHOLE)
    assert [flag.code for flag in flags] == ["blank_slices"]
    assert flags[0].message.startswith(f"{at.stop - at.start} of the 24 slices of ct from inferior to superior")


def test_padding_at_the_ends_is_no_missing_slice():
    assert codes(changed(ct(), np.s_[:, :, :3], -1000)) == []


def test_repeated_slices():
    volume = ct()
    assert codes(changed(volume, np.s_[:, :, 9], volume.array[:, :, 8])) == ["repeated_slices"]


def test_metal():
    assert codes(changed(ct(), np.s_[28:32, 24:27, 10:16], 3071)) == ["metal"]
    clip = changed(ct(), np.s_[28:30, 24:26, 10:12], 3071)
    assert codes(clip) == []


def test_a_body_that_reaches_the_sides_of_a_whole_section():
    grid = Geometry(GRID.affine, (30, 50, 24))
    volume = Volume(ct().array[15:45], grid, "HU")
    flags = flag_image(volume, "ct", "CT", WHOLE)
    assert [flag.code for flag in flags] == ["body_cut_off"]
    assert "(R, L)" in flags[0].message or "(L, R)" in flags[0].message
    assert codes(volume, REGION) == []


def test_values_that_cannot_be_what_they_are_said_to_be():
    shifted = Volume(ct().array + 1100, GRID, "HU")
    assert "values_not_hu" in codes(shifted, REGION)
    assert codes(Volume(np.full(GRID.shape, 7, np.int16), GRID, "1")) == ["one_value"]
    suv = np.random.default_rng(0).gamma(2, 1, GRID.shape).astype(np.float32)
    assert codes(Volume(suv, GRID, "SUVbw")) == []
    assert codes(Volume(suv * 5000, GRID, "SUVbw")) == ["values_not_suv"]
    assert codes(Volume(suv / 1000, GRID, "SUVbw")) == ["values_not_suv"]


def test_values_unlike_those_of_the_training():
    scans = [Volume(ct().array + shift, GRID, "HU") for shift in (-20, 0, 30)]
    seen = landmarks_seen({"ct": [landmarks(scan, "CT") for scan in scans]})
    domain = TrainingDomain(intensity=seen)
    assert codes(ct(), domain) == []
    half = Volume((ct().array / 2).astype(np.int16), GRID, "HU")
    flags = flag_image(half, "ct", "CT", domain)
    assert [flag.code for flag in flags] == ["intensity_out_of_domain"]
    assert "in HU" in flags[0].message


def test_of_mr_only_proportions_count_and_of_pet_the_values():
    image = np.random.default_rng(1).gamma(3, 50, GRID.shape).astype(np.float32)
    seen = landmarks_seen({"t1": [landmarks(Volume(image, GRID), "MR")]})
    domain = TrainingDomain(intensity=seen)
    assert flag_image(Volume(image * 37, GRID), "t1", "MR", domain) == ()
    assert [f.code for f in flag_image(Volume(np.sqrt(image), GRID), "t1", "MR", domain)] == ["intensity_out_of_domain"]
    suv = landmarks_seen({"pet": [landmarks(Volume(image / 20, GRID, "1"), "PT")]})
    domain = TrainingDomain(intensity=suv)
    assert flag_image(Volume(image / 20, GRID, "SUVbw"), "pet", "PT", domain) == ()
    assert [f.code for f in flag_image(Volume(image * 50, GRID), "pet", "PT", domain)] == ["intensity_out_of_domain"]
    domain = TrainingDomain(intensity=seen)
    # An input that the model has no landmarks of is not judged.
    assert flag_image(Volume(np.sqrt(image), GRID), "t2", "MR", domain) == ()


def blocks(left: int, right: int) -> tuple[Segmentation, tuple]:
    array = np.zeros(GRID.shape, np.uint8)
    array[5 : 5 + left, 10:20, 5:10] = 1
    array[35 : 35 + right, 10:20, 5:10] = 2
    segmentation = Segmentation(array, GRID, LabelTable.from_names({1: "kidney_left", 2: "kidney_right"}))
    return segmentation, measure(segmentation)


def test_one_side_less_than_half_of_the_other():
    segmentation, rows = blocks(10, 4)
    (flag,) = flag_asymmetry(rows, segmentation.labels)
    assert (flag.code, flag.label, flag.severity) == ("asymmetry", "kidney_right", "review")
    segmentation, rows = blocks(10, 6)
    assert flag_asymmetry(rows, segmentation.labels) == ()


@pytest.mark.parametrize(("small", "large", "flagged"), [(49, 100, True), (50, 100, False), (51, 100, False)])
def test_one_side_is_compared_with_half_of_the_other(small, large, flagged):
    grid = Geometry(np.eye(4), (12, 12, 102))
    array = np.zeros(grid.shape, np.uint8)
    array[2, 2, 1 : 1 + large] = 1
    array[9, 9, 1 : 1 + small] = 2
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "kidney_left", 2: "kidney_right"}))
    found = flag_asymmetry(measure(segmentation), segmentation.labels)
    assert [flag.label for flag in found] == ["kidney_right"] * flagged
    swapped = Segmentation(np.array([0, 2, 1], np.uint8)[array], grid, segmentation.labels)
    assert [flag.label for flag in flag_asymmetry(measure(swapped), swapped.labels)] == ["kidney_left"] * flagged


@pytest.mark.parametrize("cut", ["small", "large"])
def test_a_pair_of_which_one_is_cut_off_is_not_called_asymmetric(cut):
    segmentation, _ = blocks(10, 4)
    shift = -5 if cut == "large" else 0
    array = np.roll(segmentation.array, shift, axis=0)
    if cut == "small":
        array[35:39, 10:20, 0] = array[35:39, 10:20, 5]
    moved = Segmentation(array, GRID, segmentation.labels)
    rows = measure(moved)
    assert [row.touches_border for row in rows] == [cut == "large", cut == "small"]
    assert rows[1].volume_ml < 0.5 * rows[0].volume_ml
    assert flag_asymmetry(rows, moved.labels) == ()


@pytest.mark.parametrize(("apart", "noted"), [((10,), False), ((11,), True), ((6, 6), True), ((5, 5), False)])
def test_what_lies_apart_from_the_largest_part_is_added_up(apart, noted):
    grid = Geometry(np.eye(4), (12, 12, 102))
    array = np.zeros(grid.shape, np.uint8)
    array[2, 2, : 100 - sum(apart)] = 1
    for place, size in enumerate(apart):
        array[6, 2 + 4 * place, :size] = 1
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "liver"}))
    assert [flag.label for flag in flag_islands(segmentation)] == ["liver"] * noted


def test_an_organ_in_parts_and_lesions_that_may_be():
    segmentation, _ = blocks(10, 10)
    array = segmentation.array.copy()
    array[5:9, 30:40, 5:10] = 1
    parts = Segmentation(array, GRID, segmentation.labels)
    assert [(f.code, f.label) for f in flag_islands(parts)] == [("islands", "kidney_left")]
    assert flag_islands(segmentation) == ()
    assert flag_islands(Segmentation(array, GRID, segmentation.labels.with_kind("kidney_left", "lesion"))) == ()


@pytest.mark.real_data
class TestRealImages:
    def test_a_ct_with_metal_and_the_slab_without(self, real_data):
        whole = read_volume(real_data / "ct-multiorgan" / "example_ct.nii.gz", modality="CT")
        assert "metal" in codes(whole)
        slab = read_volume(real_data / "ct-multiorgan" / "example_ct_sm.nii.gz", modality="CT")
        assert [code for code in codes(slab) if code != "body_cut_off"] == []

    def test_regions_of_ct_pet_and_mr_have_no_flag(self, real_data):
        case = real_data / "sarcoma" / "STS_001"
        for name, modality, unit in (("CT", "CT", None), ("PET", "PT", "SUVbw"), ("MR_T1", "MR", None)):
            volume = read_volume(case / f"{name}_image.nii.gz", modality=modality, unit=unit)
            assert codes(volume, REGION) == [], name
        paths = sorted((real_data / "hippocampus-mr" / "images").iterdir())[:12]
        seen = landmarks_seen({"ct": [landmarks(read_volume(path, modality="MR"), "MR") for path in paths]})
        for path in paths:
            assert codes(read_volume(path, modality="MR"), TrainingDomain(intensity=seen), "MR") == [], path.name

    def test_a_slice_that_was_lost_in_a_real_image(self, real_data):
        path = real_data / "ct-multiorgan" / "example_ct_sm.nii.gz"
        array = np.asarray(nib.load(path).dataobj).copy()
        volume = read_volume(path, modality="CT")
        array[:, :, 12] = -1000
        assert "blank_slices" in codes(Volume(array, volume.geometry, "HU"))
