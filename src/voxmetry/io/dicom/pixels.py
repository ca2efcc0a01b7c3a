"""From the files of a series to voxels: decoding, rescaling, and what the values mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import SeriesInfo
from voxmetry.core.volume import Unit, Volume
from voxmetry.errors import FormatError, SeriesError
from voxmetry.io.dicom.frames import Frame, frames_of, names_of
from voxmetry.io.dicom.grid import audit
from voxmetry.io.dicom.headers import PARSING_ERRORS, lenient, read_all, read_header, text, whole

_DECODING_ERRORS = (*PARSING_ERRORS, RuntimeError, OSError, MemoryError)


def read_series(info: SeriesInfo) -> Volume:
    """Read one series into a volume.

    Parameters
    ----------
    info
        A series that `list_series` found and that can be read (verdict 'regular' or 'single').

    Returns
    -------
    Volume
        Array (I, J, K): I along a row, J down a column, K along the slices' normal. int16 or int32 where all rescale
        slopes and intercepts are whole numbers (float64 if they exceed int32), else float32. Unit "HU" for CT whose
        Rescale Type is HU or absent, "Bq/mL" for PET in BQML, "SUVbw" for PET in GML, else "1". `source` is `info`.

    Raises
    ------
    SeriesError
        If the series cannot be read, or its files are no longer those that were listed.
    FormatError
        If a file's pixels cannot be decoded, or are fewer than its header says.
    InputError
        If a file is gone.
    """
    if not info.readable or not info.files:
        raise SeriesError(
            found=f"series {info.series_uid}: {info.verdict if info.files else 'listed without its files'}"
            + (f": {info.reason}" if info.reason else ""),
            expected="a series with verdict 'regular' or 'single', straight from list_series",
            fix="list the folder again, and choose a series that can be read",
        )
    names = names_of(info.files)
    frames: list[Frame] = []
    headers = []
    for index, (file, name) in enumerate(zip(info.files, names, strict=True)):
        headers.append(read_header(Path(file), name))
        with lenient():
            frames += frames_of(headers[-1], name, index)
    audited = audit([frame.plane for frame in frames])
    if audited.geometry is None or len(frames) != info.n_slices:
        now = audited.reason or f"{len(frames)} slices in place of {info.n_slices}"
        raise SeriesError(
            found=f"series {info.series_uid} is no longer as it was listed: {now}",
            expected="the same files that list_series found",
            fix="list the folder again when no program writes to it",
        )
    ordered = [frames[index] for index in audited.order]
    array = np.empty(audited.geometry.shape[::-1], _result_type(ordered, headers))
    place = {(frame.file, frame.index): k for k, frame in enumerate(ordered)}
    for file_index, (file, name) in enumerate(zip(info.files, names, strict=True)):
        decoded = _decode(Path(file), name)
        for frame_index, stored in enumerate(decoded):
            k = place[file_index, frame_index]
            _rescale_into(array[k], stored, ordered[k])
    return Volume(_narrowed(array).transpose(2, 1, 0), audited.geometry, _unit(headers[0], ordered), info)


def _decode(path: Path, name: str) -> NDArray[Any]:
    """Return the stored values of all frames of a file, shape (frames, rows, columns)."""
    dataset = read_all(path, name)
    frames, rows, columns = (whole(dataset, keyword) or 1 for keyword in ("NumberOfFrames", "Rows", "Columns"))
    expected = (frames, rows, columns)
    try:
        with lenient():
            pixels: NDArray[Any] = dataset.pixel_array
    except _DECODING_ERRORS as error:
        # The decoder's own words may hold the whole path; its kind and the file's name say enough.
        raise _damaged(
            name, f"its pixels cannot be decoded ({type(error).__name__}); the file may be cut off"
        ) from error
    if pixels.size != frames * rows * columns or pixels.shape[-2:] != expected[1:]:
        raise _damaged(name, f"pixels of shape {pixels.shape} where the header says {expected}")
    return pixels.reshape(expected)


def _result_type(frames: Sequence[Frame], headers: Sequence[Any]) -> type[np.generic]:
    """Return the type that holds every value that the headers allow: int16 or int32 if all are whole."""
    low, high = 0.0, 0.0
    for frame in frames:
        if not (frame.slope.is_integer() and frame.intercept.is_integer()):
            return np.float32
        header = headers[frame.file]
        bits = whole(header, "BitsStored") or 16
        first, last = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if whole(header, "PixelRepresentation") else (0, 2**bits - 1)
        )
        ends = [x * frame.slope + frame.intercept for x in (first, last)]
        low, high = min(low, *ends), max(high, *ends)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return np.float64


def _rescale_into(out: NDArray[Any], stored: NDArray[Any], frame: Frame) -> None:
    """Write stored value times slope plus intercept of one slice (DICOM PS3.3 C.11.1.1.2)."""
    if frame.slope == 1 and frame.intercept == 0:
        out[...] = stored
    elif out.dtype.kind == "i":
        out[...] = stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
    else:
        out[...] = stored * np.float64(frame.slope) + np.float64(frame.intercept)


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """Return int16 where 16 bits were stored but the values that are there fit."""
    if array.dtype != np.int32:
        return array
    limits = np.iinfo(np.int16)
    return array.astype(np.int16) if limits.min <= array.min() and array.max() <= limits.max else array


def _unit(header: Any, frames: Sequence[Frame]) -> Unit:
    modality, units = text(header, "Modality"), text(header, "Units")
    if modality == "CT" and all(frame.rescale_type in (None, "HU") for frame in frames):
        return "HU"
    if modality == "PT" and units == "BQML":
        return "Bq/mL"
    # PS3.3 C.8.9.1: with Units GML, an absent SUV Type means body weight.
    if modality == "PT" and units == "GML" and text(header, "SUVType") in (None, "BW"):
        return "SUVbw"
    return "1"


def _damaged(name: str, why: str) -> FormatError:
    return FormatError(
        found=f"{name}: {why}",
        expected="a DICOM file with as many pixels as its header says",
        fix="copy or export the file again from its source",
    )
