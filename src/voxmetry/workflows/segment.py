"""The straight path: a study in, a measured report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxmetry.classical import BaselineSpec
from voxmetry.config import ModelSpec, StudySettings, TrainingDomain
from voxmetry.core.axes import reorientation
from voxmetry.core.base import require_settings
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import (
    Comparison,
    Flag,
    InstanceMeasurement,
    Lesion,
    Measurement,
    OtherInput,
    SourceInfo,
    StudyResult,
)
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.flags.image import flag_image
from voxmetry.flags.study import (
    flag_agreement,
    flag_asymmetry,
    flag_axes,
    flag_input,
    flag_islands,
    flag_measurements,
    flag_quality,
    flag_source,
    flag_units,
)
from voxmetry.io.output_folder import output_folder, results_in
from voxmetry.io.overlapping import flatten
from voxmetry.measurement import DEFINITIONS, compare, lesions, measure
from voxmetry.measurement.instance_rows import measure_instances
from voxmetry.models.composite import CompositeSpec
from voxmetry.nn import Composite, Predictor
from voxmetry.ops.resample import resample
from voxmetry.workflows.body_region import flag_region
from voxmetry.workflows.dicom_objects import require_dicom
from voxmetry.workflows.inputs import AnySpec, StudyInputs, inputs_of, read_inputs
from voxmetry.workflows.instances import instance_rule, with_instances
from voxmetry.workflows.models import Answer, Chosen, Ready, load_any, require_maps_of, run_model
from voxmetry.workflows.prior import compare_with_prior
from voxmetry.workflows.privacy import Privacy
from voxmetry.workflows.provenance import Clock, provenance
from voxmetry.workflows.reference import read_reference
from voxmetry.workflows.run_folder import OUTPUTS, Outputs, read_result
from voxmetry.workflows.training_cases import flag_training_case
from voxmetry.workflows.write_run import ReportInputs, write_outputs


def segment_study(
    study: Path | str | Sequence[Path | str],
    out: Path | str,
    model: Chosen | Sequence[str | Path],
    *,
    reference: Path | str | None = None,
    structures: Sequence[str] = (),
    prior: Path | str | None = None,
    settings: StudySettings = StudySettings(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] | None = None,
    gate: AbstractContextManager[object] | None = None,
    whole: bool = False,
) -> StudyResult:
    """Segment and measure one study, and write everything that is known about it.

    Parameters
    ----------
    study
        A DICOM folder or file, or a NIfTI, NRRD or MHA file. For a model with several inputs, such as CT and PET: one
        DICOM folder with a series of each modality, or one path for each input in the model's order.
    out
        Folder for `seg.nii.gz`, `measurements.csv`, `result.json` and `report.html` (`comparison.csv` with a
        reference, `lesions.csv` where the model finds lesions, `instances.nii.gz`, `panoptic.nii.gz` and
        `instances.csv` where structures are told apart, NIfTI files of `settings.maps`). Each appears whole
        or not at all, the report last.
    model
        A predictor or a loaded model (for many studies, load it once), a model's name, a model folder, or a baseline's
        YAML file. Several names become one map, if their labels do not collide.
    reference
        A segmentation of the same study on the same grid to compare with. Its structures may overlap.
    structures
        Names of the structures of the reference to compare with, in any case, with `*` and `?`; all that the model
        names if not given.
    prior
        The folder of a run on an earlier study of the same patient: `change.json` and the report say what changed.
    settings
        Which series, which device, whether to overwrite.
    tell
        Called with the name of each step as it begins, for a progress display.
    gate
        Held while the network runs: threads that share a loaded model pass a lock, so that one study is in the network
        while others are read and written.
    whole
        Whether a file that the system will not write, as on a full disk, fails the study; else it is left out and
        named, unless earlier results would be replaced. A cohort stops there, and does the study again.

    Returns
    -------
    StudyResult
        The content of `result.json`.

    Raises
    ------
    VoxmetryError
        If the input, the model or the output cannot be used; nothing half-written is left.
    """
    require_settings(settings, StudySettings)
    clock, privacy = Clock(tell), Privacy.of(settings)
    with output_folder(out, OUTPUTS.values(), overwrite=settings.overwrite) as stage:
        if prior is not None:
            read_result(prior)
        with clock.step("load model"):
            ready = load_any(model, settings, tell)
            require_maps_of(ready, settings)
            instance_rule(ready.spec, settings)
        with clock.step("read"):
            inputs = read_inputs(study, ready.spec, settings)
            truth, unknown = read_reference(
                reference, ready.spec.labels, inputs.first.geometry, names=settings.names, structures=structures
            )
            require_dicom(inputs.first, settings.dicom)
            region = require_region(inputs, ready.spec, settings)
        warn_early(inputs, ready.spec, tell)
        answer = run_model(
            ready, inputs.volumes, clock, gate, maps=settings.maps, maps_to=stage, structures=settings.structures
        )
        with clock.step("measure"):
            answer = with_instances(answer, ready.spec, settings)
            found = measure_study(answer, inputs, truth, settings)
        change = None
        if prior is not None:
            with clock.step("compare with prior"):
                change = compare_with_prior(
                    found, prior, segmentation=answer.segmentation, image=inputs.first, names=settings.names
                )
                change = privacy.change(change)
        result = StudyResult(
            **vars(found),
            predicted_dice=answer.predicted_dice,
            members_agreement=answer.members_agreement,
            flags=(
                *flag_training_case(ready, inputs.paths, Path(reference) if reference is not None else None),
                *region,
                *flag_study(inputs, found, answer, change, ready),
                *flag_left_out(unknown),
            ),
            definitions=dict(DEFINITIONS),
            provenance=provenance(ready, settings, clock),
        )
        with clock.step("write"):
            drawn = flatten(truth, "first", "the reference") if truth else None
            shown = ReportInputs(inputs.first, answer.segmentation, drawn, inputs.volumes[1:], change, answer.instances)
            outputs = Outputs(stage, keep_earlier=whole or bool(results_in(out, OUTPUTS.values())))
            return write_outputs(outputs, privacy.result(result), shown, settings, privacy)


def require_region(inputs: StudyInputs, spec: AnySpec, settings: StudySettings) -> tuple[Flag, ...]:
    """Refuse a study of another part of the body than the model is for; flag it where the settings take any."""
    return flag_region(inputs.first.source, spec.name, spec.body_part, any_region=settings.any_region)


FAR_OUTSIDE = 2.0
"""A field of view this many times what was seen in training: the network would search for minutes where it should not.
"""


def warn_early(inputs: StudyInputs, spec: AnySpec, tell: Callable[[str], None] | None) -> None:
    """Tell, before the network runs, of an image that is far larger than any that the model was trained on."""
    if tell is None or not isinstance(spec, ModelSpec) or spec.training_domain.field_of_view_mm is None:
        return
    _, oriented = reorientation(inputs.first.geometry, spec.orientation)
    spans = zip(oriented.extent_mm, spec.training_domain.field_of_view_mm, strict=True)
    times = max(have / seen.high for have, seen in spans)
    if times < FAR_OUTSIDE:
        return
    size = " x ".join(f"{x:.0f}" for x in oriented.extent_mm)
    seen = " x ".join(f"{span.high:.0f}" for span in spec.training_domain.field_of_view_mm)
    tell(
        f"warning: this image of {size} mm is {times:.1f} times as large as any that {spec.name} was trained on (up to "
        f"{seen} mm along {', '.join(spec.orientation)}): what it finds may be wrong, and it takes longer. Crop the "
        "image to the region that the model is for; Ctrl-C stops here."
    )


@dataclass(frozen=True)
class StudyMeasurements:
    """What was measured on a study: the fields of `StudyResult` of these names."""

    source: SourceInfo
    labels: LabelTable
    measurements: tuple[Measurement, ...]
    lesions: tuple[Lesion, ...]
    instances: tuple[InstanceMeasurement, ...]
    instances_by: Literal["", "network", "components", "watershed"]
    others: tuple[OtherInput, ...]
    comparisons: tuple[Comparison, ...]


def measure_study(
    answer: Answer,
    inputs: StudyInputs,
    reference: Sequence[Segmentation],
    settings: StudySettings,
) -> StudyMeasurements:
    """Measure the labels on the first image, on each further one, and compare them with the reference."""
    segmentation, apart = answer.segmentation, answer.instances
    comparisons = compare_with(reference, segmentation, settings)
    return StudyMeasurements(
        source=inputs.sources[0],
        labels=segmentation.labels,
        measurements=measure(segmentation, inputs.first),
        lesions=lesions(segmentation, inputs.first, organs=segmentation),
        instances=measure_instances(apart, inputs.first, organs=segmentation) if apart is not None else (),
        instances_by=answer.instances_by,
        others=measure_others(segmentation, inputs),
        comparisons=comparisons,
    )


def compare_with(
    reference: Sequence[Segmentation], segmentation: Segmentation, settings: StudySettings
) -> tuple[Comparison, ...]:
    """Compare the result with the reference, structure by structure.

    Parameters
    ----------
    reference
        Label maps whose structures may overlap; none without a reference. A structure that no table of theirs names
        is not compared: the reference does not know it.
    segmentation
        The result, with the same label table.
    settings
        The tolerance.
    """
    names = [{x.name for x in layer.labels if (layer.array == x.value).any()} for layer in reference]
    seen = set().union(*names)
    for layer, mine in zip(reference, names, strict=True):
        # A known structure without a voxel is missed, once, wherever it is named.
        mine |= {label.name for label in layer.labels} - seen
        seen |= mine
    rows = {
        row.label: row
        for layer, mine in zip(reference, names, strict=True)
        if mine
        for row in compare(
            prediction=segmentation,
            reference=layer,
            tolerance_mm=settings.tolerance_mm,
            labels=[name for name in segmentation.labels.names if name in mine],
        )
    }
    return tuple(rows[name] for name in segmentation.labels.names if name in rows)


def measure_others(segmentation: Segmentation, inputs: StudyInputs) -> tuple[OtherInput, ...]:
    """Measure the labels on each further input's own voxels, which are not interpolated: SUV belongs to the PET.

    The label map is moved onto that input's grid by nearest neighbour.
    """
    made = []
    for volume, source, name in list(zip(inputs.volumes, inputs.sources, inputs.names, strict=True))[1:]:
        moved = resample(segmentation, to=volume.geometry)
        made.append(
            OtherInput(
                name=name,
                source=source,
                measurements=measure(moved, volume),
                lesions=lesions(moved, volume, organs=moved),
            )
        )
    return tuple(made)


def flag_left_out(words: Sequence[str]) -> tuple[Flag, ...]:
    """Say which structures were not compared, as the reference or the model does not know them."""
    return tuple(Flag(code="not_compared", severity="note", message=f"{x[0].upper()}{x[1:]}.") for x in words)


def flag_networks(geometry: Geometry, ready: Ready) -> tuple[Flag, ...]:
    """Flag what the networks of a model take for granted of a grid, or have not seen; of the same kind once.

    A composite's members that see the study on a common grid or in a box of it are not asked about its size.
    """
    specs = [ready.spec] if isinstance(ready, Predictor) else []
    whole = True
    if isinstance(ready, Composite):
        specs = [spec for spec, _ in ready.networks]
        whole = ready.spec.grid is None and ready.spec.crop is None
    flags: dict[str, Flag] = {}
    for spec in specs:
        _, oriented = reorientation(geometry, spec.orientation)
        for flag in (*flag_axes(spec), *(flag_input(oriented, spec) if whole else ())):
            flags.setdefault(flag.code, flag)
    return tuple(flags.values())


def flag_study(
    inputs: StudyInputs, measured: StudyMeasurements, answer: Answer, change: PriorComparison | None, ready: Ready
) -> tuple[Flag, ...]:
    """Collect what a person should know: about the images first, then about each structure, then about the change."""
    spec: AnySpec = ready.spec
    domain = TrainingDomain() if isinstance(spec, BaselineSpec) else spec.training_domain
    items = inputs_of(spec)
    named = zip(inputs.volumes, items, strict=True)
    images = [flag for volume, item in named for flag in flag_image(volume, item.name, item.modality, domain)]
    units = flag_units([volume.unit for volume in inputs.volumes], [(item.name, item.modality) for item in items])
    sources = [flag for volume in inputs.volumes for flag in flag_source(volume.source)]
    structures = (*flag_measurements(measured.measurements, spec), *flag_asymmetry(measured.measurements, spec.labels))
    if isinstance(spec, CompositeSpec):
        structures = flags_of_many(structures)
    units = (*units, *flag_networks(inputs.first.geometry, ready))
    return (
        *sources,
        *images,
        *units,
        *(Flag(code="not_run", severity="review", message=note) for note in answer.notes),
        *structures,
        *flag_islands(answer.segmentation, many={row.label for row in measured.instances}),
        *flag_quality(answer.predicted_dice),
        *flag_agreement(answer.members_agreement),
        *(change.flags if change is not None else ()),
    )


def flags_of_many(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """Note in one line what a model of many structures did not find: a study seldom shows the whole body.

    What is cut off at the border is noted with its structure; it asks for no look, as the spine always is.
    """
    absent = [flag.label or "" for flag in flags if flag.code == "empty"]
    found = [
        flag.model_copy(update={"severity": "note"}) if flag.code == "truncated" else flag
        for flag in flags
        if flag.code != "empty"
    ]
    if absent:
        message = f"{len(absent)} structures were not found: {', '.join(absent)}."
        found.insert(0, Flag(code="not_found", severity="note", message=message))
    return tuple(found)
