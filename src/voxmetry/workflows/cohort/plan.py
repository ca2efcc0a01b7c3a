"""What a run would do: which studies with which models, which are done, which cannot be run and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from voxmetry._version import __version__
from voxmetry.config import ModelSpec, fast_spec
from voxmetry.errors import ConfigError, InputError
from voxmetry.io.dicom.read.choose import allowed_verdicts
from voxmetry.io.output_folder import require_apart
from voxmetry.io.suffixes import suffix_of
from voxmetry.models import find_model
from voxmetry.models.composite import CompositeSpec
from voxmetry.models.eight_bits import eight_bits_mark
from voxmetry.workflows.cohort.assign import assign
from voxmetry.workflows.cohort.bids import find_bids, is_bids
from voxmetry.workflows.cohort.database import read_progress
from voxmetry.workflows.cohort.discover import Found, Known, find_studies, fingerprint
from voxmetry.workflows.cohort.duplicates import mark_duplicates
from voxmetry.workflows.cohort.forecast import forecast, memory_mb, seconds_of, work_of
from voxmetry.workflows.cohort.header_cache import read_known
from voxmetry.workflows.cohort.manifest import read_manifest
from voxmetry.workflows.cohort.model_index import KnownModel, check_names, load_known_model
from voxmetry.workflows.cohort.progress import progress_of
from voxmetry.workflows.cohort.rates import basis_of, measured_rates, rates_of
from voxmetry.workflows.cohort.records import CohortPlan, PlannedStudy, RunSettings
from voxmetry.workflows.cohort.rules import Rules, rules_for

Tell = Callable[[str], None]

_NO_NUMBERS = {"device", "memory_gb", "report", "overwrite", "series", "modality"}
"""Settings that decide on no number, or that each study has of its own."""


def plan_cohort(
    source: Path | str,
    out: Path | str | None = None,
    models: Sequence[str] = (),
    *,
    rules: Rules | None = None,
    references: Path | None = None,
    settings: RunSettings = RunSettings(),  # noqa: B008  (frozen)
    measure: bool = False,
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
        Bundled models' names, model folders or baselines' YAML files; each takes every study of its modalities.
    rules
        Which model takes which study, in place of `models`.
    references
        Folder of label maps that are called as the cases are.
    settings
        What decides on the numbers, and whether to run failed studies alone.
    measure
        Load each model and time it here on one patch, for a better forecast.
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
    found, notes = find(root, place, bids=bids, known=read_known(place), tell=tell)
    for name in sorted({c.model for c in found if c.model} - set(known)):
        known[name] = load_known_model(name)
    check_names(known)
    assigned = assign(found, taken, known, forgiven=_forgiven(settings), listed=root.is_file())
    marked = mark_duplicates(with_references(assigned, references) if references else assigned)
    before = read_progress(place)
    cores = os.cpu_count() or 1
    as_run = _as_run(known, settings)
    rates = measured_rates(as_run, settings) if measure else rates_of(before, marked, as_run)
    studies = [
        _foreseen(
            progress_of(study, before.get(study.key), place, settings), as_run, rates.get(study.model, ()), cores=cores
        )
        for study in with_recipes(marked, as_run, settings)
    ]
    to_run = [study for study in studies if study.state == "waiting"]
    return CohortPlan(
        out=str(place),
        layout="bids" if bids else "folders",
        models=tuple(model.path for model in known.values()),
        studies=tuple(studies),
        notes=notes,
        forecast=forecast(to_run, basis=basis_of(rates, measured=measure), cores=cores),
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
        require_apart(out, (root,))
        return Path(out).absolute()
    if bids:
        return (root / "derivatives" / "voxmetry").absolute()
    raise ConfigError(
        found="no folder for the results",
        expected="--out; a BIDS data set alone has a place of its own for them, derivatives/voxmetry",
        fix="add -o OUT",
    )


def find(root: Path, out: Path, *, bids: bool, known: Known, tell: Tell | None) -> Found:
    """Find the studies of a folder, a manifest or a BIDS data set."""

    def count(n: int) -> None:
        if tell and n % 100 == 0:
            tell(f"found {n}")

    root = root.absolute()
    if bids:
        return Found(find_bids(root, known=known, tell=count))
    if root.is_file():
        if suffix_of(root) != ".csv":
            raise InputError(
                found=f"{root.name} is a file",
                expected="a folder of studies, a CSV manifest or a BIDS data set",
                fix="for one study: voxmetry segment STUDY -m MODEL -o OUT",
            )
        return Found(read_manifest(root, known=known))
    return find_studies(root, leave_out=out, known=known, tell=count)


def with_references(studies: Iterable[PlannedStudy], folder: Path) -> list[PlannedStudy]:
    """Give each study the label map of its name, where there is one."""
    from voxmetry.measurement.match_files import label_maps

    maps = label_maps(folder, "reference")
    given: list[PlannedStudy] = []
    for study in studies:
        if study.candidate.reference is None and study.case in maps:
            update = {"reference": str(maps[study.case].absolute())}
            given.append(study.model_copy(update={"candidate": study.candidate.model_copy(update=update)}))
        else:
            given.append(study)
    return given


def _forgiven(settings: RunSettings) -> frozenset[str]:
    study = settings.study
    return allowed_verdicts(allow_uneven=study.allow_uneven, resample_tilt=study.resample_tilt) - allowed_verdicts()


def with_recipes(
    studies: Iterable[PlannedStudy], known: dict[str, KnownModel], settings: RunSettings
) -> Iterable[PlannedStudy]:
    """Give each study that could run the hash of all that decides on its numbers."""
    digests = {model.spec.name: model.digest for model in known.values()}
    for study in studies:
        if study.state != "waiting":
            yield study
            continue
        parts = [__version__, digests[study.model], settings.study.model_dump_json(exclude=_NO_NUMBERS)]
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


def _as_run(known: dict[str, KnownModel], settings: RunSettings) -> dict[str, KnownModel]:
    """Return the models as they are run: where the settings ask for fast runs, with fewer windows and in 8 bits."""
    if not settings.study.fast:
        return known
    return {name: _as_run_fast(model) for name, model in known.items()}


def _as_run_fast(model: KnownModel) -> KnownModel:
    if not isinstance(model.spec, (ModelSpec, CompositeSpec)):
        return model
    digest = f"{model.digest} {eight_bits_mark(find_model(model.path))}"
    spec = fast_spec(model.spec) if isinstance(model.spec, ModelSpec) else model.spec
    return replace(model, spec=spec, digest=digest)


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
