"""From a data set, or a configuration, to a model folder: what stands behind `voxmetry train`."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from voxmetry.config import TrainSettings, load_yaml, parse_record
from voxmetry.core.progress import Progress
from voxmetry.core.strict_yaml import read_strict
from voxmetry.core.text_files import why_unreadable
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import make_folder, write_bytes, write_text
from voxmetry.io.output_folder import require_apart
from voxmetry.train.devices import is_first as is_first

if TYPE_CHECKING:
    from voxmetry.train.loop import Watcher
    from voxmetry.train.plan_memory import NetworkChoice


@dataclass(frozen=True)
class TrainingOptions:
    """What is chosen for a run.

    Parameters
    ----------
    out
        Run folder; None for runs/MODEL.
    data
        Data sets that override those of a configuration, or that are joined to the one that is trained on.
    fold
        Part of a cross-validation that is held out, counted from 0.
    start
        The model to start from: a bundled one's name or a model folder.
    epochs
        Instead of what the plan or configuration says.
    precision
        "auto", "bf16", "fp16" or "float32", instead of what the plan or configuration says.
    memory_gb, modality, network
        As for a plan.
    device
        "auto", "cpu" or "cuda".
    resume
        Whether the run in `out` is continued.
    cache
        Folder of prepared cases, which runs may share; None for one in `out`.
    max_minutes
        End after so many minutes of training.
    tensorboard
        Whether TensorBoard files are written too.
    """

    out: Path | None = None
    data: tuple[Path, ...] = ()
    fold: int | None = None
    start: str | None = None
    epochs: int | None = None
    precision: Literal["auto", "bf16", "fp16", "float32"] | None = None
    memory_gb: float = 4.0
    modality: tuple[str, ...] = ()
    network: NetworkChoice = "auto"
    device: str = "auto"
    resume: bool = False
    cache: Path | None = None
    max_minutes: float | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class PreparedRun:
    """Settings of a run, the data sets that it is trained on, its folder, and what looks on."""

    settings: TrainSettings
    data: list[Path]
    out: Path
    watchers: tuple[Watcher, ...]


def prepare_run(source: Path, options: TrainingOptions, *, progress: Progress | None = None) -> PreparedRun:
    """Read a configuration, or measure a data set and plan for it; `progress` is called while it is measured.

    Raises
    ------
    VoxmetryError
        If neither can be read, or an option contradicts the configuration.
    """
    from voxmetry.train.devices import import_fabric
    from voxmetry.train.watch import TensorBoard

    # What is not installed is told before the data set is measured, which takes minutes.
    import_fabric()
    watchers = (draw_curves, TensorBoard()) if options.tensorboard else (draw_curves,)
    given: dict[str, object] = {"fold": options.fold, "precision": options.precision}
    if is_configuration(source):
        settings = load_yaml(source, TrainSettings)
        data = list(options.data or data_of(settings, source))
        given |= {"epochs": options.epochs, "start_from": options.start}
    else:
        data = [source, *options.data]
        saved = options.out / "settings.yaml" if options.out else None
        if options.resume and saved is not None and saved.is_file():
            # What was planned then is what the checkpoint belongs to.
            settings = load_yaml(saved, TrainSettings)
        else:
            settings = _planned(data, options, progress)
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        settings = parse_record(settings.model_dump() | given, TrainSettings, where="the options")
    folder = Path("runs") / settings.model.name / ("" if settings.fold is None else f"fold-{settings.fold}")
    return PreparedRun(settings, data, options.out or folder, watchers)


def run_training(source: Path, run: PreparedRun, options: TrainingOptions) -> Path | None:
    """Train, draw the curves as it goes, and write the model folder.

    Returns
    -------
    Path or None
        The model folder; None in all processes but the first.

    Raises
    ------
    VoxmetryError
        As `voxmetry.train.train`.
    """
    from voxmetry.nn.runtime import choose_device
    from voxmetry.train import train

    model = train(
        run.settings,
        run.out,
        data=run.data,
        resume=options.resume,
        device=choose_device(options.device),
        cache=options.cache,
        watchers=run.watchers,
        max_minutes=options.max_minutes,
        locate=partial(beside, source),
    )
    return model if is_first() else None


def draw_curves(run: Path, row: dict[str, float]) -> None:
    """Draw the curves again where the held-out cases were looked at, and after the first epoch."""
    if row["epoch"] > 1 and not any(name.startswith("dice_") for name in row):
        return
    from voxmetry.plot import training_curve

    picture = io.BytesIO()
    training_curve(run).savefig(picture, format="png", dpi=110)
    write_bytes(run / "training.png", picture.getvalue())


def _planned(data: list[Path], options: TrainingOptions, progress: Progress | None) -> TrainSettings:
    """Plan, and leave the plan with its reasons in the run folder."""
    from voxmetry.train.finetune import settings_from
    from voxmetry.train.join import open_joined
    from voxmetry.train.run_settings import with_places
    from voxmetry.workflows.train_plan import PlanInputs, plan_training

    inputs = PlanInputs(
        data,
        epochs=options.epochs,
        memory_gb=options.memory_gb,
        modality=options.modality,
        network=options.network,
        device=options.device,
    )
    read = (*data, *open_joined(data).folders)
    if options.out is not None:
        # Before the data set is measured, which may take an hour.
        require_apart(options.out, read)
    plan = plan_training(inputs, progress=progress)
    plan = replace(plan, settings=with_places(plan.settings, data, Path))
    run = options.out or Path("runs") / plan.settings.model.name
    require_apart(run, read)
    if is_first() and not (run / "settings.yaml").exists():
        write_text(make_folder(run) / "plan.yaml", plan.to_yaml())
    return settings_from(plan.settings, options.start) if options.start else plan.settings


def is_configuration(path: Path) -> bool:
    """Say whether a YAML file is a training configuration (it describes a model) and not a manifest.

    Raises
    ------
    ConfigError
        If it cannot be read as YAML.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    try:
        content = read_strict(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            found=f"{path} cannot be read as YAML: {why_unreadable(error)}",
            expected="a training configuration or a manifest",
            fix="check the path and the file",
        ) from error
    return not (isinstance(content, dict) and "channels" in content)


def data_of(settings: TrainSettings, config: Path) -> list[Path]:
    """Return where the data sets that a configuration names lie.

    Raises
    ------
    ConfigError
        If one is not there.
    """
    named = [settings.data] if isinstance(settings.data, str) else settings.data
    found = [beside(config, name) for name in named]
    for name, path in zip(named, found, strict=True):
        if not path.exists():
            raise ConfigError(
                found=f"{config} names the data set {name}, which is not there",
                expected="its path, relative to this file, to VOXMETRY_DATA or to the working folder",
                fix="say where it lies: --data DATASET, or correct the key data (data=[...] in Python)",
            )
    return found


def beside(config: Path, data: str) -> Path:
    """Where a path or pattern of a configuration leads: from the file, from VOXMETRY_DATA or the working folder."""
    places = [config.parent, Path(os.environ.get("VOXMETRY_DATA", ".")), Path()]
    paths = [place / data for place in places]
    return next((path for path in paths if path.exists() or any(path.parent.glob(path.name))), paths[1])
