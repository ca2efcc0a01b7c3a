"""A model made ready, and run on the images of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from voxmetry import nn
from voxmetry.classical import Baseline, is_baseline, load_baseline
from voxmetry.config import StudySettings
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import MembersAgreement, PredictedDice
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.flags.study import predict_dice
from voxmetry.nn.composite import How, chosen_labels, combine, is_composite, only
from voxmetry.nn.uncertainty_maps import require_maps
from voxmetry.ops.components import clean
from voxmetry.ops.instances import cut_to
from voxmetry.workflows.provenance import Clock

Ready: TypeAlias = nn.Predictor | nn.Composite | Baseline
Chosen: TypeAlias = Ready | nn.Model | str | Path
"""What runs a study, or names it."""


@dataclass(frozen=True)
class Answer:
    """What a model returns for a study.

    Parameters
    ----------
    segmentation
        The labels on the first image's grid, after post-processing.
    predicted_dice
        The Dice that is predicted for each structure; empty where the model is not calibrated.
    members_agreement
        How far the networks of an ensemble agree; empty for a single network.
    notes
        What a composite has to say about this study, each a sentence.
    instances
        The instances that were told apart, cut to the segmentation; None where none were.
    instances_by
        What told them apart; empty where nothing did.
    """

    segmentation: Segmentation
    predicted_dice: tuple[PredictedDice, ...] = ()
    members_agreement: tuple[MembersAgreement, ...] = ()
    notes: tuple[str, ...] = ()
    instances: InstanceSegmentation | None = None
    instances_by: Literal["", "network", "components", "watershed"] = ""


def load_any(
    model: Chosen | Sequence[str | Path],
    settings: StudySettings,
    tell: Callable[[str], None] | None = None,
) -> Ready:
    """Load a network, a composite or a classical baseline; what is loaded already is returned as it is.

    Raises
    ------
    ConfigError
        If several models are named that do not make one map, or `settings.fast` is on for a classical baseline or for
        a model that was loaded for full runs.
    """
    if isinstance(model, (nn.Predictor, nn.Composite, nn.Model)) and settings.fast and model.fast is None:
        raise ConfigError(
            found=f"fast, with {model.spec.name}, which was loaded for full runs",
            expected="a model that was loaded for fast runs, or its name",
            fix="load it with fast=True, such as voxmetry.Predictor(name, fast=True)",
        )
    if isinstance(model, (nn.Predictor, nn.Composite)):
        return model
    if isinstance(model, Baseline):
        return _full_only(model, settings)
    how = How(settings.device, settings.precision, settings.execution, settings.memory_gb, tell)
    if isinstance(model, Sequence) and not isinstance(model, str):
        if len(model) > 1:
            if settings.engine == "monai":
                raise ConfigError(
                    found=f"the engine monai, with {len(model)} models",
                    expected="a model of one network",
                    fix="name one model, or use --engine stream (engine='stream')",
                )
            return combine(model, how, structures=settings.structures, fast=settings.fast)
        model = model[0]
    if isinstance(model, (str, Path)) and not is_baseline(model) and is_composite(model):
        if settings.engine == "monai":
            raise ConfigError(
                found="the engine monai, with a model of models",
                expected="a model of one network",
                fix="name one of its members, or use --engine stream (engine='stream')",
            )
        return nn.Composite(model, how, structures=settings.structures, fast=settings.fast)
    if isinstance(model, nn.Model) or not is_baseline(model):
        predictor = monai_predictor() if settings.engine == "monai" else nn.Predictor
        return predictor(
            model,
            device=settings.device,
            precision=settings.precision,
            execution=settings.execution,
            fast=settings.fast,
            memory_gb=settings.memory_gb,
            tell=tell,
        )
    return _full_only(load_baseline(model), settings)


def _full_only(baseline: Baseline, settings: StudySettings) -> Baseline:
    """Return a classical baseline; refuse to run it fast."""
    if settings.fast:
        raise ConfigError(
            found=f"fast, with {baseline.spec.name}, a classical baseline",
            expected="a model with a network, whose windows can overlap by less",
            fix="leave out --fast (fast=False)",
        )
    return baseline


def monai_predictor() -> type[nn.Predictor]:
    """Return the predictor that runs MONAI's own parts, whose import takes seconds."""
    from voxmetry.nn.monai_predictor import MonaiPredictor

    return MonaiPredictor


def require_maps_of(ready: Ready, settings: StudySettings) -> None:
    """Raise `ConfigError` where maps or structures are asked for that the model cannot give."""
    chosen_labels(ready.spec.labels, settings.structures)
    if not isinstance(ready, nn.Predictor) and settings.maps:
        how = "decides by thresholds" if isinstance(ready, Baseline) else "is made of several models"
        raise ConfigError(
            found=f"maps ({', '.join(settings.maps)}) of {ready.spec.name}, which {how}",
            expected="a model with a network, whose scores can be written",
            fix="leave out --maps (maps=()), or use a model: voxmetry models list",
        )
    if isinstance(ready, nn.Predictor):
        require_maps(settings.maps, ready.spec)


def run_model(
    ready: Ready,
    volumes: Sequence[Volume],
    settings: StudySettings,
    clock: Clock,
    gate: AbstractContextManager[object] | None = None,
    *,
    maps_to: Path | None = None,
) -> Answer:
    """Segment on the first volume's own grid and clean up, each step under its own name.

    The gate is held while the network runs. The settings' maps are written to a folder as it does. Of the settings'
    structures, where some are named, nothing else is returned.
    """
    maps, wanted = settings.maps, chosen_labels(ready.spec.labels, settings.structures)
    if settings.clicks and not isinstance(ready, nn.Predictor):
        raise ConfigError(
            found=f"clicks for {ready.spec.name}, which is no single network",
            expected="a model whose model.yaml has `clicks`",
            fix="leave the clicks out, or name such a model",
        )
    if isinstance(ready, Baseline):
        with clock.step("segment"):
            return Answer(only(ready.segment(volumes), wanted))
    if isinstance(ready, nn.Composite):
        with gate or nullcontext(), clock.step("network"):
            return Answer(only(ready(volumes), wanted), notes=ready.notes)
    with clock.step("preprocess"):
        prepared = ready.prepare(volumes, maps=maps, measured=True, clicks=settings.clicks)
    confidence = nn.Confidence(ready.spec) if ready.spec.quality else None
    agreement = nn.MemberAgreement(ready.spec)
    with gate or nullcontext(), clock.step("network"):
        if ready.tells_instances:
            apart = ready.run_instances(prepared, maps=maps, maps_to=maps_to, confidence=confidence)
            segmentation = apart.segmentation
        else:
            apart = None
            segmentation = ready.run(prepared, maps=maps, maps_to=maps_to, confidence=confidence, agreement=agreement)
    with clock.step("clean up"):
        cleaned = only(clean(segmentation, ready.spec.clean), wanted)
    predicted = predict_dice(confidence.expected_dice(), ready.spec) if confidence else ()
    agreed = tuple(
        MembersAgreement(label=name, mean_dice=dice, members=ready.spec.members)
        for name, dice in agreement.mean_dice().items()
        if math.isfinite(dice) and name in wanted.names
    )
    predicted = tuple(row for row in predicted if row.label in wanted.names)
    if apart is None:
        return Answer(cleaned, predicted, agreed)
    return Answer(cleaned, predicted, agreed, instances=cut_to(apart, cleaned), instances_by="network")
