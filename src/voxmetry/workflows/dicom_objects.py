"""A study's results as DICOM objects beside the other files: segmentation, contours, report, PDF, key images."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxmetry import io
from voxmetry.config import DicomOutput
from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.records import Lesion, Measurement, StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError
from voxmetry.io.atomic import atomic_path, replaced_together
from voxmetry.io.dicom.objects.deidentify import UidMap, deidentify_files
from voxmetry.io.dicom.objects.encapsulated import write_encapsulated_pdf, write_secondary_capture
from voxmetry.io.dicom.objects.origin import Origin, new_uid
from voxmetry.io.dicom.objects.source import Source, read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg
from voxmetry.measurement.lesions import ordered_components
from voxmetry.ops.boxes import boxes_of
from voxmetry.report import write_report
from voxmetry.report.pictures.key_images import MOST_SHEETS, render_key_images
from voxmetry.workflows.rewrite_report import read_image_again
from voxmetry.workflows.run_folder import read_result

KEY_IMAGES = {f"key_image_{n:02}": f"key_image_{n:02}.dcm" for n in range(1, MOST_SHEETS + 1)}
"""Names of the key images, as many as there can be."""
FILES = {
    "dicom_seg": "seg.dcm",
    "rtstruct": "rtstruct.dcm",
    "sr": "sr.dcm",
    "pdf": "report.dcm",
    **KEY_IMAGES,
    "images": "images.zip",
}
"""Names of the objects; the last is the de-identified copy of the series that they refer to."""
PDF = "report.pdf"


def require_dicom(volume: Volume, wanted: DicomOutput) -> None:
    """Refuse DICOM output of an image that has no patient, before any work is spent.

    Raises
    ------
    InputError
        If the image is not from DICOM.
    ConfigError
        If de-identification is asked for without anything to de-identify.
    """
    if wanted.deidentify and not wanted.any_object:
        raise ConfigError(
            found="--deidentify without a DICOM output",
            expected="at least one of --dicom-seg, --rtstruct, --sr, --pdf, --key-images; nothing else names a patient",
            fix="add one of them, or leave --deidentify out",
        )
    if wanted.any_object:
        read_source(volume)


def write_objects(
    out: Path,
    wanted: DicomOutput,
    result: StudyResult,
    *,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    prior: PriorComparison | None = None,
) -> dict[str, str]:
    """Write the objects that are wanted.

    Parameters
    ----------
    out
        Folder.
    wanted
        Which objects.
    result
        Measurements, lesions, and the model that made the segmentation.
    volume, segmentation
        The image, from DICOM, and what was found in it.
    reference
        What it was compared with, for the pictures of the PDF.
    prior
        The study held against an earlier one, for the PDF.

    Returns
    -------
    dict
        Names of the files, by what they are. An empty segmentation has neither SEG nor contours nor a report.
    """
    if not wanted.any_object:
        return {}
    source = read_source(volume)
    origin = origin_of(result)
    written: dict[str, str] = {}
    if np.any(segmentation.array):
        written |= _segmentation(out, wanted, result, source, origin, segmentation)
    if wanted.pdf:
        pdf = out / PDF
        write_report(result, pdf, volume=volume, segmentation=segmentation, reference=reference, prior=prior)
        write_encapsulated_pdf(pdf, source, out / FILES["pdf"], origin=origin)
        written["pdf"] = FILES["pdf"]
    if wanted.key_images:
        written |= write_key_images(out, result, source, volume, segmentation, reference)
    if wanted.deidentify and written:
        _deidentify(out, volume, written)
    return written | ({"report_pdf": PDF} if wanted.pdf else {})


def write_key_images(
    out: Path,
    result: StudyResult,
    source: Source,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
) -> dict[str, str]:
    """Write the report's pictures as one series of Secondary Capture images, and return their names.

    Parameters
    ----------
    out
        Folder.
    result
        What was measured.
    source
        Headers of the series.
    volume, segmentation, reference
        The image, what was found in it, and what that was compared with.
    """
    series, written = new_uid(), {}
    sheets = render_key_images(result, volume, segmentation, reference)
    for number, ((what, name), (_, picture)) in enumerate(zip(KEY_IMAGES.items(), sheets, strict=False), start=1):
        write_secondary_capture(
            picture,
            source,
            out / name,
            origin=origin_of(result),
            number=number,
            series_uid=series,
            description=f"{result.provenance.model} key images",
        )
        written[what] = name
    return written


def write_key_images_again(out: Path, image: Path, *, reference: Path | None = None) -> tuple[Path, ...]:
    """Write the key images of an earlier run beside its results.

    Parameters
    ----------
    out
        The folder of the run. Its key images are replaced.
    image
        The DICOM study that was segmented; it is read as the run did.
    reference
        The label map that the run was compared with.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    InputError
        If the folder holds no run, or the image is not from DICOM.
    GeometryError
        If it is another image.
    """
    result = read_result(out)
    volume = read_image_again(result, image)
    source = read_source(volume)
    segmentation = io.read_segmentation(out / "seg.nii.gz", labels=result.labels)
    truth = io.read_segmentation(reference, labels=result.labels, image=volume) if reference is not None else None
    with replaced_together(out, KEY_IMAGES.values()) as stage:
        names = write_key_images(stage, result, source, volume, segmentation, truth)
    return tuple(out / name for name in names.values())


def origin_of(result: StudyResult) -> Origin:
    """Say who made the segmentation: the model, and this version of the software."""
    made = result.provenance
    return Origin(
        "automatic",
        made.model,
        made.model_version,
        serial=made.weights_sha256,
        software=made.voxmetry_version,
    )


def _segmentation(
    out: Path,
    wanted: DicomOutput,
    result: StudyResult,
    source: Source,
    origin: Origin,
    segmentation: Segmentation,
) -> dict[str, str]:
    written: dict[str, str] = {}
    apart = lesions_apart(segmentation, result.lesions)
    tracking = {row.id: new_uid() for row in result.lesions}
    # A report refers to the segments that it measures, so there is none without a segmentation.
    if wanted.seg or wanted.sr:
        seg = write_seg(
            apart,
            source,
            out / FILES["dicom_seg"],
            origin=origin,
            kind=wanted.seg_kind,
            keep_empty_frames=wanted.keep_empty_frames,
            tracking=tracking,
            description=f"{result.provenance.model} segmentation",
        )
        written["dicom_seg"] = FILES["dicom_seg"]
        if wanted.sr:
            _report(out, result, segmentation.labels, seg, source, origin, tracking)
            written["sr"] = FILES["sr"]
    if wanted.rtstruct:
        description = f"{result.provenance.model} structures"
        write_rtstruct(apart, source, out / FILES["rtstruct"], origin=origin, description=description)
        written["rtstruct"] = FILES["rtstruct"]
    return written


def _report(
    out: Path,
    result: StudyResult,
    labels: LabelTable,
    seg: Any,
    source: Source,
    origin: Origin,
    tracking: dict[str, str],
) -> None:
    apart = {row.label for row in result.lesions}
    rows: list[Measurement | Lesion] = [row for row in result.measurements if row.label not in apart]
    rows += result.lesions
    description = f"{result.provenance.model} measurements"
    write_report_sr(
        rows, labels, seg, source, out / FILES["sr"], origin=origin, tracking=tracking, description=description
    )


def lesions_apart(segmentation: Segmentation, lesions: Sequence[Lesion]) -> Segmentation:
    """Give each measured lesion a value of its own, named by its id, in place of its structure's.

    Parameters
    ----------
    segmentation
        The label map.
    lesions
        Its lesions, as `voxmetry.measurement.lesions` returned them with its defaults.

    Raises
    ------
    InputError
        If the lesions are not those of this segmentation.
    """
    if not lesions:
        return segmentation
    array = segmentation.array.astype(np.uint16)
    labels = [label for label in segmentation.labels if label.name not in {row.label for row in lesions}]
    value = max(segmentation.labels.values)
    boxes = boxes_of(segmentation)
    for name in dict.fromkeys(row.label for row in lesions):
        label = segmentation.labels[name]
        rows = [row for row in lesions if row.label == name]
        parts = ordered_components(segmentation, label, boxes[label.value], 26, 0.0)
        if [int(np.count_nonzero(part.mask)) for part in parts] != [row.n_voxels for row in rows]:
            raise InputError(
                found=f"{len(rows)} lesions {name!r} that are not the {len(parts)} of the segmentation",
                expected="the lesions of this segmentation, largest first",
                fix="measure them again",
            )
        for row, part in zip(rows, parts, strict=True):
            value += 1
            array[part.box][part.mask] = value
            labels.append(Label(**{**label.model_dump(), "value": value, "name": row.id}))
    table = LabelTable(labels=tuple(labels))
    return Segmentation(array, segmentation.geometry, table)


def _deidentify(out: Path, volume: Volume, written: dict[str, str]) -> None:
    """Replace the objects by de-identified ones, and put a copy of the series beside them that they refer to."""
    if volume.source is None:
        raise InputError(found="an image that is not from DICOM", expected="a DICOM series", fix="pass the series")
    uids = UidMap()
    for name in written.values():
        deidentify_files([out / name], out, uids, pattern=name)
    with tempfile.TemporaryDirectory(dir=out) as folder, atomic_path(out / FILES["images"]) as archive:
        copies = deidentify_files(volume.source.files, Path(folder), uids)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for copy in copies:
                file.write(copy, copy.name)
    written["images"] = FILES["images"]
