"""Write the report of an earlier run again: as a PDF, in another language, against a prior study."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError

from voxmetry import io
from voxmetry.core.base import Record
from voxmetry.core.records import StudyResult
from voxmetry.errors import FormatError, InputError
from voxmetry.report.document import spell
from voxmetry.report.facts import Fact
from voxmetry.report.identity import read_identity
from voxmetry.report.language import Language, load_language
from voxmetry.report.material import Material, draw, read_material
from voxmetry.report.write import require_face, write_faces

RESULT, SEGMENTATION = "result.json", "seg.nii.gz"
HTML, PDF = "report.html", "report.pdf"


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
        The folder of a run on an earlier study of the same patient.
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
    earlier = read_result(prior) if prior is not None else None
    identity: tuple[Fact, ...] = ()
    if image is None:
        if wishes.with_identity:
            raise InputError(
                found="--with-identity without an image",
                expected="the DICOM study, since results hold no identity",
                fix="pass the study with --image",
            )
        material = read_material(out / HTML)
    else:
        material, identity = _drawn(result, out, image, reference, say if wishes.with_identity else None)
    document = spell(result, material.plan, say, prior=earlier)
    document = document.model_copy(update={"examined": (*identity, *document.examined)})
    write_faces(document, material, [path], page=wishes.page)
    return path


def _drawn(
    result: StudyResult, out: Path, image: Path | str, reference: Path | str | None, identify: Language | None
) -> tuple[Material, tuple[Fact, ...]]:
    source = result.source
    # A file without headers does not say what its values are; what the run took it for does.
    is_known = source.format != "DICOM" and source.modality in ("CT", "MR", "PT")
    modality = cast(Literal["CT", "MR", "PT"], source.modality) if is_known else None
    volume = io.read_volume(image, modality=modality, series=source.series_uid)
    segmentation = io.read_segmentation(out / SEGMENTATION, labels=result.labels)
    truth = io.read_segmentation(reference, labels=result.labels) if reference is not None else None
    identity = read_identity(volume, identify) if identify is not None else ()
    return draw(result, volume, segmentation, truth), identity


def read_result(folder: Path | str) -> StudyResult:
    """Read the result of a run.

    Raises
    ------
    InputError
        If the folder holds none.
    FormatError
        If the file is none of this version, or damaged.
    """
    path = Path(folder) / RESULT
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            found=f"no readable {RESULT} in the folder",
            expected="the folder of a run of voxmetry segment",
            fix="name the folder that was given with -o / --out",
        ) from error
    try:
        return StudyResult.model_validate_json(text)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole file"
        raise FormatError(
            found=f"a {RESULT} that is not as this version writes it, at {wrong}",
            expected="a result of this version of voxmetry",
            fix="run voxmetry segment again",
        ) from error
