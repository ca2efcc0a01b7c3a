"""What an object says of itself that the service needs: to which series it belongs, and whether it is an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from voxmetry.errors import VoxmetryError
from voxmetry.io.dicom.read.headers import read_header, sop_class_uid, text
from voxmetry.io.dicom.read.kinds import VOLUME_CLASSES

_LONGEST_UID = 64


class NotAnImageError(ValueError):
    """An object that cannot be read, or is none that a series is made of."""


@dataclass(frozen=True)
class Instance:
    """One image object.

    Parameters
    ----------
    sop_class, sop_instance, series, study
        Its UIDs. They identify a study: none is logged, and none becomes a path.
    modality
        CT, MR or PT.
    description
        Series Description.
    """

    sop_class: str
    sop_instance: str
    series: str
    study: str
    modality: str
    description: str

    def key(self, group: str) -> str:
        """Return what is the same for all objects of one series or study, and says nothing about it."""
        return hashlib.sha256((self.series if group == "series" else self.study).encode()).hexdigest()[:32]


def read_instance(path: Path) -> Instance:
    """Read what an object is.

    Raises
    ------
    NotAnImageError
        If it is damaged, no CT, MR or PET image, or does not say which series it belongs to.
    """
    try:
        header = read_header(path, "an object")
    except VoxmetryError as error:
        raise NotAnImageError(error.found) from error
    sop_class = sop_class_uid(header) or ""
    if sop_class not in VOLUME_CLASSES:
        raise NotAnImageError("no CT, MR or PET image")
    instance, series, study = (
        text(header, keyword) or "" for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    )
    if not all(0 < len(uid) <= _LONGEST_UID for uid in (instance, series, study)):
        raise NotAnImageError("its UIDs are missing or too long")
    return Instance(
        sop_class,
        instance,
        series,
        study,
        modality=VOLUME_CLASSES[sop_class],
        description=(text(header, "SeriesDescription") or "")[:_LONGEST_UID],
    )
