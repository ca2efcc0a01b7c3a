"""The instances of a labelled case and of what a model found in it: what `evaluate` matches one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxmetry.config import StudySettings
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import CohortSettings, Detection
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.io.instances import save_instances, table_beside
from voxmetry.measurement import tables
from voxmetry.ops.instances import with_boxes
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import Labelled
from voxmetry.workflows.instances import with_instances
from voxmetry.workflows.models import Ready, run_model
from voxmetry.workflows.provenance import Clock

NOWHERE = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def settings_for(data: DataSet, settings: CohortSettings) -> CohortSettings:
    """Match the instances of a data set that tells them apart, where nothing else was asked for."""
    told = any(case.instances is not None or case.labelling.instances_of is not None for case in data.cases)
    if settings.instances is not None or not told:
        return settings
    return settings.model_copy(update={"instances": "iou", "apart": "maps"})


def instances_of_case(read: Labelled, reference: Segmentation) -> InstanceSegmentation | None:
    """Return the instances of a case, as far as they lie in its reference; None where it does not say them."""
    if read.instances is None:
        return None
    array = np.where(reference.array > 0, read.instances, 0).astype(np.uint16)
    values, first = np.unique(array, return_index=True)
    name_of = {label.value: label.name for label in reference.labels}
    rows = [
        Detection(value=int(value), label=name_of[int(reference.array.flat[place])], box_ras_mm=NOWHERE)
        for value, place in zip(values, first, strict=True)
        if value
    ]
    return with_boxes(reference, array, rows)


def predict_instances(
    model: Ready, volumes: Sequence[Volume], settings: CohortSettings
) -> tuple[Segmentation, InstanceSegmentation | None]:
    """Run a model, and tell instances apart as it does; or by the watershed, where the settings say so.

    Returns
    -------
    Segmentation, InstanceSegmentation or None
        None where the model tells none apart: then an instance is a connected component.
    """
    answer = run_model(model, volumes, StudySettings(), Clock())
    if settings.apart == "maps":
        answer = with_instances(answer, model.spec, StudySettings())
        return answer.segmentation, answer.instances
    if settings.apart == "watershed":
        how = StudySettings(instances="watershed", instance_labels=settings.things)
        return answer.segmentation, with_instances(answer, model.spec, how).instances
    return answer.segmentation, None


def save_with_table(found: InstanceSegmentation, path: Path) -> None:
    """Write an instance map, and the table of its structures and scores beside it, as `compare` reads them."""
    save_instances(found, path)
    rows = [{"instance": row.value, "label": row.label, "score": row.score} for row in found.detections]
    cells = [{name: None if value != value else value for name, value in row.items()} for row in rows]
    tables.write_csv(cells, ("instance", "label", "score"), table_beside(path))
