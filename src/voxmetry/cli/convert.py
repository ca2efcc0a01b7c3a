"""`voxmetry convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli.options import NamesMap, Reading, given, grouped, names_of
from voxmetry.cli.streams import say, say_json


@dataclass(frozen=True)
class Structures:
    """Which structures are taken, and what a file must say of them; the keys of `Conversion`."""

    to: Annotated[Literal["seg", "labelmap", "rtstruct"] | None, typer.Option(help="What a .dcm file becomes.")] = None
    image: Annotated[Path | None, typer.Option(help="The image that was segmented.")] = None
    made_by: Annotated[
        Literal["automatic", "semiautomatic", "manual"] | None,
        typer.Option(help="Who made the segmentation, which a .dcm file must say."),
    ] = None
    algorithm: Annotated[
        str | None, typer.Option(help="NAME/VERSION of the program, where it was not made by hand.")
    ] = None
    structures: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A structure to take, with * and ? for any characters; repeat for more."),
    ] = None
    split: Annotated[
        bool, typer.Option("--split", help="Write each structure as a mask of its own, NAME.nii.gz in a new folder.")
    ] = False
    as_labels: Annotated[
        bool,
        typer.Option("--as-labels", help="Take a file of many values without names for a label map."),
    ] = False
    overlap: Annotated[
        Literal["refuse", "first", "last"],
        typer.Option(
            help="What a voxel of two structures becomes where only one can stand; a SEG or RTSTRUCT keeps both."
        ),
    ] = "refuse"


@grouped
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="DICOM series, SEG or RTSTRUCT; NIfTI, NRRD or MHA file; folder of NIfTI masks."
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="A file by its suffix (.nii.gz, .nrrd, .mha, .dcm), or a new folder, for a series or for masks.",
        ),
    ],
    reading: Reading,
    chosen: Structures,
    names_map: NamesMap = None,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="A series as a copy without the patient's identity.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Convert an image or a segmentation from one format to another."""
    from voxmetry.workflows.convert import Conversion, ReadOptions
    from voxmetry.workflows.convert import convert as convert_files

    how = Conversion(
        **given(chosen) | {"structures": tuple(chosen.structures or ())},
        reading=ReadOptions(**given(reading)),
        names=names_of(names_map),
        deidentify=deidentify,
        overwrite=overwrite,
    )
    written = convert_files(source, target, how)
    if as_json:
        say_json({"files": [str(path) for path in written]})
    elif len(written) == 1:
        say(f"  {written[0]}")
    else:
        say(f"  {len(written)} files in {written[0].parent}")
