"""Instances that a model found, and how the instances of a structure were matched."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from voxmetry.core.base import Count, Millilitres, Number, Record
from voxmetry.core.records.statistics import MeanInterval


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


class Hits(Record):
    """Which predictions of a case hit an instance of the reference, by one rule."""

    rule: str
    """'IoU 0.5': the least IoU; 'centre in radius', 'centre 5 mm': how near the centroids are."""
    scores: tuple[Number, ...]
    """One a prediction; nan where it has none."""
    hits: tuple[bool, ...]


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
    hd95_mm: Number = math.nan
    """95th percentile of the surface distances of the pair; nan where there is no pair."""
    score: Number = math.nan
    """Of the prediction; nan where it has none."""


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
    detections: tuple[Hits, ...] = ()
    """By each rule; empty for stuff, and for counts of many cases."""
    reason: str = ""


class DetectionSummary(Record):
    """How well the instances of a structure are found over all cases; intervals are resampled by patient."""

    label: str
    n_cases: Count
    n_reference: Count
    n_prediction: Count
    n_scored: Count
    """Predictions that have a score. Without scores all come in at one threshold."""
    average_precision: dict[str, MeanInterval]
    """By the rule of what hits, as in `Hits`."""
    froc: dict[str, dict[str, Number]]
    """By the rule, then by false positives a case: the sensitivity."""
    froc_score: dict[str, MeanInterval]
    """Mean of these sensitivities."""
    pq: MeanInterval
    sq: MeanInterval
    rq: MeanInterval
    all_found: float
    """Share of cases in which each instance of the reference has a partner."""
    count_error: MeanInterval
    """Mean absolute difference of the numbers of instances."""
    count_bias: MeanInterval
    """Mean of prediction minus reference."""
    dice: MeanInterval
    """Over matched pairs."""
    hd95_mm: MeanInterval


class PanopticQuality(Record):
    """Panoptic quality over a cohort: counts of a structure are added up over cases, then structures averaged."""

    classes: tuple[InstanceMatching, ...]
    """One a structure, without its instances."""
    pq: dict[Literal["all", "things", "stuff"], Number]
    sq: dict[Literal["all", "things", "stuff"], Number]
    rq: dict[Literal["all", "things", "stuff"], Number]
    reason: str = ""
