"""`voxmetry cohort`: plan, run, status, export and report of many studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxmetry.cli import show_cohort
from voxmetry.cli.cohort_options import (
    CohortReading,
    CohortWriting,
    Json,
    Models,
    OnlyFailed,
    Out,
    References,
    RulesFile,
    SettingsFile,
    SkipDone,
    Source,
    study_settings,
)
from voxmetry.cli.options import FLAGGED, grouped
from voxmetry.cli.segment import Running
from voxmetry.cli.strict import StrictGroup

if TYPE_CHECKING:
    from voxmetry.workflows.cohort.records import RunSettings
    from voxmetry.workflows.cohort.rules import Rules

cohort_app = typer.Typer(
    help="Many studies: plan, run, look, export. A run that was stopped goes on by the same command.",
    no_args_is_help=True,
    cls=StrictGroup,
)

Done = Annotated[Path, typer.Argument(help="The folder that a run wrote to.", metavar="OUT")]


@cohort_app.command()
@grouped
def plan(
    source: Source,
    out: Out = None,
    model: Models = None,
    rules: RulesFile = None,
    references: References = None,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this CSV file.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Load the models and time them here, for a better forecast.")
    ] = False,
    settings_file: SettingsFile = None,
    *,
    reading: CohortReading,
    running: Running,
    writing: CohortWriting,
    only_failed: OnlyFailed = False,
    skip_done: SkipDone = False,
    as_json: Json = False,
) -> None:
    """List what would run, what was found twice, what is refused and why, and the time and memory foreseen."""
    from voxmetry.workflows.cohort.plan import plan_cohort
    from voxmetry.workflows.cohort.records import RunSettings

    study = study_settings(settings_file, reading, running, writing)
    made = plan_cohort(
        source,
        out,
        model or (),
        rules=_rules(rules),
        references=references,
        settings=RunSettings(study=study, only_failed=only_failed, skip_done=skip_done),
        measure=measure,
    )
    if save:
        from voxmetry.workflows.cohort.export import save_plan

        save_plan(made, save)
    show_cohort.plan(made, as_json=as_json)
    raise typer.Exit(1 if made.of("refused") else 0)


@cohort_app.command()
@grouped
def run(
    source: Source,
    out: Out = None,
    model: Models = None,
    rules: RulesFile = None,
    references: References = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; local:N starts N workers on this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; one for each CUDA device if not given.", min=1)
    ] = None,
    in_flight: Annotated[int, typer.Option(help="Studies that one process holds at once.", min=1)] = 3,
    settings_file: SettingsFile = None,
    *,
    reading: CohortReading,
    running: Running,
    writing: CohortWriting,
    only_failed: OnlyFailed = False,
    skip_done: SkipDone = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take the folder from a run whose machine is gone for good.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Segment and measure every study; what is done stays done. Exit code 1 where any study failed."""
    from voxmetry.workflows.cohort.records import RunSettings

    study = study_settings(settings_file, reading, running, writing)
    settings = RunSettings(
        study=study,
        workers=workers,
        in_flight=in_flight,
        scheduler=scheduler,
        only_failed=only_failed,
        skip_done=skip_done,
        break_lock=break_lock,
    )
    place = _run(source, out, model or [], _rules(rules), references, settings, quiet=as_json)
    _finish(place)
    counts = show_cohort.status(place, as_json=as_json)
    failed = sum(counts[name] for name in ("failed", "set aside", "refused"))
    raise typer.Exit(1 if failed else FLAGGED if counts["flagged"] else 0)


def _run(
    source: Path,
    out: Path | None,
    models: list[str],
    rules: Rules | None,
    references: Path | None,
    settings: RunSettings,
    *,
    quiet: bool,
) -> Path:
    from voxmetry.workflows.cohort import cohort
    from voxmetry.workflows.cohort.bids import is_bids
    from voxmetry.workflows.cohort.plan import out_folder
    from voxmetry.workflows.cohort.run import Tally

    place = out_folder(source, out, bids=source.is_dir() and is_bids(source))
    tally = Tally(0)
    with show_cohort.progress(tally, quiet=quiet) as (tell, update):
        for outcome in cohort(
            source, place, models, rules=rules, references=references, settings=settings, tell=tell, tally=tally
        ):
            update()
            if outcome.fault is not None:
                tell(f"{outcome.state}: {outcome.case}: {outcome.fault.found.splitlines()[0]}")
    return place


def _finish(place: Path) -> None:
    """Write the tables and the page of the folder anew."""
    from voxmetry.workflows.cohort.export import export_tables
    from voxmetry.workflows.cohort.page import write_page

    export_tables(place)
    write_page(place)


@cohort_app.command()
def status(out: Done, as_json: Json = False) -> None:
    """Show how far a cohort is, also while it runs; exit code 1 where any study failed."""
    counts = show_cohort.status(out, as_json=as_json)
    failed = sum(counts[name] for name in ("failed", "set aside", "refused"))
    raise typer.Exit(1 if failed else FLAGGED if counts["flagged"] else 0)


@cohort_app.command()
def export(
    out: Done,
    parquet: Annotated[
        bool | None, typer.Option("--parquet/--no-parquet", help="Write Parquet too; by default where it can be.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write measurements.csv and .parquet from the record: one row a study and structure."""
    from voxmetry.workflows.cohort.export import export_tables

    show_cohort.files(export_tables(out, parquet=parquet), as_json=as_json)


@cohort_app.command()
def report(out: Done, as_json: Json = False) -> None:
    """Write the page of the cohort, and with references that of its accuracy."""
    from voxmetry.workflows.cohort.page import write_page

    show_cohort.files(write_page(out), as_json=as_json)


def _rules(path: Path | None) -> Rules | None:
    if path is None:
        return None
    from voxmetry.workflows.cohort.rules import load_rules

    return load_rules(path)
