"""From the planes of a series to one grid, and the audit of whether they make one.

Positions and orientations decide, nothing else: Slice Location is optional, Instance Number is no place, and the sign
of Gantry/Detector Tilt differs between makers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.core.records import SeriesVerdict

JITTER_MM = 0.1
JITTER_SHARE = 0.01
JITTER_LIMIT = 0.2
"""A slice may lie this far off the regular grid: 0.1 mm (coordinates rounded to a tenth) + 1 % of the slice step, and
never more than a fifth of the step."""
TILT_DEGREES = 0.1
"""Up to this angle between the stack and the slices' normal, the rounding of the headers explains it."""

SAME_PLACE_MM = 0.01
"""Two slices closer than this along the normal are at one place."""
_COSINE_TOLERANCE = 2e-4
_UNIT_TOLERANCE = 1e-3
_MOST_NAMES = 6
_FARTHEST_MM = 1e6


@dataclass(frozen=True)
class SlicePlane:
    """One slice as its header places it, in LPS+ millimetres."""

    name: str
    """File name relative to the folder, and the frame's number where the file holds several."""
    position: tuple[float, ...]
    """Image Position (Patient): centre of the first voxel."""
    orientation: tuple[float, ...]
    """Image Orientation (Patient): direction along a row, then down a column."""
    pixel_spacing: tuple[float, ...]
    """Pixel Spacing: step down a column, then along a row."""
    rows: int
    columns: int
    frame_uid: str | None = None
    thickness_mm: float | None = None
    step_mm: float | None = None
    """Spacing Between Slices."""
    uid: str | None = None
    """SOP Instance UID, the same in two copies of one file."""
    notes: dict[str, str] = field(default_factory=dict)
    """What may tell apart two slices at one place, such as the echo time."""


@dataclass(frozen=True)
class Audit:
    """What the planes make together."""

    verdict: SeriesVerdict
    reason: str
    order: tuple[int, ...]
    """Indices of the planes from the lowest to the highest along the normal."""
    n_slices: int
    geometry: Geometry | None = None
    """The grid, where the verdict is 'regular' or 'single'. Axes: along a row, down a column, along the normal."""


def audit(planes: Sequence[SlicePlane]) -> Audit:
    """Sort planes along their normal and say whether they make a regular grid.

    Parameters
    ----------
    planes
        At least one, in any order.

    Returns
    -------
    Audit
        With a geometry where they do, with a reason in words and numbers where they do not.

    Notes
    -----
    The slice axis is the least-squares line through the positions (DICOM PS3.3 C.7.6.2.1.1 defines position and
    orientation), so that the rounding of the first and the last position does not set the step.

    Examples
    --------
    >>> planes = [SlicePlane(f"{z}.dcm", (0, 0, z), (1, 0, 0, 0, 1, 0), (0.5, 0.5), 4, 6) for z in (6, 0, 3)]
    >>> result = audit(planes)
    >>> result.verdict, result.order, result.geometry
    ('regular', (1, 2, 0), Geometry(6 x 4 x 3 @ 0.5 x 0.5 x 3 mm, LPS))
    """
    as_given = tuple(range(len(planes)))
    if problem := unusable(planes):
        return Audit("unreadable", problem, as_given, len(planes))
    if problem := _mixture(planes):
        return Audit("mixed", problem, as_given, len(planes))
    row, column, normal = axes_of(planes[0])
    positions = np.array([plane.position for plane in planes])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [planes[index] for index in order]
    heights, positions = heights[order], positions[order]
    indices = tuple(int(index) for index in order)
    n_slices = 1 + int(np.count_nonzero(np.diff(heights) >= SAME_PLACE_MM))
    # From the first position on, so that a coordinate that does not change gives a step of exactly 0.
    offsets = positions - positions[0]
    verdict, reason, step = _judge(ordered, heights, offsets, normal)
    if step is None:
        return Audit(verdict, reason, indices, n_slices)
    affine = np.eye(4)
    rise, run = ordered[0].pixel_spacing
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * run, column * rise, step
    middle = (len(ordered) - 1) / 2
    affine[:3, 3] = positions[0] + (offsets.mean(axis=0) - middle * step)
    shape = (ordered[0].columns, ordered[0].rows, len(ordered))
    return Audit(verdict, reason, indices, n_slices, Geometry(swap_lps_ras(affine), shape, ordered[0].frame_uid))


def _judge(
    planes: Sequence[SlicePlane], heights: Float64, offsets: Float64, normal: Float64
) -> tuple[SeriesVerdict, str, Float64 | None]:
    """Return the verdict, the reason, and the step from slice to slice (3,) in LPS+ mm where there is one."""
    if len(planes) == 1:
        thickness = planes[0].thickness_mm or planes[0].step_mm
        if not thickness:
            return "unreadable", f"{planes[0].name} is a single slice without Slice Thickness: no voxel volume", None
        return "single", "one slice; its third size is the slice thickness", normal * thickness
    if problem := _duplicates(planes, heights):
        return "duplicate", problem, None
    if len(planes) == 2 and (problem := _unproved_step(planes, float(heights[1] - heights[0]))):
        return "missing", problem, None
    verdict, problem = _gaps(planes, heights)
    if problem:
        return verdict, problem, None
    indices = np.arange(len(planes)) - (len(planes) - 1) / 2
    step = indices @ offsets / (indices @ indices)
    tolerance = tolerance_mm(float(step @ normal))
    aside = step - (step @ normal) * normal
    shift = float(np.linalg.norm(aside)) * (len(planes) - 1)
    angle = float(np.degrees(np.arctan2(np.linalg.norm(aside), step @ normal)))
    if angle > TILT_DEGREES and shift > tolerance:
        return "tilted", f"the stack leans {angle:.2f} degrees from the slices' normal (gantry tilt or shear)", None
    off = np.linalg.norm(offsets - offsets.mean(axis=0) - np.outer(indices, step), axis=1)
    if off.max() > tolerance:
        worst = planes[int(off.argmax())].name
        return "uneven", f"{worst} lies {off.max():.3g} mm aside of the stack (allowed: {tolerance:.3g} mm)", None
    return "regular", "", step


def tolerance_mm(step_mm: float) -> float:
    """Return how far in mm a slice may lie off the regular grid: the one rule for images and for what lies on them."""
    return min(JITTER_MM + JITTER_SHARE * step_mm, JITTER_LIMIT * step_mm)


def axes_of(plane: SlicePlane) -> tuple[Float64, Float64, Float64]:
    """Return unit vectors along a row, down a column, and along the normal, in LPS+."""
    row, column = np.reshape(plane.orientation, (2, 3)).astype(np.float64)
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def unusable(planes: Sequence[SlicePlane]) -> str:
    """Say which plane has no finite place of its own; empty where all have one."""
    values = np.array([(*plane.position, *plane.orientation, *plane.pixel_spacing) for plane in planes])
    bad = (
        ~np.isfinite(values).all(axis=1)
        | (values[:, 9:] <= 0).any(axis=1)
        | (np.abs(values) > _FARTHEST_MM).any(axis=1)
    )
    if bad.any():
        name = planes[int(bad.argmax())].name
        return f"the position, orientation or pixel spacing of {name} is not finite, not above 0, or beyond 1 km"
    row, column = values[:, 3:6], values[:, 6:9]
    off = np.stack([(row * row).sum(1) - 1, (column * column).sum(1) - 1, (row * column).sum(1)])
    worst = np.abs(off).max(axis=0)
    if worst.max() > 2 * _UNIT_TOLERANCE:
        return (
            f"Image Orientation (Patient) of {planes[int(worst.argmax())].name} is not two unit vectors at right angles"
        )
    return ""


def _mixture(planes: Sequence[SlicePlane]) -> str:
    """Say in what the planes differ that one grid must share, naming a file of each kind."""
    parts = []
    for what, same in _kinds(planes[0]).items():
        groups = _group(planes, same)
        if len(groups) > 1:
            shown = ", ".join(f"{len(group)} like {planes[group[0]].name}" for group in groups[:_MOST_NAMES])
            parts.append(f"{len(groups)} {what}s in one series ({shown})")
    return "; ".join(parts).replace("frame of references", "frames of reference")


def grid_groups(planes: Sequence[SlicePlane]) -> list[tuple[list[int], dict[str, str]]]:
    """Group planes by what one grid must share, and say what tells the groups apart.

    Returns
    -------
    list of (list of int, dict)
        Indices of the planes of each group, in order of its first, with size, orientation, pixel spacing and frame of
        reference where these differ.
    """
    codes = [[0] * len(planes) for _ in range(4)]
    for code, same in zip(codes, _kinds(planes[0]).values(), strict=True):
        for number, group in enumerate(_group(planes, same)):
            for index in group:
                code[index] = number
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, key in enumerate(zip(*codes, strict=True)):
        groups.setdefault(key, []).append(index)
    differ = [len(set(code)) > 1 for code in codes]
    return [
        (
            {
                what: words
                for what, words, told in zip(_GRID_WORDS, _described(planes[g[0]], key), differ, strict=True)
                if told
            },
            g,
        )[::-1]
        for key, g in groups.items()
    ]


_GRID_WORDS = ("Size", "Frame of Reference", "Orientation", "Pixel Spacing")


def _described(plane: SlicePlane, key: tuple[int, ...]) -> tuple[str, ...]:
    return (
        f"{plane.columns} x {plane.rows}",
        f"{key[1] + 1}",
        f"{key[2] + 1} ({plane_name(plane)})",
        " x ".join(f"{value:.4g}" for value in plane.pixel_spacing),
    )


def plane_name(plane: SlicePlane) -> str:
    """Return 'axial', 'coronal' or 'sagittal' for slices within 10 degrees of it, else with 'oblique' before it."""
    normal = np.abs(normal_of(plane))
    axis = int(normal.argmax())
    name = ("sagittal", "coronal", "axial")[axis]
    return name if normal[axis] >= np.cos(np.radians(10)) else f"oblique {name}"


def normal_of(plane: SlicePlane) -> Float64:
    """Return the unit vector along a row crossed with that down a column, in LPS+."""
    return axes_of(plane)[2]


def _kinds(first: SlicePlane) -> dict[str, Callable[[SlicePlane, SlicePlane], bool]]:
    spacing = 1e-4 * min(first.pixel_spacing)
    return {
        "size": lambda a, b: (a.rows, a.columns) == (b.rows, b.columns),
        "frame of reference": lambda a, b: a.frame_uid == b.frame_uid,
        "orientation": lambda a, b: (
            a.orientation == b.orientation or _close(a.orientation, b.orientation, _COSINE_TOLERANCE)
        ),
        "pixel spacing": lambda a, b: (
            a.pixel_spacing == b.pixel_spacing or _close(a.pixel_spacing, b.pixel_spacing, spacing)
        ),
    }


def _group(planes: Sequence[SlicePlane], same: Callable[[SlicePlane, SlicePlane], bool]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index, plane in enumerate(planes):
        for group in groups:
            if same(planes[group[0]], plane):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _close(a: tuple[float, ...], b: tuple[float, ...], tolerance: float) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= tolerance


def _duplicates(planes: Sequence[SlicePlane], heights: Float64) -> str:
    same = np.flatnonzero(np.diff(heights) < SAME_PLACE_MM)
    if not same.size:
        return ""
    places = 1 + int(np.count_nonzero(np.diff(heights) >= SAME_PLACE_MM))
    members = sorted({*same.tolist(), *(same + 1).tolist()})
    shown = ", ".join(planes[index].name for index in members[:_MOST_NAMES])
    more = f" and {len(members) - _MOST_NAMES} more" if len(members) > _MOST_NAMES else ""
    return f"{len(planes)} slices at {places} places: {shown}{more} share theirs{_difference(planes)}"


def _difference(planes: Sequence[SlicePlane]) -> str:
    """Say what tells slices at one place apart: that they are copies, or several volumes in one series."""
    uids = [plane.uid for plane in planes if plane.uid]
    if len(set(uids)) < len(uids):
        return "; some are copies of one another (same SOP Instance UID)"
    differences = []
    for key in dict.fromkeys(key for plane in planes for key in plane.notes):
        values = sorted({plane.notes.get(key, "none") for plane in planes})
        # A value of its own in each slice, such as a trigger time, does not tell volumes apart.
        if 1 < len(values) < len(planes):
            differences.append(f"{key} ({', '.join(values[:_MOST_NAMES])})")
    return f"; they differ in {', '.join(differences)}" if differences else ""


def _unproved_step(planes: Sequence[SlicePlane], gap: float) -> str:
    """With two slices no third one shows what the step is, so a header must."""
    between = f"{gap:.4g} mm between {planes[0].name} and {planes[1].name}"
    step, thickness = planes[0].step_mm, planes[0].thickness_mm
    if step:
        stated, most = f"Spacing Between Slices is {step:.4g} mm", step + 2 * tolerance_mm(step)
    elif thickness:
        # An MR gap is rarely as wide as the slice; twice the thickness is what one lost slice looks like.
        stated, most = f"Slice Thickness is {thickness:.4g} mm", 1.9 * thickness
    else:
        return (
            f"two slices, {between}, and neither Spacing Between Slices nor Slice Thickness in their headers: "
            "nothing shows whether slices are missing between them"
        )
    return "" if gap <= most else f"{between}, though {stated}"


def _gaps(planes: Sequence[SlicePlane], heights: Float64) -> tuple[SeriesVerdict, str]:
    gaps = np.diff(heights)
    base = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    tolerance = tolerance_mm(base)
    indices = np.arange(len(planes)) - (len(planes) - 1) / 2
    fitted = heights.mean() + indices * (indices @ heights / (indices @ indices))
    if np.abs(heights - fitted).max() <= tolerance:
        return "regular", ""
    steps = np.maximum(np.rint(gaps / base), 1)
    whole = np.abs(gaps - steps * base) <= 2 * tolerance * steps
    # Slices are missing where most neighbours are one step apart and the others a whole number of steps.
    if whole.all() and steps.max() > 1 and np.count_nonzero(steps == 1) * 2 >= len(gaps):
        holes = np.flatnonzero(steps > 1)
        shown = "; ".join(
            f"{gaps[hole]:.4g} mm between {planes[hole].name} and {planes[hole + 1].name}"
            for hole in holes[:_MOST_NAMES]
        )
        lost = int((steps - 1).sum())
        what = "slice is" if lost == 1 else "slices are"
        return "missing", f"{lost} {what} missing where the step is {base:.4g} mm: {shown}"
    low, high = int(gaps.argmin()), int(gaps.argmax())
    return "uneven", (
        f"the step between slices varies from {gaps[low]:.4g} mm ({planes[low].name} to {planes[low + 1].name}) "
        f"to {gaps[high]:.4g} mm ({planes[high].name} to {planes[high + 1].name})"
    )
