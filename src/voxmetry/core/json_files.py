"""Records that are kept as JSON files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from voxmetry.core.base import Record
from voxmetry.core.text_files import read_text
from voxmetry.errors import VoxmetryError

R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R], *, missing: VoxmetryError, damaged: Callable[[str], VoxmetryError]) -> R:
    """Read a record from its file.

    Parameters
    ----------
    path
        The file.
    kind
        What it holds.
    missing
        Raised where it cannot be read.
    damaged
        Makes what is raised where it is not as this version writes it, of the place in it: `flags.0.code`.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise missing from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise damaged(".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole file") from error
