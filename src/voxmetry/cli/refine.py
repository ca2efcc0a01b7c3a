"""`voxmetry refine`: correct a run by clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.options import OnDevice


def refine(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a run.")],
    image: Annotated[
        list[Path], typer.Option(help="The study that was segmented; repeat for each image of a model with several.")
    ],
    model: Annotated[str, typer.Option("-m", "--model", help="The model of the run, which was trained with clicks.")],
    click: Annotated[
        list[str] | None,
        typer.Option(
            "--click",
            metavar="X,Y,Z[,LABEL]",
            help="A place in RAS+ mm, and the structure that is there, or background; repeat.",
        ),
    ] = None,
    author: Annotated[str, typer.Option(help="Who clicked.")] = "",
    anew: Annotated[bool, typer.Option("--anew", help="Forget the clicks of earlier calls.")] = False,
    device: OnDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Correct a run by clicks: its network segments again, told what is where; measurements and report are renewed.

    Clicks add up over calls. The label map without clicks stays as model_seg.nii.gz.
    """
    from voxmetry.core.records.clicks import parse_click
    from voxmetry.workflows.refine import refine_run

    clicks = [parse_click(text) for text in click or []]
    result = refine_run(out, image, model, clicks, author=author, anew=anew, device=device)
    if not as_json and result.correction is not None:
        show.correction(result.correction)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(show.exit_code(result))
