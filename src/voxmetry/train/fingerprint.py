"""What is in a data set: grids, intensities and structure sizes of each case, and of all of them together."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from voxmetry.core.base import Number, Record
from voxmetry.core.progress import Progress
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError, InputError
from voxmetry.io import read_segmentation
from voxmetry.ops.boxes import label_boxes
from voxmetry.ops.resample import resample
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import Labelled, naming, read_labelled
from voxmetry.train.layouts import table_of

SAMPLED = 4000
"""Foreground voxels of a case and channel that the intensity percentiles are taken from."""
FEWEST = 20
"""Sampled voxels of a structure from which its median is taken."""
BOXES = 500
"""Instances of a structure whose boxes are kept."""
PERCENTILES = (0.5, 50.0, 99.5)


class Intensities(Record):
    """Values of one channel, in the image's unit."""

    unit: str
    minimum: Number
    maximum: Number
    mean: Number
    sd: Number
    share_zero: Number
    """Share of the voxels that are exactly 0."""
    foreground: tuple[Number, ...] = ()
    """Values of at most `SAMPLED` voxels inside a structure, evenly picked."""
    medians: dict[str, Number] = Field(default_factory=dict)
    """Median of these values by structure, where there are `FEWEST` of them."""


class CaseFacts(Record):
    """What one case holds."""

    case: str
    patient: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axcodes: str
    channels: tuple[Intensities, ...]
    volume_ml: dict[str, Number]
    """By structure; nan where it was not looked for."""
    boxes_mm: dict[str, tuple[tuple[float, float, float], ...]] = Field(default_factory=dict)
    """Lengths of the box of each instance along the patient's x, y and z axes, by structure; empty where the label map
    tells none apart."""
    digest: str
    """SHA-256 of the first image's voxels: equal images have equal digests whatever their files are called."""


class StructureFacts(Record):
    """One structure over all cases."""

    name: str
    n_cases: int
    """Cases that have it."""
    n_known: int
    """Cases in which it was looked for."""
    volume_ml: tuple[float, float, float]
    """Smallest, median and largest volume of the cases that have it; 0 where none has."""
    share: float
    """Share of all voxels of these cases."""
    n_instances: tuple[int, int, int] | None = None
    """Fewest, median and most instances of a case; None where the label maps tell none apart."""
    boxes_mm: tuple[tuple[float, float, float], ...] = ()
    """Lengths of the boxes of at most `BOXES` instances along the patient's x, y and z axes, evenly picked by size."""


class ChannelFacts(Record):
    """Intensities of one channel over all cases."""

    name: str
    modality: str | None
    unit: str
    minimum: float
    maximum: float
    foreground_percentiles: tuple[Number, Number, Number]
    """0.5th, 50th and 99.5th percentile of the voxels inside structures, all cases weighing the same."""
    foreground_mean: Number
    foreground_sd: Number
    share_zero: float


class Fingerprint(Record):
    """A data set in numbers: all that a plan is made from."""

    name: str
    n_cases: int
    n_patients: int
    spacing_mm: tuple[float, float, float]
    """Median along the patient's x, y and z axes (R, A, S)."""
    spacing_range_mm: tuple[tuple[float, float], ...]
    extent_mm: tuple[float, float, float]
    """Median along the same axes."""
    extent_range_mm: tuple[tuple[float, float], ...]
    fine_spacing_mm: tuple[float, float, float]
    """10th percentile along the same axes."""
    channels: tuple[ChannelFacts, ...]
    structures: tuple[StructureFacts, ...]


def scan(data: DataSet, *, progress: Progress | None = None) -> tuple[DataSet, tuple[CaseFacts, ...], Fingerprint]:
    """Read each case once and measure it.

    Returns
    -------
    DataSet
        With the label table that the label maps show, where the data set names none.
    tuple of CaseFacts
        One a case.
    Fingerprint
        Of all cases.

    Raises
    ------
    VoxmetryError
        If a case cannot be used; the message names it.
    """
    named = with_labels(data)
    facts = []
    for done, case in enumerate(named.cases, start=1):
        facts.append(case_facts(case, read_labelled(case, named)))
        if progress is not None:
            progress(done, len(named.cases))
    if not any(volume > 0 for row in facts for volume in row.volume_ml.values()):
        raise _nothing_to_learn(named)
    return named, tuple(facts), summarise(named, facts)


def with_labels(data: DataSet) -> DataSet:
    """Name the values that the label maps hold `label_<value>`, where nothing names them.

    Raises
    ------
    InputError
        If no label map holds a structure.
    """
    if data.labels is not None:
        return data
    names: dict[int, str] = {}
    for case in data.cases:
        with naming(case.name):
            table = read_segmentation(case.label).labels
        names |= {label.value: label.name for label in table if label.value not in names}
    if not names:
        raise _nothing_to_learn(data)
    return replace(data, labels=table_of(names))


def _nothing_to_learn(data: DataSet) -> InputError:
    return InputError(
        found=f"{len(data.cases)} label maps that are all empty",
        expected="at least one structure to learn",
        fix="check that these are the label maps",
    )


def case_facts(case: Case, found: Labelled) -> CaseFacts:
    """Measure one case; channels on other grids are sampled on the label's."""
    volumes, segmentation, known = found.volumes, found.unlabelled.hide(found.label), found.unlabelled.known_names
    counts = np.bincount(segmentation.array.ravel(), minlength=max(segmentation.labels.values) + 1)
    inside = np.flatnonzero(segmentation.array)
    picked = inside[:: max(1, -(-len(inside) // SAMPLED))]
    grid = segmentation.geometry
    return CaseFacts(
        case=case.name,
        patient=case.patient,
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        axcodes=grid.axcodes,
        channels=tuple(_intensities(volume, segmentation, picked, case.name) for volume in volumes),
        volume_ml={
            label.name: float(counts[label.value]) * grid.voxel_ml if label.name in known else math.nan
            for label in segmentation.labels
        },
        boxes_mm=_boxes_mm(found),
        digest=digest(volumes[0].array),
    )


def _boxes_mm(found: Labelled) -> dict[str, tuple[tuple[float, float, float], ...]]:
    """Measure the box of each instance along the patient's axes."""
    if found.instances is None:
        return {}
    grid, rows = found.label.geometry, dict[str, list[tuple[float, float, float]]]()
    for value, box in label_boxes(found.instances).items():
        kind = int(np.bincount(found.label.array[box][found.instances[box] == value]).argmax())
        if kind == 0:
            continue
        lengths = [(part.stop - part.start) * mm for part, mm in zip(box, grid.spacing_mm, strict=True)]
        x, y, z = _along_patient(grid.axcodes, lengths)
        rows.setdefault(found.label.labels.by_value(kind).name, []).append((round(x, 2), round(y, 2), round(z, 2)))
    return {name: tuple(boxes) for name, boxes in rows.items()}


def digest(array: NDArray[np.generic]) -> str:
    """Return the SHA-256 of an image's shape and values, whatever type they are kept in."""
    values = np.ascontiguousarray(array, dtype=np.float32)
    return hashlib.sha256(repr(array.shape).encode() + values.tobytes()).hexdigest()


def _intensities(volume: Volume, label: Segmentation, picked: NDArray[np.intp], case: str) -> Intensities:
    array, grid = volume.array, label.geometry
    if array.min() == array.max():
        raise InputError(
            found=f"case {case}: an image that holds the single value {float(array.min()):g}",
            expected="an image with contrast",
            fix="look at the image, or take the case out of the data set",
        )
    if volume.geometry.difference(grid) is not None:
        try:
            array = resample(volume, to=grid).array
        except GeometryError as error:
            raise GeometryError(found=f"case {case}: {error.found}", expected=error.expected, fix=error.fix) from error
    values, kinds = array.ravel()[picked], label.array.ravel()[picked]
    return Intensities(
        unit=volume.unit,
        minimum=float(volume.array.min()),
        maximum=float(volume.array.max()),
        mean=float(volume.array.mean(dtype=np.float64)),
        sd=float(volume.array.std(dtype=np.float64)),
        share_zero=float((volume.array == 0).mean()),
        foreground=tuple(values.astype(float).tolist()),
        medians={
            item.name: float(np.median(values[kinds == item.value]))
            for item in label.labels
            if int((kinds == item.value).sum()) >= FEWEST
        },
    )


def summarise(data: DataSet, facts: Sequence[CaseFacts]) -> Fingerprint:
    """Bring the cases together: medians along the patient's axes, percentiles inside structures, sizes."""
    spacing = np.array([_along_patient(row.axcodes, row.spacing_mm) for row in facts])
    shape = np.array([_along_patient(row.axcodes, row.shape) for row in facts])
    extent = spacing * shape
    names = data.labels.names if data.labels is not None else ()
    return Fingerprint(
        name=data.name,
        n_cases=len(facts),
        n_patients=len({row.patient for row in facts}),
        spacing_mm=_triple(np.median(spacing, axis=0)),
        spacing_range_mm=_ranges(spacing),
        extent_mm=_triple(np.median(extent, axis=0)),
        extent_range_mm=_ranges(extent),
        fine_spacing_mm=_triple(np.percentile(spacing, 10, axis=0)),
        channels=tuple(_channel(data, facts, place) for place in range(len(data.channels))),
        structures=tuple(_structure(name, facts) for name in names),
    )


def _along_patient(axcodes: str, values: Sequence[float]) -> list[float]:
    place = {code: axis for axis, code in enumerate(axcodes)}
    order = [next(place[code] for code in pair if code in place) for pair in ("RL", "AP", "SI")]
    return [values[axis] for axis in order]


def _channel(data: DataSet, facts: Sequence[CaseFacts], place: int) -> ChannelFacts:
    rows = [row.channels[place] for row in facts]
    values = np.concatenate([np.asarray(row.foreground) for row in rows])
    weights = np.concatenate([np.full(len(row.foreground), 1 / max(1, len(row.foreground))) for row in rows])
    empty = not len(values)
    mean = float("nan") if empty else float(np.average(values, weights=weights))
    percentiles = (
        np.full(3, np.nan) if empty else np.percentile(values, PERCENTILES, weights=weights, method="inverted_cdf")
    )
    return ChannelFacts(
        name=data.channels[place].name,
        modality=data.channels[place].modality,
        unit=rows[0].unit,
        minimum=min(row.minimum for row in rows),
        maximum=max(row.maximum for row in rows),
        foreground_percentiles=_triple(percentiles),
        foreground_mean=mean,
        foreground_sd=float("nan") if empty else float(np.sqrt(np.average((values - mean) ** 2, weights=weights))),
        share_zero=float(np.median([row.share_zero for row in rows])),
    )


def _structure(name: str, facts: Sequence[CaseFacts]) -> StructureFacts:
    have = [row for row in facts if row.volume_ml[name] > 0]
    volumes = [row.volume_ml[name] for row in have] or [0.0]
    whole = sum(float(np.prod(row.shape) * np.prod(row.spacing_mm)) / 1000 for row in have)
    return StructureFacts(
        name=name,
        n_cases=len(have),
        n_known=sum(not math.isnan(row.volume_ml[name]) for row in facts),
        volume_ml=(min(volumes), float(np.median(volumes)), max(volumes)),
        share=sum(volumes) / whole if whole else 0.0,
        **_instances(name, facts),
    )


def _instances(name: str, facts: Sequence[CaseFacts]) -> dict[str, Any]:
    """Count the instances of a structure, and keep some of their boxes, small and large."""
    counts = [len(row.boxes_mm.get(name, ())) for row in facts if row.boxes_mm]
    boxes = sorted((box for row in facts for box in row.boxes_mm.get(name, ())), key=math.prod)
    if not boxes:
        return {}
    return {
        "n_instances": (min(counts), int(np.median(counts)), max(counts)),
        "boxes_mm": tuple(boxes[:: max(1, -(-len(boxes) // BOXES))]),
    }


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _ranges(values: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    return tuple((float(column.min()), float(column.max())) for column in values.T)
