"""Shapes that were drawn on pictures of slices, and how they become masks on the grid of the image.

Programs for pictures count from the corner of the first pixel: its centre is at (0.5, 0.5). Voxel indices count from
its centre, (0, 0), so that every shape moves by half a pixel. A picture shows one slice as it is stored: its columns
run along the first axis of the grid, its rows along the second, and the third axis counts the slices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry
from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, GeometryError, LabelError
from voxmetry.io.dicom.segmentations.contours import fill_structure
from voxmetry.io.overlapping import Layers

SliceNumbers: TypeAlias = Literal["index", "index-from-1", "instance"]
"""What a number in a picture's name counts: slices of the grid from 0 or from 1, or DICOM's Instance Number."""

CORNER = 0.5
"""Of a pixel's width: from the corner that programs for pictures count from to the centre that voxels count from."""
_UID = re.compile(r"\d+(?:\.\d+){4,}")
_SUFFIX = re.compile(r"\.(?:png|jpe?g|bmp|tiff?|dcm|dicom|webp|gif)$", re.IGNORECASE)
_ELLIPSE_POINTS = 180


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of one structure on one picture.

    Parameters
    ----------
    label
        The structure's name, as it was drawn.
    polygons
        Closed polygons (N, 2) in pixels from the picture's upper left corner; one inside another is a hole.
    mask
        (height, width) booleans instead, where it was painted.
    """

    label: str
    polygons: tuple[Float64, ...] = ()
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for polygon in self.polygons:
            if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3 or not np.isfinite(polygon).all():
                raise FormatError(
                    found=f"a shape of {self.label} of {len(polygon)} points",
                    expected="three points or more, each a finite x and y",
                    fix="draw it again, or take it out",
                )


@dataclass(frozen=True)
class Picture:
    """One annotated picture.

    Parameters
    ----------
    name
        Its file name, as the program keeps it.
    size
        Width and height in pixels; None where the program does not say.
    shapes
        What was drawn on it.
    frame
        Number of the frame, counted from 0, where it is one of a video or a volume.
    """

    name: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    frame: int | None = None

    @property
    def stem(self) -> str:
        """The name without folders, address and suffixes."""
        name = re.split(r"[/\\]", self.name.partition("?")[0])[-1]
        while _SUFFIX.search(name):
            name = _SUFFIX.sub("", name)
        return name


@dataclass(frozen=True)
class Drawings:
    """The content of a file of slice annotations.

    Parameters
    ----------
    program
        Which program wrote it, for people.
    pictures
        All pictures that it names, also those without a shape.
    author, made
        Who drew and when (ISO 8601), as far as the file says; empty where it does not.
    """

    program: str
    pictures: tuple[Picture, ...]
    author: str = ""
    made: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The structures that were drawn, in their order."""
        return tuple(dict.fromkeys(shape.label for picture in self.pictures for shape in picture.shapes))


@dataclass(frozen=True)
class SliceKeys:
    """What the slices of an image are known by.

    Parameters
    ----------
    case
        Name of the case, with which names of pictures begin.
    sop_uids
        SOP Instance UID of each slice, in the order of the grid; empty for an image that is not from DICOM.
    instance_numbers
        Instance Number of each slice; None where a slice has none.
    """

    case: str
    sop_uids: tuple[str, ...] = ()
    instance_numbers: tuple[int | None, ...] = ()
    uid_at: Mapping[str, tuple[int, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[str, tuple[int, ...]] = {}
        for place, uid in enumerate(self.sop_uids):
            found[uid] = (*found.get(uid, ()), place)
        object.__setattr__(self, "uid_at", found)

    def owns(self, picture: Picture) -> bool:
        """Whether a picture is one of this image: by a UID in its name, else by the case's name at its beginning."""
        uids = _UID.findall(picture.stem)
        if uids and self.sop_uids:
            return any(uid in self.uid_at for uid in uids)
        return bool(re.fullmatch(rf"(?:.*[-_])?{re.escape(self.case)}(?:[^A-Za-z0-9].*|_\w*|)", picture.stem))

    def slice_of(self, picture: Picture, n_slices: int, numbers: SliceNumbers) -> int:
        """Return the index of the slice that a picture shows.

        Raises
        ------
        GeometryError
            If the picture is of another series, or nothing says which slice it is.
        """
        uids = [uid for uid in _UID.findall(picture.stem) if uid in self.uid_at]
        if uids and len(self.uid_at[uids[0]]) == 1:
            return self.uid_at[uids[0]][0]
        if not uids and self.sop_uids and _UID.search(picture.stem):
            raise _no_slice(picture, "a UID that is of no slice of this series", n_slices)
        rest = picture.stem.partition(uids[0])[2] if uids else picture.stem.rpartition(self.case)[2]
        digits = re.findall(r"\d+", rest)
        if picture.frame is None and not digits:
            raise _no_slice(picture, "no UID of a slice and no number of one in its name", n_slices)
        number = int(digits[-1]) if digits else int(picture.frame or 0)
        counts: SliceNumbers = numbers if digits else "index"
        return self._numbered(number, picture, n_slices, counts)

    def _numbered(self, number: int, picture: Picture, n_slices: int, numbers: SliceNumbers) -> int:
        if numbers == "instance":
            places = [place for place, own in enumerate(self.instance_numbers) if own == number]
            if len(places) != 1:
                raise _no_slice(picture, f"Instance Number {number}, which {len(places)} slices have", n_slices)
            return places[0]
        index = number - (1 if numbers == "index-from-1" else 0)
        if not 0 <= index < n_slices:
            raise _no_slice(picture, f"slice {number} of an image of {n_slices}", n_slices)
        return index


def _no_slice(picture: Picture, what: str, n_slices: int) -> GeometryError:
    return GeometryError(
        found=f"the picture {picture.stem}: {what}",
        expected=f"in its name the SOP Instance UID of a slice of the series, or the number of one of its {n_slices}",
        fix="name the pictures after the slices that they show, or say what their numbers count: --slice-numbers",
    )


def masks_of(
    drawings: Drawings, keys: SliceKeys, grid: Geometry, *, numbers: SliceNumbers = "index"
) -> tuple[tuple[Segmentation, ...], tuple[str, ...], tuple[int, ...]]:
    """Fill what was drawn on the slices of one image.

    Parameters
    ----------
    drawings
        The file's content; pictures of other cases are passed over.
    keys
        What the image's slices are known by.
    grid
        The image's grid.
    numbers
        What a number in a picture's name counts.

    Returns
    -------
    tuple of Segmentation
        As few label maps as hold all structures; values are positions in the file's order.
    tuple of str
        The pairs of structures that overlap.
    tuple of int
        The slices on which something was drawn, sorted.

    Raises
    ------
    GeometryError
        If no picture is one of this image, a picture has another size than the slice, or its slice is not known.
    FormatError
        If two pictures with shapes are of one slice.
    """
    mine = [picture for picture in drawings.pictures if keys.owns(picture)]
    if not mine:
        names = ", ".join(picture.stem for picture in drawings.pictures[:3])
        raise GeometryError(
            found=f"no picture of this image among the {len(drawings.pictures)} of {drawings.program} ({names} ...)",
            expected=f"names with a SOP Instance UID of its series, or that begin with {keys.case}",
            fix="pass the annotations of this study, or name the pictures after it",
        )
    drawn: dict[int, Picture] = {}
    for picture in mine:
        if not picture.shapes:
            continue
        _require_size(picture, grid)
        place = keys.slice_of(picture, grid.shape[2], numbers)
        if place in drawn:
            raise FormatError(
                found=f"two pictures of one slice: {drawn[place].stem} and {picture.stem}",
                expected="one picture a slice",
                fix="take one of them out of the annotations",
            )
        drawn[place] = picture
    layers = Layers(grid, drawings.program)
    for value, name in enumerate(drawings.labels, start=1):
        pieces = [
            ((slice(None), slice(None), place), mask)
            for place, picture in drawn.items()
            if (mask := _mask([shape for shape in picture.shapes if shape.label == name], grid)) is not None
        ]
        if pieces:
            layers.add(Label(value=value, name=name, colour=PALETTE[(value - 1) % len(PALETTE)]), pieces)
    return layers.all(), layers.pairs, tuple(sorted(drawn))


def _require_size(picture: Picture, grid: Geometry) -> None:
    if picture.size is not None and picture.size != grid.shape[:2]:
        width, height = picture.size
        raise GeometryError(
            found=f"the picture {picture.stem} of {width} x {height} pixels for slices of {grid.shape[0]} x "
            f"{grid.shape[1]}",
            expected="pictures of the slices themselves: one pixel a voxel, not turned and not enlarged",
            fix="export the slices again at their own size, and draw on those",
        )


def _mask(shapes: Sequence[Shape], grid: Geometry) -> NDArray[np.bool_] | None:
    """Fill the shapes of one structure on one slice, (I, J)."""
    if not shapes:
        return None
    shape = (grid.shape[0], grid.shape[1])
    polygons = [polygon - CORNER for one in shapes for polygon in one.polygons]
    mask = fill_structure(polygons, shape) if polygons else np.zeros(shape, bool)
    for one in shapes:
        if one.mask is None:
            continue
        if one.mask.T.shape != shape:
            raise FormatError(
                found=f"a painted mask of {one.label} of {one.mask.shape[1]} x {one.mask.shape[0]} pixels",
                expected=f"{shape[0]} x {shape[1]}, as the slices are",
                fix="export the annotations again, on pictures of the slices' own size",
            )
        mask |= one.mask.T
    return mask


def polygon(xs: Iterable[float], ys: Iterable[float]) -> Float64:
    """Return a polygon (N, 2); a last point that repeats the first is left out."""
    points = np.stack([np.asarray(list(xs), np.float64), np.asarray(list(ys), np.float64)], axis=1)
    return points[:-1] if len(points) > 3 and np.array_equal(points[0], points[-1]) else points


def rectangle(left: float, top: float, width: float, height: float, degrees: float = 0.0) -> Float64:
    """Return a rectangle, turned clockwise about its upper left corner."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved: Float64 = corners @ turn.T + np.array([left, top])
    return moved


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Float64:
    """Return an ellipse as a polygon, turned clockwise about its centre."""
    t = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    angle = np.deg2rad(degrees)
    u, v = radius_x * np.cos(t), radius_y * np.sin(t)
    points: Float64 = np.stack(
        [x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], axis=1
    )
    return points


def from_runs(runs: Sequence[int], n: int, name: str) -> NDArray[np.bool_]:
    """Unpack run lengths that begin with background into `n` booleans.

    Raises
    ------
    FormatError
        If they do not add up to `n`.

    Examples
    --------
    >>> from_runs([2, 1, 3], 6, "x").astype(int).tolist()
    [0, 0, 1, 0, 0, 0]
    """
    counts = np.asarray(runs, np.int64)
    if (counts < 0).any() or int(counts.sum()) != n:
        raise FormatError(
            found=f"run lengths of {name} that make {int(counts.sum())} pixels",
            expected=f"{n}, the pixels of the picture",
            fix="export the annotations again",
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def onto(base: Segmentation, drawn: Segmentation, slices: Sequence[int], *, keep_rest: bool) -> Segmentation:
    """Put what was drawn on some slices in the place of what a label map has there.

    Parameters
    ----------
    base
        The label map that was corrected.
    drawn
        What was drawn, on the same grid with the same values.
    slices
        The slices on which something was drawn; on these the drawing stands alone.
    keep_rest
        Whether the other slices keep what `base` has; they are empty if not.

    Raises
    ------
    LabelError
        If the values differ.
    """
    unknown = set(drawn.labels.values) - set(base.labels.values)
    if unknown:
        raise LabelError(found=f"values {sorted(unknown)}", expected="those of the label map", fix="pair them first")
    array = base.array.copy() if keep_rest else np.zeros_like(base.array)
    for place in slices:
        array[:, :, place] = drawn.array[:, :, place]
    return Segmentation(array, base.geometry, LabelTable(labels=base.labels.labels))
