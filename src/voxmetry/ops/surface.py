"""The surfaces of all labels of a map, found in one pass.

Two definitions. 'elements': in each 2 x 2 x 2 block of voxel centres that a structure's border runs through, marching
cubes draws a small piece of surface; it counts with its area in mm2 and lies at the centre of the block. 'border
voxels': voxels of the structure that share a face with a voxel that does not belong to it, each counting one. The
outside of the grid belongs to no structure, so that a structure cut off by the border is closed there.

Positions are kept as flat indices into the grid with one voxel of padding on each side, shape (I + 2, J + 2, K + 2).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import release_pages
from voxmetry.errors import ConfigError, GeometryError

SurfaceKind: TypeAlias = Literal["elements", "border voxels"]

_SLAB_VOXELS = 2_000_000
"""Size of the pieces that are looked at together: their temporaries stay in the processor's cache."""

_CORNERS = tuple((i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1))


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface of one structure.

    Parameters
    ----------
    index
        (N,), flat indices into the padded grid.
    code
        (N,) uint8, for 'elements': which of the block's eight voxels belong to the structure, the most significant
        bit first, the last axis running fastest. None for 'border voxels'.
    """

    index: NDArray[Any]
    code: NDArray[np.uint8] | None

    def __len__(self) -> int:
        return len(self.index)


def surfaces(array: NDArray[Any], kind: SurfaceKind = "elements") -> dict[int, Surface]:
    """Find the surface of each label that is present.

    Parameters
    ----------
    array
        (I, J, K), unsigned integers, 0 is background. Quickest when C-contiguous.
    kind
        'elements' or 'border voxels'.

    Returns
    -------
    dict
        Value -> surface, rising by value.

    Examples
    --------
    >>> array = np.zeros((3, 3, 3), np.uint8)
    >>> array[1, 1, 1] = 5
    >>> {value: len(surface) for value, surface in surfaces(array).items()}
    {5: 8}
    >>> len(surfaces(array, "border voxels")[5])
    1
    """
    parts: dict[int, list[tuple[NDArray[Any], NDArray[np.uint8] | None]]] = {}
    for value, index, codes in surface_parts(array, kind):
        parts.setdefault(value, []).append((index, codes))
    return {value: _joined(parts[value]) for value in sorted(parts)}


def surface_in(
    array: NDArray[Any], value: int, box: tuple[slice, slice, slice], kind: SurfaceKind, fits: Callable[[int], bool]
) -> Surface | None:
    """Find the surface of one label, looking at its box alone, slab by slab.

    Parameters
    ----------
    array
        (I, J, K), unsigned integers.
    value, box
        The label, and where it lies; some voxel of the box has it.
    kind
        'elements' or 'border voxels'.
    fits
        Says whether there is room for so many points.

    Returns
    -------
    Surface or None
        As `surfaces` finds it, its points in another order; None where there is no room.

    Examples
    --------
    >>> array = np.zeros((3, 3, 3), np.uint8)
    >>> array[1, 1, 1] = 5
    >>> len(surface_in(array, 5, (slice(1, 2),) * 3, "elements", lambda n: n < 100))
    8
    """
    crop = array[box]
    inner, outer = (tuple(n + 2 for n in shape) for shape in (crop.shape, array.shape))
    corner = [part.start for part in box]
    parts: list[tuple[NDArray[Any], NDArray[np.uint8] | None]] = []
    found = 0
    for _, index, codes in surface_parts(crop, kind, only=value):
        found += len(index)
        if not fits(found):
            return None
        i, j, k = np.unravel_index(index, inner)
        flat = ((i + corner[0]) * outer[1] + j + corner[1]) * outer[2] + k + corner[2]
        parts.append((flat.astype(_index_type(array.shape)), codes))
    return _joined(parts)


def surface_parts(
    array: NDArray[Any], kind: SurfaceKind = "elements", *, only: int | None = None
) -> Iterator[tuple[int, NDArray[Any], NDArray[np.uint8] | None]]:
    """Find the surfaces as `surfaces` does, piece by piece: value, `Surface.index` and `Surface.code` of each.

    With `only` that of one label, as if nothing else were there.
    """
    find, overlap = (_elements, 1) if require_kind(kind) == "elements" else (_border_voxels, 2)
    for start, block in _padded_slabs(array, overlap):
        if only is not None:
            block[block != only] = 0
        index, labels, codes = find(block)
        order = np.argsort(labels, kind="stable")
        index, labels = (index[order] + start).astype(_index_type(array.shape)), labels[order]
        codes = None if codes is None else codes[order]
        edges = np.flatnonzero(np.diff(labels, prepend=0, append=0))
        for low, high in itertools.pairwise(edges):
            yield int(labels[low]), index[low:high], None if codes is None else codes[low:high]
        release_pages(array)


def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area of the marching-cubes surface in a block of 2 x 2 x 2 voxels, for each of its 256 codes.

    Parameters
    ----------
    spacing_mm
        Distances between the voxel centres.

    Returns
    -------
    ndarray
        (256,), mm2; a code and its complement have the same area.

    References
    ----------
    Lorensen and Cline, 1987, doi:10.1145/37402.37422. Areas as weights of surface distances: Nikolov et al., 2021,
    doi:10.2196/26151.

    Examples
    --------
    >>> float(element_areas_mm2((1.0, 2.0, 3.0))[0b11110000])
    6.0
    """
    scale = np.array([spacing_mm[1] * spacing_mm[2], spacing_mm[0] * spacing_mm[2], spacing_mm[0] * spacing_mm[1]])
    # The classic table cuts the ambiguous faces of a code and of its complement differently; here the side with fewer
    # voxels decides, so that a structure and its background have the same surface.
    fewer = [code if code.bit_count() <= 4 else 255 - code for code in range(256)]
    return np.array([np.linalg.norm(_triangles()[code][0] * scale, axis=1).sum() for code in fewer])


@functools.cache
def _triangles() -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
    """Triangles of each code in a block of unit size: area vectors pointing outwards and centroids, each (T, 3).

    Neighbouring blocks fit together: the surface that they make is closed.
    """
    from skimage.measure import marching_cubes

    nothing = (np.zeros((0, 3)), np.zeros((0, 3)))
    table = [nothing]
    for code in range(1, 255):
        corners = np.array([code >> (7 - bit) & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        points, faces, _, _ = marching_cubes(corners, 0.5, method="lorensen", allow_degenerate=False)
        a, b, c = (points[faces[:, corner]].astype(np.float64) for corner in range(3))
        table.append((np.cross(b - a, c - a) / 2, (a + b + c) / 3))
    return (*table, nothing)


class MeshSums:
    """What the size of the closed marching-cubes mesh round a structure follows from, gathered piece by piece.

    All of it is whole numbers, so that the pieces do not matter.

    Parameters
    ----------
    shape
        (I, J, K) of the array that the surface was found in.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._padded = tuple(size + 2 for size in shape)
        self._n = np.zeros(256, np.int64)
        self._places = np.zeros((256, 3), np.int64)

    def add(self, index: NDArray[Any], code: NDArray[np.uint8]) -> None:
        """Add 'elements' of the surface, (N,) each; see `Surface`."""
        self._n += np.bincount(code, minlength=256)
        for axis, position in enumerate(np.unravel_index(index, self._padded)):
            # Exact: float64 holds these sums of whole numbers.
            self._places[:, axis] += np.bincount(code, weights=position, minlength=256).astype(np.int64)

    def area_and_volume(self, matrix: NDArray[np.float64]) -> tuple[float, float]:
        """Return the area and the content of the mesh.

        Parameters
        ----------
        matrix
            (3, 3), steps along i, j, k in mm, one a column; sheared and left-handed ones are right too.

        Returns
        -------
        area_mm2, volume_mm3
            The volume by the divergence theorem over the triangles.

        References
        ----------
        Zhang and Chen, 2001, doi:10.1109/ICIP.2001.958278.
        """
        scale = abs(float(np.linalg.det(matrix)))
        # Area vectors map by the cofactors of the matrix; volumes only by its determinant.
        cofactors = scale * np.linalg.inv(matrix).T
        total, middle = int(self._n.sum()), [int(x) for x in self._places.sum(axis=0)]
        area = volume = 0.0
        for code in np.flatnonzero(self._n).tolist():
            n = int(self._n[code])
            vectors, centroids = _triangles()[code]
            # From the middle of the surface, where the terms are small; by whole numbers, of which none is rounded.
            origin = [(int(x) * total - n * m) / total for x, m in zip(self._places[code], middle, strict=True)]
            area += float(n * np.linalg.norm(vectors @ cofactors.T, axis=1).sum())
            volume += float(np.array(origin) @ vectors.sum(axis=0) + n * (vectors * centroids).sum()) / 3
        return area, scale * abs(volume)


def require_kind(kind: str) -> str:
    """Return the name of a surface definition, or raise `ConfigError`."""
    if kind not in ("elements", "border voxels"):
        raise ConfigError(
            found=f"surface={kind!r}", expected="'elements' or 'border voxels'", fix="choose one of the two definitions"
        )
    return kind


def require_right_angles(geometry: Geometry) -> None:
    """Raise `GeometryError` for a sheared grid: distances along its indices are not distances in the patient."""
    if not geometry.is_orthogonal:
        raise GeometryError(
            found="a sheared grid: its axes do not stand at right angles (a tilted gantry does this)",
            expected="axes at right angles to each other, cosines below 0.001; they may be oblique to the patient",
            fix="resample both label maps onto a grid with right angles first, as by 3D Slicer, or in Python "
            "by voxmetry.resample(x, to=grid)",
        )


def _index_type(shape: tuple[int, ...]) -> type[np.signedinteger[Any]]:
    return np.int32 if np.prod([n + 2 for n in shape], dtype=np.int64) < 2**31 else np.int64


def _joined(parts: list[tuple[NDArray[Any], NDArray[np.uint8] | None]]) -> Surface:
    codes = [code for _, code in parts if code is not None]
    return Surface(np.concatenate([index for index, _ in parts]), np.concatenate(codes) if codes else None)


def _padded_slabs(array: NDArray[Any], overlap: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield pieces along the first axis of the zero-padded array that overlap by so many planes.

    With each comes the flat index of its first voxel in the padded grid.
    """
    planes, rows, columns = (n + 2 for n in array.shape)
    thick = max(1, _SLAB_VOXELS // (rows * columns))
    for first in range(0, planes - overlap, thick):
        last = min(first + thick + overlap, planes)
        block = np.zeros((last - first, rows, columns), array.dtype)
        low, high = max(first - 1, 0), min(last - 1, array.shape[0])
        block[low + 1 - first : high + 1 - first, 1:-1, 1:-1] = array[low:high]
        yield first * rows * columns, block


def _elements(block: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[np.uint8]]:
    """Find the surface elements whose lower corner lies in the block, but for its last plane.

    Returns flat indices of the lower corners, labels, and codes, each (N,).
    """
    # The padding is background, so a flat shift over the end of a row compares background with background.
    _, rows, columns = block.shape
    flat = block.ravel()
    steps = np.array([i * rows * columns + j * columns + k for i, j, k in _CORNERS])
    reach = flat.size - rows * columns - columns - 1
    along_k = flat[1:] != flat[:-1]
    face = along_k[:-columns] | along_k[columns:]
    face |= flat[columns:-1] != flat[: -columns - 1]
    mixed = face[:reach] | face[rows * columns :][:reach]
    mixed |= flat[rows * columns :][:reach] != flat[:reach]
    where = np.flatnonzero(mixed)
    corners = [flat[where + step] for step in steps]
    found = []
    for bit, label in enumerate(corners):
        new = label != 0
        for earlier in corners[:bit]:
            new &= earlier != label
        chosen = np.flatnonzero(new)
        label_here = label[chosen]
        code = np.full(len(chosen), 128 >> bit, np.uint8)
        for later in range(bit + 1, 8):
            code |= (corners[later][chosen] == label_here).view(np.uint8) << np.uint8(7 - later)
        found.append((where[chosen], label_here, code))
    index, labels, codes = (np.concatenate(column) for column in zip(*found, strict=True))
    return index, labels, codes


def _border_voxels(block: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any], None]:
    """Find the border voxels of the block, but for its first and last plane: flat indices and labels, each (N,)."""
    _, rows, columns = block.shape
    inner = block[1:-1].ravel()
    border = np.zeros(inner.shape, dtype=bool)
    for step in (1, columns, rows * columns):
        for sign in (-step, step):
            start = rows * columns + sign
            border |= inner != block.ravel()[start : start + inner.size]
    border &= inner != 0
    where = np.flatnonzero(border)
    return where + rows * columns, inner[where], None
