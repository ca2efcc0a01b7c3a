"""Models as far as planning needs them: without their weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from voxmetry.errors import ConfigError
from voxmetry.models import BUNDLED, find_model, members_sha256, read_any_spec
from voxmetry.models.composite import CompositeSpec
from voxmetry.workflows.cohort.rules import RuleSpec


@dataclass(frozen=True)
class KnownModel:
    """A model without its weights: enough to plan."""

    path: str
    """What `load_model` takes."""
    spec: RuleSpec
    sha256: str
    """Of its weights; of a baseline, which has none, that of its specification."""
    digest: str
    """SHA-256 of model.yaml, which names the weights' own; of a baseline as above."""


def load_known_model(name: str) -> KnownModel:
    """Read a model's or a baseline's specification, and the checksum that its weights must have.

    Raises
    ------
    ModelError, ConfigError
        If it cannot be used.
    """
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        # Here, because the methods of baselines bring larger libraries along.
        from voxmetry.classical import load_baseline

        baseline = load_baseline(name)
        return KnownModel(str(Path(name).absolute()), baseline.spec, baseline.weights.sha256, baseline.weights.sha256)
    folder = find_model(name)
    spec = read_any_spec(name)
    if isinstance(spec, CompositeSpec):
        sha256 = members_sha256(spec, folder)
    elif spec.weights is not None:
        sha256 = spec.weights.sha256
    else:
        raise ConfigError(
            found=f"the model.yaml of {spec.name} names no weights",
            expected="a trained model",
            fix="use another model",
        )
    digest = hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()
    # A bundled model is known by its name on every machine; another one by its path, which workers must share.
    bundled = folder.parent == BUNDLED
    return KnownModel(folder.name if bundled else str(folder.absolute()), spec, sha256, digest)


def check_names(known: dict[str, KnownModel]) -> None:
    """Refuse two models of one name.

    Raises
    ------
    ConfigError
        If there are.
    """
    names = [model.spec.name for model in known.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            found=f"two models are called {twice[0]}",
            expected="models of different names: their results lie in folders of their names",
            fix="change the name in one model.yaml, or leave one out",
        )
