"""What a run would do: which studies with which models, which are done, which cannot be run and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import voxmetry
from voxmetry.config import ModelSpec
from voxmetry.errors import ConfigError, InputError
from voxmetry.io.files import suffix_of
from voxmetry.models import find_model, read_spec
from voxmetry.studies.bids import find_bids, is_bids
from voxmetry.studies.duplicates import mark_duplicates
from voxmetry.studies.find import Known, find_studies, fingerprint
from voxmetry.studies.forecast import forecast, memory_mb, seconds_of, work_of
from voxmetry.studies.manifest import read_manifest
from voxmetry.studies.progress import Progress, progress_of
from voxmetry.studies.record import read_known, read_progress
from voxmetry.studies.records import Candidate, CohortPlan, PlannedStudy, RunSettings
from voxmetry.studies.rules import Rule, Rules, fits, no_model, rules_for

Tell = Callable[[str], None]

_NO_NUMBERS = {"device", "report", "overwrite", "series", "modality"}
"""Settings that decide on no number, or that each study has of its own."""


@dataclass(frozen=True)
class KnownModel:
    """A model without its weights: enough to plan."""

    path: str
    """What `load_model` takes."""
    spec: ModelSpec
    sha256: str
    """Of its weights."""
    digest: str
    """SHA-256 of model.yaml, which names the weights' own."""


def plan_cohort(
    source: Path | str,
    out: Path | str | None = None,
    models: Sequence[str] = (),
    *,
    rules: Rules | None = None,
    references: Path | None = None,
    settings: RunSettings = RunSettings(),  # noqa: B008  (frozen)
    tell: Tell | None = None,
) -> CohortPlan:
    """List what a run would do. Nothing is written.

    Parameters
    ----------
    source
        A folder of studies, a CSV manifest or a BIDS data set.
    out
        Folder of the results; None takes `derivatives/voxmetry` of a BIDS data set.
    models
        Bundled models' names or model folders; each takes every study of its modality.
    rules
        Which model takes which study, in place of `models`.
    references
        Folder of label maps that are called as the cases are.
    settings
        What decides on the numbers, and whether to run failed studies alone.
    tell
        Called with a word on how far it is.

    Returns
    -------
    CohortPlan
        One entry a study and model, in the order in which they would run.

    Raises
    ------
    VoxmetryError
        If the source, a model or the rules cannot be used at all; a single study that cannot is an entry.
    """
    root = Path(source)
    bids = root.is_dir() and is_bids(root)
    place = out_folder(root, out, bids=bids)
    taken = rules or rules_for(_named(models))
    known = {name: load_known_model(name) for name in dict.fromkeys(rule.model for rule in taken.rules)}
    found = find(root, place, bids=bids, known=read_known(place), tell=tell)
    for name in sorted({c.model for c in found if c.model} - set(known)):
        known[name] = load_known_model(name)
    _check_names(known)
    found = with_references(found, references) if references else found
    assigned = assign(found, taken, known)
    marked = mark_duplicates(assigned)
    before = read_progress(place)
    cores = os.cpu_count() or 1
    rates = rates_of(before, marked, known)
    studies = [
        _foreseen(
            progress_of(study, before.get(study.key), place, settings), known, rates.get(study.model, ()), cores=cores
        )
        for study in with_recipes(marked, known, settings)
    ]
    to_run = [study for study in studies if study.state == "waiting"]
    return CohortPlan(
        out=str(place),
        layout="bids" if bids else "folders",
        models=tuple(model.path for model in known.values()),
        studies=tuple(studies),
        forecast=forecast(to_run, measured=bool(rates), cores=cores),
    )


def _named(models: Sequence[str]) -> Sequence[str]:
    if models:
        return models
    raise ConfigError(
        found="no model",
        expected="--model, or a rules file with --rules",
        fix="name a model: `voxmetry models list` shows the bundled ones",
    )


def out_folder(root: Path, out: Path | str | None, *, bids: bool) -> Path:
    """Return the folder of the results, absolute.

    Raises
    ------
    ConfigError
        If none is given and the source is no BIDS data set.
    """
    if out is not None:
        return Path(out).absolute()
    if bids:
        return (root / "derivatives" / "voxmetry").absolute()
    raise ConfigError(
        found="no folder for the results",
        expected="--out; a BIDS data set alone has a place of its own for them, derivatives/voxmetry",
        fix="add -o OUT",
    )


def find(root: Path, out: Path, *, bids: bool, known: Known, tell: Tell | None) -> tuple[Candidate, ...]:
    """Find the studies of a folder, a manifest or a BIDS data set."""

    def count(n: int) -> None:
        if tell and n % 100 == 0:
            tell(f"found {n}")

    root = root.absolute()
    if bids:
        return find_bids(root, known=known, tell=count)
    if root.is_file():
        if suffix_of(root) != ".csv":
            raise InputError(
                found=f"{root.name} is a file",
                expected="a folder of studies, a CSV manifest or a BIDS data set",
                fix="for one study: voxmetry segment STUDY -m MODEL -o OUT",
            )
        return read_manifest(root, known=known)
    return find_studies(root, leave_out=out, known=known, tell=count)


def load_known_model(name: str) -> KnownModel:
    """Read a model's specification, and the checksum that its weights must have.

    Raises
    ------
    ModelError, ConfigError
        If it cannot be used.
    """
    folder = find_model(name)
    spec = read_spec(name)
    if len(spec.inputs) != 1 or spec.weights is None:
        raise ConfigError(
            found=f"{spec.name} takes {len(spec.inputs)} inputs"
            + ("" if spec.weights else ", and its model.yaml names no weights"),
            expected="a trained model with one input",
            fix="use another model",
        )
    digest = hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()
    # A bundled model is known by its name on every machine; another one by its path, which workers must share.
    bundled = folder.parent == find_model("hippocampus-mr").parent
    return KnownModel(folder.name if bundled else str(folder.absolute()), spec, spec.weights.sha256, digest)


def _check_names(known: dict[str, KnownModel]) -> None:
    names = [model.spec.name for model in known.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            found=f"two models are called {twice[0]}",
            expected="models of different names: their results lie in folders of their names",
            fix="change the name in one model.yaml, or leave one out",
        )


def with_references(found: Iterable[Candidate], folder: Path) -> tuple[Candidate, ...]:
    """Give each study the label map of its name, where there is one."""
    from voxmetry.measure.files import label_maps

    maps = label_maps(folder, "reference")
    return tuple(
        candidate.model_copy(update={"reference": str(maps[candidate.case].absolute())})
        if candidate.reference is None and candidate.case in maps
        else candidate
        for candidate in found
    )


def assign(found: Iterable[Candidate], rules: Rules, known: dict[str, KnownModel]) -> list[PlannedStudy]:
    """Pair each study with each model that takes it."""
    planned = []
    for candidate in found:
        if candidate.fault is not None:
            planned.append(PlannedStudy(case=candidate.case, model="", state="refused", candidate=candidate))
            continue
        mine = (Rule(model=candidate.model),) if candidate.model else rules.rules
        verdicts = {rule.model: fits(rule, known[rule.model].spec, candidate) for rule in mine}
        taken = list(dict.fromkeys(rule.model for rule in mine if not fits(rule, known[rule.model].spec, candidate)))
        if not taken:
            fault = no_model([(known[name].spec.name, why) for name, why in verdicts.items()])
            planned.append(
                PlannedStudy(case=candidate.case, model="", state="refused", fault=fault, candidate=candidate)
            )
        planned += [
            PlannedStudy(case=candidate.case, model=known[name].spec.name, state="waiting", candidate=candidate)
            for name in taken
        ]
    return [
        study if study.fault or not study.candidate.fault else study.model_copy(update={"fault": study.candidate.fault})
        for study in planned
    ]


def with_recipes(
    studies: Iterable[PlannedStudy], known: dict[str, KnownModel], settings: RunSettings
) -> Iterable[PlannedStudy]:
    """Give each study that could run the hash of all that decides on its numbers."""
    digests = {model.spec.name: model.digest for model in known.values()}
    for study in studies:
        if study.state != "waiting":
            yield study
            continue
        parts = [voxmetry.__version__, digests[study.model], settings.study.model_dump_json(exclude=_NO_NUMBERS)]
        parts += [study.candidate.fingerprint, study.candidate.series or "", study.candidate.modality or ""]
        if study.candidate.reference:
            parts.append(_reference_mark(study.candidate.reference))
        recipe = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        yield study.model_copy(update={"recipe": recipe})


def _reference_mark(path: str) -> str:
    try:
        return fingerprint([Path(path)])
    except OSError:
        return "missing"


def rates_of(
    before: dict[tuple[str, str], Progress], studies: Iterable[PlannedStudy], known: dict[str, KnownModel]
) -> dict[str, list[tuple[float, float]]]:
    """Return, by model, work and seconds of what the record holds as done."""
    specs = {model.spec.name: model.spec for model in known.values()}
    rates: dict[str, list[tuple[float, float]]] = {}
    for study in studies:
        progress = before.get(study.key)
        if progress and progress.state == "done" and progress.seconds > 0 and study.model in specs:
            pair = (work_of(study.candidate, specs[study.model]), progress.seconds)
            rates.setdefault(study.model, []).append(pair)
    return rates


def _foreseen(
    study: PlannedStudy, known: dict[str, KnownModel], rates: Sequence[tuple[float, float]], *, cores: int
) -> PlannedStudy:
    if study.state != "waiting":
        return study
    spec = next(model.spec for model in known.values() if model.spec.name == study.model)
    seconds = seconds_of(work_of(study.candidate, spec), rates, cores=cores)
    return study.model_copy(
        update={"seconds_foreseen": seconds, "memory_mb_foreseen": memory_mb(study.candidate, spec)}
    )
