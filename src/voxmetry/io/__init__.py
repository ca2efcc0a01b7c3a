"""Read and write images and label maps.

Each name is imported when it is first used: the libraries below it take longer to load than a small image does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_ROOMS = {
    "read_volume": "read",
    "read_segmentation": "read",
    "read_layers": "segmentations",
    "save": "read",
    "list_series": "dicom",
    "choose_series": "dicom",
    "read_series": "dicom",
    "write_series": "dicom",
    "atomic_path": "atomic",
}

__all__ = [
    "atomic_path",
    "choose_series",
    "list_series",
    "read_layers",
    "read_segmentation",
    "read_series",
    "read_volume",
    "save",
    "write_series",
]

if TYPE_CHECKING:
    from voxmetry.io.atomic import atomic_path
    from voxmetry.io.dicom import choose_series, list_series, read_series, write_series
    from voxmetry.io.read import read_segmentation, read_volume, save
    from voxmetry.io.segmentations import read_layers


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'voxmetry.io' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"voxmetry.io.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value
