"""Write the report of an earlier run again: as a PDF, in another language, against a prior study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, cast

from voxmetry import io
from voxmetry.config import StudySettings
from voxmetry.core.base import Record
from voxmetry.core.records import StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.io.atomic import write_text
from voxmetry.report.document import spell
from voxmetry.report.facts import Fact
from voxmetry.report.identity import read_identity
from voxmetry.report.language import load_language
from voxmetry.report.pictures.material import Material, draw, read_material
from voxmetry.report.write import require_face, write_faces
from voxmetry.workflows.prior import compare_with_prior, overview
from voxmetry.workflows.run_folder import CHANGE, HTML, PDF, SEGMENTATION, read_result


class Wishes(Record):
    """What a report is to be written as."""

    pdf: bool = False
    language: str = "en"
    page: str = "a4"
    with_identity: bool = False


def rewrite_report(
    out: Path | str,
    wishes: Wishes | None = None,
    *,
    prior: Path | str | None = None,
    image: Path | str | None = None,
    reference: Path | str | None = None,
) -> Path:
    """Write the report of a run again from its `result.json`.

    Parameters
    ----------
    out
        The folder of the run. Its `report.html` or `report.pdf` is replaced.
    wishes
        Face, language, page, identity.
    prior
        The folder of a run on an earlier study of the same patient: the change is in the report, and in `change.json`.
    image
        The study, to draw the pictures anew. Without it those of the `report.html` in the folder are used.
    reference
        The label map that the run was compared with, if the pictures are drawn anew.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If the folder holds no run, or an image is needed and not given.
    FormatError
        If `result.json` or the report is none of this software.
    ConfigError
        If the language or the page is unknown.
    """
    wishes = wishes or Wishes()
    out = Path(out)
    path = out / (PDF if wishes.pdf else HTML)
    say = load_language(wishes.language)
    require_face(path, wishes.page)
    result = read_result(out)
    identity: tuple[Fact, ...] = ()
    volume: Volume | None = None
    if image is None:
        if wishes.with_identity:
            raise InputError(
                found="--with-identity without an image",
                expected="the DICOM study, since results hold no identity",
                fix="pass the study with --image",
            )
        material = read_material(out / HTML)
    else:
        volume = read_image_again(result, image)
        material = _with_overlay(_drawn(result, out, volume, reference), out)
        identity = read_identity(volume, say) if wishes.with_identity else ()
    change = _change(result, out, prior, volume, material) if prior is not None else None
    document = spell(result, material.plan, say, prior=change)
    document = document.model_copy(update={"examined": (*identity, *document.examined)})
    write_faces(document, material, [path], page=wishes.page)
    if change is not None:
        write_text(out / CHANGE, change.model_dump_json(indent=1))
    return path


def read_image_again(result: StudyResult, image: Path | str) -> Volume:
    """Read the study of a run as the run did: the same series, the same SUV, the same slices by choice.

    Raises
    ------
    VoxmetryError
        If it cannot be read so.
    """
    source = result.source
    # Another version may have kept settings that this one does not know; those of reading are all that is asked for.
    kept = {name: value for name, value in result.provenance.settings.items() if name in StudySettings.model_fields}
    settings = StudySettings.model_validate(kept)
    # A file without headers does not say what its values are; what the run took it for does.
    is_known = source.format != "DICOM" and source.modality in ("CT", "MR", "PT")
    modality = cast(Literal["CT", "MR", "PT"], source.modality) if is_known else None
    return io.read_volume(
        image,
        modality=modality,
        series=settings.series or source.series_uid,
        unit=settings.unit if modality == "PT" else None,
        suv=settings.suv,
        allow_uneven=settings.allow_uneven,
        resample_tilt=settings.resample_tilt,
    )


def _drawn(result: StudyResult, out: Path, volume: Volume, reference: Path | str | None) -> Material:
    segmentation = io.read_segmentation(out / SEGMENTATION, labels=result.labels)
    truth = io.read_segmentation(reference, labels=result.labels) if reference is not None else None
    return draw(result, volume, segmentation, truth)


def _with_overlay(material: Material, out: Path) -> Material:
    """Keep the second image of the old report's viewer: the pictures are drawn from the first alone."""
    old = read_material(out / HTML).scene if (out / HTML).is_file() else None
    if old is None or old.overlay is None or material.scene is None:
        return material
    return dataclasses.replace(material, scene=material.scene.model_copy(update={"overlay": old.overlay}))


def _change(
    result: StudyResult, out: Path, prior: Path | str, volume: Volume | None, material: Material
) -> PriorComparison:
    """Hold the run against the prior; without the image by the one that the old report's viewer shows."""
    if volume is None and material.scene is not None:
        volume = overview(material.scene)
    segmentation = io.read_segmentation(out / SEGMENTATION, labels=result.labels)
    return compare_with_prior(result, prior, segmentation=segmentation, image=volume)
