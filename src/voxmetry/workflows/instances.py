"""The instances of a study: those of the network, or its structures told apart as the model or the user says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from voxmetry import io
from voxmetry.config import InstanceRule, ModelSpec, StudySettings
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.io.instances import save_instances
from voxmetry.ops.instances import tell_apart
from voxmetry.workflows.inputs import AnySpec
from voxmetry.workflows.models import Answer


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
                fix="say how: --instances watershed",
            )
        if settings.instances == "none" or own is None:
            return None
        return own.model_copy(update={"labels": labels or own.labels})
    kept = {"min_volume_ml": own.min_volume_ml, "neck": own.neck} if own is not None else {}
    return InstanceRule(method=settings.instances, labels=labels or (own.labels if own else ()), **kept)


def write_instance_maps(found: InstanceSegmentation, instances: Path, panoptic: Path) -> None:
    """Write the instance map, and the panoptic one: label value x 65536 + instance value."""
    save_instances(found, instances)
    io.save(Volume(found.panoptic(), found.geometry), panoptic)
