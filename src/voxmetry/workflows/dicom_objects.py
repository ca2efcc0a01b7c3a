"""A study's results as DICOM objects beside the other files: segmentation, contours, report, PDF, key images."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxmetry import io
from voxmetry.config import DicomOutput
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.core.records import Lesion, Measurement, Part, StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError, OutputError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.deidentify import (
    UidMap,
    deidentify_files,
    require_deidentifier,
    require_no_burned_in_words,
)
from voxmetry.io.dicom.objects.encapsulated import write_encapsulated_pdf, write_secondary_capture
from voxmetry.io.dicom.objects.origin import Origin, new_uid
from voxmetry.io.dicom.objects.source import Source, read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement.lesions import ordered_components
from voxmetry.ops.boxes import boxes_of
from voxmetry.ops.instances import each_its_own
from voxmetry.ops.relabel import copied
from voxmetry.report import write_report
from voxmetry.report.pictures.key_images import render_key_images
from voxmetry.workflows.dicom_names import DICOM_FILES, KEY_IMAGES
from voxmetry.workflows.instances import read_instances_again
from voxmetry.workflows.reference import read_truth
from voxmetry.workflows.report import read_image_again
from voxmetry.workflows.run_folder import PDF, Outputs, read_result


def require_dicom(volume: Volume, wanted: DicomOutput) -> None:
    """Refuse DICOM output that cannot be written of this image, before any work is spent.

    Raises
    ------
    InputError
        If the image is not from DICOM, or words are burned into its pixels that de-identification cannot remove.
    ConfigError
        If de-identification is asked for without anything to de-identify.
    MissingExtraError
        If it is asked for and its package is not installed.
    """
    if wanted.deidentify and not wanted.any_object:
        raise ConfigError(
            found="--deidentify without a DICOM output",
            expected="at least one of --dicom-seg, --rtstruct, --sr, --pdf, --key-images; nothing else names a patient",
            fix="add one of them, or leave --deidentify out",
        )
    if not wanted.any_object:
        return
    source = read_source(volume)
    if wanted.deidentify:
        require_deidentifier()
        for number, header in enumerate(source.headers, start=1):
            require_no_burned_in_words(header, f"file {number}")


def write_objects(
    outputs: Outputs,
    wanted: DicomOutput,
    result: StudyResult,
    *,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    prior: PriorComparison | None = None,
    instances: InstanceSegmentation | None = None,
    uids: UidMap | None = None,
) -> None:
    """Write the objects that are wanted, each on its own.

    Parameters
    ----------
    outputs
        Takes the names of what was written and of what could not be. An empty segmentation has neither SEG nor
        contours nor a report.
    wanted
        Which objects.
    result
        Measurements, lesions, and the model that made the segmentation.
    volume, segmentation
        The image, from DICOM, and what was found in it.
    reference
        What it was compared with, for the pictures of the PDF.
    prior
        The study compared with an earlier one, for the PDF.
    instances
        Its instances: each is a segment with a tracking identifier of its own, in place of its structure.
    uids
        What UIDs become, where the objects are de-identified.
    """
    if not wanted.any_object:
        return
    writer = _Writer(outputs, wanted, result, read_source(volume), uids)
    if boxes_of(segmentation):
        writer.segmentation(segmentation, instances)
    if wanted.pdf:
        with outputs.each("report_pdf", PDF) as pdf:
            write_report(
                result,
                pdf,
                volume=volume,
                segmentation=segmentation,
                reference=reference,
                prior=prior,
                instances=instances,
            )
        with writer.each("pdf") as path:
            write_encapsulated_pdf(outputs.folder / PDF, writer.source, path, origin=origin_of(result))
    if wanted.key_images:
        writer.key_images(volume, segmentation, reference, instances)
    if uids is not None and any(what in outputs.files for what in DICOM_FILES):
        with outputs.each("images", DICOM_FILES["images"]) as path:
            _copy_series(path, volume, uids)


@dataclass(frozen=True)
class _Writer:
    """Writes each object under its name, and without the patient where that is wanted."""

    outputs: Outputs
    wanted: DicomOutput
    result: StudyResult
    source: Source
    uids: UidMap | None

    @contextlib.contextmanager
    def each(self, what: str) -> Iterator[Path]:
        """Yield where an object is written; it loses the patient before it counts as written."""
        with self.outputs.each(what, DICOM_FILES[what]) as path:
            yield path
            if self.uids is not None and path.exists():
                deidentify_files([path], path.parent, self.uids, pattern=path.name)

    def segmentation(self, segmentation: Segmentation, instances: InstanceSegmentation | None) -> None:
        """Write the segmentation, the contours and the measurements."""
        result, wanted, origin = self.result, self.wanted, origin_of(self.result)
        apart: Segmentation | None = None
        parts = parts_of(result)
        tracking = {row.id: new_uid() for row in parts}
        seg: Any = None
        # A report refers to the segments that it measures, so there is none without a segmentation.
        if wanted.seg or wanted.sr:
            with self.each("dicom_seg") as path:
                apart = parts_apart(segmentation, result, instances)
                seg = write_seg(
                    apart,
                    self.source,
                    path,
                    origin=origin,
                    kind=wanted.seg_kind,
                    keep_empty_frames=wanted.keep_empty_frames,
                    tracking=tracking,
                    description=f"{result.provenance.model} segmentation",
                )
        if wanted.sr:
            with self.each("sr") as path:
                if "dicom_seg" not in self.outputs.files:
                    raise InputError(
                        found=f"{DICOM_FILES['dicom_seg']}, which it refers to, was not written",
                        expected="the segmentation",
                        fix="see why that failed",
                    )
                _report(path, result, segmentation.labels, seg, self.source, origin, tracking)
        if wanted.rtstruct:
            with self.each("rtstruct") as path:
                _require_held(segmentation)
                apart = apart or parts_apart(segmentation, result, instances)
                description = f"{result.provenance.model} structures"
                write_rtstruct(apart, self.source, path, origin=origin, description=description)

    def key_images(
        self,
        volume: Volume,
        segmentation: Segmentation,
        reference: Segmentation | None,
        instances: InstanceSegmentation | None = None,
    ) -> None:
        """Write the report's pictures as one series of Secondary Capture images."""
        sheets = _drawn(self.result, volume, segmentation, reference, instances)
        series = new_uid()
        for number, what in enumerate(KEY_IMAGES, start=1):
            with self.each(what) as path:
                sheet = next(sheets, None)
                # No more, or the last one could not be drawn.
                if sheet is None:
                    return
                write_secondary_capture(
                    sheet[1],
                    self.source,
                    path,
                    origin=origin_of(self.result),
                    number=number,
                    series_uid=series,
                    description=f"{self.result.provenance.model} key images",
                )


def _require_held(segmentation: Segmentation) -> None:
    if is_mapped(segmentation.array):
        raise InputError(
            found="a label map that is larger than memory",
            expected="one that is held as a whole, to draw contours round its structures",
            fix="write it on a machine with more memory, or write --dicom-seg, which needs none",
        )


def _drawn(*given: Any) -> Iterator[tuple[str, Any]]:
    """Draw one picture after the other: what goes wrong does so where it is asked for."""
    yield from render_key_images(*given)


def write_key_images_again(
    out: Path, image: Path, *, reference: Path | None = None, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write the key images of an earlier run beside its results.

    Parameters
    ----------
    out
        The folder of the run.
    image
        The DICOM study that was segmented; it is read as the run did.
    reference
        The label map that the run was compared with.
    overwrite
        Whether earlier key images are replaced.

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
    truth = read_truth(result, reference, volume.geometry)
    apart = read_instances_again(out, result, segmentation)
    with output_folder(out, KEY_IMAGES.values(), overwrite=overwrite) as stage:
        outputs = Outputs(stage)
        writer = _Writer(outputs, DicomOutput(key_images=True), result, source, None)
        writer.key_images(volume, segmentation, truth, apart)
        for name, reason in outputs.not_written.items():
            raise OutputError(
                found=f"{name} cannot be written: {reason}",
                expected="all pictures of one run",
                fix="write them again; the earlier ones are as they were",
            )
    return tuple(out / name for name in outputs.files.values())


def origin_of(result: StudyResult) -> Origin:
    """Say who made the segmentation: the model, this version of the software, and the person who corrected it."""
    made, corrected = result.provenance, result.correction
    return Origin(
        "automatic" if corrected is None else "semiautomatic",
        made.model,
        made.model_version,
        serial=made.weights_sha256,
        software=made.voxmetry_version,
        author="" if corrected is None else corrected.author,
        fast="" if made.fast is None else str(made.fast),
    )


def _report(
    path: Path,
    result: StudyResult,
    labels: LabelTable,
    seg: Any,
    source: Source,
    origin: Origin,
    tracking: dict[str, str],
) -> None:
    parts = parts_of(result)
    apart = {row.label for row in parts}
    rows: list[Measurement | Part] = [row for row in result.measurements if row.label not in apart]
    rows += parts
    description = f"{result.provenance.model} measurements"
    write_report_sr(rows, labels, seg, source, path, origin=origin, tracking=tracking, description=description)


def parts_of(result: StudyResult) -> tuple[Part, ...]:
    """Return what is a segment of its own: the instances, and the lesions of structures without instances."""
    told = {row.label for row in result.instances}
    return (*(row for row in result.lesions if row.label not in told), *result.instances)


def parts_apart(
    segmentation: Segmentation, result: StudyResult, instances: InstanceSegmentation | None
) -> Segmentation:
    """Give each of `parts_of` a value of its own, named by its id.

    Raises
    ------
    InputError
        If the lesions are not those of this segmentation.
    LabelError
        If there are more parts than a label map can number.
    """
    told = {row.label for row in result.instances}
    apart = lesions_apart(segmentation, [row for row in result.lesions if row.label not in told])
    if instances is None:
        return apart
    return each_its_own(apart, instances, {row.instance: row.id for row in result.instances})


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
    array = copied(segmentation.array, np.dtype(np.uint16))
    labels = [label for label in segmentation.labels if label.name not in {row.label for row in lesions}]
    value = max(segmentation.labels.values)
    boxes = boxes_of(segmentation)
    for name in dict.fromkeys(row.label for row in lesions):
        label = segmentation.labels[name]
        rows = [row for row in lesions if row.label == name]
        n = 0
        # One after the other: the mask of one is there at once.
        for part in ordered_components(segmentation, label, boxes[label.value], 26, 0.0):
            if n < len(rows) and int(np.count_nonzero(part.mask)) == rows[n].n_voxels:
                value += 1
                array[part.box][part.mask] = value
                release_pages(array)
                labels.append(Label(**{**label.model_dump(), "value": value, "name": rows[n].id}))
                n += 1
            else:
                n = -1
                break
        if n != len(rows):
            raise InputError(
                found=f"{len(rows)} lesions {name!r} that are not those of the segmentation",
                expected="all lesions of this segmentation, largest first",
                fix="measure them again; those of a study larger than memory that were left out need a larger machine",
            )
    table = LabelTable(labels=tuple(labels))
    return Segmentation(array, segmentation.geometry, table)


def _copy_series(path: Path, volume: Volume, uids: UidMap) -> None:
    """Write a de-identified copy of the series that the objects refer to."""
    if volume.source is None:
        raise InputError(found="an image that is not from DICOM", expected="a DICOM series", fix="pass the series")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, atomic_path(path) as archive:
        copies = deidentify_files(volume.source.files, Path(folder), uids)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for copy in copies:
                file.write(copy, copy.name)
