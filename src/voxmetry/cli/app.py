"""The verbs. Each one parses, calls one function, shows what it returned; what they need is imported when they run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.convert import convert
from voxmetry.cli.measure import measure

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

FLAGGED = 3
"""Exit code of a study that is done and asks for a look."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "openvino"],
    typer.Option(help="Where the network runs; auto takes CUDA if there is one."),
]
Tolerance = Annotated[float, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice.", min=1e-6)]


def _version(value: bool) -> None:
    if value:
        from voxmetry import __version__

        typer.echo(f"voxmetry {__version__}")
        raise typer.Exit


# The larger verbs have a file each.
app.command()(measure)
app.command()(convert)


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


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A DICOM folder, or an image file.")],
    as_json: Json = False,
) -> None:
    """List what a folder or file holds, and whether and why not it can be read; exit code 1 where nothing can."""
    from voxmetry import io

    if path.is_dir() or not path.exists():
        found = io.list_series(path)
        show.series(found, as_json=as_json)
        raise typer.Exit(0 if any(series.readable for series in found) else 1)
    show.image(io.read_volume(path), as_json=as_json)


@app.command()
def segment(
    study: Annotated[Path, typer.Argument(help="A DICOM folder, or a NIfTI, NRRD or MHA file.")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="A bundled model's name, a model folder or a baseline's YAML file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    reference: Annotated[Path | None, typer.Option(help="A segmentation to compare with.")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID, where there are several.")] = None,
    modality: Annotated[
        Literal["CT", "MR", "PT"] | None, typer.Option(help="What a file without DICOM headers is.")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Study settings as YAML; options given here win over it.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "openvino"] | None,
        typer.Option(help="Where the network runs; auto takes CUDA if there is one."),
    ] = None,
    tolerance_mm: Annotated[
        float | None, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice.", min=1e-6)
    ] = None,
    dicom_seg: Annotated[bool, typer.Option("--dicom-seg", help="Write a DICOM segmentation, seg.dcm.")] = False,
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Write an RT structure set, rtstruct.dcm.")] = False,
    sr: Annotated[
        bool, typer.Option("--sr", help="Write the measurements as a DICOM structured report, sr.dcm, and seg.dcm.")
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
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment and measure a study, and write the label map, the tables and the report."""
    from voxmetry.config import StudySettings, load_yaml
    from voxmetry.workflow import segment_study

    given: dict[str, object] = {
        "series": series,
        "modality": modality,
        "device": device,
        "tolerance_mm": tolerance_mm,
        "overwrite": overwrite or None,
    }
    settings = load_yaml(settings_file, StudySettings) if settings_file else StudySettings()
    objects = {
        "seg": dicom_seg or None,
        "rtstruct": rtstruct or None,
        "sr": sr or None,
        "deidentify": deidentify or None,
        "seg_kind": seg_kind,
        "keep_empty_frames": keep_empty_frames or None,
    }
    given["dicom"] = settings.dicom.model_copy(update={name: x for name, x in objects.items() if x is not None})
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    with show.steps() as tell:
        result = segment_study(study, out, model, reference=reference, settings=settings, tell=tell)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(FLAGGED if result.needs_review else 0)


@app.command()
def compare(
    prediction: Annotated[Path, typer.Option(help="The label map to judge, or a folder of label maps.")],
    reference: Annotated[Path, typer.Option(help="The label map to judge it by, or a folder: matched by name.")],
    tolerance_mm: Tolerance = 1.0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the tables, the JSON file and the page.")
    ] = None,
    other_prediction: Annotated[
        Path | None, typer.Option(help="Folder of another model's label maps, for a paired comparison.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images, for the pictures of the page.")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV file with the columns case and patient, where patients have several.")
    ] = None,
    instances: Annotated[
        Literal["overlap", "iou", "hungarian"] | None,
        typer.Option(help="Match instances, such as lesions, one by one, by this rule."),
    ] = None,
    things: Annotated[
        list[str] | None, typer.Option("--thing", help="A structure that is counted by its parts; repeat for more.")
    ] = None,
    parquet: Annotated[
        bool | None, typer.Option("--parquet/--no-parquet", help="Write Parquet too; by default where it can be.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two label maps, or the label maps of two folders: Dice, Hausdorff distances, surface Dice, in mm."""
    from voxmetry.comparison import Inputs, compare_paths
    from voxmetry.core.records import CohortSettings

    inputs = Inputs(prediction, reference, other=other_prediction, images=images, patients=patients)
    settings = CohortSettings(tolerance_mm=tolerance_mm, instances=instances, things=tuple(things or ()))
    with show.progress("comparing", quiet=as_json or not prediction.is_dir()) as progress:
        cohort, files = compare_paths(
            inputs, settings, out=out, parquet=parquet, overwrite=overwrite, progress=progress
        )
    if prediction.is_dir():
        show.cohort(cohort, files, as_json=as_json)
        raise typer.Exit(1 if cohort.failed else 0 if cohort.complete else FLAGGED)
    show.comparisons(cohort.cases[0].comparisons, as_json=as_json, matchings=cohort.cases[0].matchings)
    if not as_json:
        show.files(files)


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="A training configuration, such as configs/train/hippocampus-mr.yaml.")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; runs/MODEL if not given.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/ and labels/; overrides the configuration.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a model and write its folder."""
    from voxmetry.config import TrainSettings, load_yaml
    from voxmetry.nn.runtime import choose_device
    from voxmetry.train import train as train_model

    settings = load_yaml(config, TrainSettings)
    folder = data or Path(os.environ.get("VOXMETRY_DATA", ".")) / settings.data
    run = out or Path("runs") / settings.model.name
    model = train_model(settings, run, data=folder, resume=resume, device=choose_device(device))
    show.trained(model, as_json=as_json)


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
