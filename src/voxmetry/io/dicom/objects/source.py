"""The series that was segmented, as its headers tell it: what every object that is derived from it must repeat.

Patient, study and frame of reference are copied, never made up: an image without them (NIfTI, NRRD) has no patient, and
the writers say so.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.records import SeriesInfo
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError, SeriesError
from voxmetry.io.dicom.objects.characters import UNICODE, decode_all
from voxmetry.io.dicom.read.frames import Frame
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, lenient, text, unreadable
from voxmetry.io.dicom.read.opened import opened
from voxmetry.io.dicom.read.pixels import slices_of

_NEEDED = {
    "SOPClassUID": "SOP Class UID",
    "SOPInstanceUID": "SOP Instance UID",
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
}
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_REGULAR_MM = 1e-4
"""Readers take steps for equal that differ by less than a thousandth of a millimetre."""
_IN_PLANE = 1e-3
"""How far from its plane, in steps between slices, a point still lies in a slice."""


@dataclass(frozen=True)
class Source:
    """Headers of a series without pixels, slice by slice.

    Parameters
    ----------
    headers
        One a file, in the order of `SeriesInfo.files`. Elements that a derived object must have but may leave empty
        are there, empty where the series has none.
    frames
        One a slice, from the lowest to the highest along the normal: which file and frame it is, and its place.
    geometry
        The grid of all slices.
    character_set
        Specific Character Set of the first header, values joined by backslashes. The header itself is decoded, and
        says UTF-8: what is copied from it is text, not bytes.
    """

    headers: tuple[Any, ...]
    frames: tuple[Frame, ...]
    geometry: Geometry
    character_set: str = ""

    @property
    def first(self) -> Any:
        """The header of the first file."""
        return self.headers[0]

    @functools.cached_property
    def positions(self) -> tuple[tuple[float, ...], ...]:
        """Image Position (Patient) of each slice in LPS+ mm: as stated where that is regular, else the grid's.

        Positions that a header rounds to tenths of a millimetre are no regular volume for most readers: GDCM then takes
        a step of 1 mm, and highdicom refuses.
        """
        stated = np.array([frame.plane.position for frame in self.frames], dtype=np.float64)
        places = np.zeros((len(self.frames), 3))
        places[:, 2] = np.arange(len(self.frames))
        regular = swap_lps_ras(self.geometry.to_mm(places))
        chosen = stated if np.abs(stated - regular).max() <= _REGULAR_MM else np.round(regular, 6)
        return tuple(map(tuple, chosen.tolist()))

    @property
    def thickness_mm(self) -> float | None:
        """Slice Thickness, where all slices state the same."""
        stated = {frame.plane.thickness_mm for frame in self.frames}
        return next(iter(stated)) if len(stated) == 1 else None

    @property
    def step_mm(self) -> float | None:
        """Distance between neighbouring slices; of a single one, Spacing Between Slices where it is stated."""
        return self.geometry.spacing_mm[2] if len(self.frames) > 1 else self.frames[0].plane.step_mm

    def reference(self, k: int) -> Any:
        """Return the item that refers to slice `k`: class, instance and, in a file of many, the frame's number."""
        frame = self.frames[k]
        header = self.headers[frame.file]
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if "NumberOfFrames" in header:
            item.ReferencedFrameNumber = frame.index + 1
        return item

    def slice_of(self, points_ras_mm: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]] | None:
        """Return the slice in whose plane all points lie, and where in it; None where there is none.

        Parameters
        ----------
        points_ras_mm
            (N, 3), in RAS+ mm.

        Returns
        -------
        k, places
            Index of the slice, and (N, 2): column and row in pixels from the outer corner of the first pixel, whose
            centre is (0.5, 0.5) (PS3.3 C.18.6.1.1). A tile of a mosaic is no image that could be referred to.
        """
        ijk = self.geometry.to_ijk(points_ras_mm)
        k = int(np.rint(ijk[0, 2]))
        inside = 0 <= k < len(self.frames) and bool(np.abs(ijk[:, 2] - k).max() <= _IN_PLANE)
        if not inside:
            return None
        header = self.headers[self.frames[k].file]
        if (int(header.Columns), int(header.Rows)) != self.geometry.shape[:2]:
            return None
        return k, ijk[:, :2] + 0.5


def read_source(series: SeriesInfo | Volume) -> Source:
    """Read the headers of a series for the objects that are derived from it.

    Parameters
    ----------
    series
        From `list_series`, or a volume that was read from DICOM.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        If the volume is not from DICOM, a file is gone, or the series lacks an identifier that others must refer to.
    SeriesError
        If the series cannot be read, or its files are not those that were listed.
    """
    info = series.source if isinstance(series, Volume) else series
    if info is None:
        raise InputError(
            found="an image that is not from DICOM: it has no patient, no study and no frame of reference",
            expected="a DICOM series, whose identity a DICOM object must repeat",
            fix="give the DICOM series itself, instead of a file that was converted from it",
        )
    slices = slices_of(info)
    if slices.audit.geometry is None:
        raise SeriesError(
            found=f"series {info.key}: {info.verdict}: {info.reason}; its volume was resampled between the slices",
            expected="a regular series, on whose slices a DICOM segmentation lies",
            fix="write NIfTI, NRRD or MetaImage instead",
        )
    with lenient():
        headers = [_header(Path(file), name) for file, name in zip(info.files, slices.names, strict=True)]
        declared = text(headers[0], "SpecificCharacterSet") or ""
        decode_all(headers[0])
    headers[0].SpecificCharacterSet = UNICODE
    if text(headers[0], "FrameOfReferenceUID") is None:
        headers[0].FrameOfReferenceUID = _frame_of(headers[0])
    return Source(tuple(headers), tuple(slices.frames), slices.audit.geometry, declared)


def _frame_of(header: Any) -> str:
    """Return a Frame of Reference UID for a series without one, the same in each run (PS3.5 B.2).

    Objects that lie in the patient must name a frame. A series that names none, as many that were made anonymous do,
    is its own: nothing else can share its coordinates.
    """
    key = f"{header.StudyInstanceUID} {header.SeriesInstanceUID}".encode()
    return f"2.25.{int.from_bytes(hashlib.sha256(key).digest()[:16])}"


def _stream(path: Path) -> Path | BytesIO:
    """Return the file itself, or the content of one inside an archive."""
    if path.is_file():
        return path
    with opened(path) as file:
        return BytesIO(file.read_at(0, file.size))


def _header(path: Path, name: str) -> Any:
    try:
        header = pydicom.dcmread(_stream(path), force=True, stop_before_pixels=True)
    except (*PARSING_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(name, error) from error
        raise SeriesError(
            found=f"{name} cannot be parsed as DICOM ({type(error).__name__})",
            expected="a complete DICOM file",
            fix="copy or export the file again from its source",
        ) from error
    missing = [words for keyword, words in _NEEDED.items() if text(header, keyword) is None]
    if missing:
        raise InputError(
            found=f"{name} has no {', '.join(missing)}",
            expected="a series whose slices can be referred to; identifiers are never made up",
            fix="export the series again from its source, or write NIfTI instead",
        )
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header
