"""`voxmetry evaluate`: how good models are on labelled cases that they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.instance_options import Instances
from voxmetry.cli.options import NamesMap, OnDevice, grouped, names_of
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import say, say_json


@grouped
def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set: a folder, or a YAML or CSV manifest.")],
    model: Annotated[
        list[str],
        typer.Option(
            "-m", "--model", help="A model, a run folder with folds, or a baseline's YAML file; repeat to compare."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for predictions, tables and pages.")],
    *,
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice.", min=1e-6)
    ] = 1.0,
    names_map: NamesMap = None,
    counted: Instances,
    device: OnDevice = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Evaluate models on labelled cases that they have not seen; the first is compared with each of the others."""
    from voxmetry.config import parse_record
    from voxmetry.core.records import CohortSettings
    from voxmetry.workflows.evaluate import evaluate as evaluate_models

    chosen = {"tolerance_mm": tolerance_mm, "names": names_of(names_map), **counted.settings("maps")}
    settings = parse_record(chosen, CohortSettings, where="options")
    with bar("evaluating", quiet=as_json) as progress:
        found, files = evaluate_models(
            data, model, out, settings=settings, device=device, overwrite=overwrite, progress=progress
        )
    if as_json:
        say_json(found)
    else:
        for result in found.models:
            left_out = f", {result.n_seen} cases it was trained on left out" if result.n_seen else ""
            say(f"{result.name}{left_out}")
            show.cohort(result.cohort, (), as_json=False)
            if result.recipe:
                say(result.recipe)
        for line in found.verdicts:
            say(line)
        show.files(files)
    raise typer.Exit(1 if any(result.cohort.failed for result in found.models) else 0)
