"""DICOM in and out. What is read, what is refused and how geometry is derived: docs/dicom.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_ROOMS = {"list_series": "series", "choose_series": "choose", "read_series": "pixels", "write_series": "write"}

__all__ = ["choose_series", "list_series", "read_series", "write_series"]

if TYPE_CHECKING:
    from voxmetry.io.dicom.choose import choose_series
    from voxmetry.io.dicom.pixels import read_series
    from voxmetry.io.dicom.series import list_series
    from voxmetry.io.dicom.write import write_series


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'voxmetry.io.dicom' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"voxmetry.io.dicom.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value
