"""Several networks and mirror images as one: the mean of their scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from voxmetry.config import ModelSpec

Run = Callable[[torch.Tensor], torch.Tensor]
"""Patches (B, C, *patch) float32 to scores (B, n_outputs, *patch)."""


@dataclass(frozen=True)
class SwappedSides:
    """Which scores change places in an image that is mirrored from left to right; see `WindowSpec.swap_on_mirror`.

    Parameters
    ----------
    axis
        The spatial axis from left to right.
    order
        For each output, the one whose place it takes.
    """

    axis: int
    order: tuple[int, ...]


def swapped_sides(spec: ModelSpec) -> SwappedSides | None:
    """Return what changes places in a model's mirror images; None: nothing does."""
    if not spec.window.swap_on_mirror:
        return None
    order, names = list(range(spec.n_classes)), spec.labels.names
    for pair in spec.window.swap_on_mirror:
        one, other = (1 + names.index(name) for name in pair)
        order[one], order[other] = other, one
    if spec.left_right_axis is None:
        raise ValueError("a model whose axes have no sides")
    return SwappedSides(spec.left_right_axis, tuple(order))


def averaged(
    members: list[Run] | tuple[Run, ...],
    mirror_axes: tuple[int, ...],
    *,
    watch: Callable[[int, torch.Tensor], None] | None = None,
    swapped: SwappedSides | None = None,
) -> Run:
    """Make one function of several networks and mirror images: the mean of their scores, patch by patch.

    Parameters
    ----------
    members
        Networks with the same outputs.
    mirror_axes
        Spatial axes; each combination of them is one image.
    watch
        Called with the place of each member and the sum of its scores over the mirror images, (B, n, I, J, K).
    swapped
        What changes places in those that are mirrored from left to right.
    """
    turns = mirror_turns(mirror_axes)
    if len(members) == 1 and len(turns) == 1:
        return members[0]

    def run(patches: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        own: torch.Tensor | None = None
        for (place, member), turn in itertools.product(enumerate(members), turns):
            scores = torch.flip(member(torch.flip(patches, turn)), turn).float()
            if swapped is not None and swapped.axis + 2 in turn:
                scores = scores[:, swapped.order]
            if total is not None:
                total.add_(scores)
            else:
                total = scores if watch is None else scores.clone()
            if watch is not None:
                own = scores if own is None else own.add_(scores)
                if turn == turns[-1]:
                    watch(place, own)
                    own = None
        if total is None:
            raise ValueError("no members")
        return total.div_(len(members) * len(turns))

    return run


def mirror_turns(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the tensor axes to flip for each mirror image, the unmirrored one first.

    Examples
    --------
    >>> mirror_turns((0, 2))
    [(), (2,), (4,), (2, 4)]
    """
    turns: list[tuple[int, ...]] = [()]
    for axis in axes:
        turns += [(*turn, axis + 2) for turn in turns]
    return turns
