"""MONAI Label's folder of studies: images, `labels/TAG`, and `datastore_v2.json` that says what belongs to what."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.core.text_files import read_text
from voxmetry.errors import FormatError, InputError
from voxmetry.io.annotations.content import MALFORMED, malformed

NAME = "datastore_v2.json"
FINAL = "final"
"""The tag under which MONAI Label keeps what a person has finished."""


@dataclass(frozen=True)
class SavedLabel:
    """One label map of the folder.

    Parameters
    ----------
    image
        Id of the image: its name without suffix, or a Series Instance UID.
    path
        The label map.
    labels
        What its values mean, where the folder says it.
    author, made, model
        Who, when (ISO 8601) and which model, as far as the folder says it.
    """

    image: str
    path: Path
    labels: LabelTable | None = None
    author: str = ""
    made: str = ""
    model: str = ""


def is_monai_label(folder: Path) -> bool:
    """Whether a folder is one of MONAI Label."""
    return (folder / NAME).is_file()


def read_monai_label(folder: Path, *, tag: str = FINAL) -> tuple[SavedLabel, ...]:
    """List the label maps of a tag.

    Raises
    ------
    FormatError
        If `datastore_v2.json` is damaged, or names a file outside of the folder.
    InputError
        If a label map that it names is not there, or it names none of this tag.
    """
    try:
        objects = json.loads(read_text(folder / NAME))["objects"]
        found = [_label(folder, str(image), entry, tag) for image, entry in objects.items() if tag in entry["labels"]]
    except (OSError, *MALFORMED, RecursionError) as error:
        raise malformed(NAME, "MONAI Label's list", type(error).__name__) from error
    if not found:
        raise InputError(
            found=f"no label map of the tag {tag!r} in {NAME}",
            expected="at least one image that was finished",
            fix="submit a label in 3D Slicer (Submit Label), which saves it as final",
        )
    missing = [label.image for label in found if not label.path.is_file()]
    if missing:
        raise InputError(
            found=f"label maps that {NAME} names and that are not there: {', '.join(missing[:5])}",
            expected="the folder as MONAI Label left it",
            fix="copy all of it, with labels/",
        )
    return tuple(found)


def _label(folder: Path, image: str, entry: dict[str, Any], tag: str) -> SavedLabel:
    label = entry["labels"][tag]
    name = image + str(label["ext"])
    if re.search(r"[/\\]", name) or name.startswith("."):
        raise FormatError(
            found=f"the name {name[:60]!r} in {NAME}",
            expected="names of files in the folder",
            fix="take the entry out of the list",
        )
    info = label.get("info") or {}
    params = info.get("params")
    given: dict[str, Any] = {**(params if isinstance(params, dict) else {}), **info}
    own = (entry.get("image") or {}).get("info") or {}
    return SavedLabel(
        # The service keeps an image's identity there where its name is none for a file.
        image=str(own.get("id") or image),
        path=folder / "labels" / tag / name,
        labels=_table(given.get("label_info")),
        author=str(given.get("client_id") or ""),
        made=_time(given.get("ts")),
        model=str(given.get("model") or ""),
    )


def _table(rows: Any) -> LabelTable | None:
    """Read `label_info`: name and value of each structure, values by position where they are left out."""
    if not isinstance(rows, list) or not rows:
        return None
    labels = tuple(
        Label(value=int(row.get("idx") or place), name=str(row["name"]), colour=PALETTE[(place - 1) % len(PALETTE)])
        for place, row in enumerate(rows, start=1)
    )
    return LabelTable(labels=labels)


def _time(seconds: Any) -> str:
    """Read a time: seconds since 1970, as MONAI Label writes it, or ISO 8601, as `voxmetry serve` does."""
    if isinstance(seconds, str):
        with contextlib.suppress(ValueError):
            return datetime.datetime.fromisoformat(seconds).astimezone(datetime.UTC).isoformat(timespec="seconds")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < 4e9:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
