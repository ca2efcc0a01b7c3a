"""How an image is read: the choices that every verb that reads a study has."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Literal

from voxmetry.core.base import Unit
from voxmetry.core.volume import Volume
from voxmetry.io.read import Modality, read_volume


@dataclass(frozen=True)
class ReadOptions:
    """The keyword arguments of `read_volume` that a person chooses.

    Parameters
    ----------
    series, modality, unit, suv, allow_uneven, resample_tilt
        As `voxmetry.read_volume` takes them.
    """

    series: str | None = None
    modality: Modality | None = None
    unit: Unit | None = None
    suv: Literal["bw", "lbm", "bsa", "none"] = "bw"
    allow_uneven: bool = False
    resample_tilt: bool = False

    def read(self, path: str | os.PathLike[str]) -> Volume:
        """Read an image with these choices; raises as `read_volume`."""
        return read_volume(path, **asdict(self))
