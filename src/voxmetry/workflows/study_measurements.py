"""Measure a study's label map on each of its images, and compare it with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from voxmetry.config import ModelSpec, StudySettings, TotalRule
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import (
    Comparison,
    InstanceMeasurement,
    Lesion,
    Measurement,
    MembersAgreement,
    OtherInput,
    PredictedDice,
    SourceInfo,
    Total,
)
from voxmetry.core.segmentation import Segmentation
from voxmetry.measurement import compare, lesions, measure
from voxmetry.measurement.instance_rows import measure_instances
from voxmetry.measurement.totals import total_of
from voxmetry.ops.boxes import boxes_of
from voxmetry.ops.resample import resample
from voxmetry.workflows.inputs import AnySpec, StudyInputs
from voxmetry.workflows.models import Answer


@dataclass(frozen=True)
class StudyMeasurements:
    """What was measured on a study: the fields of `StudyResult` of these names."""

    source: SourceInfo
    labels: LabelTable
    measurements: tuple[Measurement, ...]
    total: Total | None
    lesions: tuple[Lesion, ...]
    instances: tuple[InstanceMeasurement, ...]
    instances_by: Literal["", "network", "components", "watershed"]
    predicted_dice: tuple[PredictedDice, ...]
    members_agreement: tuple[MembersAgreement, ...]
    others: tuple[OtherInput, ...]
    comparisons: tuple[Comparison, ...]


def measure_study(
    answer: Answer,
    inputs: StudyInputs,
    reference: Sequence[Segmentation],
    settings: StudySettings,
    total: TotalRule | None,
    *,
    skipped: list[str] | None = None,
) -> StudyMeasurements:
    """Measure the labels on the first image, on each further one, and compare them with the reference.

    `skipped` takes what there is no memory to measure, see `lesions`.
    """
    segmentation, apart = answer.segmentation, answer.instances
    measurements = measure(segmentation, inputs.first)
    return StudyMeasurements(
        source=inputs.sources[0],
        labels=segmentation.labels,
        measurements=measurements,
        total=total_of(measurements, total.name, total.labels) if total is not None else None,
        lesions=lesions(segmentation, inputs.first, organs=segmentation, skipped=skipped),
        instances=measure_instances(apart, inputs.first, organs=segmentation) if apart is not None else (),
        instances_by=answer.instances_by,
        predicted_dice=answer.predicted_dice,
        members_agreement=answer.members_agreement,
        others=measure_others(segmentation, inputs),
        comparisons=compare_with(reference, segmentation, settings),
    )


def total_rule(spec: AnySpec) -> TotalRule | None:
    """Return the sum that a model names; only a network of its own names one."""
    return spec.total if isinstance(spec, ModelSpec) else None


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
    names = [{x.name for x in layer.labels if x.value in boxes_of(layer)} for layer in reference]
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
