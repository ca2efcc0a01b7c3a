"""Follow up what lies at two paths, and write all that is known about it: what stands behind `voxmetry follow-up`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxmetry._version import __version__
from voxmetry.core.base import Unit
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Lesion, StudyResult
from voxmetry.core.records.follow_up import FollowUp, FollowUpSettings, LesionChange
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, InputError
from voxmetry.flags.time_points import flag_time_points
from voxmetry.io.atomic import write_bytes, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.io.read import Modality, read_segmentation, read_volume
from voxmetry.measurement.follow_up import TimePoint, follow_up
from voxmetry.measurement.tables import records_csv
from voxmetry.ops.registration import moved, read_transform, write_transform
from voxmetry.ops.resample import resample

OUTPUTS = {
    "changes": "lesion_changes.csv",
    "transform": "transform.tfm",
    "picture": "registration.png",
    "result": "follow_up.json",
}
"""The result is written last: it is there only if everything else is."""


@dataclass(frozen=True)
class TimePaths:
    """Where a time point lies.

    Parameters
    ----------
    segmentation
        A label map, or a folder that `voxmetry segment` wrote.
    image
        The image: a file, or a DICOM folder; None where nothing has to be registered.
    """

    segmentation: Path
    image: Path | None = None


def follow_up_paths(
    baseline: TimePaths,
    current: TimePaths,
    settings: FollowUpSettings = FollowUpSettings(),  # noqa: B008  (frozen)
    *,
    modality: Modality | None = None,
    unit: Unit | None = None,
    transform: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> tuple[FollowUp, tuple[Path, ...]]:
    """Hold two time points of a patient against each other.

    Parameters
    ----------
    baseline, current
        The earlier and the later one.
    settings
        See `voxmetry.follow_up`.
    modality, unit
        What image files without DICOM headers are, as for `read_volume`.
    transform
        A transform of an earlier run, to be used in place of a registration.
    out
        Folder for `follow_up.json`, `lesion_changes.csv`, and where there was a registration `transform.tfm` (ITK's
        text form, from follow-up to baseline) and `registration.png`; None writes nothing.
    overwrite
        Whether earlier results in `out` are replaced.

    Returns
    -------
    FollowUp, tuple of Path
        What was found, and the files that were written.

    Raises
    ------
    VoxmetryError
        If something cannot be read, registered, measured or written.
    """
    if out is None:
        return _follow_up(baseline, current, settings, modality=modality, unit=unit, transform=transform)[0], ()
    read = (baseline.segmentation, baseline.image, current.segmentation, current.image)
    with output_folder(out, OUTPUTS.values(), overwrite=overwrite, apart_from=read) as stage:
        found, points = _follow_up(baseline, current, settings, modality=modality, unit=unit, transform=transform)
        write_text(stage / OUTPUTS["changes"], records_csv(found.changes, LesionChange))
        if found.registration.kind != "none":
            write_transform(np.array(found.registration.matrix_ras_mm), stage / OUTPUTS["transform"])
        if points[0].image is not None and points[1].image is not None:
            write_bytes(stage / OUTPUTS["picture"], picture(found, points[0], points[1]))
        write_text(stage / OUTPUTS["result"], found.model_dump_json(indent=1))
        names = [name for name in OUTPUTS.values() if (stage / name).exists()]
    return found, tuple(out / name for name in names)


def _follow_up(
    baseline: TimePaths,
    current: TimePaths,
    settings: FollowUpSettings,
    *,
    modality: Modality | None,
    unit: Unit | None,
    transform: Path | None,
) -> tuple[FollowUp, list[TimePoint]]:
    points = [read_time_point(paths, modality=modality, unit=unit) for paths in (baseline, current)]
    matrix = read_transform(transform) if transform else None
    found = follow_up(baseline=points[0], current=points[1], settings=settings, matrix_ras_mm=matrix)
    flags = (*flag_time_points(*points), *found.flags)
    return found.model_copy(update={"voxmetry_version": __version__, "flags": flags}), points


def read_time_point(paths: TimePaths, *, modality: Modality | None = None, unit: Unit | None = None) -> TimePoint:
    """Read a label map, or the folder of a study, and its image.

    Raises
    ------
    FormatError
        If a folder holds no result that can be read.
    VoxmetryError
        If something else cannot be read.
    """
    source = paths.segmentation
    image = None if paths.image is None else read_volume(paths.image, modality=modality, unit=unit)
    segmentation = _study(source) if source.is_dir() else read_segmentation(source, image=image)
    return TimePoint(segmentation, image)


def _study(folder: Path) -> Segmentation:
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(
            found=f"no result.json in the folder {folder.name}",
            expected="a folder that voxmetry segment wrote, or a label map",
            fix="name the folder of the study's results, or the file of its label map",
        )
    try:
        result = StudyResult.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise FormatError(
            found="a result.json that is none of this version",
            expected="one that voxmetry segment wrote",
            fix="segment the study again, or name the label map itself",
        ) from error
    segmentation = read_segmentation(folder / result.files.get("segmentation", "seg.nii.gz"), labels=result.labels)
    frame = dataclasses.replace(segmentation.geometry, frame_uid=result.source.frame_uid)
    return dataclasses.replace(segmentation, geometry=frame)


def picture(found: FollowUp, baseline: TimePoint, current: TimePoint) -> bytes:
    """Draw the registration as PNG.

    Raises
    ------
    InputError
        If one of the images is missing.
    """
    from voxmetry.report.pictures.registration import render_registration

    if baseline.image is None or current.image is None:
        raise InputError(
            found="no image of one of the time points", expected="both images", fix="pass both, or draw no picture"
        )
    grid = dataclasses.replace(current.image.geometry, frame_uid=None)
    matrix = np.array(found.registration.matrix_ras_mm)
    place = moved(dataclasses.replace(baseline.image.geometry, frame_uid=None), matrix)
    image = resample(dataclasses.replace(baseline.image, geometry=place), to=grid)
    ours = _lesions_only(current, found.follow_up, grid)
    theirs = _lesions_only(baseline, found.baseline, place)
    return render_registration(
        baseline=image,
        current=dataclasses.replace(current.image, geometry=grid),
        segmentation=ours,
        earlier=resample(theirs, to=grid),
    )


def _lesions_only(point: TimePoint, rows: Sequence[Lesion], geometry: Geometry) -> Segmentation:
    """Keep the structures whose lesions were followed, as one structure, so that both sides have one colour.

    They are found by value: by name, one time point may know them otherwise.
    """
    values = sorted({row.value for row in rows})
    mask = np.isin(point.segmentation.array, values).astype(np.uint8)
    return Segmentation(mask, geometry, LabelTable.from_names({1: "lesions"}))
