"""A model made ready, and run on the images of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from voxmetry import nn
from voxmetry.classical import Baseline, is_baseline, load_baseline
from voxmetry.config import MapName, StudySettings
from voxmetry.core.records import MembersAgreement, PredictedDice
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.flags.study import predict_dice
from voxmetry.nn.uncertainty_maps import require_maps
from voxmetry.ops.components import clean
from voxmetry.workflows.provenance import Clock


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
    """

    segmentation: Segmentation
    predicted_dice: tuple[PredictedDice, ...] = ()
    members_agreement: tuple[MembersAgreement, ...] = ()


def load_any(
    model: nn.Predictor | nn.Model | Baseline | str | Path,
    settings: StudySettings,
    tell: Callable[[str], None] | None = None,
) -> nn.Predictor | Baseline:
    """Load a network or a classical baseline; what is loaded already is returned as it is."""
    if isinstance(model, (nn.Predictor, Baseline)):
        return model
    if isinstance(model, nn.Model) or not is_baseline(model):
        return nn.Predictor(
            model,
            device=settings.device,
            precision=settings.precision,
            execution=settings.execution,
            memory_gb=settings.memory_gb,
            tell=tell,
        )
    return load_baseline(model)


def require_maps_of(ready: nn.Predictor | Baseline, settings: StudySettings) -> None:
    """Raise `ConfigError` where maps are asked for that the model cannot give."""
    if isinstance(ready, Baseline) and settings.maps:
        raise ConfigError(
            found=f"maps ({', '.join(settings.maps)}) of {ready.spec.name}, which decides by thresholds",
            expected="a model with a network, whose scores can be written",
            fix="leave out --maps, or use a model: voxmetry models list",
        )
    if isinstance(ready, nn.Predictor):
        require_maps(settings.maps, ready.spec)


def run_model(
    ready: nn.Predictor | Baseline,
    volumes: Sequence[Volume],
    clock: Clock,
    gate: AbstractContextManager[object] | None = None,
    *,
    maps: Sequence[MapName] = (),
    maps_to: Path | None = None,
) -> Answer:
    """Segment on the first volume's own grid and clean up, each step under its own name.

    The gate is held while the network runs. Maps are written to a folder as it does.
    """
    if isinstance(ready, Baseline):
        with clock.step("segment"):
            return Answer(ready.segment(volumes))
    with clock.step("preprocess"):
        prepared = ready.prepare(volumes, maps=maps, measured=True)
    confidence = nn.Confidence(ready.spec) if ready.spec.quality else None
    agreement = nn.Agreement(ready.spec)
    with gate or nullcontext(), clock.step("network"):
        segmentation = ready.run(prepared, maps=maps, maps_to=maps_to, confidence=confidence, agreement=agreement)
    with clock.step("clean up"):
        cleaned = clean(segmentation, ready.spec.clean)
    predicted = predict_dice(confidence.expected_dice(), ready.spec) if confidence else ()
    agreed = tuple(
        MembersAgreement(label=name, mean_dice=dice, members=ready.spec.members)
        for name, dice in agreement.mean_dice().items()
        if math.isfinite(dice)
    )
    return Answer(cleaned, predicted, agreed)
