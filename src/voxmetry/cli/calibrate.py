"""`voxmetry calibrate`: learn to predict the Dice of a model's segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.options import OnDevice
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import say, say_json


def calibrate(
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set: a folder, or a YAML or CSV manifest.")],
    model: Annotated[str, typer.Option("-m", "--model", help="A model, or a run folder with folds.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for calibration.json, .csv and .png.")],
    into: Annotated[Path | None, typer.Option(help="Model folder whose model.yaml and card take the result.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier calibration in OUT.")] = False,
    device: OnDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Fit how a network's own certainty goes with its Dice on labelled cases that it has not seen."""
    from voxmetry.workflows.calibrate import calibrate_model

    with bar("calibrating", quiet=as_json) as progress:
        result, files = calibrate_model(
            data, model, out, into=into, device=device, overwrite=overwrite, progress=progress
        )
    if as_json:
        say_json(result)
        return
    for row in result.structures:
        say(str(row))
    if result.recipe:
        say(result.recipe)
    show.files(files)
