"""Models: those that come with the package, and the user's own; one folder each, with model.yaml and weights.

Finding and describing a model needs no torch; `voxmetry.load_model` makes one ready to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import yaml

from voxmetry.config import ModelSpec, load_yaml
from voxmetry.core.text import did_you_mean
from voxmetry.errors import ModelError
from voxmetry.models.composite import CompositeSpec
from voxmetry.models.store import installed_folder, installed_folders

BUNDLED = Path(__file__).parent
AnySpec: TypeAlias = ModelSpec | CompositeSpec


def list_models() -> tuple[ModelSpec, ...]:
    """Return the specifications of the bundled models, by name.

    Examples
    --------
    >>> "hippocampus-mr" in [spec.name for spec in list_models()]
    True
    """
    return tuple(load_yaml(path, ModelSpec) for path in sorted(BUNDLED.glob("*/model.yaml")))


def find_model(name: str | Path) -> Path:
    """Return the folder of a bundled or an imported model, by its name, or of any other, by its path.

    A bundled model wins over an imported one of its name, and both over a folder.

    The folder of a training run stands for the model in it.

    Raises
    ------
    ModelError
        If there is no such folder, or it has no model.yaml.

    Examples
    --------
    >>> find_model("hippocampus-mr").name
    'hippocampus-mr'
    """
    imported = installed_folder(str(name))
    for folder in (BUNDLED / name, *([imported] if imported else []), Path(name), Path(name) / "model"):
        if (folder / "model.yaml").is_file():
            return folder
    raise _no_model(str(name))


def find_member(name: str, folder: Path) -> Path:
    """Return the folder of a composite's member: a folder inside the composite's own, or a model by its name.

    Raises
    ------
    ModelError
        If there is neither.
    """
    if (folder / name / "model.yaml").is_file():
        return folder / name
    return find_model(name)


def read_spec(name: str | Path) -> ModelSpec:
    """Read the specification of a model without its weights.

    Raises
    ------
    ModelError
        If there is no such model, or it is made of others.
    ConfigError
        If its model.yaml has an unknown, missing or unusable key.
    """
    spec = read_any_spec(name)
    if isinstance(spec, CompositeSpec):
        raise ModelError(
            found=f"{spec.name}, which is made of {len(spec.members)} models",
            expected="a model of one network",
            fix="use voxmetry.segment(volume, name) or voxmetry.nn.Composite(name); or name the folder of one of its "
            f"members: {', '.join(member.model for member in spec.members)}",
        )
    return spec


def read_any_spec(name: str | Path) -> AnySpec:
    """Read the specification of a model, be it one network or made of others.

    Raises
    ------
    ModelError
        If there is no such model.
    ConfigError
        If its model.yaml has an unknown, missing or unusable key.
    """
    path = find_model(name) / "model.yaml"
    return load_yaml(path, CompositeSpec) if _says_composite(path) else load_yaml(path, ModelSpec)


def members_sha256(spec: CompositeSpec, folder: Path, places: Mapping[str, Path] = MappingProxyType({})) -> str:
    """Return one checksum of all models that a composite runs.

    Parameters
    ----------
    spec, folder
        The composite and its folder.
    places
        Folders of members that are not found by their names.

    Raises
    ------
    ModelError
        If one is missing.
    """
    names = [member.model for member in spec.members] + ([spec.crop.model] if spec.crop else [])
    lines = [f"{name} {_digest(places.get(name) or find_member(name, folder))}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest(folder: Path) -> str:
    """Return what tells a model's state: the checksum of its weights, of its model.yaml for a composite."""
    spec = read_any_spec(folder)
    if isinstance(spec, ModelSpec) and spec.weights is not None:
        return spec.weights.sha256
    return hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()


def _says_composite(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        # Whichever record reads it says what is wrong with the file.
        return False
    return isinstance(content, dict) and content.get("kind") == "composite"


def _no_model(name: str) -> ModelError:
    from voxmetry.models.catalogue import known_models

    there = [path.parent.name for path in sorted(BUNDLED.glob("*/model.yaml"))] + list(installed_folders())
    pulled = [entry.name for entry in known_models().models]
    if name in pulled:
        return ModelError(
            found=f"{name} is not installed",
            expected=f"a bundled or imported model ({', '.join(there)}) or a folder with model.yaml",
            fix=f"voxmetry models pull {name}",
        )
    return ModelError(
        found=f"no model {name!r}",
        expected=f"the name of a bundled or imported model ({', '.join(there)}) or a folder with model.yaml",
        fix=f"{did_you_mean(name, (*there, *pulled))}run `voxmetry models list`, or check the path",
    )
