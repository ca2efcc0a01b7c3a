"""Hold many predictions against their references: each case by itself, then all of them together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from voxmetry.core.progress import Progress
from voxmetry.core.records import (
    CaseComparison,
    CohortComparison,
    CohortSettings,
    Comparison,
    Distribution,
    InstanceMatching,
    PairedComparison,
    StructureSummary,
)
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError, VoxmetryError
from voxmetry.io.lattice import find_move
from voxmetry.io.read import read_segmentation
from voxmetry.measurement.agreement import bland_altman, icc_2_1
from voxmetry.measurement.compare import compare
from voxmetry.measurement.definitions import definitions
from voxmetry.measurement.match_files import FilePair
from voxmetry.measurement.pairing import left_out, left_out_words, pair_labels
from voxmetry.measurement.panoptic import match_panoptic, panoptic_quality
from voxmetry.measurement.statistics import bootstrap_means, compare_paired, holm, quartiles

OVERLAPS = ("dice", "iou", "surface_dice")
DISTANCES = ("hausdorff_mm", "hd95_mm", "assd_mm")
METRICS = (*OVERLAPS, *DISTANCES)
PAIRED = ("dice", "surface_dice", "hd95_mm")
"""What two models are compared by: few numbers, since each further test costs the others power."""
OVERALL = "all structures"

POLICY = (
    "Means over 'present' take each case that has the structure in at least one mask: Dice, IoU and surface Dice are "
    "0 for a missed or an invented structure; a distance is {distance}. Quartiles rank such a case as the worst. Means "
    "over 'both' leave these cases out and are to be read with the number of missed and invented structures. A "
    "structure in neither mask of a case is in no mean. Intervals are resampled by patient."
)

_Row: TypeAlias = tuple[CaseComparison, Comparison]


def compare_files(
    pair: FilePair,
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    *,
    patient: int = 1,
) -> CaseComparison:
    """Compare two label maps on disk.

    Parameters
    ----------
    pair
        The case's name and its files.
    settings
        Tolerance, definitions, instances.
    patient
        Number of the patient within the cohort.

    Raises
    ------
    VoxmetryError
        If a file cannot be read or the two cannot be compared.
    """
    prediction, reference = read_pair(pair)
    return compare_pair(pair.case, prediction=prediction, reference=reference, settings=settings, patient=patient)


def read_pair(pair: FilePair) -> tuple[Segmentation, Segmentation]:
    """Read a prediction and its reference on one grid.

    Raises
    ------
    GeometryError
        If their voxels are not the same points in the patient.
    VoxmetryError
        If a file cannot be read.
    """
    prediction, reference = read_segmentation(pair.prediction), read_segmentation(pair.reference)
    if not reference.geometry.is_same(prediction.geometry):
        # The same points in the patient in another order or extent are the same grid, as for an image and its labels.
        move = find_move(reference.geometry, prediction.geometry, what="prediction and reference")
        reference = Segmentation(move(reference.array), prediction.geometry, reference.labels)
    return prediction, reference


def compare_pair(
    case: str,
    *,
    prediction: Segmentation,
    reference: Segmentation,
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    patient: int = 1,
) -> CaseComparison:
    """Compare two label maps that were read, as `compare_files` does.

    Parameters
    ----------
    case
        The case's name.
    prediction, reference
        On the same grid.
    settings
        Tolerance, definitions, instances.
    patient
        Number of the patient within the cohort.

    Raises
    ------
    VoxmetryError
        If the two cannot be compared.
    """
    rows = compare(
        prediction=prediction,
        reference=reference,
        tolerance_mm=settings.tolerance_mm,
        more_tolerances_mm=settings.more_tolerances_mm,
        labels=settings.labels,
        match=settings.match,
        names=settings.names,
        surface=settings.surface,
        percentile=settings.percentile,
        empty=settings.empty,
    )
    matchings: tuple[InstanceMatching, ...] = ()
    if settings.instances is not None:
        matchings = match_panoptic(
            prediction=prediction,
            reference=reference,
            things=settings.things,
            rule=settings.instances,
            min_iou=settings.min_iou,
            connectivity=settings.connectivity,
            labels=settings.labels,
            match=settings.match,
            names=settings.names,
        )
    lonely: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    if settings.labels is None:
        tables = (prediction.labels, reference.labels)
        lonely = left_out(*tables, pair_labels(*tables, match=settings.match, names=settings.names), settings.names)
    return CaseComparison(
        case=case,
        patient=patient,
        comparisons=rows,
        matchings=matchings,
        notes=left_out_words(lonely, ("the prediction", "the reference")),
    )


def compare_cohort(
    pairs: Sequence[FilePair],
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    *,
    patients: Mapping[str, Hashable] | None = None,
    other: Sequence[FilePair] = (),
    unmatched: tuple[Sequence[str], Sequence[str]] = ((), ()),
    progress: Progress | None = None,
) -> CohortComparison:
    """Compare many cases, one after the other, and summarise them.

    Parameters
    ----------
    pairs
        The cases, as `match_files` finds them.
    settings
        How they are compared.
    patients
        Whose case it is, by the case's name, where a patient has more than one; cases that are not named are patients
        of their own. Only a running number is kept.
    other
        The cases of another model against the same references, for a paired comparison.
    unmatched
        Names of predictions and of references without a partner, to be listed.
    progress
        Called after each case with the number that is done and of all.

    Returns
    -------
    CohortComparison
        A case that cannot be compared is a row with its reason, and is in no summary.

    Raises
    ------
    ConfigError
        If there is no case, or `patients` names a case that is not there.
    """
    if not pairs:
        raise ConfigError(found="no case", expected="at least one pair of files", fix="pass the pairs of match_files")
    numbers = number_patients([pair.case for pair in (*pairs, *other)], patients)
    cases: list[CaseComparison] = []
    for done, pair in enumerate((*pairs, *other), start=1):
        cases.append(_attempt(pair, settings, numbers[pair.case]))
        if progress is not None:
            progress(done, len(pairs) + len(other))
    return summarise_cohort(cases[: len(pairs)], settings, other=cases[len(pairs) :], unmatched=unmatched)


def number_patients(cases: Sequence[str], patients: Mapping[str, Hashable] | None = None) -> dict[str, int]:
    """Give each case the number of its patient, from 1 in the order of the cases.

    Examples
    --------
    >>> number_patients(["a", "b", "c"], {"a": "x", "c": "x"})
    {'a': 1, 'b': 2, 'c': 1}
    """
    unknown = sorted(set(patients or {}) - set(cases))
    if unknown:
        raise ConfigError(
            found=f"patients of cases that are not compared: {', '.join(unknown[:5])}",
            expected="names of cases, without suffix",
            fix="correct the names, or leave these lines out",
        )
    numbers: dict[Hashable, int] = {}
    found = {}
    for case in cases:
        key: Hashable = ("patient", patients[case]) if patients and case in patients else ("case", case)
        found[case] = numbers.setdefault(key, len(numbers) + 1)
    return found


def _attempt(pair: FilePair, settings: CohortSettings, patient: int) -> CaseComparison:
    try:
        return compare_files(pair, settings, patient=patient)
    except VoxmetryError as error:
        if isinstance(error, ConfigError):
            # A wrong setting is wrong for each case alike.
            raise
        reason = error.to_dict()
    except MemoryError:
        reason = {
            "error": "MemoryError",
            "found": "not enough memory for this case",
            "expected": "label maps of which several copies fit into memory",
            "fix": "run this case on a larger machine",
        }
    return CaseComparison(case=pair.case, patient=patient, error=reason)


def summarise_cohort(
    cases: Sequence[CaseComparison],
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    *,
    other: Sequence[CaseComparison] = (),
    unmatched: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> CohortComparison:
    """Summarise cases that have been compared.

    Parameters
    ----------
    cases
        Rows of one model.
    settings
        How they were compared.
    other
        Rows of another model.
    unmatched
        Names of predictions and of references without a partner.
    """
    structures, overall = _summary(cases, settings)
    other_structures, other_overall = _summary(other, settings)
    matchings = [row for case in cases for row in case.matchings]
    return CohortComparison(
        settings=settings,
        cases=tuple(cases),
        unmatched_predictions=tuple(unmatched[0]),
        unmatched_references=tuple(unmatched[1]),
        structures=structures,
        overall=overall,
        panoptic=panoptic_quality(matchings) if matchings else None,
        other=tuple(other),
        other_structures=other_structures,
        other_overall=other_overall,
        paired=_paired(cases, other, settings) if other else (),
        policy=POLICY.format(
            distance="the grid's diagonal" if settings.empty == "diagonal" else "undefined, and so is its mean"
        ),
        definitions=definitions(settings.surface, settings.percentile),
    )


def _summary(
    cases: Sequence[CaseComparison], settings: CohortSettings
) -> tuple[tuple[StructureSummary, ...], StructureSummary | None]:
    """Summarise each structure of one model, and all together."""
    rows = [(case, row) for case in cases for row in case.comparisons]
    by_label: dict[str, list[_Row]] = {}
    for case, row in rows:
        by_label.setdefault(row.label, []).append((case, row))
    n_cases = sum(case.error is None for case in cases)
    structures = tuple(_structure(label, found, n_cases, settings) for label, found in by_label.items())
    return structures, _structure(OVERALL, rows, n_cases, settings) if rows else None


def _structure(label: str, rows: Sequence[_Row], n_cases: int, settings: CohortSettings) -> StructureSummary:
    by_status = {status: [r for r in rows if r[1].status == status] for status in ("both", "missed", "extra", "absent")}
    present = [r for r in rows if r[1].status != "absent"]
    volumes = [(r.volume_prediction_ml, r.volume_reference_ml) for _, r in present]
    return StructureSummary(
        label=label,
        n_cases=n_cases,
        n_both=len(by_status["both"]),
        n_missed=len(by_status["missed"]),
        n_extra=len(by_status["extra"]),
        n_absent=len(by_status["absent"]),
        present=_distributions(present, settings),
        both=_distributions(by_status["both"], settings),
        volumes=bland_altman([a for a, _ in volumes], [b for _, b in volumes], level=settings.level),
        reliability=icc_2_1([list(pair) for pair in volumes] or [[math.nan] * 2], level=settings.level),
    )


def _distributions(rows: Sequence[_Row], settings: CohortSettings) -> dict[str, Distribution]:
    columns = [[float(getattr(row, name)) for _, row in rows] for name in METRICS]
    means = bootstrap_means(
        columns,
        patients=[case.patient for case, _ in rows],
        level=settings.level,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    found = {}
    for name, column, mean in zip(METRICS, columns, means, strict=True):
        # What is undefined ranks as the worst; turned round, so that the worst is always the largest.
        sign = -1.0 if name in OVERLAPS else 1.0
        badness = [math.inf if math.isnan(x) else sign * x for x in column]
        low, median, high = (sign * x for x in quartiles(badness))
        q1, q3 = (high, low) if sign < 0 else (low, high)
        place = max(range(len(rows)), key=badness.__getitem__, default=None)
        found[name] = Distribution(
            mean=mean,
            sd=_sd(column, mean.mean),
            median=median,
            q1=q1,
            q3=q3,
            worst=column[place] if place is not None else math.nan,
            worst_case=rows[place][0].case if place is not None else None,
            n_undefined=sum(math.isnan(x) for x in column),
        )
    return found


def _sd(values: Sequence[float], mean: float) -> float:
    if len(values) < 2 or math.isnan(mean):
        return math.nan
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def _paired(
    first: Sequence[CaseComparison], second: Sequence[CaseComparison], settings: CohortSettings
) -> tuple[PairedComparison, ...]:
    """Compare two models by structure and metric, over the cases that both have."""
    ours, theirs = _index(first), _index(second)
    keys = [key for key in ours if key in theirs]
    numbers = {case.case: case.patient for case in first}
    found = []
    for label in dict.fromkeys(label for _, label in keys):
        # A structure in neither mask of one of the models is in its reference in neither: nothing to compare.
        of_label = [
            key
            for key in keys
            if key[1] == label and not (ours[key].status == "absent" and theirs[key].status == "absent")
        ]
        for metric in PAIRED:
            result = compare_paired(
                [getattr(ours[key], metric) for key in of_label],
                [getattr(theirs[key], metric) for key in of_label],
                patients=[numbers[case] for case, _ in of_label],
                level=settings.level,
                resamples=settings.resamples,
                seed=settings.seed,
            )
            found.append(result.model_copy(update={"label": label, "metric": metric}))
    adjusted = holm([row.p_value for row in found])
    return tuple(row.model_copy(update={"p_adjusted": float(p)}) for row, p in zip(found, adjusted, strict=True))


def _index(cases: Iterable[CaseComparison]) -> dict[tuple[str, str], Comparison]:
    return {(case.case, row.label): row for case in cases for row in case.comparisons}


def read_patients(path: Path) -> dict[str, str]:
    """Read whose case it is from a CSV file with the columns `case` and `patient`.

    Raises
    ------
    ConfigError
        If the file is missing, has not these columns, or names a case twice.
    """
    import csv

    if not path.is_file():
        raise ConfigError(found=f"no file {path.name}", expected="a CSV file of cases", fix="check the path")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    if not {"case", "patient"} <= set(columns):
        raise ConfigError(
            found=f"{path.name} with the columns {', '.join(columns) or '(none)'}",
            expected="the columns case and patient",
            fix="write a line 'case,patient' at its head",
        )
    found = {row["case"]: row["patient"] for row in rows}
    if len(found) < len(rows):
        raise ConfigError(
            found=f"{path.name} names a case more than once", expected="one line a case", fix="remove the others"
        )
    return found
