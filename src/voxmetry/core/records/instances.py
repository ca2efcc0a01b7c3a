"""Instances that a model found, and how the instances of a structure were matched."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from voxmetry.core.base import Count, Millilitres, Number, Record


class Detection(Record):
    """One instance that was found: which structure, how certain, where."""

    value: Annotated[int, Field(ge=1, le=65535)]
    """Its value in the instance map."""
    label: str
    """The structure's name."""
    score: Number = math.nan
    """Certainty in 0..1; nan where the method gives none, as connected components."""
    box_ras_mm: tuple[tuple[Number, Number, Number], tuple[Number, Number, Number]]
    """Lowest and highest corner in RAS+ mm, along the patient's axes; of the mask it holds the voxels' outer edges."""


class Instance(Record):
    """One connected part of a structure, or several that were matched with one of the reference."""

    label: str
    status: Literal["matched", "missed", "extra"]
    prediction_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    """Ids count from 1 within a structure and a case, from large to small."""
    volume_prediction_ml: Millilitres
    volume_reference_ml: Millilitres
    dice: Number
    iou: Number
    centroid_ras_mm: tuple[Number, Number, Number]
    """Of the reference's instance, or of the prediction's where there is none."""


class InstanceMatching(Record):
    """Instances of one structure in a prediction compared with those in a reference."""

    label: str
    kind: Literal["thing", "stuff"]
    """A thing is counted by its connected parts, stuff as one whole."""
    rule: Literal["overlap", "iou", "hungarian"]
    min_iou: float
    connectivity: int | None
    """6, 18 or 26 neighbours; None where the label map came with its instances, and for stuff."""
    n_prediction: Count
    n_reference: Count
    tp_prediction: int
    """Instances of the prediction that have a partner."""
    tp_reference: int
    """Instances of the reference that have one; with one-to-one rules the same number."""
    fp: int
    fn: int
    iou_sum: float
    """Sum of the IoU of matched pairs."""
    sensitivity: Number
    precision: Number
    f1: Number
    sq: Number
    """Segmentation quality: mean IoU of matched pairs."""
    rq: Number
    """Recognition quality: TP / (TP + FP / 2 + FN / 2)."""
    pq: Number
    """Panoptic quality: SQ times RQ."""
    instances: tuple[Instance, ...] = ()
    reason: str = ""


class PanopticQuality(Record):
    """Panoptic quality over a cohort: counts of a structure are added up over cases, then structures averaged."""

    classes: tuple[InstanceMatching, ...]
    """One a structure, without its instances."""
    pq: dict[Literal["all", "things", "stuff"], Number]
    sq: dict[Literal["all", "things", "stuff"], Number]
    rq: dict[Literal["all", "things", "stuff"], Number]
    reason: str = ""
