"""`voxmetry train-plan`: a training configuration for a data set, with the reason for each choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli.options import grouped
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import say, say_json
from voxmetry.cli.train_options import Planning


@grouped
def train_plan(
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set: a folder, or a YAML or CSV manifest.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File for the plan; standard output if not given.")
    ] = None,
    *,
    planning: Planning,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier plan.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Measure a data set and write a training configuration with the reason for each choice."""
    from voxmetry.workflows.train_plan import PlanInputs, write_training_plan

    inputs = PlanInputs(
        [data],
        start=planning.start,
        epochs=planning.epochs,
        memory_gb=planning.memory_gb,
        modality=tuple(planning.modality or ()),
        network=planning.network,
        device=planning.device,
    )
    with bar("measuring the data set", quiet=as_json) as progress:
        plan, text = write_training_plan(inputs, out, overwrite=overwrite, progress=progress)
    if as_json:
        say_json({"settings": plan.settings.model_dump(mode="json", exclude_none=True), "reasons": plan.reasons})
    elif out is None:
        say(text)
    else:
        say(f"  {out}")
