"""`voxmetry ensemble`: the folds of a cross-validation as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show_models
from voxmetry.cli.options import OnDevice
from voxmetry.cli.streams import say, say_json


def ensemble(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with fold-0/model, fold-1/model and so on.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Model folder to make.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The data set, to choose the post-processing on the cases that each fold held out."),
    ] = None,
    clean_into: Annotated[
        Path | None,
        typer.Option(
            help="Model folder whose post-processing is set to the chosen one too, such as that of all cases."
        ),
    ] = None,
    device: OnDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write the folds of a run as one model, whose scores are averaged; with --data, with the best post-processing."""
    from voxmetry.workflows.ensemble import ensemble_run

    folder, choices = ensemble_run(run, out, data=data, clean_into=clean_into, device=device)
    if as_json:
        rows = [{"clean": choice.name, "dice": choice.dice} for choice in choices]
        say_json({"model": str(folder), "choices": rows})
        return
    for choice in choices:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in choice.dice.items())
        say(f"{'taken: ' if choice is choices[0] else ''}{choice.name}: Dice {dice}")
    show_models.trained(folder, as_json=False)
