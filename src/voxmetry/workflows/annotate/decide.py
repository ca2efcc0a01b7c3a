"""Whether a new model is taken: both on the same held-out cases, a paired test, and a decision that is written down."""

from __future__ import annotations

import datetime
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from voxmetry.core.base import Number, Record
from voxmetry.core.json_files import read_record
from voxmetry.core.progress import Progress
from voxmetry.core.records import CohortSettings, PairedComparison
from voxmetry.core.text import word
from voxmetry.errors import ConfigError, FormatError, InputError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.models import find_model, read_spec
from voxmetry.train.cases import DataSet
from voxmetry.workflows.annotate.retrain import open_cases, require_unseen_by
from voxmetry.workflows.evaluate import PAGE, PREDICTIONS, RESULT, TABLE, evaluate
from voxmetry.workflows.training_cases import read_split

Advice: TypeAlias = Literal["accept", "keep", "undecided"]

NAME = "comparison.json"
DECISION = "decision.json"
LEVEL = 0.05
"""A p-value below this, after Holm's correction over all structures and metrics, counts as a difference."""
_MODEL_FILES = ("weights.safetensors", "split.json", "validation.csv", "MODEL_CARD.md", "model.yaml")


class ComparedModel(Record):
    """One of the two models."""

    name: str
    version: str
    folder: str
    weights_sha256: str


class ModelComparison(Record):
    """Two models on the same held-out cases: the content of `comparison.json`."""

    schema_version: Literal[1] = 1
    old: ComparedModel
    new: ComparedModel
    cases: tuple[str, ...]
    """Held out by both, trained on by neither."""
    n_failed: int
    paired: tuple[PairedComparison, ...]
    """New minus old, by structure and metric."""
    means: dict[str, tuple[Number, Number]]
    """Mean Dice of the old and of the new model, by structure."""
    advice: Advice
    reason: str


class Decision(Record):
    """What was decided: the content of `decision.json`."""

    schema_version: Literal[1] = 1
    decision: Literal["accept", "keep"]
    author: str
    made: str
    why: str = ""
    advice: Advice
    taken: ComparedModel
    left: ComparedModel
    n_cases: int


def compare_models(
    old: Path | str,
    new: Path | str,
    out: Path,
    *,
    data: Sequence[Path | str],
    corrections: Sequence[Path | str] = (),
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare two models on the cases that both held out, case by case.

    Parameters
    ----------
    old, new
        Run folders, or model folders, of different names.
    out
        Folder for `comparison.json` and what `voxmetry evaluate` writes.
    data, corrections
        Where the held-out cases are: data sets and work lists.
    device
        Where the networks run.
    overwrite
        Whether an earlier comparison is replaced.
    progress
        Called after each case and model.

    Returns
    -------
    ModelComparison
        Means, paired differences with their intervals by patient, Wilcoxon's signed-rank test with Holm's correction,
        and an advice: 'accept' where the new model is better in a structure and worse in none, 'keep' where it is worse
        in one, 'undecided' where these cases cannot tell.

    Raises
    ------
    ConfigError
        If a model was trained on a case that the other held out, or nothing is held out.
    VoxmetryError
        If a model or the cases cannot be used.
    """
    found = open_cases(data, corrections)
    held_out = held_out_of(found, new)
    chosen = found.select(held_out)
    pair = [_compared(old), _compared(new)]
    for model in pair:
        require_unseen_by(chosen.cases, model.folder, model.name)
    if pair[0].weights_sha256 == pair[1].weights_sha256:
        raise ConfigError(
            found="two models with the same weights", expected="an old and a new one", fix="name the new run's folder"
        )
    with output_folder(out, (PREDICTIONS, TABLE, RESULT, PAGE, DECISION, NAME), overwrite=overwrite) as stage:
        evaluation, files = evaluate(
            chosen,
            [new, old],
            stage / "evaluation",
            settings=CohortSettings(),
            device=device,
            progress=progress,
        )
        for file in (*files, stage / "evaluation" / PREDICTIONS):
            if file.exists():
                file.rename(stage / file.name)
        shutil.rmtree(stage / "evaluation", ignore_errors=True)
        paired = next(iter(evaluation.paired.values()))
        newer, older = evaluation.models
        failed = {case.case for one in (newer, older) for case in one.cohort.cases if case.error is not None}
        means = {
            a.label: (b.present["dice"].mean.mean, a.present["dice"].mean.mean)
            for a, b in zip(newer.cohort.structures, older.cohort.structures, strict=True)
        }
        advice, reason = advise(paired, len(failed))
        comparison = ModelComparison(
            old=pair[0],
            new=pair[1],
            cases=tuple(held_out),
            n_failed=len(failed),
            paired=paired,
            means=means,
            advice=advice,
            reason=reason,
        )
        write_text(stage / NAME, comparison.model_dump_json(indent=1))
    return comparison


def held_out_of(found: DataSet, model: Path | str) -> list[str]:
    """Return the cases that a model's run held out and that the data sets have.

    Raises
    ------
    ConfigError
        If there is none.
    """
    names = set(read_split(find_model(model)).get("validation", ()))
    held_out = [case.name for case in found.cases if case.name in names]
    if not held_out:
        raise ConfigError(
            found=f"none of the {len(names)} cases that the new model held out among the {len(found.cases)} given",
            expected="the data sets that it was trained with",
            fix="pass the same --data and work lists as for voxmetry annotate train",
        )
    return held_out


def _compared(model: Path | str) -> ComparedModel:
    folder = find_model(model)
    spec = read_spec(folder)
    name = folder.parent.name if folder.name == "model" else folder.name
    sha256 = spec.weights.sha256 if spec.weights is not None else ""
    return ComparedModel(name=name, version=spec.version, folder=str(folder.absolute()), weights_sha256=sha256)


def advise(paired: Sequence[PairedComparison], n_failed: int) -> tuple[Advice, str]:
    """Say from paired differences in Dice, new minus old, whether the new model should be taken, and why."""
    rows = [row for row in paired if row.metric == "dice"]
    told = [row for row in rows if math.isfinite(row.difference.low) and math.isfinite(row.difference.high)]

    def words(row: PairedComparison) -> str:
        d, p = row.difference, row.p_adjusted
        test = f", p {p:.2g}" if math.isfinite(p) else ""
        return f"{row.label}: Dice {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}, {d.n} cases{test})"

    worse = [row for row in told if row.difference.high < 0]
    better = [row for row in told if row.difference.low > 0 and row.p_adjusted < LEVEL]
    if n_failed:
        return "keep", f"{n_failed} cases failed with one of the two models"
    if worse:
        return "keep", f"the new model is worse: {'; '.join(map(words, worse))}"
    if better:
        return "accept", f"the new model is better and in no structure worse: {'; '.join(map(words, better))}"
    return "undecided", f"these cases do not tell the two apart: {'; '.join(map(words, rows)) or 'nothing to compare'}"


def read_comparison(folder: Path) -> ModelComparison:
    """Read a comparison.

    Raises
    ------
    InputError
        If the folder holds none.
    FormatError
        If it is damaged.
    """
    return read_record(
        folder / NAME,
        ModelComparison,
        missing=InputError(
            found=f"no {NAME} of two models in {folder.name}",
            expected="the folder that voxmetry annotate compare wrote",
            fix="voxmetry annotate compare OLD NEW WORK --data DATA -o FOLDER, and name that folder",
        ),
        damaged=lambda _: FormatError(
            found=f"a {NAME} that is not one of two models",
            expected="the folder that voxmetry annotate compare wrote",
            fix="compare the two models again",
        ),
    )


def accept(folder: Path, to: Path, *, author: str, why: str = "", anyway: bool = False) -> Decision:
    """Take the new model: copy it to where the model in use lies, and write down who decided and on what.

    Parameters
    ----------
    folder
        Of the comparison.
    to
        The folder of the model in use. A model that lies there is kept in its `earlier/`.
    author
        Who decides.
    why
        In words; needed where the advice is another.
    anyway
        Whether a model is taken that the comparison does not advise.

    Raises
    ------
    ConfigError
        If the advice is another and `anyway` is off, or no reason is given with it.
    InputError
        If the new model's folder has changed since the comparison.
    OutputError
        If the folder cannot be written.
    """
    compared = read_comparison(folder)
    if compared.advice != "accept" and not (anyway and why.strip()):
        raise ConfigError(
            found=f"the comparison advises otherwise ({compared.advice}): {compared.reason}",
            expected="a new model that is better in a structure and worse in none",
            fix=f"voxmetry annotate keep {word(folder)} --author NAME; or take it all the same and say why: --anyway "
            "--why 'REASON' (anyway=True, why='REASON')",
        )
    source = Path(compared.new.folder)
    if not (source / "model.yaml").is_file() or _compared(source).weights_sha256 != compared.new.weights_sha256:
        raise InputError(
            found="the new model is gone, or has been trained on since the comparison",
            expected="the model that was compared",
            fix="compare the two models again",
        )
    if to.resolve() == source.resolve():
        raise ConfigError(
            found="the new model's own folder as the place of the model in use",
            expected="another folder",
            fix="name one: --to models/NAME",
        )
    decision = _decision(compared, "accept", author, why)
    _set_aside(to)
    names = [entry.name for entry in source.iterdir() if entry.is_file() and entry.name != "model.yaml"]
    with output_folder(
        to, (*dict.fromkeys((*_MODEL_FILES[:-1], *names)), DECISION, "model.yaml"), overwrite=True
    ) as stage:
        for name in (*names, "model.yaml"):
            shutil.copyfile(source / name, stage / name)
        write_text(stage / DECISION, decision.model_dump_json(indent=1))
    write_text(folder / DECISION, decision.model_dump_json(indent=1))
    return decision


def keep(folder: Path, *, author: str, why: str = "") -> Decision:
    """Keep the old model, and write down who decided and on what.

    Raises
    ------
    InputError
        If there is no comparison.
    """
    decision = _decision(read_comparison(folder), "keep", author, why)
    write_text(folder / DECISION, decision.model_dump_json(indent=1))
    return decision


def _decision(compared: ModelComparison, decision: Literal["accept", "keep"], author: str, why: str) -> Decision:
    taken, left = (compared.new, compared.old) if decision == "accept" else (compared.old, compared.new)
    return Decision(
        decision=decision,
        author=author,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        why=why,
        advice=compared.advice,
        taken=taken,
        left=left,
        n_cases=len(compared.cases),
    )


def _set_aside(to: Path) -> None:
    """Keep the model that lies where the new one goes."""
    if not (to / "model.yaml").is_file():
        return
    before = _compared(to)
    aside = make_folder(to / "earlier" / f"{before.version}-{before.weights_sha256[:8]}")
    for entry in to.iterdir():
        if entry.is_file() and not entry.name.startswith("."):
            shutil.copyfile(entry, aside / entry.name)
