"""What is wrong or odd in a data set, before anything is trained on it: what stands behind `voxmetry data check`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import Number, Record
from voxmetry.core.progress import Progress
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError, InputError, LabelError, VoxmetryError
from voxmetry.io import read_segmentation
from voxmetry.io.read import ITK, NIFTI
from voxmetry.measurement.overlap import Overlap
from voxmetry.train.dataset import Case, DataSet, Labelled, naming, read_labelled
from voxmetry.train.fingerprint import CaseFacts, case_facts, with_labels
from voxmetry.train.partial import Unlabelled

ROBUST_Z = 5.0
"""Distance from the median in robust standard deviations (1.4826 times the median absolute deviation) that is odd."""
SPACING_RATIO = 2.0
"""A spacing this many times larger or smaller than the median is odd."""
SPECK_SHARE, SPECK_VOXELS = 0.02, 30
"""A part of a structure is a speck below this share of its largest part and this many voxels."""
NEAR = 0.999
"""Correlation of two images, both shrunk to `THUMBNAIL` cells, from which they count as nearly the same."""
THUMBNAIL = (12, 12, 12)
LOW_AGREEMENT = 0.7
LISTED = 5
"""Cases that a line on agreement names."""
LEAST_CASES = 5
"""Fewer cases have no outliers."""

Code = Literal[
    "unreadable",
    "geometry",
    "unknown_label",
    "not_looked_for",
    "contradiction",
    "empty_label",
    "missing_structure",
    "specks",
    "duplicate",
    "near_duplicate",
    "intensity",
    "spacing",
    "volume",
    "raters",
    "disagreement",
]
SEVERITIES = ("error", "review", "note")


class Finding(Record):
    """One thing about one case."""

    code: Code
    severity: Literal["error", "review", "note"]
    """'error': training will refuse the case or leak; 'review': look at it; 'note': good to know."""
    case: str
    message: str
    structure: str | None = None
    other: str | None = None
    """The other case of a pair."""


class LabelAgreement(Record):
    """One structure of one case, drawn twice, or drawn and predicted."""

    case: str
    structure: str
    source: Literal["rater", "prediction"]
    dice: Number


class DataCheck(Record):
    """The content of `data-check.json`."""

    schema_version: int = 1
    data: str
    n_cases: int
    n_patients: int
    n_read: int
    """Cases that could be read."""
    findings: tuple[Finding, ...]
    """Errors first, then by case."""
    agreements: tuple[LabelAgreement, ...]
    """Lowest Dice first."""
    cases: tuple[CaseFacts, ...]


def check_data(
    data: DataSet,
    *,
    predictions: Path | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Look at each case by itself, then at all of them together.

    Parameters
    ----------
    data
        The data set; a case that cannot be read is a finding and no error.
    predictions
        Folder of label maps, called after the cases, of a model that has not seen them: `predictions/MODEL` of an
        evaluation. The cases whose label they disagree with most are listed.
    progress
        Called after each case with the number that is done and of all.

    Raises
    ------
    InputError
        If `predictions` holds no label map of a case.
    """
    findings: list[Finding] = []
    agreements: list[LabelAgreement] = []
    facts: list[CaseFacts] = []
    thumbnails: dict[str, NDArray[np.float32]] = {}
    # A case that cannot be read, or that all are empty, is found again below, case by case.
    with contextlib.suppress(VoxmetryError):
        data = with_labels(data)
    for done, case in enumerate(data.cases, start=1):
        try:
            found = read_labelled(case, data)
            label = found.unlabelled.hide(found.label)
            if len(label.labels):
                facts.append(case_facts(case, found))
            agreements += _agreements(case, found.volumes[0], label, found.unlabelled, predictions)
            findings += _look(case, label, found.unlabelled)
            findings += _contradictions(case, found)
            thumbnails[case.name] = thumbnail(found.volumes[0])
        except VoxmetryError as error:
            findings.append(_unusable(case, error))
        if progress is not None:
            progress(done, len(data.cases))
    if predictions is not None and not any(row.source == "prediction" for row in agreements):
        raise InputError(
            found=f"no prediction of a case in {predictions}",
            expected="label maps that are called after the cases",
            fix="point at the folder predictions/MODEL of an evaluation",
        )
    findings += duplicates(facts, thumbnails)
    findings += outliers(data, facts)
    findings += disagreements(agreements)
    order = {severity: place for place, severity in enumerate(SEVERITIES)}
    return DataCheck(
        data=data.name,
        n_cases=len(data.cases),
        n_patients=len(set(data.patients.values())),
        n_read=len(thumbnails),
        findings=tuple(sorted(findings, key=lambda row: (order[row.severity], row.case, row.code))),
        agreements=tuple(sorted(agreements, key=lambda row: row.dice if math.isfinite(row.dice) else 2)),
        cases=tuple(facts),
    )


def _unusable(case: Case, error: VoxmetryError) -> Finding:
    kinds: tuple[tuple[type[VoxmetryError], Code], ...] = ((GeometryError, "geometry"), (LabelError, "unknown_label"))
    code = next((code for kind, code in kinds if isinstance(error, kind)), "unreadable")
    return Finding(code=code, severity="error", case=case.name, message=f"{error.found}. {error.fix}")


def _contradictions(case: Case, found: Labelled) -> list[Finding]:
    """Find structures that are drawn where the data set says that they were not looked for, or are absent."""
    hidden = found.unlabelled.hide(found.label)
    findings = []
    for item in found.label.labels:
        n = int((found.label.array == item.value).sum() - (hidden.array == item.value).sum())
        absent = item.name in case.labelling.absent and bool((hidden.array == item.value).any())
        if n or absent:
            said = "absent" if absent else "not looked for"
            message = f"{item.name} is drawn, though the data set says that it is {said}: training takes the latter."
            findings.append(
                Finding(code="contradiction", severity="review", case=case.name, message=message, structure=item.name)
            )
    return findings


def _look(case: Case, label: Segmentation, unlabelled: Unlabelled) -> list[Finding]:
    """Look at one label map: is it empty, does a structure lack, are there specks, what does it leave open."""
    known = unlabelled.known_names
    findings = []
    if not unlabelled.is_complete:
        shares = {name: unlabelled.share_known(name) for name in unlabelled.names}
        parts = [f"{name} ({share:.0%} of the image)" if share else name for name, share in shares.items() if share < 1]
        parts.sort(key=lambda part: "%" in part)
        message = f"Not looked for, or in a part of the image alone: {', '.join(parts)}."
        findings.append(Finding(code="not_looked_for", severity="note", case=case.name, message=message))
    if not label.array.any():
        # Where little was looked for, or all is known to be absent, nothing needs to be there.
        if len(known) < len(unlabelled.names) or case.labelling.absent:
            return findings
        return [Finding(code="empty_label", severity="review", case=case.name, message="The label map is empty.")]
    for item in label.labels:
        if item.name not in known or item.name in case.labelling.absent:
            continue
        mask = label.array == item.value
        if not mask.any():
            message = f"{item.name} is not in this case."
            findings.append(
                Finding(code="missing_structure", severity="note", case=case.name, message=message, structure=item.name)
            )
            continue
        sizes = _part_sizes(mask)
        specks = [size for size in sizes if size < SPECK_SHARE * sizes[0] and size < SPECK_VOXELS]
        if specks:
            volume = sum(specks) * label.geometry.voxel_ml
            message = (
                f"{item.name} has {len(specks)} specks of {min(specks)} to {max(specks)} voxels ({volume:.3g} mL)."
            )
            findings.append(
                Finding(code="specks", severity="review", case=case.name, message=message, structure=item.name)
            )
    return findings


def _part_sizes(mask: NDArray[np.bool_]) -> list[int]:
    """Voxels of the 26-connected parts of a mask, the largest first."""
    import cc3d

    parts = cc3d.connected_components(mask, connectivity=26)
    return sorted(np.bincount(parts.ravel())[1:].tolist(), reverse=True)


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


def _agreements(
    case: Case, image: Volume, label: Segmentation, unlabelled: Unlabelled, predictions: Path | None
) -> list[LabelAgreement]:
    found, known = [], unlabelled.known_names
    for path in case.other_labels:
        with naming(case.name):
            other = read_segmentation(path, labels=label.labels, image=image)
            other = unlabelled.hide(other)
            label.geometry.require_same(other.geometry, what=f"the labels of case {case.name}")
        found += [_agreement(case.name, name, "rater", label, other) for name in known]
    predicted = prediction_of(case.name, predictions)
    if predicted is not None:
        other = read_segmentation(predicted)
        label.geometry.require_same(other.geometry, what=f"label and prediction of case {case.name}")
        other = unlabelled.hide(other)
        both = [name for name in known if name in other.labels.names]
        found += [_agreement(case.name, name, "prediction", label, other) for name in both]
    return found


def prediction_of(case: str, folder: Path | None) -> Path | None:
    """Return the path of a case's prediction, or None."""
    places = [folder / f"{case}{suffix}" for suffix in (*NIFTI, *ITK)] if folder is not None else []
    return next((path for path in places if path.is_file()), None)


def _agreement(
    case: str, name: str, source: Literal["rater", "prediction"], label: Segmentation, other: Segmentation
) -> LabelAgreement:
    both = Overlap.of_masks(prediction=other.mask(name), reference=label.mask(name))
    return LabelAgreement(case=case, structure=name, source=source, dice=both.dice)


def agreement_lines(agreements: Sequence[LabelAgreement]) -> list[str]:
    """Say for each structure how far raters, or label and prediction, agree, and in which cases least."""
    lines = []
    for source, structure in dict.fromkeys((row.source, row.structure) for row in agreements):
        rows = [row for row in agreements if (row.source, row.structure) == (source, structure)]
        known = sorted((row for row in rows if math.isfinite(row.dice)), key=lambda row: row.dice)
        if known:
            who = "two raters" if source == "rater" else "label and prediction"
            lowest = ", ".join(f"{row.case} {row.dice:.3f}" for row in known[:LISTED])
            mean = float(np.mean([row.dice for row in known]))
            lines.append(f"{structure}, {who}: mean Dice {mean:.3f} over {len(known)}; lowest {lowest}")
    return lines


def disagreements(agreements: Sequence[LabelAgreement]) -> list[Finding]:
    """Find labels that another rater, or the trained folds, draw in another way than is usual for the structure."""
    findings = []
    for row in agreements:
        alike = [
            other.dice
            for other in agreements
            if other.structure == row.structure and other.source == row.source and math.isfinite(other.dice)
        ]
        if not math.isfinite(row.dice):
            continue
        middle = float(np.median(alike))
        spread = 1.4826 * float(np.median(np.abs(np.asarray(alike) - middle)))
        odd = len(alike) >= LEAST_CASES and row.dice < middle - max(ROBUST_Z * spread, 0.02)
        if row.dice < LOW_AGREEMENT * (1 if row.source == "rater" else middle) or odd:
            who = "Two raters" if row.source == "rater" else "Label and prediction"
            message = f"{who} agree with a Dice of {row.dice:.3f} on {row.structure}; the median is {middle:.3f}."
            code: Code = "raters" if row.source == "rater" else "disagreement"
            findings.append(
                Finding(code=code, severity="review", case=row.case, message=message, structure=row.structure)
            )
    return findings
