"""`voxmetry data check`: look at a data set before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.options import FLAGGED
from voxmetry.cli.streams import say, say_json

data_app = typer.Typer(help="Look at data sets of labelled cases.", no_args_is_help=True)


@data_app.callback()
def _data() -> None:
    pass


@data_app.command("check")
def check(
    data: Annotated[Path, typer.Argument(help="A data set: a folder, or a YAML or CSV manifest.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the JSON file and the page.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of label maps by a model that has not seen the cases.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier check in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Find mismatched grids, odd labels, duplicates and outliers; exit code 1 with errors, 3 with things to review."""
    from voxmetry.train.data_check import agreement_lines
    from voxmetry.workflows.data_check import check_paths

    with show.progress("checking", quiet=as_json) as progress:
        found, files = check_paths(data, predictions=predictions, out=out, overwrite=overwrite, progress=progress)
    if as_json:
        say_json(found)
    else:
        show.data_check(found)
        for line in agreement_lines(found.agreements):
            say(line)
        show.files(files)
    severities = {row.severity for row in found.findings}
    raise typer.Exit(1 if "error" in severities else FLAGGED if "review" in severities else 0)
