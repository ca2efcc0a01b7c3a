"""Bundled models: one folder each, with model.yaml, weights.safetensors and MODEL_CARD.md.

Finding and describing a model needs no torch; `voxmetry.load_model` makes one ready to run.
"""

from __future__ import annotations

from pathlib import Path

from voxmetry.config import ModelSpec, load_yaml
from voxmetry.errors import ModelError

BUNDLED = Path(__file__).parent


def list_models() -> tuple[ModelSpec, ...]:
    """Return the specifications of the bundled models, by name.

    Examples
    --------
    >>> "hippocampus-mr" in [spec.name for spec in list_models()]
    True
    """
    return tuple(load_yaml(path, ModelSpec) for path in sorted(BUNDLED.glob("*/model.yaml")))


def find_model(name: str | Path) -> Path:
    """Return the folder of a bundled model, by its name, or of any other, by its path.

    Raises
    ------
    ModelError
        If there is no such folder, or it has no model.yaml.

    Examples
    --------
    >>> find_model("hippocampus-mr").name
    'hippocampus-mr'
    """
    for folder in (BUNDLED / name, Path(name)):
        if (folder / "model.yaml").is_file():
            return folder
    bundled = ", ".join(path.parent.name for path in sorted(BUNDLED.glob("*/model.yaml")))
    raise ModelError(
        found=f"no model {str(name)!r}",
        expected=f"the name of a bundled model ({bundled}) or a folder with model.yaml",
        fix="run `voxmetry models list`, or check the path",
    )


def read_spec(name: str | Path) -> ModelSpec:
    """Read the specification of a model without its weights.

    Raises
    ------
    ModelError
        If there is no such model.
    ConfigError
        If its model.yaml has an unknown, missing or unusable key.
    """
    return load_yaml(find_model(name) / "model.yaml", ModelSpec)
