"""RT structure sets in: planar contours in the patient, filled on an image's grid.

Reference: DICOM PS3.3 C.8.8.5 (Structure Set) and C.8.8.6 (ROI Contour).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.core.labels import PALETTE, Label
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, GeometryError, ReadingWarning
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, lenient, parsing, read_all, text, whole
from voxmetry.io.dicom.segmentations.codes import code_of, full_name
from voxmetry.io.dicom.segmentations.contours import fill, fill_structure, own_step, planes_of
from voxmetry.io.overlapping import Layers, Piece

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_KINDS = (*_CLOSED, *_OPEN)
_TIE = 1e-3
_TILT = 0.2
"""A contour counts as lying in a slice while its points stray less than this share of the slice step from a plane."""
_BEYOND_VOXELS = 1.0
_BEYOND_SLICES = 0.6
"""Contours may reach this far beyond the outermost voxel centres: bodies are drawn to the edge of the image, but a
contour a slice above the last one would be lost."""
_MOST_SKIPPED, _OFTEN = 3, 0.1
"""Slices are skipped where gaps of so many steps at most occur so often among contours; else gaps part a structure."""


@dataclass(frozen=True)
class _Contour:
    """One closed polygon in voxel indices of the grid, shape (N, 3)."""

    points: Float64
    exclusive_or: bool


def read_rtstruct(
    path: Path, grid: Geometry, *, wanted: Callable[[Label], bool] | None = None
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Fill the contours of an RT structure set on an image's grid.

    A voxel belongs to a structure when its centre lies inside the nearest contours, those within half a step along
    the slices' normal. The step is the structure's own, so that contours of a coarser or finer series, or of one that
    is turned against this grid, give a structure of the same extent.

    Parameters
    ----------
    path
        The file.
    grid
        The image's grid.
    wanted
        Tells which structures to read; all if not given. What is wrong with another one does not matter then.

    Returns
    -------
    tuple of Segmentation
        One where no structures overlap, else as few as hold them. Label values are ROI numbers where these are 1 to
        65535, else positions in the file. Structures without a closed contour (points, lines) are left out.
    tuple of str
        The pairs of structures that overlap.

    Raises
    ------
    FormatError
        If it is no structure set with closed contours, or is damaged.
    GeometryError
        If a contour is not flat, or no structure lies in the image and its frame of reference.

    Warns
    -----
    ReadingWarning
        Names what was clipped, as it reaches beyond the image, what was left out, as it lies outside of it or in
        another frame of reference, and what has no contour on some slices between others.
    """
    dataset = read_all(path, path.name)
    with lenient():
        with parsing(path.name):
            rois = [roi for roi in _rois(dataset, path.name) if wanted is None or wanted(roi[0])]
        layers, told, kept = Layers(grid, path.name), [], 0
        for label, item, frame_uid in rois:
            if frame_uid and grid.frame_uid and frame_uid != grid.frame_uid:
                told.append(f"{label.name} is drawn in another frame of reference than the image's: left out")
                continue
            with parsing(path.name):
                contours = _contours(item, grid, f"{label.name} of {path.name}")
            pieces, beyond, skipped = _fill(contours, grid, f"{label.name} of {path.name}")
            if beyond and not any(mask.any() for _, mask in pieces):
                told.append(f"{label.name} lies outside of the image: left out")
                continue
            if beyond:
                told.append(f"{label.name} {beyond}: clipped")
            if skipped:
                told.append(f"{label.name} {skipped}")
            layers.add(label, pieces)
            kept += 1
    if rois and not kept:
        raise GeometryError(
            found=f"{path.name}: {'; '.join(told)}",
            expected="contours within the image, in its frame of reference",
            fix="pass the series that the contours were drawn on",
        )
    for words in told:
        warnings.warn(f"{path.name}: {words}", ReadingWarning, stacklevel=2)
    return layers.all(), layers.pairs


def structures_in(path: Path) -> tuple[Label, ...]:
    """List the structures of a file that have a closed contour, without filling any.

    Raises
    ------
    FormatError
        If it is no structure set with closed contours, or is damaged.
    """
    with lenient(), parsing(path.name):
        return tuple(label for label, _, _ in _rois(read_all(path, path.name), path.name))


def _rois(dataset: Any, name: str) -> list[tuple[Label, Any, str | None]]:
    """Pair names with contours; return (label, contours, frame of reference) in the file's order."""
    items = _contours_of(dataset)
    described = {whole(item, "ReferencedROINumber"): item for item in dataset.get("RTROIObservationsSequence") or []}
    found: list[tuple[Label, Any, str | None]] = []
    structures = list(dataset.get("StructureSetROISequence") or [])
    numbers = [whole(roi, "ROINumber") for roi in structures]
    for place, (roi, number) in enumerate(zip(structures, numbers, strict=True), start=1):
        item = items.get(number)
        if number is None or item is None or not _may_be_closed(item):
            continue
        if numbers.count(number) > 1:
            raise FormatError(
                found=f"{name} has several structures with the number {number}",
                expected="a ROI Number of its own for each structure: contours name theirs by it",
                fix="export the structures again",
            )
        taken = [label.name for label, _, _ in found]
        label = _label(roi, item, described.get(number, {}), number, place)
        given = label.name
        for more in (label.value, *range(2, len(taken) + 3)):
            if label.name in taken:
                label = label.model_copy(update={"name": f"{given}_{more}"})
        found.append((label, item, text(roi, "ReferencedFrameOfReferenceUID")))
    if not found:
        raise FormatError(
            found=f"{name} has no structure with a closed contour",
            expected="an RT structure set with contours of type CLOSED_PLANAR",
            fix="export the structures again, contours included",
        )
    values = [label.value for label, _, _ in found]
    if len(set(values)) == len(values) and all(1 <= value <= 65535 for value in values):
        return found
    return [(x.model_copy(update={"value": i}), item, uid) for i, (x, item, uid) in enumerate(found, start=1)]


def _contours_of(dataset: Any) -> dict[int | None, Any]:
    """Return the item with the contours of each structure, by its number; several items of one are joined."""
    items: dict[int | None, Any] = {}
    for item in dataset.get("ROIContourSequence") or []:
        earlier = items.setdefault(whole(item, "ReferencedROINumber"), item)
        if earlier is not item:
            earlier.ContourSequence = [*(earlier.get("ContourSequence") or []), *(item.get("ContourSequence") or [])]
    return items


def _label(roi: Any, item: Any, observation: Any, number: int, place: int) -> Label:
    colour = [int(x) for x in item.get("ROIDisplayColor") or []]
    good = len(colour) == 3 and all(0 <= x <= 255 for x in colour)
    kind = text(observation, "RTROIInterpretedType") or ""
    return Label.model_construct(
        value=number,
        name=full_name(roi, "ROIName", "ROIDescription") or f"roi_{number}",
        colour="#{:02X}{:02X}{:02X}".format(*colour) if good else PALETTE[(place - 1) % len(PALETTE)],
        # Gross tumour volumes are what is measured as lesions; clinical and planning volumes are margins round them.
        kind="lesion" if kind == "GTV" else "organ",
        code=code_of(observation, "RTROIIdentificationCodeSequence"),
        modifier=None,
        laterality=None,
    )


def _may_be_closed(item: Any) -> bool:
    """Whether a structure has a contour that is not said to be open; of one of unknown type `_closed` has to judge."""
    return any(text(contour, "ContourGeometricType") not in _OPEN for contour in item.get("ContourSequence") or [])


def _closed(item: Any) -> list[Any]:
    contours = item.get("ContourSequence") or []
    odd = {kind or "none" for contour in contours if (kind := text(contour, "ContourGeometricType")) not in _KINDS}
    if odd:
        raise FormatError(
            found=f"contours of the type {', '.join(sorted(odd))}",
            expected=f"one of {', '.join(_KINDS)}: a part of the structure would be lost",
            fix="export the structures again",
        )
    return [contour for contour in contours if text(contour, "ContourGeometricType") in _CLOSED]


def _contours(item: Any, grid: Geometry, name: str) -> list[_Contour]:
    found = []
    for number, contour in enumerate(_closed(item), start=1):
        try:
            points = _coordinates(contour).reshape(-1, 3)
        except PARSING_ERRORS as error:
            raise _malformed(name, number, "coordinates that are not numbers in threes") from error
        if not np.isfinite(points).all():
            raise _malformed(name, number, "coordinates that are not finite")
        points = points[np.abs(points - np.roll(points, 1, axis=0)).max(axis=1) > 0] if len(points) > 1 else points
        # One or two points enclose nothing; some programs leave such remains behind.
        if len(points) >= 3:
            is_xor = text(contour, "ContourGeometricType") == "CLOSEDPLANAR_XOR"
            found.append(_Contour(grid.to_ijk(swap_lps_ras(points)), is_xor))
    return found


def _coordinates(contour: Any) -> Float64:
    stored = contour.get_item("ContourData")
    if stored is None:
        return np.zeros(0)
    value = stored.value
    # pydicom makes an object of each decimal string: ten times slower for the thousands of points of a contour.
    parts = value.split(b"\\") if isinstance(value, bytes) else value or []
    return np.array([float(x) for x in parts], dtype=np.float64)


def _malformed(name: str, number: int, what: str) -> FormatError:
    return FormatError(
        found=f"contour {number} of {name} has {what}",
        expected="x, y, z in mm for each point",
        fix="export the structures again",
    )


def _fill(contours: Sequence[_Contour], grid: Geometry, name: str) -> tuple[list[Piece], str, str]:
    """Fill one structure: slice by slice where the contours lie in slices of the grid, else plane by plane.

    Returns the pieces, and in words how far the contours reach beyond the image and which of its slices they skip;
    empty where they do not.
    """
    if not contours:
        return [], "", ""
    axis = _slice_axis(contours)
    beyond = _beyond(contours, grid, axis)
    if axis is None:
        from voxmetry.io.dicom.segmentations.oblique import fill_oblique

        return fill_oblique([(x.points, x.exclusive_or) for x in contours], grid, name), beyond, ""
    levels = np.array([float(contour.points[:, axis].mean()) for contour in contours])
    planes: dict[float, list[_Contour]] = {}
    for height, members in planes_of(levels, 1.0, grid.spacing_mm[axis]):
        # Rounded, so that a contour halfway between two slices falls to the same one whatever its points' last digits.
        planes.setdefault(round(height, 2), []).extend(contours[index] for index in members)
    return _fill_slices(planes, axis, grid), beyond, _skipped(planes, axis)


def _slice_axis(contours: Sequence[_Contour]) -> int | None:
    """Return the grid's axis that all contours are perpendicular to; None where they are turned against the grid."""
    spread = np.max([np.ptp(contour.points, axis=0) for contour in contours], axis=0)
    flat = [axis for axis in range(3) if spread[axis] <= _TILT]
    return min(flat, key=lambda axis: float(spread[axis])) if flat else None


def _fill_slices(planes: dict[float, list[_Contour]], axis: int, grid: Geometry) -> list[Piece]:
    heights = np.array(sorted(planes))
    half = own_step(heights, 1.0) / 2
    others = [i for i in range(3) if i != axis]
    shape = (grid.shape[others[0]], grid.shape[others[1]])
    masks: dict[float, NDArray[np.bool_]] = {}
    pieces: list[Piece] = []
    for k in range(grid.shape[axis]):
        # A slice halfway between two contours goes to the upper one, so that each contour has slices of its own.
        nearest = float(heights[np.abs(heights - k - _TIE).argmin()])
        if abs(k + _TIE - nearest) >= half:
            continue
        if nearest not in masks:
            masks = {nearest: fill_plane([(x.points[:, others], x.exclusive_or) for x in planes[nearest]], shape)}
        place: list[Any] = [slice(None)] * 3
        place[axis] = k
        pieces.append((tuple(place), masks[nearest]))
    return pieces


def _skipped(planes: dict[float, list[_Contour]], axis: int) -> str:
    """Say how many slices a structure leaves out between contours that lie above each other; empty where it does not.

    Some draw every second slice, and each slice only where the shape changes fast: what lies between is not in the
    file, and is no part of the structure for this reader. A single gap is one between two parts of it.
    """
    heights = sorted(planes)
    step = own_step(np.array(heights), 1.0)
    lost = []
    for low, high in itertools.pairwise(heights):
        between = round((high - low) / step) - 1
        if 0 < between <= _MOST_SKIPPED and _above_each_other(planes[low], planes[high], axis):
            lost.append(between)
    if len(lost) < max(2, _OFTEN * len(heights)):
        return ""
    return (
        f"has no contour on {sum(lost)} slices between others that have one: it is empty there; if it goes through "
        "them, let the program that drew it interpolate, and export it again"
    )


def _above_each_other(lower: Sequence[_Contour], upper: Sequence[_Contour], axis: int) -> bool:
    others = [i for i in range(3) if i != axis]
    boxes = [
        [(x.points[:, others].min(axis=0), x.points[:, others].max(axis=0)) for x in side] for side in (lower, upper)
    ]
    return any((a[0] <= b[1]).all() and (b[0] <= a[1]).all() for a, b in itertools.product(*boxes))


def fill_plane(polygons: Sequence[tuple[Float64, bool]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill the contours of one plane: those of type CLOSEDPLANAR_XOR by exclusive or, as PS3.3 C.8.8.6.3 says."""
    if all(exclusive_or for _, exclusive_or in polygons):
        return fill([points for points, _ in polygons], shape)
    return fill_structure([points for points, _ in polygons], shape)


def _beyond(contours: Sequence[_Contour], grid: Geometry, axis: int | None) -> str:
    """Say how far contours reach beyond the image, and how many lie outside of it; empty where they hardly do."""
    allowed = np.array([_BEYOND_SLICES if i == axis else _BEYOND_VOXELS for i in range(3)])
    last = np.array(grid.shape) - 1
    over = np.array([np.maximum(-x.points, x.points - last).max(axis=0) for x in contours])
    most = over.max(axis=0)
    if (most <= allowed).all():
        return ""
    outside = sum(
        bool(((x.points.max(axis=0) < -allowed) | (x.points.min(axis=0) > last + allowed)).any()) for x in contours
    )
    reach_mm = float((most * grid.spacing_mm)[most > allowed].max())
    return f"reaches {reach_mm:.4g} mm beyond the image, and {outside} of its {len(contours)} contours lie outside"
