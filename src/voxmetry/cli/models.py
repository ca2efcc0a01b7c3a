"""`voxmetry models import` and `voxmetry models export`: models of and for other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli.streams import say, say_json


def add_to(app: typer.Typer) -> None:
    """Add both verbs to `voxmetry models`."""
    app.command("import")(models_import)
    app.command("export")(models_export)


def models_import(
    path: Annotated[Path, typer.Argument(help="An nnU-Net v2 model folder or a MONAI bundle.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The new model folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="CT, MR or PT; repeat for each input. Needed where their names do not tell."),
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="Axes of the training images, such as RAS, or stored. For nnU-Net.")
    ] = None,
    fold: Annotated[
        list[str] | None, typer.Option(help="Fold of an nnU-Net folder; repeat to average several. All if not given.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="File name of the weights, if not the usual one.")] = None,
    mirroring: Annotated[bool, typer.Option(help="Average over mirror images where the source does.")] = True,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    codes: Annotated[
        Path | None,
        typer.Option(help="CSV of name, code, meaning, side, colour of structures; wins over the package's table."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Turn another framework's model into a model folder that `voxmetry segment -m` takes. No code of it is run."""
    from voxmetry.models.structures import read_structures
    from voxmetry.nn.interop import ImportOptions, import_model

    options = ImportOptions(
        name=name,
        modalities=tuple(modality or ()),
        orientation=orientation,
        folds=tuple(fold) if fold else None,
        checkpoint=checkpoint,
        mirroring=mirroring,
        licence=licence,
        overwrite=overwrite,
        codes=read_structures(codes) if codes else (),
    )
    arrival = import_model(path, out, options)
    spec = arrival.spec
    if as_json:
        model = spec.model_dump(mode="json", exclude_none=True)
        say_json({"model": model, "origin": arrival.origin, "notes": list(arrival.notes)})
        return
    say(f"{spec.name}, from {arrival.origin}")
    say(f"inputs: {', '.join(f'{item.name} ({item.modality})' for item in spec.inputs)}")
    say(f"structures: {', '.join(spec.labels.names)}")
    for note in arrival.notes:
        say(f"note: {note}")
    say(f"use it: voxmetry segment STUDY -m {out} -o OUT")


def models_export(
    model: Annotated[str, typer.Argument(help="A bundled model's name or a model folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File of an ONNX or TorchScript model; folder of a bundle.")],
    form: Annotated[Literal["onnx", "torchscript", "monai-bundle"], typer.Option("--format", help="What to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write a model's network for other programs: logits for one patch, or a whole MONAI bundle."""
    from voxmetry.nn.interop import export_model

    written = export_model(model, out, form=form, overwrite=overwrite)
    if as_json:
        say_json({"files": [str(path) for path in written]})
        return
    for path in written:
        say(str(path))
