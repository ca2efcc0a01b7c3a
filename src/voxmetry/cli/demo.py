"""`voxmetry demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.progress import steps


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("demo-out"),
    model: Annotated[str, typer.Option("--model", "-m", help="brain-mr, or hippocampus-mr for a region.")] = "brain-mr",
    side: Annotated[Literal["left", "right"], typer.Option(help="Which hippocampus.")] = "right",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Segment the ICBM 152 brain template, from DICOM to report."""
    from voxmetry.config import StudySettings
    from voxmetry.demo import run_demo

    with steps() as tell:
        result = run_demo(out, model=model, side=side, settings=StudySettings(overwrite=overwrite), tell=tell)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(show.exit_code(result))
