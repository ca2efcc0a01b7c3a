"""The verbs. Each one parses, calls one function, shows what it returned; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import models, show
from voxmetry.cli.calibrate import calibrate
from voxmetry.cli.cohort import cohort_app
from voxmetry.cli.compare import compare
from voxmetry.cli.convert import convert
from voxmetry.cli.data import data_app
from voxmetry.cli.ensemble import ensemble
from voxmetry.cli.evaluate import evaluate
from voxmetry.cli.follow_up import follow_up
from voxmetry.cli.inspect import inspect
from voxmetry.cli.measure import measure
from voxmetry.cli.progress import steps
from voxmetry.cli.report import report
from voxmetry.cli.segment import segment
from voxmetry.cli.streams import say
from voxmetry.cli.strict import StrictGroup
from voxmetry.cli.train import train, train_plan
from voxmetry.cli.verbs import HELP_OPTIONS, Verbs

app = typer.Typer(
    name="voxmetry",
    help="From a CT, MR or PET/CT study to a segmentation on its own grid, and to measurements. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Verbs,
    context_settings=HELP_OPTIONS,
)
models_app = typer.Typer(
    help="Bundled, imported and public models: list, show, pull, import, merge, export.",
    no_args_is_help=True,
    cls=StrictGroup,
)
app.add_typer(models_app, name="models")
app.add_typer(cohort_app, name="cohort")
app.add_typer(data_app, name="data")
app.command()(ensemble)
app.command("train-plan")(train_plan)
app.command()(evaluate)
app.command()(train)
models.add_to(models_app)


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")]


def _version(value: bool) -> None:
    if value:
        from voxmetry._version import __version__

        say(f"voxmetry {__version__}")
        raise typer.Exit


# The larger verbs have a file each.
app.command()(measure)
app.command()(convert)
app.command()(compare)
app.command("follow-up")(follow_up)
app.command()(report)
app.command()(calibrate)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("demo-out"),
    side: Annotated[Literal["left", "right"], typer.Option(help="Which hippocampus.")] = "right",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment a region of the ICBM 152 brain template, from DICOM to report."""
    from voxmetry.config import StudySettings
    from voxmetry.demo import run_demo

    with steps() as tell:
        result = run_demo(out, side=side, settings=StudySettings(overwrite=overwrite), tell=tell)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(show.exit_code(result))


app.command("inspect")(inspect)
app.command()(segment)
