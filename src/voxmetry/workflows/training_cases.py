"""Whether a model was trained on the case that its result is compared with: agreement there is no accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxmetry import nn
from voxmetry.core.records import Flag
from voxmetry.core.text import visible
from voxmetry.io.digest import digest_of
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.workflows.models import Ready

SPLIT = "split.json"


def read_split(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return which cases a model folder says that it was trained on; nothing where it does not say."""
    try:
        content = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, list)}


def flag_training_case(ready: Ready, study: Sequence[Path], reference: Path | str | None) -> tuple[Flag, ...]:
    """Flag a reference that the model was trained on.

    A case is known by the name of its files or of a folder that they lie in, or by the SHA-256 of their contents.

    Parameters
    ----------
    ready
        The model.
    study
        Path of each image, in the model's order.
    reference
        What the result is compared with; None flags nothing.
    """
    if reference is None:
        return ()
    models: list[tuple[str, Path | None]] = []
    if isinstance(ready, nn.Predictor):
        models = [(ready.spec.name, ready.model.folder)]
    elif isinstance(ready, nn.Composite):
        models = [(spec.name, folder) for spec, folder in ready.networks]
    return tuple(
        flag
        for name, folder in models
        if folder is not None
        for flag in _flag_case(name, folder, study, Path(reference))
    )


def _flag_case(name: str, folder: Path, study: Sequence[Path], reference: Path) -> tuple[Flag, ...]:
    split = read_split(folder)
    case = _known_by_name(split.get("training", ()), (*study, reference)) or _known_by_content(
        split.get("training_sha256", ()), (*dict.fromkeys(study), reference)
    )
    if not case:
        return ()
    return (
        Flag(
            code="reference_in_training",
            severity="review",
            message=f"{name} was trained on this case ({case}, by its {SPLIT}): how well the result agrees "
            "with the reference says nothing about other cases. For accuracy compare on cases that it has not seen: "
            "voxmetry evaluate.",
        ),
    )


def _known_by_name(names: Sequence[str], paths: Sequence[Path]) -> str:
    known = {str(name).lower(): str(name) for name in names}
    for path in paths:
        for part in (_stem(path), *path.absolute().parts[-4:-1]):
            if part.lower() in known:
                return visible(known[part.lower()])
    return ""


def _stem(path: Path) -> str:
    suffix = suffix_of(path)
    name = path.name[: len(path.name) - len(suffix)] if suffix in (*NIFTI, *ITK) else path.name
    return name.removesuffix("_0000")


def _known_by_content(sums: Sequence[str], paths: Sequence[Path]) -> str:
    if not sums:
        return ""
    try:
        return "known by the contents of its files" if digest_of(paths) in sums else ""
    except OSError:
        return ""
