"""`voxmetry measure`: numbers of a label map, without any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.options import NamesMap, names_of


def measure(
    segmentation: Annotated[
        Path, typer.Argument(metavar="SEGMENTATION", help="A label map: NIfTI, NRRD or MHA; or the folder of a run.")
    ],
    image: Annotated[Path | None, typer.Option(help="The image it belongs to, for intensities.")] = None,
    modality: Annotated[
        Literal["CT", "MR", "PT"] | None, typer.Option(help="What an image file is: CT gives HU.")
    ] = None,
    unit: Annotated[
        Literal["HU", "SUVbw", "Bq/mL", "1"] | None,
        typer.Option(help="What the values of an image file are, where it does not say: SUVbw gives SUVpeak and TLG."),
    ] = None,
    lesion: Annotated[
        list[str] | None,
        typer.Option("--lesion", help="A structure whose connected parts are lesions; repeat for more."),
    ] = None,
    names_map: NamesMap = None,
    as_labels: Annotated[
        bool, typer.Option("--as-labels", help="Take a file of many values without names for a label map.")
    ] = False,
    organs: Annotated[
        Path | None, typer.Option(help="Label map of organs on the same grid, to say where a lesion lies.")
    ] = None,
    connectivity: Annotated[
        Literal["6", "18", "26"], typer.Option(help="Voxels of one lesion share a face, an edge, or a corner.")
    ] = "26",
    min_volume_ml: Annotated[float, typer.Option(help="Smaller lesions are left out.", min=0)] = 0.0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for measurements.csv and lesions.csv.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Measure the structures of a label map, and each lesion, without any model."""
    from voxmetry.workflows.measure import MeasureInputs, measure_paths

    rows, found, files = measure_paths(
        MeasureInputs(segmentation, image, modality, unit, organs),
        lesion_names=lesion or (),
        names=names_of(names_map),
        as_labels=as_labels,
        connectivity=int(connectivity),
        min_volume_ml=min_volume_ml,
        out=out,
        overwrite=overwrite,
    )
    show.measurements(rows, as_json=as_json, lesions=found)
    if not as_json:
        show.files(files)
