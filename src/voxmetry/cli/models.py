"""`voxmetry models`: what there is, and models from and for others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli import show_models
from voxmetry.cli.progress import steps
from voxmetry.cli.streams import say, say_json
from voxmetry.core.quantising import LEAST_DICE, LEAST_ML, WINDOWS

if TYPE_CHECKING:
    from voxmetry.models import AnySpec


def add_to(app: typer.Typer) -> None:
    """Add the verbs to `voxmetry models`."""
    app.command("list")(models_list)
    app.command("show")(models_show)
    app.command("pull")(models_pull)
    app.command("merge")(models_merge)
    app.command("import")(models_import)
    app.command("export")(models_export)
    app.command("quantise")(models_quantise)


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def models_list(
    catalogue: Annotated[
        Path | None, typer.Option(help="A catalogue of your own in place of the package's, as YAML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models that are bundled, imported, and available to pull."""
    from voxmetry.workflows.list_models import list_models

    show_models.model_list(list_models(catalogue), as_json=as_json)


def models_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model's name or a model folder.")],
    as_json: Json = False,
) -> None:
    """Show what a model takes and returns; of one that can be pulled, its archives and licence."""
    from voxmetry.workflows.list_models import AvailableModel, describe_model

    found = describe_model(name)
    if isinstance(found, AvailableModel):
        show_models.available(found.entry, found.source, as_json=as_json)
    else:
        show_models.model(found.spec, found.folder, as_json=as_json)


def models_pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A public model's name: voxmetry models list.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="The archive, or a folder of archives or model folders, not the network."),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="An address that has the archives under their names, in place of their authors'.")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="A catalogue of your own in place of the package's, as YAML.")
    ] = None,
    codes: Annotated[Path | None, typer.Option(help="CSV of codes of structures that win over the package's.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to a licence that does not allow any use.")
    ] = False,
    accept_new_checksum: Annotated[
        bool, typer.Option("--accept-new-checksum", help="Take a file that its authors have replaced.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an installed model.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a public model, check it and install it. Nothing else of this program fetches anything."""
    from voxmetry.workflows.manage_models import CatalogueEntry, PullOptions, pull

    def agree(entry: CatalogueEntry) -> bool:
        if accept_licence or not sys.stdin.isatty() or as_json:
            return accept_licence
        question = f"{entry.name}: licence {entry.licence}, which does not allow any use. Do you agree to it?"
        return typer.confirm(question, err=True)

    options = PullOptions(
        source=source,
        mirror=mirror or os.environ.get("VOXMETRY_MODELS_MIRROR"),
        overwrite=overwrite,
        accept_licence=agree,
        accept_new_checksum=accept_new_checksum,
    )
    spec = pull(name, options, catalogue=catalogue, codes=codes, tell=lambda line: say(line, err=True))
    _tell_installed(spec, as_json=as_json)


def models_merge(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL...", help="Names of models or model folders.")],
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an installed model.")] = False,
    as_json: Json = False,
) -> None:
    """Make one model of several, whose structures are numbered anew; where two claim a voxel, the later one has it."""
    from voxmetry.workflows.manage_models import merge_models

    _tell_installed(merge_models(models, name, overwrite=overwrite), as_json=as_json)


def _tell_installed(spec: AnySpec, *, as_json: bool) -> None:
    if as_json:
        say_json({"model": spec.model_dump(mode="json", exclude_none=True)})
        return
    say(f"{spec.name}: {len(spec.labels)} structures, licence {spec.licence}")
    say(f"use it: voxmetry segment STUDY -m {spec.name} -o OUT")


def models_import(
    path: Annotated[
        Path, typer.Argument(help="An nnU-Net v2 model folder or a MONAI bundle, or a .zip archive of one.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The new model folder; your folder of models if not given.")
    ] = None,
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
    from voxmetry.workflows.manage_models import ImportOptions, import_any

    options = ImportOptions(
        name=name,
        modalities=tuple(modality or ()),
        orientation=orientation,
        folds=tuple(fold) if fold else None,
        checkpoint=checkpoint,
        mirroring=mirroring,
        licence=licence,
        overwrite=overwrite,
    )
    imported = import_any(path, options, out=out, codes=codes)
    spec = imported.spec
    if as_json:
        model = spec.model_dump(mode="json", exclude_none=True)
        say_json({"model": model, "origin": imported.origin, "notes": list(imported.notes)})
        return
    say(f"{spec.name}, from {imported.origin}")
    say(f"inputs: {', '.join(f'{item.name} ({item.modality})' for item in spec.inputs)}")
    say(f"structures: {', '.join(spec.labels.names)}")
    for note in imported.notes:
        say(f"note: {note}")
    say(f"use it: voxmetry segment STUDY -m {out or spec.name} -o OUT")


def models_export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model's name or a model folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File of an ONNX or TorchScript model; folder of a bundle.")],
    form: Annotated[Literal["onnx", "torchscript", "monai-bundle"], typer.Option("--format", help="What to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write a model's network for other programs: logits for one patch, or a whole MONAI bundle."""
    from voxmetry.workflows.manage_models import export_model

    written = export_model(model, out, form=form, overwrite=overwrite)
    if as_json:
        say_json({"files": [str(path) for path in written]})
        return
    for path in written:
        say(str(path))


def models_quantise(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or a model folder.")],
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="Images to calibrate on: DICOM folders or files; for a model of several inputs a file for each, study "
            "after study.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for a copy of the model; its own if not given.")
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows to calibrate on, over all images.", min=1, max=1000)] = WINDOWS,
    least_dice: Annotated[
        float,
        typer.Option(help=f"What each structure of {LEAST_ML:g} mL and more must keep against float32.", min=0, max=1),
    ] = LEAST_DICE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier 8 bits, or a model in OUT.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a model's network to 8 bits, for `segment --fast` on a processor, and compare it with float32."""
    from voxmetry.workflows.quantise_model import QuantiseOptions, quantise_model

    options = QuantiseOptions(windows=windows, least_dice=least_dice, overwrite=overwrite)
    with steps() as tell:
        made, folder = quantise_model(model, studies, out=out, options=options, tell=tell)
    show_models.eight_bits(made, folder, as_json=as_json)
