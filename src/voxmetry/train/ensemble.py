"""The folds of a cross-validation as one model, with the post-processing that did best on held-out cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxmetry.config import CleanStep, ModelSpec, Range, TrainingDomain, Weights, dump_yaml, parse_record
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import word
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import make_folder, write_bytes, write_text
from voxmetry.measurement.overlap import Overlap
from voxmetry.models import read_spec
from voxmetry.nn import Predictor
from voxmetry.nn.networks.build import Ensemble, build_network
from voxmetry.nn.weights import load_into, sha256_of, to_bytes
from voxmetry.ops.components import clean
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import read_labelled

LEAST_GAIN = 0.001
"""Mean Dice that a post-processing must add, and that no structure may lose by it."""


@dataclass(frozen=True)
class PostProcessingChoice:
    """One post-processing and what it gives on held-out cases.

    Parameters
    ----------
    name
        In words.
    steps
        The recipe.
    dice
        Mean Dice by structure over the held-out cases that have it in label or prediction.
    """

    name: str
    steps: tuple[CleanStep, ...]
    dice: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the structures."""
        return float(np.mean(list(self.dice.values())))


def fold_models(run: Path) -> tuple[Path, ...]:
    """Return the model folders of a run's folds.

    Raises
    ------
    ConfigError
        If there are fewer than two, or they are not of one architecture.
    """
    folders = tuple(sorted(run.glob("fold-*/model")))
    if len(folders) < 2:
        raise ConfigError(
            found=f"{len(folders)} finished folds in {run}",
            expected="two or more, as fold-0/model, fold-1/model and so on",
            fix=f"train them: voxmetry train CONFIG --fold 0 -o {word(run / 'fold-0')}, then 1 and so on",
        )
    kinds = {_architecture(read_spec(folder)) for folder in folders}
    if len(kinds) > 1:
        raise ConfigError(
            found="folds of different networks, inputs, labels or grids",
            expected="folds of one configuration",
            fix="train all folds with the same settings",
        )
    return folders


def _architecture(spec: ModelSpec) -> str:
    return spec.model_copy(update={"training_domain": _NOWHERE, "weights": None, "clean": ()}).model_dump_json()


_NOWHERE = TrainingDomain(spacing_mm=(Range(low=0, high=0),) * 3, field_of_view_mm=(Range(low=0, high=0),) * 3)


def write_ensemble(run: Path, out: Path, *, steps: Sequence[CleanStep] | None = None) -> Path:
    """Write the folds of a run as one model, whose scores are the mean of theirs.

    Parameters
    ----------
    run
        A run folder with `fold-0/model` and so on.
    out
        The model folder to make; `model.yaml` is written last.
    steps
        Its post-processing; None keeps that of the folds.

    Raises
    ------
    ConfigError
        If there are fewer than two folds or they differ.
    ModelError
        If a fold's weights are damaged.
    """
    folders = fold_models(run)
    specs = [read_spec(folder) for folder in folders]
    spec = specs[0].model_copy(update={"members": len(folders), "weights": None})
    network = build_network(spec)
    for folder, one, member in zip(
        folders, specs, network.members if isinstance(network, Ensemble) else (), strict=True
    ):
        if one.weights is not None:
            load_into(member, folder / one.weights.file, sha256=one.weights.sha256)
    data = to_bytes(network)
    make_folder(out)
    seen = sorted({name for folder in folders for name in _split(folder).get("training", ())})
    write_text(out / "split.json", json.dumps({"training": seen, "validation": []}, indent=1))
    write_bytes(out / "weights.safetensors", data)
    finished = spec.model_copy(
        update={
            "clean": tuple(steps) if steps is not None else spec.clean,
            "training_domain": _widest([one.training_domain for one in specs]),
            "weights": Weights(file="weights.safetensors", sha256=sha256_of(data)),
        }
    )
    write_text(out / "model.yaml", dump_yaml(finished))
    return out


def write_clean(folder: Path, steps: Sequence[CleanStep]) -> None:
    """Write a post-processing into the `model.yaml` of a model folder.

    Raises
    ------
    ConfigError
        If the recipe names structures that the model does not have.
    """
    spec = read_spec(folder)
    clean_up = [step.model_dump(mode="json") for step in steps]
    changed = spec.model_dump(mode="json", exclude_none=True) | {"clean": clean_up}
    write_text(
        folder / "model.yaml", dump_yaml(parse_record(changed, ModelSpec, where=f"the post-processing of {spec.name}"))
    )


def choose_clean(
    run: Path, data: DataSet, *, device: str = "auto", tick: Callable[[], None] | None = None
) -> list[PostProcessingChoice]:
    """Try post-processings on each case's prediction by the fold that held it out; the best comes first.

    Parameters
    ----------
    run
        A run folder with its folds.
    data
        The data set that it was trained on.
    device
        Where the networks run.
    tick
        Called after each case.

    Returns
    -------
    list of PostProcessingChoice
        The first is the one to take: nothing, unless another adds `LEAST_GAIN` to the mean Dice and no structure loses
        as much.
    """
    folders = fold_models(run)
    names = read_spec(folders[0]).labels.names
    recipes = candidates(names)
    sums: dict[str, dict[str, list[float]]] = {name: {label: [] for label in names} for name in recipes}
    for folder in folders:
        predictor = Predictor(folder, device=device)
        for case in data.select(_split(folder)["validation"]).cases:
            read = read_labelled(case, data)
            label = read.unlabelled.hide(read.label)
            raw = predictor.run(predictor.prepare(read.volumes))
            for recipe, steps in recipes.items():
                for name, dice in _dice(read.unlabelled.hide(clean(raw, steps)), label, names).items():
                    sums[recipe][name].append(dice)
            if tick is not None:
                tick()
    choices = [
        PostProcessingChoice(
            recipe, recipes[recipe], {name: float(np.nanmean(values)) for name, values in table.items()}
        )
        for recipe, table in sums.items()
    ]
    return rank(choices)


def candidates(names: Sequence[str]) -> dict[str, tuple[CleanStep, ...]]:
    """Return the recipes that are tried."""
    largest, holes = CleanStep(step="largest"), CleanStep(step="fill_holes")
    found: dict[str, tuple[CleanStep, ...]] = {
        "nothing": (),
        "largest part of each structure": (largest,),
        "fill holes": (holes,),
        "largest part, fill holes": (largest, holes),
        "drop parts below 0.1 mL": (CleanStep(step="drop_small", min_volume_ml=0.1),),
        "drop parts below 1 mL": (CleanStep(step="drop_small", min_volume_ml=1.0),),
    }
    if len(names) > 1:
        found["largest part of all together"] = (CleanStep(step="largest", labels=tuple(names), together=True),)
    return found


def rank(choices: Sequence[PostProcessingChoice]) -> list[PostProcessingChoice]:
    """Put the choice to take first, the others by their mean Dice."""
    nothing = next(choice for choice in choices if not choice.steps)
    better = [
        choice
        for choice in choices
        if choice.mean >= nothing.mean + LEAST_GAIN
        and all(choice.dice[name] > dice - LEAST_GAIN for name, dice in nothing.dice.items())
    ]
    best = max(better, key=lambda choice: choice.mean, default=nothing)
    return [best, *sorted((choice for choice in choices if choice is not best), key=lambda choice: -choice.mean)]


def _dice(found: Segmentation, label: Segmentation, names: Sequence[str]) -> dict[str, float]:
    table = {}
    for name in names:
        theirs = label.array == (label.labels[name] if name in label.labels.names else found.labels[name]).value
        table[name] = Overlap.of_masks(prediction=found.mask(name), reference=theirs).dice
    return table


def _widest(domains: Sequence[TrainingDomain]) -> TrainingDomain:
    names = dict.fromkeys(name for domain in domains for name in domain.volume_ml)
    return TrainingDomain(
        spacing_mm=_join_axes([domain.spacing_mm for domain in domains]),
        field_of_view_mm=_join_axes([domain.field_of_view_mm for domain in domains]),
        obliqueness_degrees=_join_known([domain.obliqueness_degrees for domain in domains]),
        volume_ml={name: _join([d.volume_ml[name] for d in domains if name in d.volume_ml]) for name in names},
        continues={name: sides for domain in domains for name, sides in domain.continues.items()},
    )


def _join_axes(triples: Sequence[tuple[Range, Range, Range] | None]) -> tuple[Range, Range, Range] | None:
    known = [triple for triple in triples if triple is not None]
    if len(known) < len(triples):
        return None
    i, j, k = (_join([triple[axis] for triple in known]) for axis in range(3))
    return (i, j, k)


def _join_known(ranges: Sequence[Range | None]) -> Range | None:
    known = [one for one in ranges if one is not None]
    return _join(known) if len(known) == len(ranges) else None


def _join(ranges: Sequence[Range]) -> Range:
    return Range(low=min(r.low for r in ranges), high=max(r.high for r in ranges))


def _split(folder: Path) -> dict[str, list[str]]:
    path = folder / "split.json"
    content: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
