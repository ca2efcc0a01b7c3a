"""All slices of a volume as tiles of one picture: Siemens' mosaics and United Imaging's grids.

In a mosaic the header's Image Position (Patient) is that of the whole picture, as if it were one slice around the same
centre; the number of tiles and the direction in which slices follow each other are in the private CSA header. In a grid
the place of each tile is in a private sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxmetry.core.geometry import Float64
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, number, numbers, text, whole

_UIH, _UIH_GROUP = "Image Private Header", 0x0065
_MOST_TILES = 4096


@dataclass(frozen=True)
class Tiles:
    """The slices of a mosaic."""

    rows: int
    columns: int
    """Size of one slice."""
    across: int
    """Tiles in each row of the picture."""
    down: int
    """Tiles in each column of the picture."""
    positions: tuple[tuple[float, float, float], ...]
    """Centre of the first voxel of each slice in LPS+ mm."""


def is_mosaic(dataset: Elements) -> bool:
    """Whether a header is that of a mosaic, or of a grid."""
    kinds = (text(dataset, "ImageType") or "").split("\\")
    return "MOSAIC" in kinds or ("VFRAME" in kinds and _uih_count(dataset) is not None)


def tiles_of(dataset: Elements) -> Tiles:
    """Say where each tile of a mosaic or of a grid lies; raises and counts as `_mosaic_tiles` and `_grid_tiles`."""
    if _uih_count(dataset) is not None:
        return _grid_tiles(dataset)
    return _mosaic_tiles(dataset)


def _grid_tiles(dataset: Elements) -> Tiles:
    """Say where each tile of United Imaging's grid lies.

    Raises
    ------
    ValueError
        If the header does not say how many tiles there are or where they lie.

    Notes
    -----
    With `n` slices (0065,xx50) there are `ceil(sqrt(n))` tiles in a row and `ceil(n / tiles in a row)` rows of them; an
    item of (0065,xx51) for each holds its own Image Position (Patient).
    """
    count = _uih_count(dataset) or 0
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if not 0 < count <= _MOST_TILES or not rows or not columns:
        raise ValueError("nothing says how many slices it holds")
    across = math.isqrt(count - 1) + 1
    down = -(-count // across)
    if rows % down or columns % across:
        raise ValueError(f"{rows} x {columns} pixels are not {down} x {across} tiles")
    items = dataset.private_items(_UIH_GROUP, _UIH, 0x51)
    positions = [numbers(item, "ImagePositionPatient", 3) for item in items]
    found = tuple((x[0], x[1], x[2]) for x in positions if x is not None)
    if len(items) != count or len(found) != count:
        raise ValueError(f"{len(found)} of its {count} slices have a position")
    return Tiles(rows // down, columns // across, across, down, found)


def _uih_count(dataset: Elements) -> int | None:
    try:
        value = dataset.private(_UIH_GROUP, _UIH, 0x50, "DS")
        return None if value is None else int(float(value))
    except PARSING_ERRORS:
        return None


def _mosaic_tiles(dataset: Elements) -> Tiles:
    """Say where each tile of a Siemens mosaic lies.

    Raises
    ------
    ValueError
        If the header does not say how many tiles there are or where they lie.

    Notes
    -----
    With `n` tiles, the picture has `ceil(sqrt(n))` of them in each row and column. The picture's centre is the centre
    of the first slice, so the first slice's corner is half of the difference of the two sizes further in. Slices follow
    each other along the CSA header's SliceNormalVector by Spacing Between Slices; without it the side of the picture on
    which they lie is not known.
    """
    csa = _csa(dataset)
    count = _count(dataset, csa)
    normal = csa.get("SliceNormalVector", [])
    step = number(dataset, "SpacingBetweenSlices")
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    position, spacing = numbers(dataset, "ImagePositionPatient", 3), numbers(dataset, "PixelSpacing", 2)
    cosines = numbers(dataset, "ImageOrientationPatient", 6)
    if count is None:
        raise ValueError("nothing says how many slices it holds")
    if position is None or spacing is None or cosines is None or not rows or not columns:
        raise ValueError("its position, orientation, spacing or size is absent")
    if count > 1 and (len(normal) != 3 or not step or step <= 0):
        raise ValueError("its slice normal or Spacing Between Slices is absent")
    across = math.isqrt(count - 1) + 1
    if rows % across or columns % across:
        raise ValueError(f"{rows} x {columns} pixels are not {across} x {across} tiles")
    tile_rows, tile_columns = rows // across, columns // across
    along_row, down_column = np.reshape(cosines, (2, 3))
    first: Float64 = (
        np.array(position)
        + along_row * spacing[1] * (columns - tile_columns) / 2
        + down_column * spacing[0] * (rows - tile_rows) / 2
    )
    shift = np.zeros(3) if count == 1 else _direction(normal, along_row, down_column) * float(step or 0)
    places = [first + index * shift for index in range(count)]
    return Tiles(tile_rows, tile_columns, across, across, tuple((float(x), float(y), float(z)) for x, y, z in places))


def _direction(normal: list[Any], along_row: Float64, down_column: Float64) -> Float64:
    """Return the normal of the slices on the side that the CSA header says."""
    cross = np.cross(along_row, down_column)
    try:
        side = float(np.dot([float(x) for x in normal], cross))
    except TypeError:
        raise ValueError("its slice normal is not three numbers") from None
    if abs(abs(side) - 1) > 1e-3:
        raise ValueError("its slice normal is not that of its rows and columns")
    return cross * math.copysign(1, side)


def _count(dataset: Elements, csa: dict[str, list[Any]]) -> int | None:
    stated = csa.get("NumberOfImagesInMosaic", [])
    try:
        count = int(stated[0]) if stated else dataset.private(0x0019, "SIEMENS MR HEADER", 0x0A, "US")
    except PARSING_ERRORS:
        return None
    return int(count) if isinstance(count, int) and 0 < count <= _MOST_TILES else None


def _csa(dataset: Elements) -> dict[str, list[Any]]:
    """Return the values of the CSA image header by name."""
    try:
        raw = dataset.private(0x0029, "SIEMENS CSA HEADER", 0x10, "OB")
    except PARSING_ERRORS:
        return {}
    if not isinstance(raw, bytes):
        return {}
    from nibabel.nicom.csareader import CSAReadError, read

    try:
        tags = read(raw)["tags"]
    except (CSAReadError, AssertionError, MemoryError, *PARSING_ERRORS):
        # nibabel asserts what it expects of the bytes.
        return {}
    return {name: list(tag["items"]) for name, tag in tags.items()}
