"""`voxmetry measure`: numbers of a label map, without any model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show


def measure(
    segmentation: Annotated[Path, typer.Argument(help="A label map: NIfTI, NRRD or MHA.")],
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
    from voxmetry import io
    from voxmetry.core.records import Lesion, Measurement
    from voxmetry.io.atomic import claim_folder, replaced_together, write_text
    from voxmetry.measurement import lesions
    from voxmetry.measurement import measure as measure_structures
    from voxmetry.measurement.tables import records_csv

    names = ("measurements.csv", "lesions.csv")
    if out is not None:
        claim_folder(out, names, overwrite=overwrite)
    labels = io.read_segmentation(segmentation)
    for name in lesion or ():
        labels = dataclasses.replace(labels, labels=labels.labels.with_kind(name, "lesion"))
    volume = io.read_volume(image, modality=modality, unit=unit) if image else None
    rows = measure_structures(labels, volume)
    found = lesions(
        labels,
        volume,
        organs=io.read_segmentation(organs) if organs else labels,
        connectivity=int(connectivity),
        min_volume_ml=min_volume_ml,
    )
    if out is not None:
        with replaced_together(out, names) as stage:
            write_text(stage / names[0], records_csv(rows, Measurement))
            write_text(stage / names[1], records_csv(found, Lesion))
    show.measurements(rows, as_json=as_json, lesions=found)
    if out is not None and not as_json:
        show.files([out / name for name in names])
