"""Where what is found out once about a network is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """Return VOXMETRY_CACHE, else voxmetry's folder in the user's cache.

    It need not exist, and anything in it may be deleted at any time.
    """
    return Path(os.environ.get("VOXMETRY_CACHE") or _user_cache() / "voxmetry")


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    fallback = Path.home() / ".cache"
    return Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME") or fallback)
