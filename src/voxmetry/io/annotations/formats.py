"""Files of slice annotations: of which program a file is, and its content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxmetry.core.text_files import read_text, why_unreadable
from voxmetry.errors import FormatError
from voxmetry.io.annotations import coco, cvat, label_studio, labelbox, via
from voxmetry.io.annotations.content import MALFORMED, malformed
from voxmetry.io.annotations.shapes import Drawings

SUFFIXES = (".json", ".ndjson", ".jsonl", ".xml")
LIMIT_BYTES = 512_000_000
"""Larger than any such file at hand by far."""

_JSON: tuple[tuple[str, Callable[[Any], bool], Callable[[Any], Drawings]], ...] = (
    (coco.PROGRAM, coco.is_own, coco.read),
    (label_studio.PROGRAM, label_studio.is_own, label_studio.read),
    (labelbox.PROGRAM, labelbox.is_own, labelbox.read),
    (via.PROGRAM, via.is_own, via.read),
)
PROGRAMS = (cvat.PROGRAM, *(name for name, _, _ in _JSON))


def is_drawings(path: Path) -> bool:
    """Whether a file may hold slice annotations, by its name."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def read_drawings(path: Path) -> Drawings:
    """Read a file of slice annotations: CVAT for images or video (XML), COCO, Label Studio, Labelbox, VIA (JSON).

    Raises
    ------
    FormatError
        If it is none of these, or damaged; nothing that was drawn is left out without a word.
    """
    if path.stat().st_size > LIMIT_BYTES:
        raise FormatError(
            found=f"{path.name} of {path.stat().st_size / 1e6:.0f} MB",
            expected=f"at most {LIMIT_BYTES / 1e6:.0f} MB",
            fix="export fewer pictures at once",
        )
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise malformed(path.name, "an annotation file", f"cannot be read ({why_unreadable(error)})") from error
    if text.lstrip().startswith("<"):
        return _parsed(path.name, cvat.PROGRAM, cvat.read, text)
    content = _json(text, path.name)
    for program, is_own, read in _JSON:
        if is_own(content):
            return _parsed(path.name, program, read, content)
    raise FormatError(
        found=f"{path.name} is of none of the programs that are known",
        expected=f"an export of {', '.join(PROGRAMS)}",
        fix="export as COCO 1.0, or as CVAT for images 1.1",
    )


def _parsed(name: str, program: str, read: Callable[[Any], Drawings], content: Any) -> Drawings:
    try:
        return read(content)
    except FormatError as error:
        raise FormatError(found=f"{name}: {error.found}", expected=error.expected, fix=error.fix) from error
    except MALFORMED as error:
        raise malformed(name, f"an export of {program}", f"something is missing ({type(error).__name__})") from error


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise malformed(name, "JSON", "it does not parse") from error
