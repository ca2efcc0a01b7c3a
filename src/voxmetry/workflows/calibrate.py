"""Predict the Dice of a segmentation that has no reference, and learn from labelled cases how to.

The network's own certainty (`nn.confidence`) goes with its true Dice, but not one to one. `calibrate` fits a line on
cases that the network had not seen; `model.yaml` keeps it as `quality`; `flags.study.predict_dice` applies it to a
study.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from voxmetry import nn
from voxmetry.config import Landmarks, ModelSpec, Quality, dump_yaml, load_yaml, parse_record, predicted_dice
from voxmetry.core.base import Number, Record
from voxmetry.core.progress import Progress
from voxmetry.errors import InputError
from voxmetry.flags.image import landmarks, landmarks_seen
from voxmetry.io.atomic import write_bytes, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement.overlap import overlaps
from voxmetry.measurement.tables import records_csv
from voxmetry.nn.confidence import Confidence
from voxmetry.ops.components import clean
from voxmetry.plot.curves import calibration
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import open_data, read_labelled
from voxmetry.train.labelled_cases import for_model
from voxmetry.workflows.model_folds import ModelFolds, open_entry, recipe_words

WORST = 0.1
"""The share of cases that a quality gate is to catch."""
FLAGGED = 0.2
"""The share of cases that may be flagged for it."""
SKILL = 0.3
"""Rank correlation of predicted and true Dice below which certainty does not tell good cases from bad: a study is then
flagged only where the network is less sure than on any case that it was calibrated on."""
PLOT = "calibration.png"
FILES = ("calibration.json", "calibration.csv", PLOT)
MODEL, CARD = "model.yaml", "MODEL_CARD.md"
FEWEST = 10
"""Cases below which no line is fitted."""


class CasePrediction(Record):
    """One structure of one case: what was predicted by a line that had not seen the case, and what was true."""

    case: str
    label: str
    expected_dice: Number
    predicted_dice: Number
    dice: Number


class Calibration(Record):
    """How well the Dice of one structure is predicted."""

    label: str
    n: int
    quality: Quality | None
    """None with fewer than `FEWEST` cases."""
    spearman: Number
    """Rank correlation of predicted and true Dice."""
    mean_absolute_error: Number
    n_flagged: int
    """Cases in the fifth with the lowest predicted Dice."""
    n_worst: int
    """Cases in the worst tenth."""
    n_worst_flagged: int
    """Of these, how many are flagged."""

    def __str__(self) -> str:
        if self.quality is None:
            return f"{self.label}: {self.n} cases, too few or too alike to fit a line (at least {FEWEST})"
        told = (
            f"{self.label}: {self.n} cases. Rank correlation of predicted and true Dice {_rank(self.spearman)}, mean "
            f"error {self.mean_absolute_error:.3f}. "
        )
        if self.skilled:
            return told + (
                f"Flagged below {self.quality.review_below:.2f}, {self.n_flagged} "
                f"cases: {self.n_worst_flagged} of the {self.n_worst} in the worst tenth"
            )
        return told + (
            f"Too weak to flag a fifth by ({self.n_flagged} cases hold {self.n_worst_flagged} of the {self.n_worst} in "
            f"the worst tenth): flagged below {self.quality.review_below:.2f}, the lowest that was predicted here"
        )

    @property
    def skilled(self) -> bool:
        """Whether the certainty tells good cases from bad; see `SKILL`."""
        return self.quality is not None and self.spearman >= SKILL


def _rank(x: float) -> str:
    return f"{x:.2f}" if math.isfinite(x) else "none"


class CalibrationReport(Record):
    """The content of `calibration.json`."""

    data: str
    recipe: str = ""
    """What the choice of the model's recipe means for these figures; empty where it was chosen on other cases."""
    structures: tuple[Calibration, ...]
    intensity: dict[str, Landmarks] = Field(default_factory=dict)
    """Values of the images by input, against which a new image is held."""
    rows: tuple[CasePrediction, ...]


def calibrate(entry: ModelFolds, data: DataSet, *, progress: Progress | None = None) -> CalibrationReport:
    """Run a model on labelled cases that it has not seen, and fit how its certainty goes with its true Dice.

    Each case's own prediction, by which the figures are made, comes from a line fitted without that case.

    Parameters
    ----------
    entry
        A network with the cases that it may be judged on, from `workflows.model_folds.open_entry`.
    data
        The labelled cases.
    progress
        Called after each case with the number that is done and of all.

    Raises
    ------
    InputError
        If the entry is a classical baseline, which has no probabilities.
    VoxmetryError
        If a case cannot be read; the message names it.
    """
    rows: list[tuple[str, str, float, float]] = []
    seen: dict[str, list[tuple[float, float, float]]] = {}
    total = sum(len(names) for _, names in entry.folds)
    for model, names in entry.folds:
        if not isinstance(model, (nn.Model, nn.Predictor)):
            raise InputError(
                found=f"{entry.name}, a classical baseline",
                expected="a network, whose probabilities say how sure it is",
                fix="calibrate a trained model",
            )
        predictor = model if isinstance(model, nn.Predictor) else nn.Predictor(model)
        labelled = for_model(data, predictor.spec)
        for case in labelled.select(names).cases:
            read = read_labelled(case, labelled)
            volumes, unlabelled = read.volumes, read.unlabelled
            for volume, item in zip(volumes, predictor.spec.inputs, strict=True):
                seen.setdefault(item.name, []).append(landmarks(volume, item.modality))
            confidence = Confidence(predictor.spec)
            found = clean(predictor.run(predictor.prepare(volumes), confidence=confidence), predictor.spec.clean)
            expected = confidence.expected_dice()
            pairs = [(label.value, label.value) for label in predictor.spec.labels]
            # What was not looked for is in neither mask then, has no Dice, and is left out of the fit.
            counted = overlaps(prediction=unlabelled.hide(found), reference=unlabelled.hide(read.label), pairs=pairs)
            rows += [
                (case.name, label.name, expected[label.name], row.dice)
                for label, row in zip(predictor.spec.labels, counted, strict=True)
            ]
            if progress is not None:
                progress(len({name for name, *_ in rows}), total)
    parts = [
        _calibrate_one(label, [row for row in rows if row[1] == label]) for label in dict.fromkeys(r[1] for r in rows)
    ]
    return CalibrationReport(
        data=data.name,
        recipe=recipe_words(entry),
        structures=tuple(part for part, _ in parts),
        intensity=landmarks_seen(seen),
        rows=tuple(row for _, told in parts for row in told),
    )


def _calibrate_one(
    label: str, rows: Sequence[tuple[str, str, float, float]]
) -> tuple[Calibration, list[CasePrediction]]:
    """Fit one structure; cases in which it is absent or was not found have no expected Dice and are left out."""
    from scipy.stats import spearmanr

    known = [row for row in rows if math.isfinite(row[2]) and math.isfinite(row[3])]
    x, y = np.array([row[2] for row in known]), np.array([row[3] for row in known])
    n = len(known)
    enough = n >= FEWEST and float(np.ptp(x)) > 0
    told = np.full(n, math.nan)
    if enough:
        for place in range(n):
            others = np.arange(n) != place
            told[place] = predicted_dice(*_fit(x[others], y[others]), float(x[place]))
    predicted = [
        CasePrediction(case=row[0], label=label, expected_dice=row[2], predicted_dice=float(t), dice=row[3])
        for row, t in zip(known, told, strict=True)
    ]
    if not enough:
        blank = Calibration(
            label=label,
            n=n,
            quality=None,
            spearman=math.nan,
            mean_absolute_error=math.nan,
            n_flagged=0,
            n_worst=0,
            n_worst_flagged=0,
        )
        return blank, predicted
    intercept, slope = _fit(x, y)
    worst = np.argsort(y, kind="stable")[: max(1, round(WORST * n))]
    flagged = np.argsort(told, kind="stable")[: max(1, round(FLAGGED * n))]
    error = float(np.abs(told - y).mean())
    # Of a median that leaves each case out in turn, the rank says nothing of certainty.
    rank = float(spearmanr(told, y).statistic) if slope and np.ptp(told) > 0 and np.ptp(y) > 0 else math.nan
    quality = Quality(
        intercept=round(intercept, 5),
        slope=round(slope, 5),
        review_below=round(float(np.quantile(told, FLAGGED if rank >= SKILL else 0.0)), 4),
        error=round(error, 4),
        n_cases=n,
    )
    return (
        Calibration(
            label=label,
            n=n,
            quality=quality,
            spearman=rank,
            mean_absolute_error=error,
            n_flagged=len(flagged),
            n_worst=len(worst),
            n_worst_flagged=len(set(worst.tolist()) & set(flagged.tolist())),
        ),
        predicted,
    )


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept and slope by Theil and Sen's medians, which a few failures do not turn (doi 10.2307/2285891).

    Where more certainty went with less Dice, that is chance: the median is predicted then, whatever the certainty.
    """
    from scipy.stats import theilslopes

    found = theilslopes(y, x)
    return (float(found.intercept), float(found.slope)) if found.slope > 0 else (float(np.median(y)), 0.0)


def calibrate_model(
    data: DataSet | Path,
    model: str | Path,
    out: Path,
    *,
    into: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[CalibrationReport, tuple[Path, ...]]:
    """Calibrate a model on labelled cases that it has not seen, and write what was found.

    Parameters
    ----------
    data
        Labelled cases, or where they lie.
    model
        A bundled model's name, a model folder, or a run folder with folds.
    out
        Folder for `calibration.json`, `.csv` and `.png`.
    into
        A model folder: `quality` and `training_domain.intensity` of its model.yaml become what was found, and its card
        gets the figures and the plot.
    device
        Where networks run.
    overwrite
        Whether an earlier calibration in `out` is replaced.
    progress
        Called after each case with the number that is done and of all.

    Returns
    -------
    CalibrationReport, tuple of Path
        What was found, and the files that were written.

    Raises
    ------
    VoxmetryError
        If the model cannot be used, or a folder cannot be written.
    """
    folder = data if isinstance(data, Path) else None
    data = open_data(data) if isinstance(data, Path) else data
    with output_folder(out, FILES, overwrite=overwrite, apart_from=(folder, *data.folders, into)) as stage:
        result = calibrate(open_entry(model, data, device=device), data, progress=progress)
        picture = _write(result, stage)
        written = _write_into(result, into, picture) if into is not None else ()
    return result, (*(out / name for name in FILES), *written)


def _write(result: CalibrationReport, folder: Path) -> bytes:
    write_text(folder / FILES[0], result.model_dump_json(indent=1))
    write_text(folder / FILES[1], records_csv(result.rows, CasePrediction))
    picture = io.BytesIO()
    calibration([(row.label, row.predicted_dice, row.dice) for row in result.rows]).savefig(
        picture, format="png", dpi=110
    )
    write_bytes(folder / PLOT, picture.getvalue())
    return picture.getvalue()


def _write_into(result: CalibrationReport, into: Path, picture: bytes) -> tuple[Path, ...]:
    """Write the fitted lines into a model folder, all of it together."""
    spec = load_yaml(into / MODEL, ModelSpec)
    fitted = {row.label: row.quality.model_dump() for row in result.structures if row.quality is not None}
    seen = {name: row.model_dump() for name, row in result.intensity.items()}
    domain = spec.training_domain.model_dump(mode="json") | {"intensity": seen}
    changed = {"quality": fitted, "training_domain": domain}
    spec = parse_record(spec.model_dump(mode="json") | changed, ModelSpec, where=MODEL)
    card = (into / CARD).read_text(encoding="utf-8") if (into / CARD).is_file() else ""
    names = (PLOT, CARD, MODEL)
    with output_folder(into, names, overwrite=True) as stage:
        write_text(stage / MODEL, dump_yaml(spec))
        write_bytes(stage / PLOT, picture)
        write_text(stage / CARD, with_section(card, card_section(result)))
    return tuple(into / name for name in names)


_HEADING = "## Predicted Dice"
_BEGIN, _END = "<!-- written by voxmetry calibrate -->", "<!-- end of what voxmetry calibrate wrote -->"


def card_section(result: CalibrationReport) -> str:
    """Return the lines of a model card about a calibration, in Markdown."""
    rows = []
    for row in result.structures:
        if row.quality is None:
            rows.append(f"| {row.label} | {row.n} | not fitted | | | | |")
            continue
        rows.append(
            f"| {row.label} | {row.n} | {_rank(row.spearman)} | {row.mean_absolute_error:.3f} "
            f"| {row.quality.review_below:.2f}{'' if row.skilled else ' *'} | {row.n_flagged} "
            f"| {row.n_worst_flagged} of {row.n_worst} |"
        )
    weak = [
        f"\\* The rank correlation is below {SKILL}: among cases like these, certainty does not tell good from bad. A "
        "study is flagged only where the network is less sure than on any of them.",
        "",
    ]
    lines = [
        _BEGIN,
        f"A line from the network's own certainty to its Dice, on {result.data}, each case by a network and by a line "
        "that had not seen it:",
        "",
        "| structure | cases | rank correlation of predicted and true Dice | mean error | flagged below "
        "| cases in the fifth with the lowest prediction | of the worst tenth among them |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        *([result.recipe, ""] if result.recipe else []),
        *(weak if any(row.quality and not row.skilled for row in result.structures) else []),
        f"![True Dice of each case over the predicted one]({PLOT})",
        _END,
    ]
    return "\n".join(lines)


def with_section(card: str, section: str) -> str:
    """Return a model card with the section of a calibration in place of an earlier one, or at its end."""
    before, begun, rest = card.partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if begun and ended:
        return before + section + after
    return f"{card.rstrip()}\n\n{_HEADING}\n\n{section}\n".lstrip()
