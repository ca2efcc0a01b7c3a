"""Clicks that are simulated from a network's errors, while it is trained and when its use is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.nn.clicks import guidance
from voxmetry.nn.networks.dynunet import split_outputs

Point: TypeAlias = tuple[int, tuple[float, float, float]]
"""Class index and voxel."""
SHARE = 0.5
"""Steps with clicks; the others have none, so that the network is the automatic one as well."""
MOST_ROUNDS = 3
CLICKS_A_ROUND = 3
"""In a round each image gets 1 to this many clicks, all from the errors before it."""


def next_clicks(
    found: NDArray[np.integer],
    truth: NDArray[np.integer],
    spacing_mm: Sequence[float],
    *,
    most: int = 1,
    rng: np.random.Generator | None = None,
) -> list[Point]:
    """Return where a person would click: in the middle of what is wrong, largest first.

    Parameters
    ----------
    found, truth
        (I, J, K) class indices.
    spacing_mm
        Of the grid.
    most
        Clicks that are wanted at most.
    rng
        Draws parts by their volume instead of taking the largest, as when a network is trained.

    Returns
    -------
    list
        The true class of the place and its voxel: the deepest of a connected part (6 neighbours) of the voxels of one
        class that were given another. Empty where nothing is wrong.

    Examples
    --------
    >>> truth = np.zeros((7, 3, 3), int)
    >>> truth[2:7] = 1
    >>> next_clicks(np.zeros_like(truth), truth, (1.0, 1.0, 1.0))[0][0]
    1
    """
    import cc3d

    wrong = found != truth
    if not wrong.any():
        return []
    # A part has one true class: the label map of true classes is cut where nothing is wrong.
    parts = cc3d.connected_components(np.where(wrong, truth + 1, 0).astype(np.uint16), connectivity=6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if rng is None:
        chosen = np.argsort(-sizes, kind="stable")[:most]
    else:
        n = min(most, int(np.count_nonzero(sizes)))
        chosen = rng.choice(len(sizes), size=n, replace=False, p=sizes / sizes.sum())
    return [_deepest(parts == part, truth, spacing_mm) for part in chosen if sizes[part]]


def _deepest(mask: NDArray[np.bool_], truth: NDArray[np.integer], spacing_mm: Sequence[float]) -> Point:
    import edt

    depth = edt.edt(np.ascontiguousarray(mask), anisotropy=tuple(spacing_mm), black_border=True)
    i, j, k = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(truth[i, j, k]), (float(i), float(j), float(k))


def with_simulated_clicks(
    network: nn.Module, image: torch.Tensor, label: torch.Tensor, spec: ModelSpec, seed: Sequence[int]
) -> torch.Tensor:
    """Return a batch's images with clicks on what the network gets wrong, or as they are in half of the steps.

    Parameters
    ----------
    network
        As it is trained; it is left in training mode.
    image
        (B, C, I, J, K)
    label
        (B, 1 or more, I, J, K); the first channel holds class indices.
    spec
        Of a model with clicks.
    seed
        What the draws follow from.
    """
    rng = np.random.default_rng(list(seed))
    if spec.clicks is None or rng.random() >= SHARE:
        return image
    truth = label[:, 0].cpu().numpy().astype(np.int64)
    points: list[list[Point]] = [[] for _ in truth]
    given = image
    for _ in range(int(rng.integers(1, MOST_ROUNDS + 1))):
        found = _classes(network, given, spec)
        for place, mine in enumerate(points):
            most = int(rng.integers(1, CLICKS_A_ROUND + 1))
            mine += next_clicks(found[place], truth[place], spec.spacing_mm, most=most, rng=rng)
        given = torch.cat([image, _channels(points, truth.shape[1:], spec).to(image)], dim=1)
    return given


@torch.no_grad()
def _classes(network: nn.Module, image: torch.Tensor, spec: ModelSpec) -> NDArray[np.int64]:
    outputs = network(image)
    (_, finest), *_ = split_outputs(outputs, levels=spec.network.deep_supervision)
    found: NDArray[np.int64] = finest.argmax(1).cpu().numpy()
    return found


def _channels(points: Sequence[Sequence[Point]], shape: tuple[int, ...], spec: ModelSpec) -> torch.Tensor:
    if spec.clicks is None:
        return torch.zeros(len(points), 0, *shape)
    i, j, k = shape
    reach = spec.clicks.reach_mm
    rows = [guidance(mine, (i, j, k), spec.spacing_mm, n_classes=spec.n_classes, reach_mm=reach) for mine in points]
    return torch.from_numpy(np.stack(rows))
