"""`voxmetry train`: from a data set, or a configuration, to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show_models
from voxmetry.cli.options import grouped
from voxmetry.cli.progress import bar
from voxmetry.cli.train_options import Planning


@grouped
def train(
    source: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A data set (folder or manifest), or a training configuration.")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; runs/MODEL if not given.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Data set; overrides the one of the configuration. Repeat it to train on several."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Hold out this part of a cross-validation, counted from 0.", min=0)
    ] = None,
    *,
    planning: Planning,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "float32"] | None,
        typer.Option(
            help="Numerical precision of training; auto: bf16 where the device has it, else fp16 (CUDA) or float32."
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Train a model and write its folder. A data set needs no configuration: it is measured and planned for first."""
    from voxmetry.workflows.train import TrainingOptions, is_first, prepare_run, run_training

    options = TrainingOptions(
        out=out,
        data=tuple(data or ()),
        fold=fold,
        start=planning.start,
        epochs=planning.epochs,
        precision=precision,
        memory_gb=planning.memory_gb,
        modality=tuple(planning.modality or ()),
        network=planning.network,
        device=planning.device,
        resume=resume,
        cache=cache,
        max_minutes=max_minutes,
        tensorboard=tensorboard,
    )
    with bar("measuring the data set", quiet=as_json or not is_first()) as progress:
        run = prepare_run(source, options, progress=progress)
    model = run_training(source, run, options)
    if model is not None:
        show_models.trained(model, as_json=as_json)
