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
from voxmetry.cli.report import report
from voxmetry.cli.train import train, train_plan

app = typer.Typer(
    name="voxmetry",
    help="From a CT, MR or PET/CT study to a segmentation on its own grid, and to measurements. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="List and describe the bundled models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(cohort_app, name="cohort")
app.add_typer(data_app, name="data")
app.command()(ensemble)
app.command("train-plan")(train_plan)
app.command()(evaluate)
app.command()(train)
models.add_to(models_app)

FLAGGED = 3
"""Exit code of a study that is done and asks for a look."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "openvino"],
    typer.Option(help="Where the network runs; auto takes CUDA if there is one."),
]


def _version(value: bool) -> None:
    if value:
        from voxmetry import __version__

        typer.echo(f"voxmetry {__version__}")
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

    with show.steps() as tell:
        result = run_demo(out, side=side, settings=StudySettings(overwrite=overwrite), tell=tell)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(FLAGGED if result.needs_review else 0)


app.command("inspect")(inspect)


@app.command()
def segment(
    study: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="A DICOM folder, or a NIfTI, NRRD or MHA file; for a model of several inputs one for each, in its "
            "order, or one DICOM folder with all.",
        ),
    ],
    model: Annotated[
        str, typer.Option("-m", "--model", help="A bundled model's name, a model folder or a baseline's YAML file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    reference: Annotated[Path | None, typer.Option(help="A segmentation to compare with.")] = None,
    prior: Annotated[
        Path | None, typer.Option(help="The folder of an earlier study's run: says what changed, with RECIST.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID, where there are several.")] = None,
    modality: Annotated[
        Literal["CT", "MR", "PT"] | None, typer.Option(help="What a file without DICOM headers is.")
    ] = None,
    unit: Annotated[Literal["SUVbw"] | None, typer.Option(help="What a PET file without DICOM headers holds.")] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Study settings as YAML; options given here win over it.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps", "openvino"] | None,
        typer.Option(help="Where the network runs; auto picks what there is and suits the model, and says so."),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bf16", "fp16"] | None,
        typer.Option(help="Of the network's products; auto takes the fastest that keeps the answer."),
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", help="The most that the process may hold, in 10^9 bytes.", min=1e-6)
    ] = None,
    tolerance_mm: Annotated[
        float | None, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice.", min=1e-6)
    ] = None,
    dicom_seg: Annotated[bool, typer.Option("--dicom-seg", help="Write a DICOM segmentation, seg.dcm.")] = False,
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Write an RT structure set, rtstruct.dcm.")] = False,
    sr: Annotated[
        bool, typer.Option("--sr", help="Write the measurements as a DICOM structured report, sr.dcm, and seg.dcm.")
    ] = False,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Write report.pdf, and the same as a DICOM object, report.dcm.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="DICOM objects without the patient, and a copy of the series like it.")
    ] = False,
    seg_kind: Annotated[
        Literal["binary", "labelmap"] | None, typer.Option(help="Kind of the DICOM segmentation.")
    ] = None,
    keep_empty_frames: Annotated[
        bool, typer.Option("--keep-empty-frames", help="A frame of each segment on each slice, for some viewers.")
    ] = False,
    report: Annotated[
        Literal["full", "brief", "none"] | None,
        typer.Option(help="A report; a thumbnail, and a report only if flagged; neither."),
    ] = None,
    suv: Annotated[
        Literal["bw", "lbm", "bsa", "none"] | None, typer.Option(help="What a PET series becomes; bw if not given.")
    ] = None,
    allow_uneven: Annotated[
        bool, typer.Option("--allow-uneven", help="Interpolate over missing slices and uneven steps; flagged.")
    ] = False,
    resample_tilt: Annotated[
        bool, typer.Option("--resample-tilt", help="Resample a stack that leans (gantry tilt); flagged.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment and measure a study, and write the label map, the tables and the report."""
    from voxmetry.config import StudySettings, load_yaml
    from voxmetry.workflow import segment_study

    given: dict[str, object] = {
        "series": series,
        "modality": modality,
        "unit": unit,
        "device": device,
        "precision": precision,
        "memory_gb": memory_gb,
        "tolerance_mm": tolerance_mm,
        "report": report,
        "suv": suv,
        "allow_uneven": allow_uneven or None,
        "resample_tilt": resample_tilt or None,
        "overwrite": overwrite or None,
    }
    settings = load_yaml(settings_file, StudySettings) if settings_file else StudySettings()
    objects = {
        "seg": dicom_seg or None,
        "rtstruct": rtstruct or None,
        "sr": sr or None,
        "pdf": pdf or None,
        "deidentify": deidentify or None,
        "seg_kind": seg_kind,
        "keep_empty_frames": keep_empty_frames or None,
    }
    given["dicom"] = settings.dicom.model_copy(update={name: x for name, x in objects.items() if x is not None})
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    with show.steps() as tell:
        result = segment_study(study, out, model, reference=reference, prior=prior, settings=settings, tell=tell)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(FLAGGED if result.needs_review else 0)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the bundled models."""
    from voxmetry.models import list_models

    show.models(list_models(), as_json=as_json)


@models_app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="A bundled model's name or a model folder.")],
    as_json: Json = False,
) -> None:
    """Show what a model takes, returns and was trained on."""
    from voxmetry.models import find_model, read_spec

    show.model(read_spec(name), find_model(name), as_json=as_json)
