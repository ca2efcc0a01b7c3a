"""The instances of a study: those of the network, or its structures told apart as the model or the user says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from voxmetry.config import InstanceRule, ModelSpec, StudySettings
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.io.label_maps import read_stored_labels
from voxmetry.ops.instances import tell_apart
from voxmetry.report.instances import detections
from voxmetry.workflows.inputs import AnySpec
from voxmetry.workflows.models import Answer
from voxmetry.workflows.run_folder import INSTANCE_FILES


def with_instances(answer: Answer, spec: AnySpec, settings: StudySettings) -> Answer:
    """Return a model's answer with its structures told apart, where the settings or the model ask for it.

    Raises
    ------
    LabelError
        If a structure is unknown, or there are more instances than a map can number.
    """
    rule = instance_rule(spec, settings)
    if settings.instances == "none":
        return dataclasses.replace(answer, instances=None, instances_by="")
    if rule is None:
        return answer
    found = tell_apart(
        answer.segmentation, rule.method, labels=rule.labels, min_volume_ml=rule.min_volume_ml, neck=rule.neck
    )
    return dataclasses.replace(answer, instances=found, instances_by=rule.method)


def read_instances_again(out: Path, result: StudyResult, segmentation: Segmentation) -> InstanceSegmentation | None:
    """Read the instances of an earlier run, with the rows of its result; None where it has none.

    Raises
    ------
    VoxmetryError
        If the map cannot be read, or is not that of the result.
    """
    path = out / INSTANCE_FILES["instances"]
    if not result.instances or not path.is_file():
        return None
    array, geometry = read_stored_labels(path)
    segmentation.geometry.require_same(geometry, what="seg.nii.gz and instances.nii.gz")
    return InstanceSegmentation(segmentation, array.astype(np.uint16), detections(result.instances))


def instance_rule(spec: AnySpec, settings: StudySettings) -> InstanceRule | None:
    """Return how structures are told apart after the network; None where nothing is, or the network has done it.

    Raises
    ------
    ConfigError
        If structures are named that nothing tells apart.
    """
    own = spec.instances if isinstance(spec, ModelSpec) else None
    labels = settings.instance_labels
    if settings.instances in ("model", "none"):
        if labels and (settings.instances == "none" or own is None):
            raise ConfigError(
                found=f"structures to tell apart ({', '.join(labels)}), and no method",
                expected="components or watershed",
                fix="say how: --instances watershed (instances='watershed')",
            )
        if settings.instances == "none" or own is None:
            return None
        return own.model_copy(update={"labels": labels or own.labels})
    kept = {"min_volume_ml": own.min_volume_ml, "neck": own.neck} if own is not None else {}
    return InstanceRule(method=settings.instances, labels=labels or (own.labels if own else ()), **kept)
