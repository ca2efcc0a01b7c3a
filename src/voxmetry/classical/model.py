"""A baseline that is ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from voxmetry.classical.methods import find
from voxmetry.classical.spec import BaselineSpec
from voxmetry.config import Weights, dump_yaml, load_yaml
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.strict_yaml import read_strict
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.ops.components import clean


@dataclass(frozen=True, eq=False)
class Baseline:
    """A baseline that is ready to run.

    Parameters
    ----------
    spec
        What it takes, does and returns.
    weights
        It has none; in their place stands the SHA-256 of its specification, which decides the result.
    device
        Always "cpu".
    """

    spec: BaselineSpec
    weights: Weights
    device: str = "cpu"

    def segment(self, volumes: Volume | Sequence[Volume]) -> Segmentation:
        """Segment one study on its own grid and clean up.

        Raises
        ------
        InputError
            If there is more than one image, or it has no contrast.
        """
        channels = [volumes] if isinstance(volumes, Volume) else list(volumes)
        if len(channels) != 1:
            raise InputError(
                found=f"{len(channels)} images",
                expected=f"one: {self.spec.inputs[0].name} ({self.spec.inputs[0].modality})",
                fix=f"pass the image that {self.spec.name} is for",
            )
        (volume,) = channels
        (label,) = self.spec.labels
        array = np.where(find(volume, self.spec.segment), label.value, 0)
        kind = np.uint8 if label.value < 256 else np.uint16
        return clean(Segmentation(array.astype(kind), volume.geometry, self.spec.labels), self.spec.clean)


def is_baseline(name: str | Path) -> bool:
    """Say whether a path is a baseline's YAML file, by its `kind`; a file that is no YAML is none."""
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        content = read_strict(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("kind") == "baseline"


def load_baseline(path: str | Path) -> Baseline:
    """Load a baseline from its YAML file.

    Raises
    ------
    ConfigError
        If the file is missing, or has an unknown, missing or unusable key.
    """
    spec = load_yaml(Path(path), BaselineSpec)
    return Baseline(spec, Weights(file=Path(path).name, sha256=hashlib.sha256(dump_yaml(spec).encode()).hexdigest()))
