"""`voxmetry segment`: the straight path, its options in groups that match the parts of `StudySettings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.options import Reading, SeldomNamesMap, ToleranceMm, Verbose, given, grouped, names_of, with_settings
from voxmetry.cli.progress import steps


@dataclass(frozen=True)
class StudyReading(Reading):
    """How the study of a model is read."""

    any_region: Annotated[
        bool,
        typer.Option("--any-region", help="Take a study of another part of the body than the model's.", hidden=True),
    ] = False


@dataclass(frozen=True)
class Running:
    """How the network is run."""

    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps", "openvino"] | None,
        typer.Option(help="Where the network runs; auto: the fastest device for the model."),
    ] = None
    precision: Annotated[
        Literal["auto", "float32", "bf16", "fp16"] | None,
        typer.Option(
            help="Numerical precision of inference; auto: the fastest that leaves labels unchanged.", hidden=True
        ),
    ] = None
    engine: Annotated[
        Literal["stream", "monai"] | None,
        typer.Option(
            help="stream: bounded memory. monai: MONAI's own parts, the reference it is compared with.", hidden=True
        ),
    ] = None
    execution: Annotated[
        Literal["eager", "compile", "graph"] | None,
        typer.Option(help="How torch runs it: by operations, compiled (CPU, CUDA), or as a CUDA graph.", hidden=True),
    ] = None
    memory_gb: Annotated[
        float | None,
        typer.Option("--memory-gb", help="The most that the process may hold, in 10^9 bytes.", min=1e-6, hidden=True),
    ] = None


@dataclass(frozen=True)
class Objects:
    """Which DICOM objects are written; the keys of `DicomOutput`."""

    seg: Annotated[bool, typer.Option("--dicom-seg", help="Write a DICOM segmentation, seg.dcm.")] = False
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Write an RT structure set, rtstruct.dcm.")] = False
    sr: Annotated[
        bool, typer.Option("--sr", help="Write the measurements as a DICOM structured report, sr.dcm, and seg.dcm.")
    ] = False
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Write report.pdf, and the same as a DICOM object, report.dcm.", hidden=True)
    ] = False
    key_images: Annotated[
        bool,
        typer.Option(
            "--key-images", help="Write the report's pictures as DICOM images, key_image_01.dcm and on.", hidden=True
        ),
    ] = False
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="DICOM objects without the patient, a copy of the series like it, and no UID or text of the source in "
            "any file.",
            hidden=True,
        ),
    ] = False
    seg_kind: Annotated[
        Literal["binary", "labelmap"] | None, typer.Option(help="Kind of the DICOM segmentation.", hidden=True)
    ] = None
    keep_empty_frames: Annotated[
        bool,
        typer.Option(
            "--keep-empty-frames", help="A frame of each segment on each slice, for some viewers.", hidden=True
        ),
    ] = False


@dataclass(frozen=True)
class Writing:
    """What else is made of the result."""

    maps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="probabilities|entropy|disagreement",
            help="Write a NIfTI file of this for each voxel, uncompressed; repeat for more. Disagreement is between "
            "the networks of an ensemble.",
            hidden=True,
        ),
    ] = None
    structures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Structures to segment, all if not given; networks that give none do not run.",
        ),
    ] = None
    instances: Annotated[
        Literal["model", "components", "watershed", "none"] | None,
        typer.Option(
            help="Tell the parts of structures apart: as the model says; what hangs together; also cut where it is "
            "narrow; not at all.",
            hidden=True,
        ),
    ] = None
    instance_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--instance-label",
            metavar="NAME",
            help="A structure that is told apart; repeat for more. None: lesions, or all where there are none.",
            hidden=True,
        ),
    ] = None
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Less accurate: a part of the windows, in 8 bits where the model has them; of a model that names a "
            "coarse one, only inside the box that it finds.",
        ),
    ] = False
    tolerance_mm: ToleranceMm = None
    report: Annotated[
        Literal["full", "brief", "none"] | None,
        typer.Option(help="full: always; brief: a thumbnail, and a report only if flagged; none.", hidden=True),
    ] = None
    with_identity: Annotated[
        bool,
        typer.Option(
            "--with-identity", help="Repeat free text of the source, such as the series description.", hidden=True
        ),
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")] = False


@dataclass(frozen=True)
class Beside:
    """What the result is compared with."""

    reference: Annotated[Path | None, typer.Option(help="A segmentation to compare with.")] = None
    reference_structures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Structures of the reference to compare with; * and ? stand for any.",
            hidden=True,
        ),
    ] = None
    prior: Annotated[
        Path | None, typer.Option(help="The folder of an earlier study's run: says what changed, with RECIST.")
    ] = None
    names_map: SeldomNamesMap = None
    clicks: Annotated[
        list[str] | None,
        typer.Option(
            "--click",
            metavar="X,Y,Z[,LABEL]",
            help="A place in RAS+ mm and the structure that is there, for a model that takes clicks; repeat.",
            hidden=True,
        ),
    ] = None


@grouped
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
        list[str],
        typer.Option(
            "-m",
            "--model",
            help="A model's name (voxmetry models list), a model folder or a baseline's YAML file; repeat for one map "
            "of several.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    reading: StudyReading,
    running: Running,
    objects: Objects,
    writing: Writing,
    beside: Beside,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Study settings as YAML; options given here win over it.")
    ] = None,
    also_set: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting by its name, such as memory_gb=8 or dicom.pdf=true; repeat."
        ),
    ] = None,
    verbose: Verbose = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Segment and measure a study, and write the label map, the tables and the report.

    Precision, maps, memory, PDF and all other settings: --set NAME=VALUE, or a file by --settings.
    """
    from voxmetry.config import StudySettings, load_yaml, parse_record
    from voxmetry.workflows.segment import segment_study

    settings = load_yaml(settings_file, StudySettings) if settings_file else StudySettings()
    settings = with_settings(settings, also_set or ())
    options = given(reading) | given(running) | given(writing) | {"dicom": settings.dicom.model_dump() | given(objects)}
    options |= _parsed(beside)
    settings = parse_record(settings.model_dump() | options, StudySettings, where="options")
    with steps() as tell:
        result = segment_study(
            study,
            out,
            model,
            reference=beside.reference,
            structures=beside.reference_structures or settings.structures,
            prior=beside.prior,
            settings=settings,
            tell=tell,
        )
    show.study(result, out, as_json=as_json, verbose=verbose)
    raise typer.Exit(show.exit_code(result))


def _parsed(beside: Beside) -> dict[str, object]:
    """Return the settings whose options are more than their values: pairs of names, and places."""
    from voxmetry.core.records.clicks import parse_click

    found: dict[str, object] = {}
    if beside.names_map:
        found["names"] = names_of(beside.names_map)
    if beside.clicks:
        found["clicks"] = [parse_click(text).model_dump() for text in beside.clicks]
    return found
