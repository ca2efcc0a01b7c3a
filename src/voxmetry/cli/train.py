"""`voxmetry train` and `voxmetry train-plan`: from a data set, or a configuration, to a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli import show_models
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import say, say_json

if TYPE_CHECKING:
    from voxmetry.config import TrainSettings
    from voxmetry.train.loop import Watcher
    from voxmetry.train.plan import TrainingPlan

MemoryGb = Annotated[float, typer.Option("--memory-gb", help="Memory that training may take, in 10^9 bytes.", min=0.7)]
Epochs = Annotated[int | None, typer.Option(help="Epochs, instead of what the plan or configuration says.", min=1)]
Modality = Annotated[
    list[str] | None,
    typer.Option(
        help="CT, MR or PT: what a channel is, where the data set does not say; repeat in the order of the channels."
    ),
]
Start = Annotated[
    str | None, typer.Option("--from", help="Model to start from: a bundled one's name or a model folder.")
]
TrainDevice = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def train(
    source: Annotated[Path, typer.Argument(help="A data set (folder or manifest), or a training configuration.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; runs/MODEL if not given.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Data set; overrides the one of the configuration. Repeat it to train on several."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Hold out this part of a cross-validation, counted from 0.", min=0)
    ] = None,
    start: Start = None,
    epochs: Epochs = None,
    memory_gb: MemoryGb = 4.0,
    modality: Modality = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    device: TrainDevice = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "float32"] | None,
        typer.Option(
            help="Numerical precision of training; auto: bf16 where the processor multiplies it, else float32."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of prepared cases, which runs may share; in OUT if not given."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="End after so many minutes of training and write the model; --resume goes on later.", min=0),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files to OUT too.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model and write its folder. A data set needs no configuration: it is measured and planned for first."""
    from voxmetry.config import TrainSettings, load_yaml, parse_record
    from voxmetry.nn.runtime import choose_device
    from voxmetry.train import train as train_model
    from voxmetry.train.devices import import_fabric, is_first
    from voxmetry.train.watch import TensorBoard

    import_fabric()  # before the data set is measured, which takes minutes
    watchers: list[Watcher] = [_draw]
    if tensorboard:
        watchers.append(TensorBoard())
    chosen = choose_device(device)
    if _is_configuration(source):
        settings = load_yaml(source, TrainSettings)
        named = [settings.data] if isinstance(settings.data, str) else settings.data
        folder = data or [beside(source, name) for name in named]
        given = {"epochs": epochs, "start_from": start}
    else:
        folder = [source, *(data or [])]
        saved = out / "settings.yaml" if out else None
        if resume and saved is not None and saved.is_file():
            # What was planned then is what the checkpoint belongs to.
            settings = load_yaml(saved, TrainSettings)
        else:
            settings = _planned(
                folder, memory_gb=memory_gb, device=chosen, epochs=epochs, modality=modality, start=start, out=out
            )
        given = {}
    given = {
        name: value for name, value in {**given, "fold": fold, "precision": precision}.items() if value is not None
    }
    if given:
        settings = parse_record(settings.model_dump() | given, TrainSettings, where="the options")
    run = out or Path("runs") / settings.model.name / ("" if settings.fold is None else f"fold-{settings.fold}")
    model = train_model(
        settings,
        run,
        data=folder,
        resume=resume,
        device=chosen,
        cache=cache,
        watchers=watchers,
        max_minutes=max_minutes,
        locate=partial(beside, source),
    )
    if is_first():
        show_models.trained(model, as_json=as_json)


def _draw(run: Path, row: dict[str, float]) -> None:
    """Draw the curves again where the held-out cases were looked at, and after the first epoch."""
    if row["epoch"] > 1 and not any(name.startswith("dice_") for name in row):
        return
    import io

    from voxmetry.io.atomic import write_bytes
    from voxmetry.plot import training_curve

    picture = io.BytesIO()
    training_curve(run).savefig(picture, format="png", dpi=110)
    write_bytes(run / "training.png", picture.getvalue())


def train_plan(
    data: Annotated[Path, typer.Argument(help="A data set: a folder, or a YAML or CSV manifest.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File for the plan; standard output if not given.")
    ] = None,
    start: Start = None,
    epochs: Epochs = None,
    memory_gb: MemoryGb = 4.0,
    modality: Modality = None,
    device: TrainDevice = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier plan.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a data set and write a training configuration with the reason for each choice."""
    from voxmetry.config import dump_yaml
    from voxmetry.io.atomic import write_text
    from voxmetry.io.output_folder import require_no_file
    from voxmetry.nn.runtime import choose_device
    from voxmetry.train.finetune import settings_from

    if out is not None:
        require_no_file(out, overwrite=overwrite)
    plan = _plan(
        [data], memory_gb=memory_gb, device=choose_device(device), epochs=epochs, modality=modality, quiet=as_json
    )
    text = dump_yaml(settings_from(plan.settings, start)) if start else plan.to_yaml()
    if as_json:
        content = {"settings": plan.settings.model_dump(mode="json", exclude_none=True), "reasons": plan.reasons}
        say_json(content)
    elif out is None:
        say(text)
    if out is not None:
        write_text(out, text)


def _plan(
    data: Sequence[Path],
    *,
    memory_gb: float,
    device: str,
    epochs: int | None,
    modality: list[str] | None,
    quiet: bool = False,
) -> TrainingPlan:
    from voxmetry.train.devices import n_processes
    from voxmetry.train.fingerprint import scan
    from voxmetry.train.join import open_joined
    from voxmetry.train.plan import Budget, make_plan

    with bar("measuring the data set", quiet=quiet) as progress:
        named, _, fingerprint = scan(open_joined(data), progress=progress)
    budget = Budget(memory_gb, device, epochs, tuple(modality) if modality else None, n_processes())
    return make_plan(fingerprint, named, data=str(data[0]) if len(data) == 1 else tuple(map(str, data)), budget=budget)


def _planned(
    data: Sequence[Path],
    *,
    memory_gb: float,
    device: str,
    epochs: int | None,
    modality: list[str] | None,
    start: str | None,
    out: Path | None,
) -> TrainSettings:
    """Plan, and leave the plan with its reasons in the run folder."""
    from voxmetry.io.atomic import make_folder, write_text
    from voxmetry.train.devices import is_first
    from voxmetry.train.finetune import settings_from

    plan = _plan(data, memory_gb=memory_gb, device=device, epochs=epochs, modality=modality, quiet=not is_first())
    run = out or Path("runs") / plan.settings.model.name
    if is_first() and not (run / "settings.yaml").exists():
        write_text(make_folder(run) / "plan.yaml", plan.to_yaml())
    return settings_from(plan.settings, start) if start else plan.settings


def _is_configuration(path: Path) -> bool:
    """Say whether a YAML file is a training configuration (it describes a model) and not a manifest."""
    import yaml

    from voxmetry.core.strict_yaml import read_strict
    from voxmetry.errors import ConfigError

    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    try:
        content = read_strict(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            found=f"{path} cannot be read as YAML: {type(error).__name__}",
            expected="a training configuration or a manifest",
            fix="check the path and the file",
        ) from error
    return not (isinstance(content, dict) and "channels" in content)


def beside(config: Path, data: str) -> Path:
    """Where a configuration's data set is: relative to the file, to VOXMETRY_DATA or to the working folder."""
    places = [config.parent, Path(os.environ.get("VOXMETRY_DATA", ".")), Path()]
    return next((place / data for place in places if (place / data).exists()), places[1] / data)
