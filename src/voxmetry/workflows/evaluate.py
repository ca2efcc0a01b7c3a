"""Run models over a data set and say how good they are: what stands behind `voxmetry evaluate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from voxmetry import io
from voxmetry._version import __version__
from voxmetry.classical import Baseline
from voxmetry.core.base import Record
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.labels import plain_name
from voxmetry.core.progress import Progress
from voxmetry.core.records import CaseComparison, CohortComparison, CohortSettings, PairedComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import file_names
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError, VoxmetryError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement import tables
from voxmetry.measurement.compare_cases import compare_pair
from voxmetry.measurement.failures import FailureCounter, Failures, structures_of
from voxmetry.measurement.pairing import left_out, left_out_words, pair_labels, renamed_tables
from voxmetry.measurement.patients import number_patients
from voxmetry.measurement.summarise_cases import summarise_cohort
from voxmetry.ops.instances import cut_to
from voxmetry.ops.resample import resample
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import open_data, read_labelled
from voxmetry.workflows.evaluate_instances import instances_of_case, predict_instances, save_with_table, settings_for
from voxmetry.workflows.model_folds import ModelFolds, open_entry, recipe_of
from voxmetry.workflows.models import Ready

PREDICTIONS, RESULT, TABLE, PAGE = "predictions", "evaluation.json", "evaluation.csv", "evaluation.html"
INSTANCES = "instances.csv"
MARGIN = 0.02
"""Dice by which a baseline may be worse and still count as as good."""


class ModelEvaluation(Record):
    """How good one model is on the cases that it did not train on."""

    name: str
    is_baseline: bool
    n_seen: int
    """Cases left out because it was trained on them."""
    recipe: str = ""
    """What the choice of its recipe means for these figures; empty where it was chosen on other cases."""
    cohort: CohortComparison
    failures: Failures


class Evaluation(Record):
    """The content of `evaluation.json`."""

    schema_version: int = 1
    voxmetry_version: str
    data: str
    models: tuple[ModelEvaluation, ...]
    paired: dict[str, tuple[PairedComparison, ...]]
    """By the name of the other model: the first model minus it."""
    verdicts: tuple[str, ...]
    """How each other model stands against the first, in words."""


def evaluate(
    data: DataSet | Path,
    models: Sequence[str | Path],
    out: Path,
    *,
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Evaluation, tuple[Path, ...]]:
    """Predict, compare, summarise, and write the tables and the page.

    Parameters
    ----------
    data
        Labelled cases, or where they lie.
    models
        Bundled models, model folders, baselines' YAML files, or run folders with folds. The first is compared with
        each of the others, case by case.
    out
        Folder for `predictions/`, `evaluation.csv`, `instances.csv` where instances were matched, `evaluation.json`, a
        page for each model and `evaluation.html`.
    settings
        How predictions are compared. Where the data set tells instances apart they are matched, by IoU if no rule is
        named.
    device
        Where networks run.
    overwrite
        Whether an earlier evaluation is replaced.
    progress
        Called after each case with the number that is done and of all.

    Returns
    -------
    Evaluation, tuple of Path
        What was found, and the files that were written.

    Raises
    ------
    VoxmetryError
        If a model cannot be loaded, has been trained on all cases, or the folder cannot be written. A case that fails
        is a row with its reason.
    """
    folder = data if isinstance(data, Path) else None
    data = open_data(data) if isinstance(data, Path) else data
    settings = settings_for(data, settings)
    names, read = (PREDICTIONS, TABLE, INSTANCES, RESULT, PAGE), (folder, *data.folders)
    with output_folder(out, names, overwrite=overwrite, apart_from=read) as stage:
        evaluation = _evaluate(data, models, stage, settings=settings, device=device, progress=progress)
        written = _write(evaluation, data, stage)
    return evaluation, tuple(out / name for name in written)


def _evaluate(
    data: DataSet,
    models: Sequence[str | Path],
    out: Path,
    *,
    settings: CohortSettings,
    device: str,
    progress: Progress | None,
) -> Evaluation:
    entries = [open_entry(model, data, device=device) for model in models]
    if len({entry.name for entry in entries}) < len(entries):
        raise ConfigError(
            found=f"two models of the name {entries[0].name}" if len(entries) == 2 else "two models of the same name",
            expected="models whose folders or files have different names",
            fix="rename one of the folders",
        )
    total = sum(len(names) for entry in entries for _, names in entry.folds)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    results = [_evaluate_one(entry, data, out, settings, tick) for entry in entries]
    paired = {
        other.name: summarise_cohort(results[0].cohort.cases, settings, other=other.cohort.cases).paired
        for other in results[1:]
    }
    return Evaluation(
        voxmetry_version=__version__,
        data=data.name,
        models=tuple(results),
        paired=paired,
        verdicts=tuple(line for other in results[1:] for line in verdicts(results[0], other, paired[other.name])),
    )


def _evaluate_one(
    entry: ModelFolds, data: DataSet, out: Path, settings: CohortSettings, tick: Callable[[], None]
) -> ModelEvaluation:
    files = _files(make_folder(out / PREDICTIONS / entry.name), data)
    numbers = number_patients([case.name for case in data.cases], data.patients)
    counter = FailureCounter()
    rows = []
    for model, names in entry.folds:
        for case in data.select(names).cases:
            rows.append(_case(model, case, data, files[case.name], numbers[case.name], settings, counter))
            tick()
    rows.sort(key=lambda row: row.case)
    seen = Counter(note for row in rows for note in row.notes)
    notes = tuple(note if n == len(rows) else f"{note} (in {n} of {len(rows)} cases)" for note, n in seen.items())
    cohort = summarise_cohort(rows, settings).model_copy(update={"voxmetry_version": __version__, "notes": notes})
    return ModelEvaluation(
        name=entry.name,
        is_baseline=entry.is_baseline,
        n_seen=entry.n_seen,
        recipe=recipe_of(entry, rows, settings),
        cohort=cohort,
        failures=counter.result(),
    )


def _files(folder: Path, data: DataSet) -> dict[str, Path]:
    """Return where the prediction of each case lies: its name is what a manifest says, and may be no file's."""
    cases = [case.name for case in data.cases]
    return {case: folder / f"{name}.nii.gz" for case, name in zip(cases, file_names(cases), strict=True)}


def _case(
    model: Ready,
    case: Case,
    data: DataSet,
    file: Path,
    patient: int,
    settings: CohortSettings,
    counter: FailureCounter,
) -> CaseComparison:
    try:
        read = read_labelled(case, data)
        reference = read.unlabelled.hide(read.label)
        volumes = _inputs(model, read.volumes, data)
        found, told = _predict(model, volumes, settings)
        if not found.geometry.is_same(reference.geometry):
            # A baseline of a second channel segments on that channel's own, often coarser grid.
            found, told = resample(found, to=reference.geometry), None
        io.save(found, file)
        if told is not None:
            save_with_table(told, make_folder(file.parent.with_name(f"{file.parent.name}-instances")) / file.name)
        # A structure counts only where it was looked for.
        found = read.unlabelled.hide(found)
        chosen = _in_common(settings, found, reference, read.unlabelled.known_names)
        if chosen.labels == ():
            return CaseComparison(case=case.name, patient=patient, comparisons=())
        row = compare_pair(
            case.name,
            prediction=found if told is None else cut_to(told, found),
            reference=instances_of_case(read, reference) or reference if settings.instances else reference,
            settings=chosen,
            patient=patient,
        ).model_copy(update={"notes": _not_compared(settings, chosen, found, reference)})
    except VoxmetryError as error:
        return CaseComparison(case=case.name, patient=patient, error=error.to_dict())
    counter.add(found, reference, structures_of(row.comparisons))
    same = next((v for v in volumes if v.geometry.is_same(reference.geometry)), None)
    counter.add_properties(row, reference, same.array if same is not None else None)
    return row


def _predict(
    model: Ready, volumes: Sequence[Volume], settings: CohortSettings
) -> tuple[Segmentation, InstanceSegmentation | None]:
    if settings.instances is not None:
        return predict_instances(model, volumes, settings)
    return model.segment(volumes) if isinstance(model, Baseline) else model(volumes), None


def _in_common(
    settings: CohortSettings, found: Segmentation, reference: Segmentation, known: Sequence[str]
) -> CohortSettings:
    """Judge a model by the structures that it knows, where it knows some of the data set's by their names.

    Of those, the ones that were looked for in the case, `known`, count.
    """
    ours, theirs = renamed_tables(found.labels, reference.labels, settings.names)
    if len(known) < len(reference.labels):
        # The names that pairs get are the model's.
        values = {reference.labels[name].value for name in known}
        known = [label.name for label in theirs if label.value in values]
        here = {plain_name(name) for name in known}
        wanted = ours.names if settings.labels is None else settings.labels
        return settings.model_copy(update={"labels": tuple(name for name in wanted if plain_name(name) in here)})
    if settings.labels is not None:
        return settings
    there = {plain_name(name) for name in theirs.names}
    names = tuple(name for name in ours.names if plain_name(name) in there)
    return settings.model_copy(update={"labels": names}) if names else settings


def _not_compared(
    settings: CohortSettings, chosen: CohortSettings, found: Segmentation, reference: Segmentation
) -> tuple[str, ...]:
    """Say what one side does not know, and, structure by structure, what was `chosen` not to count in this case."""
    whole = _in_common(settings, found, reference, reference.labels.names)
    pairs = pair_labels(found.labels, reference.labels, **whole.pairing)
    sides = ("the model", "the data set")
    unknown = left_out_words(left_out(found.labels, reference.labels, pairs, whole.names), sides)
    missing = [name for name in whole.labels or () if name not in (chosen.labels or whole.labels or ())]
    return (*unknown, *(f"not compared, as it was not looked for: {name}" for name in missing))


def _inputs(model: Ready, volumes: Sequence[Volume], data: DataSet) -> list[Volume]:
    """Choose the channels that a model takes: by name, or by modality, or all where the numbers agree."""
    wanted = model.spec.inputs
    if len(wanted) == len(volumes):
        return list(volumes)
    chosen = []
    for item in wanted:
        for key in ("name", "modality"):
            places = [p for p, channel in enumerate(data.channels) if getattr(channel, key) == getattr(item, key)]
            if len(places) == 1:
                chosen.append(volumes[places[0]])
                break
        else:
            raise InputError(
                found=f"the channels {', '.join(channel.name for channel in data.channels)}",
                expected=f"one called {item.name}, or one of modality {item.modality}",
                fix="name channels or modalities in the data set as the model does",
            )
    return chosen


def verdicts(first: ModelEvaluation, other: ModelEvaluation, paired: Sequence[PairedComparison]) -> list[str]:
    """Say for each structure how the other model stands to the first, by the interval of the difference in Dice.

    As good: the whole interval of the first's advantage lies below `MARGIN`.
    """
    lines = []
    what = f"{'the baseline ' if other.is_baseline else ''}{other.name}"
    for row in paired:
        if row.metric != "dice":
            continue
        d = row.difference
        gap = f"Dice {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}, {d.n} cases) for {first.name}"
        if not d.low <= d.high:
            verdict = f"cannot be told: {d.reason or row.reason}"
        elif d.high < 0:
            verdict = f"is better than {first.name}: {gap}"
        elif d.high < MARGIN:
            verdict = f"is as good as {first.name} to within {MARGIN:g}: {gap}"
        elif d.low > 0:
            verdict = f"is worse than {first.name}: {gap}"
        else:
            verdict = f"differs too little from {first.name} to be told apart with these cases: {gap}"
        lines.append(f"{row.label}: {what} {verdict}.")
    return lines


def _write(evaluation: Evaluation, data: DataSet, out: Path) -> tuple[str, ...]:
    from voxmetry.report.comparison import write_cohort_page
    from voxmetry.report.evaluation import EvaluatedModel, write_evaluation_page

    rows = [
        {"model": model.name, **row}
        for model in evaluation.models
        for row in tables.comparison_rows(model.cohort.cases)
    ]
    tables.write_csv(rows, ("model", *tables.COMPARISON_COLUMNS), out / TABLE)
    matched = any(model.cohort.panoptic is not None for model in evaluation.models)
    if matched:
        rows = [
            {"model": model.name, **row}
            for model in evaluation.models
            for row in tables.instance_rows(model.cohort.cases)
        ]
        tables.write_csv(rows, ("model", *tables.INSTANCE_COLUMNS), out / INSTANCES)
    write_text(out / RESULT, evaluation.model_dump_json(indent=1))
    called = file_names((model.name for model in evaluation.models), taken=[PAGE.removesuffix(".html")])
    pages = [f"{name}.html" for name in called]
    for model, page in zip(evaluation.models, pages, strict=True):
        write_cohort_page(model.cohort, out / page, read=_reader(data, out / PREDICTIONS / model.name))
    shown = [
        EvaluatedModel(
            name=model.name,
            is_baseline=model.is_baseline,
            n_seen=model.n_seen,
            recipe=model.recipe,
            structures=model.cohort.structures,
            failures=model.failures,
            detection=model.cohort.detection,
            colours=model.cohort.colours,
        )
        for model in evaluation.models
    ]
    write_evaluation_page(evaluation.data, shown, evaluation.verdicts, out / PAGE)
    return (TABLE, *((INSTANCES,) if matched else ()), RESULT, *pages, PAGE)


def _reader(data: DataSet, folder: Path) -> Callable[[str], tuple[Segmentation, Segmentation, Volume | None]]:
    cases, files = {case.name: case for case in data.cases}, _files(folder, data)

    def read(name: str) -> tuple[Segmentation, Segmentation, Volume | None]:
        case = cases[name]
        prediction = io.read_segmentation(files[name])
        found = read_labelled(case, data)
        prediction, reference = (found.unlabelled.hide(one) for one in (prediction, found.label))
        image = found.volumes[0]
        return prediction, reference, image if image.geometry.is_same(prediction.geometry) else None

    return read
