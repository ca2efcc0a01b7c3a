"""`voxmetry data`: look at a data set, or at images made from label maps, before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.options import FLAGGED
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import say, say_json
from voxmetry.cli.strict import StrictGroup

data_app = typer.Typer(help="Look at data sets of labelled cases.", no_args_is_help=True, cls=StrictGroup)


@data_app.callback()
def _data() -> None:
    pass


@data_app.command("check")
def check(
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set: a folder, or a YAML or CSV manifest.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the JSON file and the page.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of label maps by a model that has not seen the cases.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier check in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Find mismatched grids, odd labels, duplicates and outliers; exit code 1 with errors, 3 with things to review."""
    from voxmetry.workflows.data_check import agreement_lines, check_paths

    with bar("checking", quiet=as_json) as progress:
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


@data_app.command("synthesise")
def synthesise(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A training configuration with the block 'synthesis'.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the images, the labels and samples.png.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Data set; overrides the one of the configuration. May be repeated.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images.", min=1, max=999)] = 8,
    seed: Annotated[int, typer.Option(help="Decides the images.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples that are there.")] = False,
) -> None:
    """Make images from label maps as training would, and draw slices of them to look at."""
    from voxmetry.workflows.synthesise import synthesise_from

    files = synthesise_from(config, out, data=data, n=count, seed=seed, overwrite=overwrite)
    show.files([files[-1], out])
