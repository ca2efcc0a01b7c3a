"""Label maps that images are made from, kept as one flat array of compact values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from voxmetry.config.synthesis import Lesions, Synthesis
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import InputError, LabelError
from voxmetry.io import read_segmentation

FIELD_MM = 4.0
"""Grid of the fields that inflate."""
SOFT_MM = 6.0
"""Standard deviation of the Gaussian that softens what is inflated, before its gradient is taken."""


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Label maps on grids of their own, along the model's axes.

    Parameters
    ----------
    names
        One a map.
    values
        The values of the files, in the order of the compact ones; the first is 0.
    flat
        All maps one after the other, uint8, the place of a voxel's value in `values`.
    offsets
        (N,) int64, where each begins.
    shapes, spacings_mm
        (N, 3).
    boxes
        (N, 2, 3) float, where most voxels with a target label lie along each axis: from the 2nd to the 98th percentile,
        as the fluid round the brain goes on down the spine.
    fields
        (N, 3, a, b, c) float32, unit displacements that inflate, in mm, over each map's own extent; None: no such.
    cerebra
        (N, 2, 3) float, first and last voxel of the labels that lesions are matched by; None: no lesions.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    flat: torch.Tensor
    offsets: torch.Tensor
    shapes: torch.Tensor
    spacings_mm: torch.Tensor
    boxes: torch.Tensor
    fields: tuple[torch.Tensor, ...] | None
    cerebra: torch.Tensor | None

    def volumes_ml(self, value: int) -> list[float]:
        """Return the volume of a value in each map."""
        place, found = self.values.index(value), []
        for n in range(len(self.names)):
            size = int(self.shapes[n].prod())
            part = self.flat[int(self.offsets[n]) : int(self.offsets[n]) + size]
            found.append(float((part == place).sum()) * float(self.spacings_mm[n].prod()) / 1000)
        return found


def find_label_maps(path: Path) -> list[Path]:
    """Return the files of a folder, or those that a pattern in the last part of a path finds.

    Raises
    ------
    InputError
        If there are none.
    """
    from voxmetry.io.suffixes import ITK, NIFTI, suffix_of

    if path.is_dir():
        found = sorted(file for file in path.iterdir() if suffix_of(file) in (*NIFTI, *ITK))
    else:
        found = sorted(path.parent.glob(path.name))
    if not found:
        raise InputError(
            found=f"no label map at {path.name}",
            expected="a folder of label maps, or a pattern such as maps/*.nii.gz",
            fix="correct synthesis.label_maps, or set VOXMETRY_DATA to the folder that it starts from",
        )
    return found


def read_label_maps(paths: Sequence[Path], how: Synthesis, orientation: str) -> LabelMaps:
    """Read label maps.

    Raises
    ------
    LabelError
        If one holds a value that the configuration does not name.
    VoxmetryError
        If one cannot be read.
    """
    return gather_maps([(path.name, read_segmentation(path)) for path in paths], how, orientation)


def gather_maps(maps: Sequence[tuple[str, Segmentation]], how: Synthesis, orientation: str) -> LabelMaps:
    """Bring label maps together, along the axes of `orientation`."""
    values = how.values
    arrays, grids = [], []
    for name, found in maps:
        compact = _compact(found.array, values, name)
        moved, oriented = reorientation(found.geometry, orientation)
        arrays.append(np.ascontiguousarray(moved.forward(compact)))
        grids.append(oriented)
    targets = _places(values, how.targets)
    sizes = [array.size for array in arrays]
    inflate = _places(values, how.deformation.inflate)
    fields = tuple(_inflation(array, grid, inflate) for array, grid in zip(arrays, grids, strict=True))
    lesions = how.lesions
    cerebra = None if lesions is None else [_box(array, _places(values, lesions.cerebrum)) for array in arrays]
    return LabelMaps(
        names=tuple(name for name, _ in maps),
        values=values,
        flat=torch.from_numpy(np.concatenate([array.ravel() for array in arrays])),
        offsets=torch.tensor(np.concatenate([[0], np.cumsum(sizes)[:-1]])),
        shapes=torch.tensor([array.shape for array in arrays]),
        spacings_mm=torch.tensor([grid.spacing_mm for grid in grids], dtype=torch.float32),
        boxes=torch.tensor(np.array([_middle(array, targets) for array in arrays]), dtype=torch.float32),
        fields=fields if how.deformation.inflate and how.deformation.inflate_mm else None,
        cerebra=None if cerebra is None else torch.tensor(np.array(cerebra), dtype=torch.float32),
    )


def read_lesions(folder: Path, lesions: Lesions) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Read lesion masks.

    Returns
    -------
    list of Tensor, list of Tensor
        Masks (I, J, K) bool along R, A, S, and for each the voxels (2, 3) that the cerebrum's box ends at.
    """
    masks, boxes = [], []
    for path in find_label_maps(folder):
        found = read_segmentation(path)
        moved, oriented = reorientation(found.geometry, "RAS")
        masks.append(torch.from_numpy(np.ascontiguousarray(moved.forward(found.array)) > 0))
        corners = np.array(lesions.cerebrum_mm).T
        boxes.append(torch.tensor(np.array([oriented.to_ijk(corner) for corner in corners]), dtype=torch.float32))
    return masks, boxes


def _compact(array: NDArray[np.generic], values: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """Replace the values of a label map by their places."""
    if len(values) > 255:
        raise LabelError(
            found=f"{len(values)} values in the synthesis configuration", expected="at most 255", fix="merge some"
        )
    rule = np.full(max(int(array.max()), max(values)) + 1, 255, np.uint8)
    rule[list(values)] = np.arange(len(values))
    compact: NDArray[np.uint8] = rule[array]
    if (compact == 255).any():
        odd = np.unique(array[compact == 255]).tolist()
        raise LabelError(
            found=f"the values {odd[:10]} in the label map {name}",
            expected="values that synthesis.targets, outside, tissues, mixtures or ignored name",
            fix="add them, to ignored if they are to be background",
        )
    return compact


def _places(values: tuple[int, ...], wanted: Sequence[int] | dict[int, str]) -> list[int]:
    return [values.index(value) for value in wanted]


def _box(array: NDArray[np.uint8], places: Sequence[int]) -> NDArray[np.float64]:
    inside = np.isin(array, list(places))
    if not inside.any():
        return np.array([[0, 0, 0], np.array(array.shape) - 1], float)
    ends = [np.flatnonzero(inside.any(axis=tuple(n for n in range(3) if n != axis)))[[0, -1]] for axis in range(3)]
    return np.array(ends, float).T


def _middle(array: NDArray[np.uint8], places: Sequence[int]) -> NDArray[np.float64]:
    """Return the 2nd and the 98th percentile of the labels' voxels along each axis, (2, 3)."""
    inside = np.isin(array, list(places))
    ends = []
    for axis in range(3):
        counts = inside.sum(axis=tuple(n for n in range(3) if n != axis)).cumsum()
        if counts[-1] == 0:
            ends.append([0, array.shape[axis] - 1])
        else:
            ends.append([int(np.searchsorted(counts, share * counts[-1])) for share in (0.02, 0.98)])
    return np.array(ends, float).T


def _inflation(array: NDArray[np.uint8], grid: Geometry, places: Sequence[int]) -> torch.Tensor:
    """Return where to look, in units of the largest step: towards the labels, on both sides of their border."""
    from scipy import ndimage

    spacing = np.array(grid.spacing_mm)
    shape = np.maximum(2, np.round(np.array(array.shape) * spacing / FIELD_MM).astype(int))
    if not places:
        return torch.zeros(3, *shape.tolist())
    inside = torch.from_numpy(np.isin(array, list(places))).float()[None, None]
    coarse = torch.nn.functional.interpolate(inside, size=shape.tolist(), mode="area")[0, 0].numpy()
    step = np.array(array.shape) * spacing / shape
    soft = ndimage.gaussian_filter(coarse, SOFT_MM / step)
    gradient = np.stack(np.gradient(soft, *step))
    largest = float(np.linalg.norm(gradient, axis=0).max())
    return torch.from_numpy((gradient / max(largest, 1e-9)).astype(np.float32))
