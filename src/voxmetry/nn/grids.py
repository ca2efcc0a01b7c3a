"""Grids that a network works on: axes renamed, turned round and resampled, and rotated only where they must be.

A study's grid, brought closest to the model's orientation, and the model's grid over it run along the same directions,
so that interpolation between the two is linear along one axis after the other: exact, and the same code both ways.
A study that is turned against the patient further than the model was trained on is the exception: see `is_turned`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from voxmetry.config import ModelSpec, Resampling
from voxmetry.core.axes import AXIS_OF, is_as_stored, reorientation
from voxmetry.core.geometry import Geometry

SAME_SPACING = 1e-3
"""Spacings within a thousandth of the model's are taken as they are: resampling would blur and gain nothing."""

SAME_DIRECTION = 1e-6
"""Difference of unit vectors below which two grids run along the same axes: a thousandth of a voxel over a thousand.
Affines in float32 are rounded by a tenth of that."""

UPRIGHT_MARGIN_DEGREES = 12.0
"""A grid turned by no more than this beyond what was seen in training is taken as it is: augmentation has shown the
network such patients, and interpolation costs as much as it gains. See docs/reference/models.md for the figures."""


def is_turned(geometry: Geometry, spec: ModelSpec) -> bool:
    """Say whether a study is brought onto the patient's axes first, as it is turned further than the model has seen.

    Only where the model says what it has seen, resamples by the rule 'centred' and has an orientation in the patient.
    """
    seen = spec.training_domain.obliqueness_degrees
    if seen is None or spec.resampling.rule != "centred" or is_as_stored(spec.orientation):
        return False
    return round(geometry.obliqueness_degrees - seen.high - UPRIGHT_MARGIN_DEGREES, 3) > 0


def along_same_axes(first: Geometry, other: Geometry) -> bool:
    """Say whether two grids run along the same directions, but for the rounding of their affines."""
    return np.allclose(first.directions, other.directions, rtol=0, atol=SAME_DIRECTION)


def upright_grid(geometry: Geometry, orientation: str, spacing_mm: Sequence[float]) -> Geometry:
    """Return the grid along the patient's axes that covers all voxels of another, with the same centre.

    Examples
    --------
    >>> turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    >>> upright_grid(Geometry(turned, (10, 10, 10)), "RAS", (1, 1, 2))
    Geometry(14 x 14 x 5 @ 1 x 1 x 2 mm, RAS)
    """
    directions = np.zeros((3, 3))
    for axis, code in enumerate(orientation):
        patient, sign = AXIS_OF[code]
        directions[patient, axis] = sign
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    extent = np.abs(directions.T @ geometry.affine[:3, :3]) @ np.array(geometry.shape)
    shape = np.maximum(1, np.ceil(extent / spacing - SAME_SPACING)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = geometry.to_mm((np.array(geometry.shape) - 1) / 2) - affine[:3, :3] @ ((shape - 1) / 2)
    return Geometry(affine, (int(shape[0]), int(shape[1]), int(shape[2])), geometry.frame_uid)


def model_grid(geometry: Geometry, spec: ModelSpec) -> Geometry:
    """Return the model's grid over a field of view: the model's orientation and spacing, by the rule of its resampling.

    By the rule 'centred', the two grids share their centre; along an axis whose spacing is the model's to a thousandth,
    the grid keeps its voxels; over a study that `is_turned` it runs along the patient's axes. By the rule 'nnunet',
    `geometry` should be the grid of the cropped image.
    """
    if is_turned(geometry, spec):
        return upright_grid(geometry, spec.orientation, spec.spacing_mm)
    _, oriented = reorientation(geometry, spec.orientation)
    if spec.resampling.rule == "nnunet":
        return edge_grid(oriented, target_spacing(oriented, spec))
    if spec.resampling.rule == "monai":
        return _corner_grid(oriented, spec.spacing_mm)
    if spec.resampling.rule == "native":
        return oriented
    shape, step, start = list(oriented.shape), [1.0] * 3, [0.0] * 3
    sizes = zip(oriented.shape, oriented.spacing_mm, oriented.nominal_spacing_mm, spec.spacing_mm, strict=True)
    for axis, (size, have, nominal, want) in enumerate(sizes):
        # On sizes without the affine's rounding: neither a threshold nor a half voxel may hang on its last digit.
        if round(abs(nominal - want) / want - SAME_SPACING, 6) <= 0:
            continue
        shape[axis] = max(1, round(round(size * nominal / want, 4)))
        step[axis] = want / have
        # Voxel centres of both grids share the middle of the field of view.
        start[axis] = ((size - 1) - (shape[axis] - 1) * want / have) / 2
    return oriented.resized(shape, step=step, start=start)


def target_spacing(oriented: Geometry, spec: ModelSpec) -> tuple[float, float, float]:
    """Return the voxel size that a grid in the model's orientation is resampled to; see `Resampling.keep_first`."""
    first, *rest = spec.spacing_mm
    return (oriented.nominal_spacing_mm[0] if spec.resampling.keep_first else first, rest[0], rest[1])


def edge_grid(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> Geometry:
    """Return the grid of about this spacing with the same outermost voxel edges, as nnU-Net has it.

    Its voxel size is the whole extent divided by a whole number of voxels, and so not exactly `spacing_mm`. The number
    follows from `Geometry.nominal_spacing_mm`, as nnU-Net takes the header's sizes and not those of the affine.

    Examples
    --------
    >>> grid = edge_grid(Geometry(np.diag([1.0, 1.0, 3.0, 1.0]), (10, 10, 10)), (1.0, 1.5, 1.5))
    >>> grid.shape, [round(float(mm), 3) for mm in grid.spacing_mm]
    ((10, 7, 20), [1.0, 1.429, 1.5])
    """
    sizes = zip(geometry.shape, geometry.nominal_spacing_mm, spacing_mm, strict=True)
    shape = [max(1, round(have / want * size)) for size, have, want in sizes]
    step = [size / n for size, n in zip(geometry.shape, shape, strict=True)]
    return geometry.resized(shape, step=step, start=[(each - 1) / 2 for each in step])


def _corner_grid(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> Geometry:
    """Return the grid of this spacing that starts at the same first voxel, as MONAI's `Spacing` makes it."""
    step = [want / have for have, want in zip(geometry.spacing_mm, spacing_mm, strict=True)]
    return geometry.resized(_monai_shape(geometry, spacing_mm), step=step, start=(0.0, 0.0, 0.0))


def _monai_shape(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> list[int]:
    """Return the shape that MONAI's `zoom_affine` and `compute_shape_offset` come to.

    By their steps in their order: where half a voxel is left over, MONAI rounds what these leave of it.
    """
    source = np.array(geometry.affine)
    scale = np.linalg.cholesky(source[:3, :3].T @ source[:3, :3]).T
    target = np.eye(4)
    target[:3, :3] = source[:3, :3] @ np.linalg.inv(scale) @ np.diag(np.sign(np.diag(scale)) * np.array(spacing_mm))
    corners = np.array(np.meshgrid(*[(0.0, size - 1.0) for size in geometry.shape], indexing="ij")).reshape(3, -1)
    corners = np.concatenate([corners, np.ones_like(corners[:1])])
    spread = np.ptp((np.linalg.solve(target, source) @ corners)[:3], axis=1)
    return [int(size) for size in np.round(spread + 1.0)]


def thick_axis(first_mm: Sequence[float], second_mm: Sequence[float], how: Resampling) -> int | None:
    """Return the axis of thick slices that are resampled each by itself, or None.

    Parameters
    ----------
    first_mm, second_mm
        Voxel sizes before and after. The first that is anisotropic decides.
    how
        With `slices_apart` on, the first decides in any case; with it off, the answer is None.

    Examples
    --------
    >>> thick_axis((1, 1, 1), (5, 0.8, 0.8), Resampling(rule="nnunet"))
    0
    >>> thick_axis((2, 1, 1), (1, 1, 1), Resampling(rule="nnunet")) is None
    True
    """
    if how.rule != "nnunet" or how.slices_apart is False:
        return None
    thick = [mm for mm in (first_mm, second_mm) if how.slices_apart or max(mm) / min(mm) > how.anisotropy]
    if not thick:
        return None
    largest = [axis for axis in range(3) if thick[0][axis] == max(thick[0])]
    return largest[0] if len(largest) == 1 else None


def restoring_positions(
    grid: Geometry, oriented: Geometry, spec: ModelSpec
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[slice, slice, slice]]:
    """Say where the study's voxels lie on the model's grid, and which of them it covers.

    Parameters
    ----------
    grid
        The model's grid, as `preprocess` returned it.
    oriented
        The study's own grid with its axes in the model's order.
    spec
        The model.

    Returns
    -------
    positions
        One array an axis, of the covered voxels, in voxels of `grid`: whole numbers along an axis on which the nearest
        is to be taken.
    box
        The covered voxels; all others are background. All, but where the image was cropped.
    """
    nearest_scores = spec.resampling.score_order == 0
    if spec.resampling.rule != "nnunet":
        # As MONAI rounds: half-way between two voxels, the affine's last digit decides there too.
        i, j, k = (np.round(at) if nearest_scores else at for at in positions(grid, oriented))
        return (i, j, k), (slice(None), slice(None), slice(None))
    apart = thick_axis(target_spacing(oriented, spec), oriented.nominal_spacing_mm, spec.resampling)
    found, box = [], []
    for axis, size in enumerate(grid.shape):
        ijk = np.zeros((oriented.shape[axis], 3))
        ijk[:, axis] = np.arange(oriented.shape[axis])
        free = grid.to_ijk(oriented.to_mm(ijk))[:, axis]
        there = np.flatnonzero((free > -0.5) & (free < size - 0.5))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
        at = edge_positions(size, len(there))
        whole = nearest_scores or axis == apart
        found.append(nearest(at, size) if whole else np.clip(_whole(at, 1e-9), 0, size - 1))
    return (found[0], found[1], found[2]), (box[0], box[1], box[2])


def edge_positions(size: int, new_size: int) -> np.ndarray:
    """Return where the voxels of a line lie in voxels of another with the same outermost edges, by nnU-Net's formula.

    From counts of voxels, not from affines: half-way between two slices, the rounding of an affine would decide.
    """
    at: np.ndarray = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    return at


def nearest(at: np.ndarray, size: int) -> np.ndarray:
    """Return the voxel nearest to each position along an axis of `size` voxels, int64; of two equals the later one.

    Examples
    --------
    >>> nearest(np.array([-0.3, 0.5, 1.4, 9.0]), 4).tolist()
    [0, 1, 1, 3]
    """
    found: np.ndarray = np.floor(at + 0.5).astype(np.int64)
    return np.clip(found, 0, size - 1)


def positions(source: Geometry, target: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say, for each axis of two grids along the same directions, where the target's voxels lie in source voxels.

    Positions beyond the source's outermost voxels are held at these.
    """
    found = []
    for axis in range(3):
        ijk = np.zeros((target.shape[axis], 3))
        ijk[:, axis] = np.arange(target.shape[axis])
        at = source.to_ijk(target.to_mm(ijk))[:, axis]
        # Rounding noise of the affine must not blend two voxels where one is meant.
        found.append(np.clip(_whole(at, 1e-6), 0, source.shape[axis] - 1))
    return (found[0], found[1], found[2])


def _whole(at: np.ndarray, slack: float) -> np.ndarray:
    """Take positions that are whole numbers but for `slack` as whole."""
    whole = np.round(at)
    return np.where(np.abs(at - whole) < slack, whole, at)


def interpolate(values: torch.Tensor, at: np.ndarray, axis: int) -> torch.Tensor:
    """Interpolate linearly along one axis of a tensor at positions `at`, in its voxels and within its range."""
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32)
    if not share.any() and np.array_equal(low, np.arange(values.shape[axis])):
        return values
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = torch.from_numpy(share).to(values.device).reshape(shape)
    below, above = (values.index_select(axis, torch.from_numpy(i).to(values.device)) for i in (low, high))
    return torch.lerp(below, above, weight)
