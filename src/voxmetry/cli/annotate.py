"""`voxmetry annotate`: a work list, corrections that come back, a model trained on them, and whether it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli.correcting import Correcting
from voxmetry.cli.options import FLAGGED, OnDevice, grouped
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import print_table, say, say_json, table
from voxmetry.cli.strict import StrictGroup

if TYPE_CHECKING:
    from voxmetry.workflows.annotate.collect import CollectedCorrections
    from voxmetry.workflows.annotate.decide import Decision, ModelComparison
    from voxmetry.workflows.annotate.returned import Refused

annotate_app = typer.Typer(
    help="Correct what a model found, and train on it: plan, collect, train, compare, accept or keep.",
    no_args_is_help=True,
    cls=StrictGroup,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")]
Data = Annotated[list[Path] | None, typer.Option(help="A data set of old cases, as voxmetry train takes it; repeat.")]
Work = Annotated[
    list[Path] | None,
    typer.Argument(metavar="WORK ...", help="Folders of work lists whose corrections were collected."),
]
Author = Annotated[str, typer.Option(help="Who decides.")]


@annotate_app.command()
def plan(
    cohort: Annotated[
        Path, typer.Argument(metavar="COHORT", help="The folder that voxmetry cohort run wrote, or any folder of runs.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the work list.")],
    images: Annotated[
        Path | None, typer.Option(help="What the cohort was run on; without it the list has no images.")
    ] = None,
    strategy: Annotated[
        Literal["quality", "disagreement", "random", "first"],
        typer.Option(help="What comes first: failed checks and low predicted Dice, or label maps that disagree."),
    ] = "quality",
    other: Annotated[
        list[Path] | None, typer.Option(help="A cohort of another model on the same cases, for disagreement; repeat.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose label maps are corrected, where there are several.")] = None,
    most: Annotated[int | None, typer.Option(help="How many of the worst; all if not given.", min=1)] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy image files; they are linked otherwise.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a work list of a cohort, the worst first, and a folder for 3D Slicer and ITK-SNAP."""
    from voxmetry.workflows.annotate.plan import plan_annotation

    with bar("laying out", quiet=as_json) as progress:
        made = plan_annotation(
            cohort,
            out,
            images=images,
            strategy=strategy,
            others=other or (),
            model=model,
            most=most,
            copy=copy,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        say_json(made)
        return
    shown = table(["rank", "case", "score", "why"])
    for item in made.items[:20]:
        shown.add_row(str(item.rank), item.case, "-" if item.score != item.score else f"{item.score:.3f}", item.why)
    print_table(shown)
    if len(made.items) > len(made.items[:20]):
        say(f"{len(made.items)} studies; the first 20 are shown.")
    for note in made.notes:
        say(f"note: {note}", fg="yellow")
    for name in ("worklist.csv", "images", "labels/original", "labels/final"):
        say(f"  {out / name}")


@annotate_app.command()
@grouped
def collect(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="The folder of the work list.")],
    corrections: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CORRECTIONS ...]",
            help="Files, folders, or MONAI Label's folder; WORK/labels/final if not given.",
        ),
    ] = None,
    *,
    correcting: Correcting,
    as_json: Json = False,
) -> None:
    """Take corrections in: each to its study, with who and when, and Dice and mL before and after.

    .seg.nrrd, NIfTI (with ITK-SNAP's labels), NRRD, MetaImage, DICOM SEG, RTSTRUCT, MONAI Label's folder, and slice
    annotations of CVAT, COCO, Label Studio, Labelbox and VIA. Exit code 1 where a file was refused; the rest is taken.
    """
    from voxmetry.workflows.annotate.collect import collect as take_in

    with bar("collecting", quiet=as_json) as progress:
        found, refused = take_in(work, corrections or (), correcting.options(), progress=progress)
    if as_json:
        say_json(
            {
                **found.model_dump(mode="json"),
                "refused": [{"file": one.name, **one.error.to_dict()} for one in refused],
            }
        )
    else:
        _show_corrections(found, refused, work)
    raise typer.Exit(1 if refused else 0)


def _show_corrections(found: CollectedCorrections, refused: tuple[Refused, ...], work: Path) -> None:
    shown = table(["case", "structure", "mL before", "mL after", "Dice", "by"])
    for case in found.cases:
        for row in case.correction.structures:
            dice = "-" if row.dice != row.dice else f"{row.dice:.3f}"
            volumes = (f"{row.volume_before_ml:.3f}", f"{row.volume_after_ml:.3f}")
            shown.add_row(case.case, row.label, *volumes, dice, case.correction.author)
    print_table(shown)
    for one in refused:
        say(f"refused: {one.name}: {one.error}", fg="red", err=True)
    for name in ("corrections.csv", "corrections.json", "cases.yaml"):
        if (work / "corrections" / name).is_file():
            say(f"  {work / 'corrections' / name}")


@annotate_app.command()
def train(
    work: Work = None,
    start: Annotated[str, typer.Option("--from", help="The model to start from: its run folder.")] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The new run folder.")] = None,
    data: Data = None,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of the new patients that is held out, for ever.", min=0, max=1)
    ] = 0.2,
    config: Annotated[
        Path | None, typer.Option(help="Training configuration, where no settings.yaml lies beside the model.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, instead of what the settings say.", min=1)] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="End after so many minutes of training and write the model.", min=0)
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "float32"] | None, typer.Option(help="Numerical precision of training.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    as_json: Json = False,
) -> None:
    """Train on from a model, on old and corrected cases; who was held out stays held out."""
    from voxmetry.cli.show_models import trained
    from voxmetry.errors import ConfigError
    from voxmetry.workflows.annotate.retrain import retrain

    if not start or out is None or not work:
        raise ConfigError(
            found="no work list, no model to start from, or no folder for the new run",
            expected="all three",
            fix="voxmetry annotate train WORK --from runs/OLD --data DATA -o runs/NEW",
        )
    path, _ = retrain(
        start,
        out,
        data=data or (),
        corrections=work,
        held_out_share=held_out,
        epochs=epochs,
        config=config,
        precision=precision,
        device=device,
        max_minutes=max_minutes,
        resume=resume,
        tell=lambda line: say(line, err=True),
    )
    trained(path, as_json=as_json)


@annotate_app.command()
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The run folder of the model in use.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The run folder of the new model.")],
    work: Work = None,
    data: Data = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the comparison.")] = Path("comparison"),
    device: OnDevice = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two models on the cases that both held out: paired differences, a test, an advice."""
    from voxmetry.workflows.annotate.decide import compare_models

    with bar("comparing", quiet=as_json) as progress:
        found = compare_models(
            old,
            new,
            out,
            data=data or (),
            corrections=work or (),
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        say_json(found)
    else:
        _show_comparison(found, out)
    raise typer.Exit(0 if found.advice == "accept" else FLAGGED)


def _show_comparison(found: ModelComparison, out: Path) -> None:
    shown = table(["structure", "metric", "old", "new", "new - old (95 % interval)", "p, Holm", "cases"])
    for row in found.paired:
        old, new = found.means.get(row.label, (float("nan"), float("nan"))) if row.metric == "dice" else (None, None)
        d = row.difference
        cells = ["" if x is None else f"{x:.4f}" for x in (old, new)]
        span = f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
        shown.add_row(row.label, row.metric, *cells, span, f"{row.p_adjusted:.2g}", str(d.n))
    print_table(shown)
    say(f"{found.advice}: {found.reason}.", fg="yellow" if found.advice != "accept" else "green")
    for name in ("evaluation.html", "comparison.json"):
        say(f"  {out / name}")


@annotate_app.command()
def accept(
    comparison: Annotated[
        Path, typer.Argument(metavar="COMPARISON", help="The folder that voxmetry annotate compare wrote.")
    ],
    author: Author,
    to: Annotated[
        Path, typer.Option("--to", help="Folder of the model in use; one that lies there is kept in earlier/.")
    ],
    why: Annotated[str, typer.Option(help="Why, in words.")] = "",
    anyway: Annotated[bool, typer.Option("--anyway", help="Take it against the advice; say why with --why.")] = False,
    as_json: Json = False,
) -> None:
    """Take the new model: copy it to where the model in use lies, and write down who decided and on what."""
    from voxmetry.workflows.annotate.decide import accept as take

    _show_decision(take(comparison, to, author=author, why=why, anyway=anyway), to, as_json=as_json)


@annotate_app.command()
def keep(
    comparison: Annotated[
        Path, typer.Argument(metavar="COMPARISON", help="The folder that voxmetry annotate compare wrote.")
    ],
    author: Author,
    why: Annotated[str, typer.Option(help="Why, in words.")] = "",
    as_json: Json = False,
) -> None:
    """Keep the old model, and write down who decided and on what."""
    from voxmetry.workflows.annotate.decide import keep as stay

    _show_decision(stay(comparison, author=author, why=why), comparison, as_json=as_json)


def _show_decision(made: Decision, folder: Path, *, as_json: bool) -> None:
    if as_json:
        say_json(made)
        return
    word = "accepted" if made.decision == "accept" else "kept"
    say(f"{word}: {made.taken.name} {made.taken.version}, by {made.author}, on {made.n_cases} held-out cases")
    say(f"  {folder / 'decision.json'}")
