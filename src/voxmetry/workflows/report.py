"""Write the report of an earlier run again: as a PDF, in another language, compared with a prior study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, cast

from voxmetry import io
from voxmetry.config import StudySettings
from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError, OutputExistsError
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder, results_in
from voxmetry.report.document import spell
from voxmetry.report.identity import read_identity
from voxmetry.report.instances import drawn_segmentation
from voxmetry.report.language import load_language
from voxmetry.report.pictures.material import draw
from voxmetry.report.viewer import overview_of_labels
from voxmetry.report.write import require_face, write_faces
from voxmetry.workflows.instances import read_instances_again
from voxmetry.workflows.prior import compare_with_prior
from voxmetry.workflows.reference import names_in, read_truth
from voxmetry.workflows.run_folder import (
    CHANGE,
    HTML,
    OTHER_OVERVIEW,
    OVERVIEW,
    PDF,
    SEGMENTATION,
    read_change,
    read_overview,
    read_result,
)


@dataclasses.dataclass(frozen=True)
class Wishes:
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
    overwrite: bool = False,
) -> Path:
    """Write the report of a run again from its `result.json`.

    Parameters
    ----------
    out
        The folder of the run. The file is `report.html` or `report.pdf`; in another language than English, such as
        German, `report.de.html` or `report.de.pdf`.
    wishes
        Face, language, page, identity.
    prior
        The folder of a run on an earlier study of the same patient: the change is in the report, and in `change.json`.
        None takes what the run's `change.json` holds, if there is one.
    image
        The study, for pictures at full size. Without it they are drawn from the run's `overview.nii.gz`, in which a
        large image is reduced.
    reference
        The label map that the run was compared with, for pictures of where the two differ.
    overwrite
        Whether an earlier file of this name is replaced.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If the folder holds no run, or an image is needed and not given.
    FormatError
        If `result.json` is none of this software.
    ConfigError
        If the language or the page is unknown.
    OutputExistsError
        If the file is there already and `overwrite` is off.
    """
    wishes, out = wishes or Wishes(), Path(out)
    name = name_of(wishes)
    say = load_language(wishes.language)
    require_face(out / name, wishes.page)
    result = read_result(out)
    if wishes.with_identity and image is None:
        raise InputError(
            found="--with-identity without an image",
            expected="the DICOM study, since results hold no identity",
            fix="pass the study with --image",
        )
    names = (*([CHANGE] if prior is not None else []), name)
    if not overwrite and (there := results_in(out, names)):
        # The report belongs to the run in this folder: no other will do.
        raise OutputExistsError(
            found=f"{', '.join(there)} in the folder already",
            expected="a report that is not there yet, or the choice to replace it",
            fix="add --overwrite (overwrite=True) to replace it",
        )
    with output_folder(out, names, overwrite=overwrite) as stage:
        shown, volume, segmentation, truth, apart = _shown(result, out, image, reference)
        identity = read_identity(volume, say) if wishes.with_identity else ()
        material = draw(shown, volume, segmentation, truth, _others(result, out), apart=apart)
        change = read_change(out) if prior is None else None
        if prior is not None:
            own = io.read_segmentation(out / SEGMENTATION, labels=result.labels)
            change = compare_with_prior(result, prior, segmentation=own, image=volume, names=names_in(result))
            write_text(stage / CHANGE, change.model_dump_json(indent=1))
        document = spell(result, material.plan, say, prior=change)
        document = dataclasses.replace(document, examined=(*identity, *document.examined))
        write_faces(document, material, [stage / name], page=wishes.page)
    return out / name


def name_of(wishes: Wishes) -> str:
    """Return what a report is called: each language and each face has a file of its own.

    Examples
    --------
    >>> name_of(Wishes()), name_of(Wishes(pdf=True, language="de"))
    ('report.html', 'report.de.pdf')
    """
    path = Path(PDF if wishes.pdf else HTML)
    return path.name if wishes.language == "en" else f"{path.stem}.{wishes.language}{path.suffix}"


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


def _shown(
    result: StudyResult, out: Path, image: Path | str | None, reference: Path | str | None
) -> tuple[StudyResult, Volume, Segmentation, Segmentation | None, Segmentation | None]:
    """Return what pictures are drawn from: the study itself, or the run's reduced image with labels reduced like it.

    After the labels come the reference's and those with the instances apart, where there are some.
    """
    segmentation = io.read_segmentation(out / SEGMENTATION, labels=result.labels)
    truth = read_truth(result, reference, segmentation.geometry)
    instances = read_instances_again(out, result, segmentation)
    apart = drawn_segmentation(result, segmentation, instances) if instances is not None else None
    if image is not None:
        return result, read_image_again(result, image), segmentation, truth, apart
    volume = read_overview(out, result)
    if volume is None:
        raise InputError(
            found=f"no {OVERVIEW} in the folder",
            expected="the reduced image that the run left there, or the study itself",
            fix="pass the study with --image",
        )
    reduced = overview_of_labels(segmentation)
    source = result.source.model_copy(update={"shape": volume.geometry.shape})
    shown = result.model_copy(update={"source": source})
    # The run's own grid has no frame of reference in its files; the two reduced grids are the same by construction.
    labels = dataclasses.replace(reduced, geometry=volume.geometry)
    truth, apart = (
        dataclasses.replace(overview_of_labels(x), geometry=volume.geometry) if x else None for x in (truth, apart)
    )
    return shown, volume, labels, truth, apart


def _others(result: StudyResult, out: Path) -> tuple[Volume, ...]:
    """Return the second image of the viewer, where the run has one."""
    other = read_overview(out, result, OTHER_OVERVIEW) if result.others else None
    return (other,) if other is not None else ()
