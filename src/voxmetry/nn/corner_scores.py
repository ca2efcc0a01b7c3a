"""Scores at the eight corners of the cells that voxels lie in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from voxmetry.nn.slabs import DEVICE_FACTOR, on_device

CHUNK_VALUES = 6_000_000
"""Scores interpolated at once."""
MIXED = -1
"""Stands for a class where neighbours disagree."""


@dataclass(frozen=True, eq=False)
class CornerScores:
    """Scores of the voxels that mixed cells have for corners.

    Parameters
    ----------
    rows
        (n, n_classes).
    cell_of
        (I * J * K,) int32, the place of each mixed cell, which is named by its first corner; 0 for those that agree.
    corners
        (n_cells, 8) int32, the rows of a cell's corners: the third axis changes fastest.
    shape
        (I, J, K).
    """

    rows: torch.Tensor
    cell_of: torch.Tensor
    corners: torch.Tensor
    shape: tuple[int, ...]

    @property
    def chunk(self) -> int:
        """Voxels to interpolate at once."""
        values = CHUNK_VALUES * DEVICE_FACTOR if on_device(self.rows) else CHUNK_VALUES
        return max(1, values // (self.rows.shape[1] + 40))

    def interpolated(self, low: Sequence[torch.Tensor], share: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores (n, n_classes) of voxels in mixed cells, linear along each axis.

        Parameters
        ----------
        low
            For each axis (n,) int64, the first corner of the cell that holds them.
        share
            For each axis (n,) float32, how far they lie from it towards the next.
        """
        cell = self.cell_of[(low[0] * self.shape[1] + low[1]) * self.shape[2] + low[2]]
        parts = torch.stack([1 - share[0], share[0]], dim=1)
        for along in share[1:]:
            ends = torch.stack([1 - along, along], dim=1)
            parts = (parts[:, :, None] * ends[:, None, :]).flatten(1)
        return torch.nn.functional.embedding_bag(
            self.corners.index_select(0, cell), self.rows, mode="sum", per_sample_weights=parts
        )

    @classmethod
    def of(
        cls, cells: torch.Tensor, sums: torch.Tensor, weights: torch.Tensor, blends: Sequence[bool], *, softmax: bool
    ) -> CornerScores:
        """Gather them; `blends` says along which axes the target's voxels lie between two voxels."""
        needed = cells == MIXED
        mixed = needed.view(-1).nonzero()[:, 0]
        for axis, blended in enumerate(blends):
            if blended:
                size = needed.shape[axis]
                needed.narrow(axis, 1, size - 1).logical_or_(needed.narrow(axis, 0, size - 1).clone())
        i, j, k = needed.nonzero(as_tuple=True)
        row_of = torch.zeros(needed.shape, dtype=torch.int32, device=needed.device)
        row_of[i, j, k] = torch.arange(len(i), dtype=torch.int32, device=needed.device)
        scale = 1 / weights[i, j, k].clamp_min(torch.finfo(torch.float32).tiny)
        if on_device(sums):
            rows = (sums[:, i, j, k].float() * scale).t().contiguous()
        else:
            rows = cls._rows(sums, (i, j, k), scale)
        cell_of = torch.zeros(row_of.numel(), dtype=torch.int32, device=needed.device)
        cell_of[mixed] = torch.arange(len(mixed), dtype=torch.int32, device=needed.device)
        shape = tuple(needed.shape)
        corners = _corner_rows(row_of.view(-1), mixed, shape)
        return cls(rows.softmax(dim=1) if softmax else rows, cell_of, corners, shape)

    @staticmethod
    def _rows(sums: torch.Tensor, at: tuple[torch.Tensor, ...], scale: torch.Tensor) -> torch.Tensor:
        """Return the scores (n, n_classes) of some voxels on the host.

        One place in memory for each voxel, the same in all classes, is looked up four times faster than three indices.
        """
        i, j, k = at
        steps = sums.stride()[1:]
        place = i * steps[0] + j * steps[1] + k * steps[2]
        columns = torch.empty((len(sums), len(i)), dtype=torch.float32, device=sums.device)
        for column, channel in zip(columns, sums, strict=True):
            torch.mul(_in_a_line(channel).index_select(0, place), scale, out=column)
        return columns.t().contiguous()


def _corner_rows(row_of: torch.Tensor, cells: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the rows (n, 8) of the corners of cells, which are named by the flat place of their first corner.

    Behind the last voxel of an axis there is none: what lies on it has no share of the next, which is itself.
    """
    k, rest = cells % shape[2], cells // shape[2]
    steps = []
    for at, size, stride in (
        (rest // shape[1], shape[0], shape[1] * shape[2]),
        (rest % shape[1], shape[1], shape[2]),
        (k, shape[2], 1),
    ):
        steps.append((torch.zeros_like(at), torch.where(at + 1 < size, stride, 0)))
    return torch.stack([row_of[cells + a + b + c] for a, b, c in itertools.product(*steps)], dim=1)


def _in_a_line(values: torch.Tensor) -> torch.Tensor:
    """View the stretch of memory from the first to the last voxel of a view."""
    length = 1 + sum((size - 1) * step for size, step in zip(values.shape, values.stride(), strict=True))
    return values.as_strided((length,), (1,))
