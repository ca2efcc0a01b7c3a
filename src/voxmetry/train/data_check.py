"""What is wrong or odd in a data set, before anything is trained on it: what stands behind `voxmetry data check`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.progress import Progress
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError, InputError, LabelError, VoxmetryError
from voxmetry.io import read_segmentation
from voxmetry.io.suffixes import ITK, NIFTI
from voxmetry.measurement.overlap import Overlap
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import Labelled, naming, read_labelled
from voxmetry.train.findings import SEVERITIES, Code, DataCheck, Finding, LabelAgreement
from voxmetry.train.fingerprint import CaseFacts, case_facts, with_labels
from voxmetry.train.outliers import LEAST_CASES, ROBUST_Z, duplicates, outliers, thumbnail
from voxmetry.train.partial import Unlabelled

SPECK_SHARE, SPECK_VOXELS = 0.02, 30
"""A part of a structure is a speck below this share of its largest part and this many voxels."""
LOW_AGREEMENT = 0.7
LISTED = 5
"""Cases that a line on agreement names."""


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
