"""`datastore_v2.json`: the list of images and labels, as MONAI Label arranges it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmetry.core.text import folder_name
from voxmetry.core.text_files import read_text
from voxmetry.errors import FormatError
from voxmetry.io.atomic import write_text

INDEX = "datastore_v2.json"


def read_index(folder: Path) -> dict[str, Any]:
    """Return the entries of a folder's list by their keys; none where there is no list.

    Raises
    ------
    FormatError
        If the list is damaged.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        content = json.loads(read_text(path))
        return {key: _entry(key, value) for key, value in content["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            found=f"{INDEX} of the data folder cannot be read",
            expected="the list of images and labels that the service writes",
            fix="restore it from a copy, or move the folder datastore away to start anew",
        ) from error


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the list of a folder."""
    content = {"name": "voxmetry", "description": "Images and labels of voxmetry serve", "objects": index}
    write_text(folder / INDEX, json.dumps(content, indent=1))


_PART = re.compile(r"(?!\.{1,2}$)[^/\\\0]+")
_WORD = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8}){0,3}")


def _entry(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Take an entry of the index; one that MONAI Label wrote names no id, and is called by its key."""
    image = value["image"]
    tags = value.get("labels", {})
    suffixes = [image.get("ext", ""), *(label["ext"] for label in tags.values())]
    # Key, suffix and tag make a path.
    if not (_PART.fullmatch(key) and all(map(_WORD.fullmatch, tags)) and all(map(_SUFFIX.fullmatch, suffixes))):
        raise ValueError("a name that is that of no file here")
    info = {"id": key, **image.get("info", {})}
    labels = {tag: {"ext": x["ext"], "info": x.get("info", {})} for tag, x in value.get("labels", {}).items()}
    return {"image": {"ext": image.get("ext", ""), "info": info}, "labels": labels}


def key_of(name: str) -> str:
    """Return what the files of an image are called: its id, where that can be a file's name anywhere.

    Examples
    --------
    >>> key_of("case_7"), key_of("../../etc/passwd")[:12]
    ('case_7', '__etc_passwd')
    """
    plain = folder_name(re.sub(r"[^A-Za-z0-9._-]+", "_", name).replace("..", "").strip("."))[:80]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"
