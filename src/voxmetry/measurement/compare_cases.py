"""Hold many predictions against their references: each case by itself, then all of them together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from voxmetry.core.axes import find_move
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.progress import Progress
from voxmetry.core.records import (
    CaseComparison,
    CohortComparison,
    CohortSettings,
    Comparison,
    InstanceMatching,
)
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError, VoxmetryError
from voxmetry.io.instances import UNNAMED, of_rows, read_instances
from voxmetry.io.read import read_segmentation
from voxmetry.measurement.compare import compare
from voxmetry.measurement.instances import label_map
from voxmetry.measurement.match_files import FilePair
from voxmetry.measurement.pairing import left_out, left_out_words, pair_labels
from voxmetry.measurement.panoptic import match_panoptic
from voxmetry.measurement.part_overlaps import HitRules
from voxmetry.measurement.patients import number_patients
from voxmetry.measurement.summarise_cases import summarise_cohort
from voxmetry.ops.instances import require_instances, tell_apart


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
    prediction, reference = read_pair(pair, instances=settings.apart == "maps")
    return compare_pair(pair.case, prediction=prediction, reference=reference, settings=settings, patient=patient)


def read_pair(
    pair: FilePair, *, instances: bool = False
) -> tuple[Segmentation | InstanceSegmentation, Segmentation | InstanceSegmentation]:
    """Read a prediction and its reference on one grid.

    Parameters
    ----------
    pair
        The case's files.
    instances
        Whether they are instance maps; else they are label maps.

    Raises
    ------
    GeometryError
        If their voxels are not the same points in the patient.
    LabelError
        If the reference of an instance map is a label map of structures.
    VoxmetryError
        If a file cannot be read.
    """
    read = read_instances if instances else read_segmentation
    prediction, reference = read(pair.prediction), read(pair.reference)
    if isinstance(reference, InstanceSegmentation):
        require_instances(reference.array, pair.reference.name)
    grid = prediction.geometry
    if reference.geometry.is_same(grid):
        return prediction, reference
    # The same points in the patient in another order or extent are the same grid, as for an image and its labels.
    moved = find_move(reference.geometry, grid, what="prediction and reference")(reference.array)
    if isinstance(reference, InstanceSegmentation):
        return prediction, of_rows(moved, grid, reference.detections)
    return prediction, Segmentation(moved, grid, reference.labels)


def compare_pair(
    case: str,
    *,
    prediction: Segmentation | InstanceSegmentation,
    reference: Segmentation | InstanceSegmentation,
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    patient: int = 1,
) -> CaseComparison:
    """Compare two label maps that were read, as `compare_files` does.

    Parameters
    ----------
    case
        The case's name.
    prediction, reference
        On the same grid. Instances of their own are matched as they are; those of a label map are told apart as the
        settings say.
    settings
        Tolerance, definitions, instances.
    patient
        Number of the patient within the cohort.

    Raises
    ------
    VoxmetryError
        If the two cannot be compared.
    """
    prediction, reference = named_alike(prediction, reference)
    ours, theirs = label_map(prediction), label_map(reference)
    rows = compare(
        prediction=ours,
        reference=theirs,
        tolerance_mm=settings.tolerance_mm,
        more_tolerances_mm=settings.more_tolerances_mm,
        surface=settings.surface,
        percentile=settings.percentile,
        empty=settings.empty,
        **settings.pairing,
    )
    matchings: tuple[InstanceMatching, ...] = ()
    if settings.instances is not None:
        matchings = match_panoptic(
            prediction=apart(prediction, settings),
            reference=apart(reference, settings),
            things=settings.things,
            rule=settings.instances,
            min_iou=settings.min_iou,
            connectivity=settings.connectivity,
            hits=HitRules(settings.hit_iou, settings.centre_mm),
            **settings.pairing,
        )
    lonely: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    if settings.labels is None:
        tables = (ours.labels, theirs.labels)
        lonely = left_out(*tables, pair_labels(*tables, **settings.pairing), settings.names)
    return CaseComparison(
        case=case,
        patient=patient,
        comparisons=rows,
        colours=_colours(rows, ours, theirs),
        matchings=matchings,
        notes=left_out_words(lonely, ("the prediction", "the reference")),
    )


def _colours(rows: Sequence[Comparison], prediction: Segmentation, reference: Segmentation) -> dict[str, str]:
    """Return the colour of each structure in the prediction's table, or the reference's where that has it alone."""
    ours, theirs = ({label.value: label.colour for label in x.labels} for x in (prediction, reference))
    found = {row.label: ours.get(row.value) or theirs.get(row.value_reference or 0) for row in rows}
    return {name: colour for name, colour in found.items() if colour}


def named_alike(
    prediction: Segmentation | InstanceSegmentation, reference: Segmentation | InstanceSegmentation
) -> tuple[Segmentation | InstanceSegmentation, Segmentation | InstanceSegmentation]:
    """Give an instance map that names no structure those of the other side: there is nothing else that it could mean.

    A map without any instance has all of them; one without a table has the only one that there is.
    """
    sides = [prediction, reference]
    for place, (x, other) in enumerate([(prediction, reference), (reference, prediction)]):
        if not isinstance(x, InstanceSegmentation):
            continue
        table = label_map(other).labels
        if not x.detections and not x.segmentation.array.any():
            sides[place] = InstanceSegmentation(Segmentation(x.segmentation.array, x.geometry, table), x.array, ())
        elif x.labels.names == (UNNAMED,) and len(table) == 1:
            rows = [row.model_copy(update={"label": table.names[0]}) for row in x.detections]
            sides[place] = of_rows(x.array, x.geometry, rows)
    return sides[0], sides[1]


def apart(x: Segmentation | InstanceSegmentation, settings: CohortSettings) -> Segmentation | InstanceSegmentation:
    """Cut a label map into instances where the settings ask for the watershed; else return it as it is."""
    if settings.apart != "watershed" or isinstance(x, InstanceSegmentation):
        return x
    known = [label.name for label in x.labels if label.name in settings.things]
    if settings.things and not known:
        return x
    return tell_apart(x, "watershed", labels=known)


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
