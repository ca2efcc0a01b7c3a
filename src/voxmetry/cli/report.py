"""The verb that writes a run's report again, or renews the run from a corrected label map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.correcting import Correcting
from voxmetry.cli.options import given, grouped
from voxmetry.cli.streams import say, say_json
from voxmetry.errors import ConfigError, InputError


@grouped
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a run.")],
    pdf: Annotated[bool, typer.Option("--pdf", help="Write report.pdf; without it, report.html.")] = False,
    lang: Annotated[Literal["en", "de", "es"], typer.Option(help="Language of the report.")] = "en",
    page: Annotated[Literal["a4", "letter"], typer.Option(help="Size of the PDF's pages.")] = "a4",
    prior: Annotated[Path | None, typer.Option(help="The folder of an earlier study's run: shows the change.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="The study, for pictures at full size; with --segmentation, each image of the run."),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="The label map that the run was compared with.")] = None,
    segmentation: Annotated[
        Path | None, typer.Option(help="A corrected label map: measurements, flags, DICOM and report are renewed.")
    ] = None,
    *,
    correcting: Correcting,
    with_identity: Annotated[
        bool, typer.Option("--with-identity", help="Name the patient, from the headers of --image.")
    ] = False,
    key_images: Annotated[
        bool, typer.Option("--key-images", help="Write the pictures as DICOM images instead; needs --image, in DICOM.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file of the same name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write the report of an earlier run again: as a PDF, in another language, compared with a prior, as images.

    Each language and each face has a file of its own, such as report.de.pdf. With --segmentation all of the run is
    renewed from a corrected label map; the model's own stays as model_seg.nii.gz.
    """
    if segmentation is not None:
        _renew(out, segmentation, image or [], correcting, prior=prior, reference=reference, as_json=as_json)
        return
    if given(correcting):
        raise ConfigError(
            found="options of a correction without one",
            expected="the corrected label map",
            fix="name it: --segmentation CORRECTED",
        )
    from voxmetry.workflows.dicom_objects import write_key_images_again
    from voxmetry.workflows.report import Wishes, rewrite_report
    from voxmetry.workflows.run_folder import CHANGE

    first = _one_image(image or [])
    if key_images:
        if first is None:
            raise InputError(
                found="--key-images without the image",
                expected="the DICOM study, whose patient and study the images repeat",
                fix="pass the study with --image",
            )
        paths = [str(path) for path in write_key_images_again(out, first, reference=reference, overwrite=overwrite)]
        if as_json:
            say_json({"key_images": paths})
        else:
            say("\n".join(f"  {path}" for path in paths))
        return
    wishes = Wishes(pdf=pdf, language=lang, page=page, with_identity=with_identity)
    path = rewrite_report(out, wishes, prior=prior, image=first, reference=reference, overwrite=overwrite)
    files = {"report": path} | ({"change": path.with_name(CHANGE)} if prior is not None else {})
    if as_json:
        say_json({what: str(file) for what, file in files.items()})
        return
    for file in files.values():
        say(f"  {file}")


def _one_image(images: list[Path]) -> Path | None:
    if len(images) > 1:
        raise ConfigError(found=f"{len(images)} images", expected="the first image of the run", fix="pass --image once")
    return images[0] if images else None


def _renew(
    out: Path,
    segmentation: Path,
    images: list[Path],
    correcting: Correcting,
    *,
    prior: Path | None,
    reference: Path | None,
    as_json: bool,
) -> None:
    from voxmetry.workflows.correct_run import correct_run

    if not images:
        raise InputError(
            found="--segmentation without the image",
            expected="the study that was segmented, in which the corrected label map is measured",
            fix="pass the study with --image",
        )
    result = correct_run(out, segmentation, images, correcting.options(), reference=reference, prior=prior)
    if not as_json and result.correction is not None:
        show.correction(result.correction)
    show.study(result, out, as_json=as_json)
    raise typer.Exit(show.exit_code(result))
