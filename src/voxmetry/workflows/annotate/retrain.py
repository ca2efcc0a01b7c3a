"""Train from a model on old and corrected cases, with the split that stays for ever."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from voxmetry.config import TrainSettings, load_yaml, parse_record
from voxmetry.errors import ConfigError, InputError
from voxmetry.models import find_model, read_spec
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import open_data
from voxmetry.train.finetune import LEARNING_RATE_SHARE
from voxmetry.train.finish import patient_key
from voxmetry.train.join import join
from voxmetry.workflows.annotate.collect import CASES, FOLDER, read_corrections
from voxmetry.workflows.annotate.split import Split, permanent_split
from voxmetry.workflows.training_cases import read_split


def open_cases(data: Sequence[Path | str], corrections: Sequence[Path | str]) -> DataSet:
    """Open old data sets and collected corrections as one; a corrected case takes the place of an old one of its name.

    Parameters
    ----------
    data
        Data sets, as `voxmetry train` takes them.
    corrections
        Folders of work lists whose corrections were collected.

    Raises
    ------
    InputError
        If there is nothing to train on, or a work list has no images.
    ConfigError
        If the data sets do not fit each other.
    """
    parts = [open_data(path) for path in data]
    new = []
    for folder in map(Path, corrections):
        path = folder / FOLDER / CASES
        if not path.is_file():
            read_corrections(folder)
            raise InputError(
                found=f"corrections in {folder.name} without images",
                expected="a work list that was made with the images: training needs them",
                fix="make it again by voxmetry annotate plan with --images (images=...), and collect the "
                "corrections again",
            )
        new.append(open_data(path))
    corrected = {case.name for part in new for case in part.cases}
    kept = [replace(x, cases=tuple(case for case in x.cases if case.name not in corrected)) for x in parts]
    # Names of channels differ between data sets; their order and modalities are what counts.
    return join([part for part in (*kept, *new) if part.cases])


def settings_for(
    model: Path | str, *, epochs: int | None = None, config: Path | None = None, precision: str | None = None
) -> TrainSettings:
    """Return the settings of a run that goes on from a model: those that it was trained with, or those of a file.

    Parameters
    ----------
    model
        The run folder, or the model in it.
    epochs
        Epochs, in place of those of the settings.
    config
        A training configuration; needed for a model that does not lie in its run folder.
    precision
        Of the training, in place of that of the settings.

    Raises
    ------
    ConfigError
        If there are no settings.
    """
    folder = find_model(model)
    path = config or folder.parent / "settings.yaml"
    if not path.is_file():
        raise ConfigError(
            found=f"no settings.yaml beside the model {folder.name}",
            expected="the run folder of voxmetry train, or the configuration that the model was trained with",
            fix="pass the configuration: --config configs/train/NAME.yaml (config='NAME.yaml')",
        )
    settings, source = load_yaml(path, TrainSettings), read_spec(folder)
    spec = settings.model.model_copy(update={"version": next_version(source.version), "name": source.name})
    given = {
        "model": spec.model_dump(mode="json", exclude_none=True),
        "start_from": str(folder),
        "learning_rate": settings.learning_rate * (LEARNING_RATE_SHARE if settings.start_from is None else 1),
        "fold": None,
        "initial_bias": "zero",
        **({"epochs": epochs} if epochs is not None else {}),
        **({"precision": precision} if precision is not None else {}),
    }
    return parse_record(settings.model_dump(mode="json", exclude_none=True) | given, TrainSettings, where="the options")


def next_version(version: str) -> str:
    """Return the version of a model that was trained on from another.

    Examples
    --------
    >>> next_version("1.0.3"), next_version("2"), next_version("draft")
    ('1.1.0', '2.1.0', 'draft.1')
    """
    numbers = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.\d+)?", version)
    if numbers is not None:
        return f"{numbers[1]}.{int(numbers[2] or 0) + 1}.0"
    tail = re.fullmatch(r"(.*\.)(\d+)", version)
    return f"{tail[1]}{int(tail[2]) + 1}" if tail else f"{version}.1"


def retrain(
    model: Path | str,
    out: Path,
    *,
    data: Sequence[Path | str],
    corrections: Sequence[Path | str],
    held_out_share: float = 0.2,
    epochs: int | None = None,
    config: Path | None = None,
    precision: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    max_minutes: float | None = None,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
) -> tuple[Path, Split]:
    """Train on from a model, and write a new model folder; the old one stays as it is.

    Parameters
    ----------
    model
        The model to start from: its run folder.
    out
        The new run folder.
    data
        The data sets that it was trained on and held out.
    corrections
        Folders of work lists whose corrections were collected.
    held_out_share
        Share of the new patients that is held out, for ever.
    epochs, config, precision, device, max_minutes, resume
        As `voxmetry train` takes them.
    tell
        Called with lines for people.

    Returns
    -------
    Path, Split
        The new model's folder, and the split.

    Raises
    ------
    VoxmetryError
        If the cases, the split or the settings cannot be used; nothing is trained then.
    """
    from voxmetry.nn.runtime import choose_device
    from voxmetry.train import train

    settings = settings_for(model, epochs=epochs, config=config, precision=precision)
    found = open_cases(data, corrections)
    split = permanent_split(found.cases, read_split(find_model(model)), held_out_share=held_out_share)
    if tell is not None:
        tell(
            f"{len(split.training)} cases to train on, {len(split.held_out)} held out"
            + (f", of these {len(split.new_held_out)} new" if split.new_held_out else "")
        )
    held_out = set(split.held_out)
    cases = tuple(replace(case, held_out=case.name in held_out) for case in found.cases)
    settings = settings.model_copy(update={"data": tuple(map(str, (*data, *corrections)))})
    path = train(
        settings,
        out,
        data=replace(found, cases=cases),
        resume=resume,
        device=choose_device(device),
        max_minutes=max_minutes,
    )
    return path, split


def require_unseen_by(cases: Sequence[Case], model: Path | str, name: str) -> None:
    """See that a model was trained on none of these cases and patients.

    Raises
    ------
    ConfigError
        If it was, or does not say what it was trained on.
    """
    folder = find_model(model)
    split = read_split(folder)
    if "training" not in split:
        raise ConfigError(
            found=f"{name} does not say which cases it was trained on",
            expected="split.json in its folder, as voxmetry train writes it",
            fix="compare models that were trained with voxmetry",
        )
    trained = set(split["training"])
    leaked = [case.name for case in cases if case.name in trained]
    known = set(split.get("training_patients", ()))
    leaked += [case.name for case in cases if patient_key(case.patient) in known and case.name not in leaked]
    if leaked:
        raise ConfigError(
            found=f"{len(leaked)} held-out cases that {name} was trained on, or others of their patients: "
            f"{', '.join(leaked[:5])}",
            expected="cases that neither model was trained on",
            fix="train the new model with voxmetry annotate train, which keeps the split of the old one",
        )
