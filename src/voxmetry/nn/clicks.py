"""Clicks as channels that a network takes: how near each voxel is to a click on each structure.

Sakinis et al. 2019, arXiv 1903.08205; Diaz-Pinto et al. 2022, DeepEdit, doi:10.1007/978-3-031-17027-0_2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from voxmetry.config import ModelSpec
from voxmetry.core.geometry import Geometry
from voxmetry.core.records.clicks import BACKGROUND, Click
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.preprocess import Prepared


def guidance(
    points: Sequence[tuple[int, Sequence[float]]],
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
    *,
    n_classes: int,
    reach_mm: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the channels of clicks, (n_classes, I, J, K): 1 at a click of the class, falling to 0 at `reach_mm`.

    Each click is drawn within its reach alone, whatever the size of the grid.

    Parameters
    ----------
    points
        Class index, 0 for the background, and voxel of each click.
    shape, spacing_mm
        The grid.
    n_classes
        The background and each structure.
    reach_mm
        Distance at which a click says nothing any more.
    out
        Zeros of that shape, to be filled.

    Examples
    --------
    >>> channels = guidance([(1, (1, 0, 0))], (5, 1, 1), (2.0, 1.0, 1.0), n_classes=2, reach_mm=4.0)
    >>> channels[1].ravel().tolist(), float(channels[0].max())
    ([0.5, 1.0, 0.5, 0.0, 0.0], 0.0)
    """
    channels = np.zeros((n_classes, *shape), np.float32) if out is None else out
    for place, voxel in points:
        box, squares = [], []
        for n, at, mm in zip(shape, voxel, spacing_mm, strict=True):
            first, last = max(0, math.ceil(at - reach_mm / mm)), min(n - 1, math.floor(at + reach_mm / mm))
            box.append(slice(first, max(first, last + 1)))
            squares.append(((np.arange(first, last + 1) - at) * mm) ** 2)
        far = np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :])
        near = channels[place][tuple(box)]
        np.maximum(near, 1 - far / reach_mm, out=near)
    return channels


def with_clicks(prepared: Prepared, clicks: Sequence[Click], spec: ModelSpec) -> Prepared:
    """Return a prepared study with the channels of clicks behind the images; see `latest_of_each_voxel`.

    Raises
    ------
    ConfigError
        If the model takes no clicks, or does not have the structure of one.
    InputError
        If a click lies outside of the image.
    """
    if not clicks:
        return prepared
    if spec.clicks is None:
        raise ConfigError(
            found=f"clicks for {spec.name}, which was trained without",
            expected="a model whose model.yaml has `clicks`",
            fix="train one with `clicks: {}` under `model` in the configuration",
        )
    for click in clicks:
        class_of(click, spec)
        _require_inside(click, prepared.native)
    points = []
    for click in latest_of_each_voxel(clicks, prepared.native):
        mm = prepared.native.to_mm(_voxel_of(click, prepared.native)[None])[0]
        voxel = np.linalg.solve(prepared.grid.affine, np.append(mm, 1.0))[:3]
        points.append((class_of(click, spec), voxel.tolist()))
    images = prepared.tensor
    n_images, (i, j, k) = images.shape[1], images.shape[2:]
    # Drawn where they stay: a second copy of so many channels would be the largest thing in memory.
    both = torch.zeros(1, n_images + spec.n_classes, i, j, k, dtype=torch.float32)
    both[:, :n_images] = images
    guidance(
        points,
        (i, j, k),
        prepared.grid.spacing_mm,
        n_classes=spec.n_classes,
        reach_mm=spec.clicks.reach_mm,
        out=both[0, n_images:].numpy(),
    )
    return replace(prepared, tensor=both.to(images))


def class_of(click: Click, spec: ModelSpec) -> int:
    """Return the class index that a click is about, 0 for the background.

    Raises
    ------
    ConfigError
        If the model has no such structure, or several and none is named.
    """
    names = spec.labels.names
    if click.label == BACKGROUND and BACKGROUND not in names:
        return 0
    if click.label in names:
        return 1 + names.index(click.label)
    if not click.label and len(names) == 1:
        return 1
    raise ConfigError(
        found=f"a click on {click.label!r}" if click.label else "a click that names no structure",
        expected=f"one of {', '.join((*names, BACKGROUND))}",
        fix="name the structure behind the position: x,y,z,NAME",
    )


def latest_of_each_voxel(clicks: Sequence[Click], grid: Geometry) -> tuple[Click, ...]:
    """Leave out each click that a later one in the same voxel takes back.

    Parameters
    ----------
    clicks
        In the order in which they were made.
    grid
        Of the first image, as it is stored.

    Examples
    --------
    >>> first, second = (Click(at=(1.0, 1.0, 1.2), label=label) for label in ("tumour", "background"))
    >>> [click.label for click in latest_of_each_voxel([first, second], Geometry(np.eye(4), (9, 9, 9)))]
    ['background']
    """
    latest: dict[tuple[float, ...], Click] = {}
    for click in clicks:
        latest[tuple(np.floor(_voxel_of(click, grid) + 0.5).tolist())] = click
    return tuple(latest.values())


def _voxel_of(click: Click, grid: Geometry) -> NDArray[np.float64]:
    """Return the index of a click's place in the first image, with a fraction."""
    at = np.array(click.at, np.float64)
    if click.space == "voxel":
        return at
    return np.asarray(np.linalg.solve(grid.affine, np.append(at, 1.0))[:3], np.float64)


def _require_inside(click: Click, grid: Geometry) -> None:
    place = _voxel_of(click, grid)
    if ((place < -0.5) | (place > np.array(grid.shape) - 0.5)).any():
        what = "mm" if click.space == "mm" else "voxels"
        raise InputError(
            found=f"a click at {', '.join(f'{x:g}' for x in click.at)} {what}, outside of the image",
            expected="a place in the image, in mm towards the patient's right, anterior and superior",
            fix="give the position in RAS+ mm; LPS has the signs of the first two turned round",
        )
