"""Time and memory foreseen for a study: from what earlier runs took, or from the size of the network's work."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from voxmetry.config import ModelSpec
from voxmetry.config.networks import MonaiNetwork
from voxmetry.workflows.cohort.records import Candidate, Forecast, PlannedStudy
from voxmetry.workflows.cohort.rules import RuleSpec

FLOPS_OF_A_CORE = 2e10
"""Multiplications a second of one processor core, where no run has been timed. A guess within a factor of three."""

WORK_OF_A_VOXEL = 5e4
"""Multiplications for each voxel of a patch, where a network's levels are not known from its specification."""

WORK_OF_A_BASELINES_VOXEL = 2e4
"""As above, for thresholds, clusters and edges, which know no patch."""

BYTES_OF_A_BASELINES_VOXEL = 40
"""The image, its smoothed copy and gradient, and the masks of a baseline."""

RESIDENT_MB = 750.0
"""A process that has loaded torch, MONAI and a small model (10^6 bytes)."""

Rates = Mapping[str, Sequence[tuple[float, float]]]
"""By model: pairs of foreseen work and measured seconds of studies that are done."""


def work_of(candidate: Candidate, spec: RuleSpec) -> float:
    """Return the work on a study in multiplications; nan where its size is not known."""
    if not isinstance(spec, ModelSpec):
        return math.prod(candidate.shape) * WORK_OF_A_BASELINES_VOXEL if candidate.shape else math.nan
    windows = n_windows(candidate, spec)
    return windows * patch_work(spec) * math.pow(2, len(spec.window.mirror_axes))


def n_windows(candidate: Candidate, spec: ModelSpec) -> float:
    """Return how many patches cover a study on the model's grid.

    The order of the axes is not looked at: for patches that are longer along one axis the number is an estimate.
    """
    grid = _model_shape(candidate, spec)
    if grid is None:
        return math.nan
    n = 1.0
    for size, patch in zip(sorted(grid), sorted(spec.window.patch), strict=True):
        step = max(1, int(patch * (1 - spec.window.overlap)))
        n *= 1 + max(0, math.ceil((size - patch) / step))
    return n


def patch_work(spec: ModelSpec) -> float:
    """Return the multiplications of one patch: two convolutions a level on the way down, two on the way up."""
    network = spec.network
    voxels = float(math.prod(spec.window.patch))
    if isinstance(network, MonaiNetwork):
        return voxels * WORK_OF_A_VOXEL
    block = math.prod(getattr(network, "space_to_depth", (1, 1, 1)))
    voxels, work, before = voxels / block, 0.0, len(spec.inputs) * block
    for channels, stride, kernel in zip(network.channels, network.strides, network.kernels, strict=True):
        voxels /= math.prod(stride)
        # Down: into this level, then within it. Up: from twice the channels, then within it.
        work += voxels * math.prod(kernel) * (before * channels + channels**2 + 2 * channels**2 + channels**2)
        before = channels
    return work


def memory_mb(candidate: Candidate, spec: RuleSpec) -> float:
    """Return the memory that one study needs in one process, in units of 10^6 bytes; an upper estimate.

    The process, the image as stored and as float32, scores of all classes on the model's grid with the blending's
    weights, and the activations of one patch.
    """
    if candidate.shape is None:
        return math.nan
    if not isinstance(spec, ModelSpec):
        return RESIDENT_MB + math.prod(candidate.shape) * BYTES_OF_A_BASELINES_VOXEL / 1e6
    grid = _model_shape(candidate, spec)
    if grid is None:
        return math.nan
    native = math.prod(candidate.shape) * (candidate.itemsize + 4 + 2)
    scores = math.prod(grid) * 4 * (2 * spec.n_classes + 1 + len(spec.inputs))
    first = 32 if isinstance(spec.network, MonaiNetwork) else spec.network.channels[0]
    activations = 4 * 3 * math.prod(spec.window.patch) * max(first * 2, spec.n_classes)
    return RESIDENT_MB + (native + scores + activations) / 1e6


def _model_shape(candidate: Candidate, spec: ModelSpec) -> tuple[float, float, float] | None:
    if candidate.shape is None or candidate.spacing_mm is None:
        return None
    i, j, k = (
        n * mm / wanted
        for n, mm, wanted in zip(candidate.shape, candidate.spacing_mm, sorted(spec.spacing_mm), strict=True)
    )
    return (i, j, k)


def seconds_of(work: float, rates: Sequence[tuple[float, float]], *, cores: int) -> float:
    """Return the seconds that a study is expected to take: by the median rate of what was measured, if anything was."""
    pairs = [(w, s) for w, s in rates if w > 0 and s > 0]
    if pairs:
        return work * statistics.median(s / w for w, s in pairs)
    return work / (FLOPS_OF_A_CORE * cores)


def forecast(studies: Sequence[PlannedStudy], *, basis: str, cores: int) -> Forecast:
    """Add up what is foreseen for the studies that would run.

    Parameters
    ----------
    studies
        Those that would run.
    basis
        What the seconds are taken from; empty where nothing was measured.
    cores
        Of this machine.
    """
    seconds = [study.seconds_foreseen for study in studies]
    known = [x for x in seconds if not math.isnan(x)]
    memory = [study.memory_mb_foreseen for study in studies if not math.isnan(study.memory_mb_foreseen)]
    missing = len(seconds) - len(known)
    basis = basis or (
        f"the number of the network's operations and an assumed speed of {cores} processor cores; "
        "--measure times the network here, and the first studies that are done give the run's own rate"
    )
    if missing:
        basis += f"; {missing} studies of unknown size are taken for average ones"
    total = sum(known) * (len(seconds) / len(known)) if known else math.nan
    return Forecast(n=len(seconds), seconds=total, memory_mb=max(memory, default=math.nan), basis=basis)
