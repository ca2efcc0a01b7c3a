"""The user's own models: where they lie, and what is there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def user_folder() -> Path:
    """Return the folder of imported models: VOXMETRY_MODELS, else `voxmetry/models` in the user's data folder.

    It need not exist. Each model is a folder in it, by its name.
    """
    given = os.environ.get("VOXMETRY_MODELS")
    return Path(given) if given else _user_data() / "voxmetry" / "models"


def _user_data() -> Path:
    """Return where programs of this system keep a user's data (XDG base directories on Linux)."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    fallback = Path.home() / ".local" / "share"
    return Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME") or fallback)


def installed_folders() -> dict[str, Path]:
    """Return the folders of the user's models by name, sorted."""
    root = user_folder()
    if not root.is_dir():
        return {}
    there = sorted(path.parent for path in root.glob("*/model.yaml"))
    return {path.name: path for path in there if MODEL_NAME.fullmatch(path.name)}


def installed_folder(name: str) -> Path | None:
    """Return the folder of one of the user's models, None where there is none of this name."""
    if not MODEL_NAME.fullmatch(name):
        # A path is no name: nothing outside of the folder is reached through it.
        return None
    folder = user_folder() / name
    return folder if (folder / "model.yaml").is_file() else None


def folder_bytes(folder: Path) -> int:
    """Return what the files of a folder take, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
