"""The verbs, a file each: parse, call a workflow, show what it returned. What one needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from voxmetry.cli import models
from voxmetry.cli.annotate import annotate_app
from voxmetry.cli.calibrate import calibrate
from voxmetry.cli.cohort import cohort_app
from voxmetry.cli.compare import compare
from voxmetry.cli.convert import convert
from voxmetry.cli.data import data_app
from voxmetry.cli.demo import demo
from voxmetry.cli.ensemble import ensemble
from voxmetry.cli.evaluate import evaluate
from voxmetry.cli.follow_up import follow_up
from voxmetry.cli.inspect import inspect
from voxmetry.cli.measure import measure
from voxmetry.cli.refine import refine
from voxmetry.cli.report import report
from voxmetry.cli.segment import segment
from voxmetry.cli.serve import serve_app
from voxmetry.cli.streams import say
from voxmetry.cli.strict import StrictGroup
from voxmetry.cli.train import train
from voxmetry.cli.train_plan import train_plan
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
app.add_typer(serve_app, name="serve")
app.add_typer(annotate_app, name="annotate")
models.add_to(models_app)


def _version(value: bool) -> None:
    if value:
        from voxmetry._version import __version__

        say(f"voxmetry {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for verb in (segment, measure, compare, refine, report, demo, inspect, convert, train, evaluate, calibrate, ensemble):
    app.command()(verb)
app.command("follow-up")(follow_up)
app.command("train-plan")(train_plan)
