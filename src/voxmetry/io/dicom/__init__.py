"""DICOM in and out. What is read, what is refused and how geometry is derived: docs/reference/dicom.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_ROOMS = {
    "list_series": "read.series",
    "choose_series": "read.choose",
    "read_series": "read.pixels",
    "write_series": "objects.write",
}

__all__ = ["choose_series", "list_series", "read_series", "write_series"]

if TYPE_CHECKING:
    from voxmetry.io.dicom.objects.write import write_series
    from voxmetry.io.dicom.read.choose import choose_series
    from voxmetry.io.dicom.read.pixels import read_series
    from voxmetry.io.dicom.read.series import list_series


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'voxmetry.io.dicom' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"voxmetry.io.dicom.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value
