"""Networks in 8 bits beside a model's weights: what they were made from, and whether they still belong to it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from voxmetry.config import ModelSpec
from voxmetry.core.base import Count, Number, Record
from voxmetry.core.quantising import LEAST_ML
from voxmetry.core.text import word
from voxmetry.errors import ModelError
from voxmetry.models import find_member, read_any_spec
from voxmetry.models.composite import CompositeSpec

RECORD = "int8.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StructureDice(Record):
    """How well a structure of the images that a network was calibrated on is kept, against a full run in float32."""

    label: str
    volume_ml: Number
    """Mean volume in the full run; nan where no image has the structure."""
    n: Count
    """Images that have it, in one of the runs or both."""
    dice: Number
    """Mean Dice of the network in 8 bits, its windows as in the full run."""
    lowest_dice: Number
    fast_dice: Number
    """Mean Dice of a run with `fast`: in 8 bits, with the windows of a fast run."""
    lowest_fast_dice: Number


class EightBits(Record):
    """The content of `int8.json`."""

    schema_version: Literal[1] = 1
    model: str
    weights_sha256: Sha256
    """Of the weights that were quantised."""
    graph_sha256: Sha256
    """Of what the graph follows from beside the weights; see `graph_sha256`."""
    files: dict[str, Sha256]
    """Checksums of the files beside this one, by name."""
    windows: Annotated[int, Field(ge=1)]
    """How many windows it was calibrated on."""
    images: tuple[Sha256, ...]
    """Of the voxels and the grid of each image that it was calibrated on."""
    versions: dict[str, str]
    """Of the packages that had a hand in it."""
    structures: tuple[StructureDice, ...]


def file_names(spec: ModelSpec) -> list[str]:
    """Return the names of the files that hold the networks of a model in 8 bits, two for each."""
    return [f"int8-{place}.{suffix}" for place in range(1, spec.members + 1) for suffix in ("bin", "xml")]


def graph_sha256(spec: ModelSpec) -> str:
    """Return a checksum of what the graph of a model's networks follows from beside their weights."""
    what = (spec.network.model_dump_json(), spec.window.patch, spec.n_channels, spec.n_classes, spec.members)
    return hashlib.sha256(repr(what).encode()).hexdigest()


def read_eight_bits(folder: Path, spec: ModelSpec) -> EightBits | None:
    """Return what is said of a model's networks in 8 bits; None where it has none.

    Raises
    ------
    ModelError
        If they are those of other weights or of another network, or a file is missing or damaged.
    """
    try:
        content = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(f"{RECORD} that cannot be read ({error.strerror})", folder) from error
    try:
        made = EightBits.model_validate_json(content)
    except ValidationError as error:
        raise _unusable(f"{RECORD} that is damaged, or of another version", folder) from error
    if spec.weights is None or made.weights_sha256 != spec.weights.sha256:
        raise _unusable("8 bits of other weights than the model has now", folder)
    if made.graph_sha256 != graph_sha256(spec):
        raise _unusable("8 bits of another network or patch than model.yaml names now", folder)
    for name in file_names(spec):
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise _unusable(f"{RECORD} without {name} beside it", folder) from error
        if made.files.get(name) != found:
            raise _unusable(f"{name}, which is not what {RECORD} says", folder)
    return made


def lowest_dice(made: EightBits) -> float:
    """Return the lowest mean Dice of a structure with the full run, of those that `voxmetry models quantise` counts.

    nan where none was found.
    """
    there = [row for row in made.structures if row.volume_ml > 0]
    counted = [row for row in there if row.volume_ml >= LEAST_ML] or there
    return min((min(row.dice, row.fast_dice) for row in counted), default=math.nan)


def eight_bits_mark(folder: Path) -> str:
    """Return a text that changes where the networks in 8 bits of a model, or of one of its members, do."""
    spec = read_any_spec(folder)
    if isinstance(spec, CompositeSpec):
        return " ".join(eight_bits_mark(find_member(member.model, folder)) for member in spec.members)
    path = folder / RECORD
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"


def _unusable(found: str, folder: Path) -> ModelError:
    return ModelError(
        found=found,
        expected="the networks in 8 bits that were made of this model",
        fix=f"make them again: voxmetry models quantise {word(folder)} STUDY --overwrite; or remove {RECORD}",
    )
