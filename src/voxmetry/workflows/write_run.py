"""Write what is known about a study into the folder of its run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from voxmetry import io, report
from voxmetry.config import StudySettings
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import Comparison, Flag, InstanceMeasurement, Lesion, Measurement, StudyResult
from voxmetry.core.records.correction import StructureCorrection
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.io.atomic import write_bytes, write_text
from voxmetry.io.instances import save_instances
from voxmetry.io.overlapping import flatten
from voxmetry.measurement.tables import measurements_csv, named_records_csv, records_csv
from voxmetry.nn.uncertainty_maps import FILES as MAP_FILES
from voxmetry.report.instances import drawn_segmentation
from voxmetry.report.pictures.thumbnail import render_preview, render_thumbnail
from voxmetry.report.viewer import MOST_OVERLAY_VOXELS, overview
from voxmetry.workflows.dicom_names import DICOM_FILES
from voxmetry.workflows.dicom_objects import write_objects
from voxmetry.workflows.inputs import StudyInputs
from voxmetry.workflows.models import Answer
from voxmetry.workflows.privacy import Privacy
from voxmetry.workflows.run_folder import INSTANCE_FILES, OUTPUTS, Outputs


class ReportInputs(NamedTuple):
    """What the report's pictures and words are made of, beside the result."""

    volume: Volume
    segmentation: Segmentation
    reference: Segmentation | None
    others: tuple[Volume, ...]
    prior: PriorComparison | None
    instances: InstanceSegmentation | None = None

    @classmethod
    def of(
        cls,
        inputs: StudyInputs,
        answer: Answer,
        reference: tuple[Segmentation, ...] = (),
        prior: PriorComparison | None = None,
    ) -> Self:
        """Gather them; of structures of the reference that overlap the first is drawn."""
        drawn = flatten(reference, "first", "the reference") if reference else None
        return cls(inputs.first, answer.segmentation, drawn, inputs.volumes[1:], prior, answer.instances)

    def of_image(self) -> dict[str, Any]:
        """Return all but the further images, which a DICOM object does not show."""
        return {name: thing for name, thing in self._asdict().items() if name != "others"}


def output_files(result: StudyResult, settings: StudySettings, *, changed: bool) -> dict[str, str]:
    """Name the files of a study: lesions only where the model can find some, a comparison only where there is one."""
    left_out = {*DICOM_FILES, "report_pdf"} | (set() if result.comparisons else {"comparison"})
    left_out |= {*MAP_FILES} - {*settings.maps, *(["maps"] if settings.maps else [])}
    if not changed:
        left_out.add("change")
    if not result.instances_by:
        left_out |= {*INSTANCE_FILES}
    if result.correction is None:
        left_out |= {"model segmentation", "correction"}
    if not result.others:
        left_out |= {"other measurements", "other lesions", "other overview"}
    if not any(label.kind == "lesion" for label in result.labels):
        left_out |= {"lesions", "other lesions"}
    if settings.report != "brief":
        left_out.add("thumbnail")
    if settings.report == "none":
        left_out |= {"overview", "other overview"}
    if not wants_report(result, settings):
        left_out.add("report")
    return {what: name for what, name in OUTPUTS.items() if what not in left_out}


def wants_report(result: StudyResult, settings: StudySettings) -> bool:
    """Whether there is a report: always, or only of a study that is flagged for review, or never."""
    return settings.report == "full" or (settings.report == "brief" and result.needs_review)


def write_outputs(
    outputs: Outputs, result: StudyResult, shown: ReportInputs, settings: StudySettings, privacy: Privacy
) -> StudyResult:
    """Write all files, each atomically and on its own, and return the result as it was written.

    One that cannot be written costs none of the others: `not_written` of the result and a flag name it. Without the
    label map, the table or the result there is no run, and the error is raised.
    """
    out = outputs.folder
    files = output_files(result, settings, changed=shown.prior is not None)
    result = result.model_copy(update={"files": files})
    io.save(shown.segmentation, out / OUTPUTS["segmentation"])
    write_text(out / OUTPUTS["measurements"], measurements_csv(result.measurements, result.total))
    for what, write in further_files(result, shown).items():
        if what in files:
            with outputs.each(what, OUTPUTS[what]) as path:
                write(path)
    write_objects(outputs, settings.dicom, result, **shown.of_image(), uids=privacy.uids)
    result = with_failures(result, outputs)
    if wants_report(result, settings):
        with outputs.each("report", OUTPUTS["report"]) as path:
            report.write_report(result, path, **shown._asdict())
        result = with_failures(result, outputs)
    write_text(out / OUTPUTS["result"], result.model_dump_json(indent=1))
    return result


def further_files(result: StudyResult, shown: ReportInputs) -> dict[str, Callable[[Path], object]]:
    """Return what writes each table and picture that a run may have, beside the label map, its table and the report."""
    rows = {other.name: other.measurements for other in result.others}
    spots = {other.name: other.lesions for other in result.others}
    drawn = drawn_segmentation(result, shown.segmentation, shown.instances)
    tables: dict[str, Callable[[], str]] = {
        "lesions": lambda: records_csv(result.lesions, Lesion),
        "instance table": lambda: records_csv(result.instances, InstanceMeasurement),
        "other measurements": lambda: named_records_csv(rows, Measurement, name="input"),
        "other lesions": lambda: named_records_csv(spots, Lesion, name="input"),
        "comparison": lambda: records_csv(result.comparisons, Comparison),
    }
    if (correction := result.correction) is not None:
        tables["correction"] = lambda: records_csv(correction.structures, StructureCorrection)
    if (prior := shown.prior) is not None:
        tables["change"] = lambda: prior.model_dump_json(indent=1)
    made: dict[str, Callable[[Path], object]] = {what: partial(_write_made, text) for what, text in tables.items()}
    if (apart := shown.instances) is not None:
        made["instances"] = lambda path: save_instances(apart, path)
        made["panoptic"] = lambda path: io.save(Volume(apart.panoptic(), apart.geometry), path)
    return made | {
        "overview": lambda path: io.save(overview(shown.volume), path),
        "other overview": lambda path: io.save(overview(shown.others[0], MOST_OVERLAY_VOXELS), path),
        "preview": lambda path: write_bytes(path, render_preview(shown.volume, drawn, shown.others)),
        "thumbnail": lambda path: write_bytes(path, render_thumbnail(shown.volume, drawn)),
    }


def _write_made(text: Callable[[], str], path: Path) -> None:
    write_text(path, text())


def with_failures(result: StudyResult, outputs: Outputs) -> StudyResult:
    """Name the files that are there, and flag each that was asked for and is not."""
    lost = outputs.not_written
    files = {what: name for what, name in {**result.files, **outputs.files}.items() if name not in lost}
    new = {name: why for name, why in lost.items() if name not in result.not_written}
    flags = tuple(
        Flag(code="not_written", severity="review", message=f"{name} was not written: {why}.")
        for name, why in new.items()
    )
    return result.model_copy(
        update={"files": files, "not_written": dict(lost), "flags": (*result.flags, *flags)},
    )
