"""Whose an image is and when it was taken, as its header says: to be compared, and never shown or kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """What tells two time points of a patient apart.

    Parameters
    ----------
    patient
        Patient ID; empty where the header has none.
    day
        YYYYMMDD of the study, else of the series or the acquisition; empty where the header has none.
    """

    patient: str = field(default="", repr=False)
    day: str = field(default="", repr=False)


def read_taken(path: Path | str) -> Taken:
    """Read whose the image of a DICOM file is and when it was taken; nothing of a file that cannot be read."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    days = ("StudyDate", "SeriesDate", "AcquisitionDate")
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", *days])
        found = [str(header.get(name) or "").strip() for name in ("PatientID", *days)]
    except (OSError, InvalidDicomError, ValueError):
        return Taken()
    # Of ACR-NEMA times a date has points; whatever else stands there cannot be put in order.
    dates = [day.replace(".", "") for day in found[1:]]
    return Taken(found[0].casefold(), next((day for day in dates if len(day) == 8 and day.isdigit()), ""))
