"""Cases that are unlike the others of their data set, and cases that are there twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.volume import Volume
from voxmetry.train.cases import DataSet
from voxmetry.train.findings import Code, Finding
from voxmetry.train.fingerprint import CaseFacts

ROBUST_Z = 5.0
"""Distance from the median in robust standard deviations (1.4826 times the median absolute deviation) that is odd."""
SPACING_RATIO = 2.0
"""A spacing this many times larger or smaller than the median is odd."""
NEAR = 0.999
"""Correlation of two images, both shrunk to `THUMBNAIL` cells, from which they count as nearly the same."""
THUMBNAIL = (12, 12, 12)
LEAST_CASES = 5
"""Fewer cases have no outliers."""


def thumbnail(volume: Volume) -> NDArray[np.float32]:
    """Shrink an image to `THUMBNAIL` cells by taking every so-manieth voxel's block mean; mean 0, norm 1."""
    array: NDArray[np.floating] = np.asarray(volume.array, np.float32)
    edges = [np.linspace(0, size, n + 1).astype(int) for size, n in zip(array.shape, THUMBNAIL, strict=True)]
    for axis, (edge, n) in enumerate(zip(edges, THUMBNAIL, strict=True)):
        starts = np.minimum(edge[:-1], array.shape[axis] - 1)
        widths = np.maximum(np.diff(edge), 1)
        shape = [1, 1, 1]
        shape[axis] = n
        array = np.add.reduceat(array, starts, axis=axis) / widths.reshape(shape)
    array = array - array.mean()
    norm = float(np.linalg.norm(array))
    small: NDArray[np.float32] = (array / norm if norm else array).ravel().astype(np.float32)
    return small


def duplicates(facts: Sequence[CaseFacts], thumbnails: dict[str, NDArray[np.float32]]) -> list[Finding]:
    """Find images that are the same, or nearly, under two names; worst where the patients differ."""
    by_digest: dict[str, list[CaseFacts]] = {}
    for row in facts:
        by_digest.setdefault(row.digest, []).append(row)
    findings, known = [], set()
    for same in by_digest.values():
        for one in same[1:]:
            known.add((same[0].case, one.case))
            findings.append(_pair(same[0], one, "duplicate", "The image is voxel for voxel that of"))
    names = [row.case for row in facts if row.case in thumbnails]
    if len(names) < 2:
        return findings
    table = np.stack([thumbnails[name] for name in names])
    alike = table @ table.T
    by_name = {row.case: row for row in facts}
    for a, b in zip(*np.nonzero(np.triu(alike, 1) > NEAR), strict=True):
        one, other = by_name[names[a]], by_name[names[b]]
        if one.digest != other.digest and (one.case, other.case) not in known:
            text = f"The image is nearly (correlation {alike[a, b]:.5f}) that of"
            findings.append(_pair(one, other, "near_duplicate", text))
    return findings


def _pair(one: CaseFacts, other: CaseFacts, code: Code, text: str) -> Finding:
    apart = one.patient != other.patient
    ending = ", another patient: they may end up on two sides of a split." if apart else ", of the same patient."
    severity: Literal["error", "review", "note"] = "error" if apart and code == "duplicate" else "review"
    return Finding(
        code=code,
        severity=severity if apart else "note",
        case=other.case,
        other=one.case,
        message=f"{text} {one.case}{ending}",
    )


def outliers(data: DataSet, facts: Sequence[CaseFacts]) -> list[Finding]:
    """Find cases whose spacing, intensities inside structures or structure volumes are far from the others'."""
    if len(facts) < LEAST_CASES:
        return []
    findings = []
    spacing = np.array([sorted(row.spacing_mm) for row in facts])
    ratio = spacing / np.median(spacing, axis=0)
    for row, change in zip(facts, ratio, strict=True):
        if change.max() >= SPACING_RATIO or change.min() <= 1 / SPACING_RATIO:
            text = " x ".join(f"{value:.3g}" for value in row.spacing_mm)
            message = (
                f"Voxels of {text} mm; the median, from fine to coarse, is {_times(np.median(spacing, axis=0))} mm."
            )
            findings.append(Finding(code="spacing", severity="review", case=row.case, message=message))
    findings += _odd_intensities(data, facts)
    for name in facts[0].volume_ml:
        have = [(row, row.volume_ml[name]) for row in facts if row.volume_ml[name] > 0]
        if len(have) < LEAST_CASES:
            continue
        scores = robust_z([math.log(volume) for _, volume in have])
        for (row, volume), z in zip(have, scores, strict=True):
            if abs(z) > ROBUST_Z:
                message = f"{name} has {volume:.4g} mL; most cases have {_typical([v for _, v in have])} mL."
                findings.append(
                    Finding(code="volume", severity="review", case=row.case, message=message, structure=name)
                )
    return findings


def _odd_intensities(data: DataSet, facts: Sequence[CaseFacts]) -> list[Finding]:
    """Find odd values of CT and PET; those of MR have no unit: each image is normalised by itself, and none is odd.

    By structure: which of them a case shows, or knows, would decide a median over all.
    """
    findings = []
    measured = [place for place, channel in enumerate(data.channels) if channel.modality in ("CT", "PT")]
    for place, name in ((place, name) for place in measured for name in facts[0].volume_ml):
        seen = [(row, row.channels[place].medians[name]) for row in facts if name in row.channels[place].medians]
        if len(seen) < LEAST_CASES:
            continue
        middle = [value for _, value in seen]
        for (row, value), z in zip(seen, robust_z(middle), strict=True):
            if abs(z) > ROBUST_Z:
                channel = data.channels[place].name
                message = f"{channel}: median {value:.4g} inside {name}; most cases: {_typical(middle)}."
                findings.append(
                    Finding(code="intensity", severity="review", case=row.case, message=message, structure=name)
                )
    return findings


def robust_z(values: Sequence[float]) -> list[float]:
    """Distance of each value from the median, by 1.4826 times the median absolute deviation; nan stays nan.

    Where more than half of the values are equal, the deviation is taken as a thousandth of the median.

    Examples
    --------
    >>> [round(z, 1) for z in robust_z([10.0, 11.0, 12.0, 13.0, 40.0])]
    [-1.3, -0.7, 0.0, 0.7, 18.9]
    """
    x = np.asarray(values, dtype=np.float64)
    finite = x[np.isfinite(x)]
    if not len(finite):
        return [math.nan] * len(x)
    middle = float(np.median(finite))
    scale = 1.4826 * float(np.median(np.abs(finite - middle))) or max(abs(middle), 1e-9) / 1000
    return [float(z) for z in (x - middle) / scale]


def _typical(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    low, high = np.percentile(finite, (10, 90))
    return f"{low:.4g} to {high:.4g}"


def _times(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
