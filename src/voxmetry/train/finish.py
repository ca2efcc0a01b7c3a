"""The end of a run: the model folder with its measured training domain, weights and card."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from voxmetry.config import ModelSpec, Range, TrainingDomain, TrainSettings, Weights, dump_yaml
from voxmetry.core.axes import reorientation
from voxmetry.core.text import csv_cell, csv_cells
from voxmetry.io.atomic import make_folder, write_bytes, write_text
from voxmetry.nn.weights import sha256_of, to_bytes
from voxmetry.train.learned_only import without_structures

if TYPE_CHECKING:
    from voxmetry.train.feed import Feed
    from voxmetry.train.labelled_cases import LabelledCase

VOLUME_MARGIN = 0.25
"""Share by which the smallest and the largest volume seen are widened to give the expected range."""


def write_model(
    network: nn.Module,
    settings: TrainSettings,
    out: Path,
    *,
    feed: Feed,
    validation: dict[str, dict[str, float]],
    patients: Mapping[str, str],
    chosen_on: Sequence[str] | None = None,
) -> Path:
    """Write the model folder `out`/model, with the names of the cases and the Dice of those held out; return it.

    model.yaml is written last, so a folder that has one is whole. `patients` says whose case each is: a later run keeps
    each on the side where it was. `chosen_on` names the cases by which the recipe was chosen, None where it is not
    said.
    """
    folder = make_folder(out / "model")
    known = settings.model.model_copy(update={"training_domain": feed.domain()})
    network, spec = without_structures(network, known, settings.learned_only)
    write_text(folder / "validation.csv", validation_csv(validation, spec))
    names = {
        "training": list(feed.names),
        "validation": list(validation),
        # By which a case is known under whatever name: see `io.digest.digest_of`.
        "training_sha256": list(feed.sources),
        "training_patients": sorted({patient_key(patients.get(name, name)) for name in feed.names}),
        "validation_patients": sorted({patient_key(patients.get(name, name)) for name in validation}),
    }
    if chosen_on is not None:
        names["recipe_chosen_on"] = list(chosen_on)
    write_text(folder / "split.json", json.dumps(names, indent=1))
    data = to_bytes(network)
    write_bytes(folder / "weights.safetensors", data)
    weights = Weights(file="weights.safetensors", sha256=sha256_of(data))
    finished = spec.model_copy(update={"weights": weights})
    trained_on = feed.describe(everything=not validation)
    card = model_card(finished, settings, trained_on=trained_on, validation=validation)
    write_text(folder / "MODEL_CARD.md", card)
    write_text(folder / "model.yaml", dump_yaml(finished))
    return folder


def patient_key(patient: str) -> str:
    """Return what a patient is known by in a model's `split.json`, where no name is to stand.

    Examples
    --------
    >>> patient_key("patient 7") == patient_key("patient 7"), len(patient_key("x"))
    (True, 16)
    """
    return hashlib.sha256(b"voxmetry patient\0" + patient.encode()).hexdigest()[:16]


def measure_domain(cases: Sequence[LabelledCase], spec: ModelSpec) -> TrainingDomain:
    """Spacing, field of view and volumes that the training cases had; volumes widened by `VOLUME_MARGIN`."""
    grids = [reorientation(case.geometry, spec.orientation)[1] for case in cases]
    spacing = np.round([grid.spacing_mm for grid in grids], 4)
    extent = np.round([grid.extent_mm for grid in grids], 2)
    turned = np.round([case.geometry.obliqueness_degrees for case in cases], 1)
    volumes = {name: [case.volume_ml[name] for case in cases if case.volume_ml[name] > 0] for name in spec.labels.names}

    def ranges(table: np.ndarray) -> tuple[Range, Range, Range]:
        i, j, k = (Range(low=float(column.min()), high=float(column.max())) for column in table.T)
        return (i, j, k)

    return TrainingDomain(
        spacing_mm=ranges(spacing),
        field_of_view_mm=ranges(extent),
        obliqueness_degrees=Range(low=float(turned.min()), high=float(turned.max())),
        volume_ml={
            name: Range(low=round(min(seen) * (1 - VOLUME_MARGIN), 3), high=round(max(seen) * (1 + VOLUME_MARGIN), 3))
            for name, seen in volumes.items()
            if seen
        },
        continues=spec.training_domain.continues,
    )


def validation_csv(table: dict[str, dict[str, float]], spec: ModelSpec) -> str:
    """One row a held-out case: its name and the Dice of each structure."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(csv_cells(["case", *[f"dice_{name}" for name in spec.labels.names]]))
    for case, row in table.items():
        writer.writerow([csv_cell(case), *[f"{row[name]:.4f}" for name in spec.labels.names]])
    return text.getvalue()


def model_card(
    spec: ModelSpec,
    settings: TrainSettings,
    *,
    trained_on: str,
    validation: dict[str, dict[str, float]],
) -> str:
    """Write the model card: what it is, what it was trained on, how well it does on cases that it did not see."""
    domain = spec.training_domain
    spans = [f"{r.low:g} to {r.high:g}" for r in (*(domain.spacing_mm or ()), *(domain.field_of_view_mm or ()))]
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        f"{spec.summary}. Research use only; not a medical device.",
        "",
        f"Licence of these weights: {spec.licence}.",
        "",
        *_accuracy(spec, settings, trained_on=trained_on, validation=validation),
        "## What it has seen",
        "",
        f"Spacing along {', '.join(spec.orientation)} in mm: {', '.join(spans[:3])}. "
        f"Field of view in mm: {', '.join(spans[3:])}. An image outside is segmented all the same, and flagged.",
        "",
        "Expected volumes, the range seen widened by a quarter on both sides: "
        + ", ".join(f"{name} {r.low:g} to {r.high:g} mL" for name, r in domain.volume_ml.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _accuracy(
    spec: ModelSpec,
    settings: TrainSettings,
    *,
    trained_on: str,
    validation: dict[str, dict[str, float]],
) -> list[str]:
    if not validation:
        return [
            "## Accuracy",
            "",
            f"Trained on {trained_on}; none was held out, so nothing here says how well "
            "it does. A cross-validation with the same settings does.",
            "",
        ]
    rows = []
    for name in spec.labels.names:
        known = {case: row[name] for case, row in validation.items() if not math.isnan(row[name])}
        if not known:
            rows.append(f"| {name} | not looked for in the held-out cases |  |  |  |  |")
            continue
        values, worst = np.array(list(known.values())), min(known, key=known.__getitem__)
        rows.append(
            f"| {name} | {len(values)} | {np.mean(values):.4f} | {np.std(values):.4f} | {np.median(values):.4f} "
            f"| {np.min(values):.4f} ({worst}) |"
        )
    part = f"fold {settings.fold} of {settings.folds}, " if settings.fold is not None else ""
    return [
        "## Accuracy on held-out cases",
        "",
        f"Trained on {trained_on}; held out {len(validation)} cases ({part}seed {settings.seed}), which the run "
        "itself uses for nothing but this table. Dice on the model's grid, before post-processing:",
        "",
        "| structure | cases | mean | SD | median | lowest (case) |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "Held-out cases: " + ", ".join(validation) + ".",
        "",
    ]
