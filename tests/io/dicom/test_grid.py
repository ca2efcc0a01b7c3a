"""The audit: each verdict, with its numbers and the names of the files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import phantoms
from voxmetry.io.dicom.read.grid import SlicePlane, audit


def planes(heights, *, degrees=(7.0, -11.0, 19.0), **changes) -> list[SlicePlane]:
    """Planes of 4 x 6 voxels at these heights along the normal, oblique, the first one at (5, -7, 9)."""
    row, column, normal = phantoms.rotation(degrees).T
    return [
        SlicePlane(
            name=f"{index}.dcm",
            position=tuple(np.array([5, -7, 9]) + height * normal),
            orientation=(*row, *column),
            pixel_spacing=(0.7, 0.5),
            rows=4,
            columns=6,
            **changes,
        )
        for index, height in enumerate(heights)
    ]


def test_regular_planes_in_any_order():
    result = audit(planes([9, 0, 6, 3]))
    assert (result.verdict, result.reason, result.order, result.n_slices) == ("regular", "", (1, 3, 2, 0), 4)
    assert result.geometry.shape == (6, 4, 4)
    np.testing.assert_allclose(result.geometry.spacing_mm, (0.5, 0.7, 3), atol=1e-12)
    np.testing.assert_allclose(result.geometry.affine[:3, 3], (-5, 7, 9), atol=1e-12)
    normal_lps = phantoms.rotation((7.0, -11.0, 19.0))[:, 2]
    np.testing.assert_allclose(result.geometry.affine[:3, 2], 3 * normal_lps * (-1, -1, 1), atol=1e-12)


@pytest.mark.parametrize("digits", [1, 2, 4])
def test_rounded_positions_are_regular(digits):
    given = planes(np.arange(40) * 1.25)
    rounded = [replace(plane, position=tuple(round(x, digits) for x in plane.position)) for plane in given]
    result = audit(rounded)
    assert result.verdict == "regular"
    # The least-squares line keeps the rounding of single positions out of the step.
    assert result.geometry.spacing_mm[2] == pytest.approx(1.25, abs=0.0003)


def test_single_slice_takes_its_thickness():
    result = audit(planes([0], thickness_mm=2.5, step_mm=3.0))
    assert result.verdict == "single"
    assert result.geometry.spacing_mm[2] == pytest.approx(2.5)
    assert result.geometry.shape == (6, 4, 1)


def test_single_slice_without_thickness():
    result = audit(planes([0]))
    assert (result.verdict, result.geometry) == ("unreadable", None)
    assert "0.dcm is a single slice without Slice Thickness" in result.reason


def test_duplicates_are_named_with_what_tells_them_apart():
    given = [
        replace(plane, notes={"Echo Time": echo, "Trigger Time": str(index)})
        for echo in ("2.3", "4.6")
        for index, plane in enumerate(planes([0, 3, 6]))
    ]
    named = [replace(plane, name=f"{index}.dcm", uid=str(index)) for index, plane in enumerate(given)]
    result = audit(named)
    assert (result.verdict, result.n_slices, result.geometry) == ("duplicate", 3, None)
    assert "6 slices at 3 places: 0.dcm, 3.dcm, 1.dcm, 4.dcm, 2.dcm, 5.dcm share theirs" in result.reason
    assert "they differ in Echo Time (2.3, 4.6)" in result.reason


def test_only_the_duplicates_are_named_and_copies_are_called_so():
    given = planes([0, 3, 6, 6])
    result = audit([replace(plane, uid=str(min(index, 2))) for index, plane in enumerate(given)])
    assert result.reason.startswith("4 slices at 3 places: 2.dcm, 3.dcm share theirs; some are copies of one another")


def test_many_duplicates_are_counted():
    assert "and 14 more share theirs" in audit(planes([*range(10), *range(10)])).reason


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ([0, 3, 6, 12, 15], "1 slice is missing where the step is 3 mm: 6 mm between 2.dcm and 3.dcm"),
        ([0, 3, 12, 15, 21], "3 slices are missing where the step is 3 mm: 9 mm between 1.dcm and 2.dcm; 6 mm between"),
        ([0, 3, 9], "1 slice is missing where the step is 3 mm: 6 mm between 1.dcm and 2.dcm"),
        ([0, 3.04, 5.98, 12.03, 15], "1 slice is missing where the step is 2.97"),
    ],
)
def test_missing_slices_with_the_files_around_the_gap(heights, words):
    result = audit(planes(heights))
    assert (result.verdict, result.geometry) == ("missing", None)
    assert words in result.reason


@pytest.mark.parametrize("heights", [[0, 3, 6, 10, 13], [0, 5, 10, 11, 16], [0, 1, 3, 6, 10], [0, 3, 6.3, 9, 12]])
def test_uneven_steps(heights):
    result = audit(planes(heights))
    assert (result.verdict, result.geometry) == ("uneven", None)
    assert "the step between slices varies from" in result.reason


@pytest.mark.parametrize(
    ("step", "off", "verdict"),
    [(3.0, 0.12, "regular"), (3.0, 0.15, "uneven"), (0.2, 0.035, "regular"), (0.2, 0.05, "uneven")],
)
def test_jitter_up_to_the_tolerance(step, off, verdict):
    """0.1 mm + 1 % of 3 mm = 0.13 mm from the regular grid; a fifth of 0.2 mm = 0.04 mm."""
    heights = np.arange(21) * step
    heights[10] += off
    assert audit(planes(heights)).verdict == verdict


def test_two_slices_need_a_header_that_proves_their_step():
    result = audit(planes([0, 3]))
    assert result.verdict == "missing"
    assert "two slices, 3 mm between 0.dcm and 1.dcm, and neither" in result.reason
    assert audit(planes([0, 3], step_mm=3.0)).verdict == "regular"
    assert audit(planes([0, 3], thickness_mm=2.0)).verdict == "regular"
    assert "though Spacing Between Slices is 1.5 mm" in audit(planes([0, 3], step_mm=1.5)).reason
    assert "though Slice Thickness is 1.5 mm" in audit(planes([0, 3], thickness_mm=1.5)).reason


@pytest.mark.parametrize("axis", [0, 1])
def test_a_tilted_stack_is_measured_from_positions(axis):
    given = planes([0, 3, 6, 9])
    aside = phantoms.rotation((7.0, -11.0, 19.0))[:, axis] * 3 * math.tan(math.radians(12.5))
    tilted = [replace(plane, position=tuple(plane.position + index * aside)) for index, plane in enumerate(given)]
    result = audit(tilted)
    assert (result.verdict, result.geometry) == ("tilted", None)
    assert "leans 12.50 degrees" in result.reason


def test_one_slice_aside_of_the_stack():
    given = planes([0, 3, 6, 9, 12, 15, 18])
    given[3] = replace(given[3], position=tuple(given[3].position + phantoms.rotation((7.0, -11.0, 19.0))[:, 0]))
    result = audit(given)
    assert result.verdict == "uneven"
    assert result.reason.startswith("3.dcm lies 0.8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 5}, "2 sizes in one series (2 like 0.dcm, 1 like 2.dcm)"),
        ({"frame_uid": "1.2"}, "2 frames of reference"),
        ({"orientation": (1, 0, 0, 0, 1, 0)}, "2 orientations"),
        ({"pixel_spacing": (0.7, 0.51)}, "2 pixel spacings"),
    ],
)
def test_mixtures_name_a_file_of_each_kind(change, words):
    given = planes([0, 3, 6])
    given[2] = replace(given[2], **change)
    result = audit(given)
    assert (result.verdict, result.geometry) == ("mixed", None)
    assert words in result.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"orientation": (1, 0, 0, 0, 0.9, 0)}, "not two unit vectors"),
        ({"orientation": (1, 0, 0, 0.1, 0.995, 0)}, "not two unit vectors at right angles"),
        ({"pixel_spacing": (0.7, 0)}, "not above 0"),
        ({"position": (0, 0, math.nan)}, "not finite"),
    ],
)
def test_planes_that_are_none(change, words):
    given = planes([0, 3, 6])
    given[1] = replace(given[1], **change)
    result = audit(given)
    assert (result.verdict, result.geometry) == ("unreadable", None)
    assert "1.dcm" in result.reason
    assert words in result.reason


def test_the_worked_voxel_of_the_documentation():
    """docs/concepts/coordinates.md derives this one by hand."""
    given = [
        SlicePlane(f"{x}.dcm", (x, -80.0, 60.0), (0, 1, 0, 0, 0, -1), (0.8, 0.5), 200, 256)
        for x in (18.0, 20.0, 17.0, 19.0)
    ]
    result = audit(given)
    assert result.order == (1, 3, 0, 2)
    np.testing.assert_array_equal(
        result.geometry.affine, [[0, 0, 1, -20], [-0.5, 0, 0, 80], [0, -0.8, 0, 60], [0, 0, 0, 1]]
    )
    assert result.geometry.to_mm([10, 5, 2]).tolist() == [-18, 75, 56]
