"""Renew a run from a person's correction of its label map: all that is said of it; the model's own map stays beside."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from voxmetry import io
from voxmetry.config import ModelSpec, StudySettings, TotalRule, TrainingDomain
from voxmetry.core.records import Comparison, Flag, Measurement, StudyResult, Total
from voxmetry.core.records.correction import Correction
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError, ModelError
from voxmetry.flags.study import flag_asymmetry, flag_islands, flag_volumes
from voxmetry.io.annotations.series import keys_of
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement import DEFINITIONS, measure
from voxmetry.models import find_model, read_any_spec
from voxmetry.models.composite import CompositeSpec
from voxmetry.nn.uncertainty_maps import FILES as MAP_FILES
from voxmetry.ops.instances import tell_apart
from voxmetry.report.language import languages
from voxmetry.report.pictures.thumbnail import render_thumbnail
from voxmetry.report.write import write_report
from voxmetry.workflows.cohort.corrected import note_correction
from voxmetry.workflows.correction import Corrected, CorrectionOptions, Said, read_correction
from voxmetry.workflows.dicom_objects import require_dicom
from voxmetry.workflows.inputs import AnySpec, StudyInputs
from voxmetry.workflows.models import Answer
from voxmetry.workflows.prior import compare_with_prior
from voxmetry.workflows.privacy import Privacy
from voxmetry.workflows.reference import names_in, read_reference
from voxmetry.workflows.report import read_image_again
from voxmetry.workflows.run_folder import (
    HTML,
    MODEL_SEGMENTATION,
    OUTPUTS,
    PDF,
    SEGMENTATION,
    Outputs,
    read_result,
)
from voxmetry.workflows.study_flags import flags_of_many
from voxmetry.workflows.study_measurements import measure_study
from voxmetry.workflows.write_run import ReportInputs, write_outputs

_OF_LABELS = frozenset(
    (
        *("empty", "truncated", "volume_out_of_range", "unlike_training", "asymmetry", "islands"),
        *("not_found", "not_compared", "larger_than_memory"),
        *("low_predicted_dice", "members_disagree", "reference_in_training", "not_written", "corrected"),
        *("uncertain_instances", "registration", "not_covered", "matched_by_distance", "lesions_not_matched"),
    )
)
"""Flags that are about the label map or its comparisons, not about the image: they are raised anew or hold no more."""
_SAME_VALUES = 1e-3
"""Share by which a mean of the image's values in the model's map may differ when it is measured again."""


def correct_run(
    out: Path | str,
    segmentation: Path | str,
    images: Sequence[Path | str],
    how: CorrectionOptions,
    *,
    reference: Path | str | None = None,
    prior: Path | str | None = None,
    said: Said = Said(),  # noqa: B008  (frozen)
    beside: tuple[str, str] | None = None,
) -> StudyResult:
    """Renew measurements, quality flags, DICOM objects and report of a run from a correction of its label map.

    Parameters
    ----------
    out
        The folder of the run. All of its files are replaced together, or none is. The model's own label map stays as
        `model_seg.nii.gz`; what changed is in `correction.csv` and `result.json`. A later correction is of the model's
        map again.
    segmentation
        The corrected label map, see `read_correction`.
    images
        The study: one path, or one for each image of a model with several.
    how
        Author, names, what is taken though it is odd.
    reference
        The label map that the run was compared with: the comparison is renewed. Without it, it is left out.
    prior
        The folder of the earlier study's run: the change is renewed. Without it, it is left out.
    said
        What is known of the correction from beside its file.
    beside
        Name and text of a further file, which is replaced together with the others.

    Returns
    -------
    StudyResult
        The content of the new `result.json`.

    Raises
    ------
    InputError
        If the folder holds no run, the image is another one, or the correction cannot be taken.
    VoxmetryError
        As `read_correction`, or if a file cannot be written; the run is then as it was.
    """
    out = Path(out)
    result = read_result(out)
    settings = _settings(result)
    privacy = Privacy.of(settings)
    faces = _other_faces(out)
    with output_folder(out, (*faces, *OUTPUTS.values()), overwrite=True) as stage:
        inputs = read_inputs_again(result, images)
        before = model_map(out, result, inputs.first)
        _require_same_image(result, before, inputs.first)
        require_dicom(inputs.first, settings.dicom)
        keys = keys_of(out.name, inputs.first)
        made = result.provenance
        target = Corrected(before, keys, result.source.series_uid, made.model, made.model_version, made.weights_sha256)
        after, correction = read_correction(Path(segmentation), target, how, said=said)
        truth, _ = read_reference(reference, result.labels, before.geometry, names=names_in(result))
        answer = _told_apart(result, after)
        found = measure_study(answer, inputs, truth, settings, _rule_of(result.total))
        change = None
        if prior is not None:
            change = compare_with_prior(found, prior, segmentation=after, image=inputs.first, names=settings.names)
            change = privacy.change(change)
        flags = _flags(result, answer, found.measurements, correction)
        lost = _not_renewed(result, found.comparisons, has_prior=prior is not None)
        new = result.model_copy(
            update={
                **vars(found),
                "predicted_dice": (),
                "members_agreement": (),
                "flags": (*flags, *lost, *(change.flags if change is not None else ())),
                "definitions": dict(DEFINITIONS),
                "correction": correction,
                "files": {},
                "not_written": {},
            }
        )
        _keep(out, stage)
        if beside is not None:
            write_text(stage / beside[0], beside[1])
        shown = ReportInputs.of(inputs, answer, truth, change)
        outputs = Outputs(stage, keep_earlier=True)
        if settings.report == "brief":
            with outputs.each("thumbnail", OUTPUTS["thumbnail"]) as path:
                path.write_bytes(render_thumbnail(shown.volume, shown.segmentation))
        whole = settings.model_copy(update={"report": "full"})
        written = write_outputs(outputs, privacy.result(new), shown, whole, privacy)
        for face, language in faces.items():
            with outputs.each(face, face) as path:
                write_report(written, path, **shown._asdict(), language=language)
    note_correction(out, written)
    return written


def read_inputs_again(result: StudyResult, images: Sequence[Path | str]) -> StudyInputs:
    """Read the images of a run as the run did.

    Parameters
    ----------
    result
        The run.
    images
        One path for all, such as a DICOM folder with all series, or one for each image.

    Raises
    ------
    InputError
        If there is not one for each.
    """
    sources = [("image", result.source), *((other.name, other.source) for other in result.others)]
    if len(images) not in (1, len(sources)) or (len(images) < len(sources) and not Path(images[0]).is_dir()):
        raise InputError(
            found=f"{len(images)} images for a run on {len(sources)}",
            expected=f"one for each: {', '.join(name for name, _ in sources)}; or a DICOM folder with all series",
            fix="pass --image once for each, in this order",
        )
    paths = [Path(path) for path in images] * (len(sources) if len(images) < len(sources) else 1)
    volumes = tuple(
        read_image_again(result.model_copy(update={"source": source}), path)
        for (_, source), path in zip(sources, paths, strict=True)
    )
    return StudyInputs(volumes, tuple(x for _, x in sources), tuple(name for name, _ in sources), tuple(paths))


def model_map(out: Path, result: StudyResult, image: Volume) -> Segmentation:
    """Read the model's own label map of a run, on the grid of its image.

    Raises
    ------
    GeometryError
        If the image is another one.
    """
    own = out / MODEL_SEGMENTATION
    name = own if result.correction is not None and own.is_file() else out / SEGMENTATION
    read = io.read_segmentation(name, labels=result.labels)
    image.geometry.require_same(read.geometry, what="the image and the run's label map")
    return Segmentation(read.array, image.geometry, read.labels)


def _require_same_image(result: StudyResult, before: Segmentation, image: Volume) -> None:
    """See that an image is the one that was segmented: a grid alone may be that of many studies.

    The first structure's mean is measured again in the label map that it was measured in.
    """
    if result.correction is not None:
        return
    known = {row.label: row for row in result.measurements if math.isfinite(row.intensity_mean)}
    if not known:
        return
    for row in measure(before, image):
        then = known.get(row.label)
        if then is None or not math.isfinite(row.intensity_mean):
            continue
        allowed = _SAME_VALUES * max(abs(then.intensity_mean), then.intensity_sd, 1e-9)
        if abs(row.intensity_mean - then.intensity_mean) > allowed:
            raise InputError(
                found=f"another image: {row.label} has a mean of {row.intensity_mean:.6g} in it and had "
                f"{then.intensity_mean:.6g}",
                expected="the image that was segmented",
                fix="pass that study with --image",
            )


def _settings(result: StudyResult) -> StudySettings:
    kept = {name: value for name, value in result.provenance.settings.items() if name in StudySettings.model_fields}
    return StudySettings.model_validate({**kept, "overwrite": True})


def _other_faces(out: Path) -> dict[str, str]:
    """Return the reports beside `report.html` that the folder has, by name, with their languages."""
    found = {}
    for code in languages():
        for name in (HTML, PDF):
            face = name if code == "en" else f"{Path(name).stem}.{code}{Path(name).suffix}"
            if face not in (HTML,) and (out / face).is_file():
                found[face] = code
    return found


def _keep(out: Path, stage: Path) -> None:
    """Lay the model's own label map and its maps of uncertainty among the new files: a correction changes neither."""
    own = out / MODEL_SEGMENTATION
    shutil.copyfile(own if own.is_file() else out / SEGMENTATION, stage / MODEL_SEGMENTATION)
    for name in MAP_FILES.values():
        if (out / name).is_file():
            shutil.copyfile(out / name, stage / name)


def _told_apart(result: StudyResult, after: Segmentation) -> Answer:
    """Tell the instances of the corrected structures apart as the run did; those of a network as connected components.

    A network's instances are of its own label map: which voxels of a corrected one belong to which, it did not say.
    """
    if not result.instances_by:
        return Answer(after)
    method: Literal["components", "watershed"] = "watershed" if result.instances_by == "watershed" else "components"
    names = tuple(dict.fromkeys(row.label for row in result.instances))
    spec = _spec_of(result)
    own = spec.instances if isinstance(spec, ModelSpec) else None
    kept = {"min_volume_ml": own.min_volume_ml, "neck": own.neck} if own is not None else {}
    apart = tell_apart(after, method, labels=names or (own.labels if own is not None else ()), **kept)
    return Answer(after, instances=apart, instances_by=method)


def _flags(
    result: StudyResult, answer: Answer, measurements: Sequence[Measurement], correction: Correction
) -> tuple[Flag, ...]:
    """Keep what was said of the image, raise anew what is about the label map, and say who corrected it."""
    spec, after = _spec_of(result), answer.segmentation
    domain = TrainingDomain() if spec is None else spec.training_domain
    continues = domain.continues if isinstance(domain, TrainingDomain) else {}
    volumes = flag_volumes(measurements, domain.volume_ml, result.provenance.model, continues=continues)
    own = (*volumes, *flag_asymmetry(measurements, after.labels))
    if any(flag.code == "not_found" for flag in result.flags) or isinstance(spec, CompositeSpec):
        own = flags_of_many(own)
    kept = tuple(flag for flag in result.flags if flag.code not in _OF_LABELS)
    many = {row.label for row in result.instances}
    anew: tuple[Flag, ...] = ()
    if result.instances_by == "network":
        message = "The instances of the corrected map are its connected components; the network's were of its own map."
        anew = (Flag(code="instances_anew", severity="note", message=message),)
    return (corrected_flag(correction), *anew, *kept, *own, *flag_islands(after, many=many))


def corrected_flag(correction: Correction) -> Flag:
    """Say who corrected a label map, when, and what became of each structure."""
    changed = [
        f"{row.label} {row.volume_before_ml:.2f} to {row.volume_after_ml:.2f} mL (Dice {row.dice:.3f})"
        for row in correction.structures
        if row.status in ("changed", "added", "removed")
    ]
    author, day = correction.author, correction.made.partition("T")[0]
    message = f"Looked through by {author} on {day}; nothing was changed."
    if changed:
        step = ", ".join(changed)
        message = f"Corrected by {author} on {day}: {step}."
    return Flag(code="corrected", severity="note", message=message)


def _rule_of(total: Total | None) -> TotalRule | None:
    return TotalRule(name=total.name, labels=total.labels) if total is not None else None


def _spec_of(result: StudyResult) -> AnySpec | None:
    """Return the specification of the run's model, where a model of this name and these weights is at hand."""
    try:
        spec = read_any_spec(find_model(result.provenance.model))
    except (ModelError, ConfigError):
        return None
    weights = getattr(spec, "weights", None)
    is_other = weights is not None and weights.sha256 != result.provenance.weights_sha256
    return None if is_other else spec


def _not_renewed(result: StudyResult, comparisons: Iterable[Comparison], *, has_prior: bool) -> tuple[Flag, ...]:
    """Say what the run had and the corrected one has not, as it was not given again."""
    lost = []
    if result.comparisons and not tuple(comparisons):
        lost.append(
            Flag(
                code="not_compared",
                severity="note",
                message="The comparison with the reference was of the label map before its correction and is left out: "
                "give --reference again.",
            )
        )
    if "change" in result.files and not has_prior:
        lost.append(
            Flag(
                code="not_compared",
                severity="note",
                message="The comparison with the prior study was of the label map before its correction and is left "
                "out: give --prior again.",
            )
        )
    return tuple(lost)
