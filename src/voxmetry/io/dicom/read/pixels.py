"""From the files of a series to voxels: decoding, rescaling, and what the values mean."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import Unit
from voxmetry.core.memory import release_pages
from voxmetry.core.progress import Progress
from voxmetry.core.records import SeriesInfo, SuvBasis
from voxmetry.core.volume import Volume
from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.choose import allowed_verdicts
from voxmetry.io.dicom.read.decode import damaged, decoded, is_encapsulated, native_place, stored_type, used_bits
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.frames import Frame, frames_of, names_of
from voxmetry.io.dicom.read.grid import Audit, audit
from voxmetry.io.dicom.read.headers import lenient, read_header, text, transfer_syntax_uid, unreadable, whole
from voxmetry.io.dicom.read.mosaic import is_mosaic, tiles_of
from voxmetry.io.dicom.read.opened import Opened, opened
from voxmetry.io.dicom.read.real_world import RealWorld, check_range, named, only_mappings, suv_mappings, unit_of
from voxmetry.io.dicom.read.regrid import regrid
from voxmetry.io.dicom.read.room import multiplied, room
from voxmetry.io.dicom.read.sanity import check_uptake, check_values
from voxmetry.io.dicom.read.suv import Uptake, uptake

_MOST_THREADS = 8

Suv: TypeAlias = Literal["bw", "lbm", "bsa", "none"]
_SUV_UNITS: dict[str, Unit] = {"bw": "SUVbw", "lbm": "SUVlbm", "bsa": "SUVbsa"}


def read_series(
    info: SeriesInfo,
    *,
    suv: Suv = "bw",
    allow_uneven: bool = False,
    resample_tilt: bool = False,
    real_world: bool = False,
    mapped: bool = False,
    progress: Progress | None = None,
) -> Volume:
    """Read one series, or one volume of a series that mixes several.

    Parameters
    ----------
    info
        What `list_series` found and can be read (verdict 'regular' or 'single').
    suv
        What PET becomes: SUV by body weight ("bw"), lean body mass ("lbm") or body surface area ("bsa"), or "none" for
        the values as they are stored. Other modalities are left alone.
    allow_uneven
        Read a series of verdict 'uneven' or 'missing' too, interpolated onto a regular grid.
    resample_tilt
        Read a series of verdict 'tilted' too, its slices shifted onto a grid at right angles.
    real_world
        Map stored values by the Real World Value Mapping of each slice, such as that of an ADC map, in place of the
        rescaling and of SUV. Without it a mapping is named in the volume's `source.processing`, and taken for SUV
        only, where a PET series does not say what SUV needs and maps to it.
    mapped
        Put the voxels into a temporary file, slice by slice, where they take more than half of the free memory; a
        series that is resampled is held.
    progress
        Called with the number of files that are read, and of all.

    Returns
    -------
    Volume
        Array (I, J, K): I along a row, J down a column, K along the slices' normal. int16 or int32 where all rescale
        slopes and intercepts are whole numbers (float64 if they exceed int32), else float32. Unit "HU" for CT whose
        Rescale Type is HU or absent, SUV or "Bq/mL" for PET, else "1". `source` is `info`; its `processing` says how
        SUV was worked out.

    Raises
    ------
    SeriesError
        If the series cannot be read, its files are no longer those that were listed, or a PET series does not say what
        SUV needs; each missing element is named.
    FormatError
        If a file's pixels cannot be decoded, or are fewer than its header says.
    InputError
        If a file is gone.
    """
    allowed = allowed_verdicts(allow_uneven=allow_uneven, resample_tilt=resample_tilt)
    _check_listed(info, allowed)
    with lenient():
        slices = slices_of(info)
        meaning = _meaning(info, slices, suv, real_world=real_world)
        # What resamples a series looks at all of it.
        array = _read(meaning.slices, progress, mapped=mapped and slices.audit.geometry is not None)
    geometry, unit = slices.audit.geometry, meaning.unit
    basis = meaning.uptake.basis if meaning.uptake else None
    info = info.model_copy(update={"processing": (*info.processing, *meaning.how), "suv": basis})
    if meaning.mappings:
        check_range(array, meaning.mappings, f"series {info.key}")
    if meaning.factor != 1:
        array = multiplied(array, np.float32(meaning.factor))
    check_values(array, info, unit, rescaled=any(frame.rescaled for frame in slices.frames))
    if meaning.uptake is not None:
        check_uptake(array, info, meaning.uptake.size)
    if geometry is None:
        planes = [frame.plane for frame in slices.frames]
        array, geometry, how = regrid(array, planes, allow_uneven=allow_uneven, resample_tilt=resample_tilt)
        info = info.model_copy(update={"processing": (*info.processing, how)})
    return Volume(array.transpose(2, 1, 0), geometry, unit, info)


@dataclass(frozen=True)
class Slices:
    """What is to be read: the frames in slice order, and the files that hold them."""

    frames: Sequence[Frame]
    headers: Sequence[Elements]
    files: Sequence[str]
    names: Sequence[str]
    audit: Audit


@dataclass(frozen=True)
class _Meaning:
    """How stored values become what they stand for: by each slice's slope and intercept, and a factor for all."""

    slices: Slices
    unit: Unit
    factor: float = 1.0
    how: tuple[str, ...] = ()
    mappings: Sequence[RealWorld] = ()
    uptake: Uptake | None = None


def _meaning(info: SeriesInfo, slices: Slices, suv: Suv, *, real_world: bool) -> _Meaning:
    """Find out what the values stand for; raises as `read_series`."""
    told = [frame.real_world for frame in slices.frames]
    if real_world:
        mappings = only_mappings(told, f"series {info.key}")
        how = f"real-world values in {mappings[0].words}"
        return _Meaning(_mapped(slices, mappings), unit_of(mappings), how=(how,), mappings=mappings)
    if info.modality == "PT" and suv != "none":
        try:
            taken = uptake(slices.headers, suv)
            _require_rescaling(info, slices, all_of_them=True)
        except SeriesError:
            found = suv_mappings(told, suv)
            if found is None:
                raise
            how = f"{_SUV_UNITS[suv]} from stored values by the Real World Value Mapping"
            basis = SuvBasis(kind=suv, factor=math.nan, sources={"factor": "Real World Value Mapping"})
            mapped = Uptake(1.0, suv, how, basis)
            return _Meaning(_mapped(slices, found), _SUV_UNITS[suv], how=(how,), mappings=found, uptake=mapped)
        unit = _SUV_UNITS[taken.kind]
        return _Meaning(slices, unit, taken.factor, (f"{unit} {taken.how}",), uptake=taken)
    _require_rescaling(info, slices, all_of_them=False)
    others = named(told, [(frame.slope, frame.intercept) for frame in slices.frames])
    return _Meaning(slices, _unit(slices.headers[0], slices.frames), how=others)


def _require_rescaling(info: SeriesInfo, slices: Slices, *, all_of_them: bool) -> None:
    """Refuse slices without Rescale Slope and Intercept where others have them, or, for SUV, any without."""
    without = [frame.plane.name for frame in slices.frames if not frame.rescaled]
    changes = any((frame.slope, frame.intercept) != (1, 0) for frame in slices.frames)
    if without and (all_of_them or changes):
        raise SeriesError(
            found=f"series {info.key}: {len(without)} of {len(slices.frames)} slices have no Rescale Slope and Rescale "
            f"Intercept, such as {without[0]}",
            expected="both in every slice: without them its values are in another unit than those of the others",
            fix="export the series again"
            + (", or read its values as they are stored (suv='none', --suv none)" if not changes else ""),
        )


def _mapped(slices: Slices, mappings: Sequence[RealWorld]) -> Slices:
    frames = [
        replace(frame, slope=each.slope or 0.0, intercept=each.intercept or 0.0)
        for frame, each in zip(slices.frames, mappings, strict=True)
    ]
    return replace(slices, frames=frames)


def _check_listed(info: SeriesInfo, allowed: frozenset[str]) -> None:
    if info.verdict not in allowed or not info.files:
        raise SeriesError(
            found=f"series {info.key}: {info.verdict if info.files else 'listed without its files'}"
            + (f": {info.reason}" if info.reason else ""),
            expected="a series with verdict 'regular' or 'single', straight from list_series",
            fix="list the folder again, and choose a series that can be read",
        )


def slices_of(info: SeriesInfo) -> Slices:
    """Read the headers of a listed series again, and see that its slices are still those.

    Raises
    ------
    SeriesError
        If they are not.
    """
    names = names_of(info.files)
    headers = [read_header(Path(file), name) for file, name in zip(info.files, names, strict=True)]
    all_frames: dict[tuple[int, int], Frame] = {}
    for index, (header, name) in enumerate(zip(headers, names, strict=True)):
        for frame in frames_of(header, name, index):
            all_frames[index, frame.index] = frame
    listed = info.frames or tuple(all_frames)
    chosen = [all_frames[place] for place in listed if place in all_frames]
    if len(chosen) < len(listed) or (info.volume is None and len(chosen) != len(all_frames)):
        raise _changed(info, f"{len(all_frames)} slices in place of {info.n_slices}")
    audited = audit([frame.plane for frame in chosen])
    # A series that a DICOMDIR names more files of is regular in those that are there.
    if audited.verdict not in (info.verdict, "regular") or len(chosen) != info.n_slices:
        raise _changed(info, audited.reason or f"{len(chosen)} slices in place of {info.n_slices}")
    ordered = [chosen[index] for index in audited.order]
    return Slices(ordered, headers, info.files, names, audited)


def _changed(info: SeriesInfo, now: str) -> SeriesError:
    return SeriesError(
        found=f"series {info.key} is no longer as it was listed: {now}",
        expected="the same files that list_series found",
        fix="list the folder again when no program writes to it",
    )


class _TooWideError(Exception):
    """A value does not fit the type that was tried."""


def _read(slices: Slices, progress: Progress | None, *, mapped: bool) -> NDArray[Any]:
    """Return the rescaled values, shape (K, J, I)."""
    types = _result_types(slices.frames, slices.headers)
    for kind in types[:-1]:
        try:
            return _read_as(slices, kind, progress, mapped=mapped)
        except _TooWideError:
            continue
    return _read_as(slices, types[-1], progress, mapped=mapped)


def _read_as(slices: Slices, kind: type[np.generic], progress: Progress | None, *, mapped: bool) -> NDArray[Any]:
    first = slices.frames[0].plane
    places: dict[int, list[tuple[int, int]]] = {}
    for k, frame in enumerate(slices.frames):
        places.setdefault(frame.file, []).append((k, frame.index))
    for file in places:
        _check_size(slices.headers[file], slices.names[file])
    array = room((len(slices.frames), first.rows, first.columns), kind, mapped=mapped)

    def work(file: int) -> None:
        _read_file(slices, file, places[file], array)
        release_pages(array)

    done = 0
    # A list of what was found in order: the error that is shown does not depend on which thread was first.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, file) for file in places]
        try:
            for future in futures:
                future.result()
                done += 1
                if progress is not None:
                    progress(done, len(futures))
        finally:
            for future in futures:
                future.cancel()
    return array


def _check_size(header: Elements, name: str) -> None:
    """Refuse a native file with fewer bytes than its header says, before memory is taken for them."""
    if not is_encapsulated(transfer_syntax_uid(header)):
        native_place(header, 0, name)


def _read_file(slices: Slices, file: int, places: Sequence[tuple[int, int]], array: NDArray[Any]) -> None:
    """Read the frames of one file into their slices."""
    header, name = slices.headers[file], slices.names[file]
    try:
        with opened(Path(slices.files[file])) as handle:
            if handle.size != header.file_size:
                raise damaged(name, "it changed while the series was read")
            if _is_plain(header, array):
                for k, index in places:
                    stored = _read_plain(handle, header, name, index, array[k])
                    _rescale_into(array[k], stored, slices.frames[k])
                return
            slice_of = {index: k for k, index in places}
            for index, stored in _stored(handle, header, name, list(slice_of)):
                _rescale_into(array[slice_of[index]], stored, slices.frames[slice_of[index]])
    except OSError as error:
        raise unreadable(name, error) from error


def _is_plain(header: Elements, array: NDArray[Any]) -> bool:
    """Whether stored values can be read straight into the result."""
    kind = stored_type(header)
    native = not is_encapsulated(transfer_syntax_uid(header)) and not is_mosaic(header)
    inflated = header.pixels is not None and header.pixels.inflated is not None
    return native and not inflated and kind.itemsize == array.dtype.itemsize > 1 and array.dtype.kind == "i"


def _read_plain(handle: Opened, header: Elements, name: str, index: int, out: NDArray[Any]) -> NDArray[Any]:
    """Read a native frame into the bytes of its slice, and return these as the stored values."""
    kind = stored_type(header)
    offset, length = native_place(header, index, name)
    if handle.read_into(offset, memoryview(out.data)) < length:
        raise damaged(name, "it became shorter while it was read")
    if not kind.isnative:
        out.byteswap(inplace=True)
    return used_bits(out.view(kind.newbyteorder("=")), header, name)


def _stored(handle: Opened, header: Elements, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    if not is_mosaic(header):
        yield from decoded(handle, header, name, wanted)
        return
    tiles = tiles_of(header)
    for _, picture in decoded(handle, header, name, [0]):
        cut = picture.reshape(tiles.down, tiles.rows, tiles.across, tiles.columns).swapaxes(1, 2)
        for index in wanted:
            yield index, cut[index // tiles.across, index % tiles.across]


def _result_types(frames: Sequence[Frame], headers: Sequence[Elements]) -> tuple[type[np.generic], ...]:
    """Return the types to try, the smallest first; the last holds every value that the headers allow.

    Whole numbers are tried in int16 first: 16 bits are stored, and nearly always fewer are used.
    """
    low, high = 0, 0
    for slope, intercept, file in {(frame.slope, frame.intercept, frame.file) for frame in frames}:
        if not (slope.is_integer() and intercept.is_integer()):
            return (np.float32,)
        bits = whole(headers[file], "BitsStored") or 16
        first, last = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if whole(headers[file], "PixelRepresentation")
            else (0, 2**bits - 1)
        )
        ends = [x * int(slope) + int(intercept) for x in (first, last)]
        low, high = min(low, *ends), max(high, *ends)
    for kinds in ((np.int16,), (np.int16, np.int32)):
        if np.iinfo(kinds[-1]).min <= low and high <= np.iinfo(kinds[-1]).max:
            return kinds
    return (np.int16, np.int32, np.float64)


def _rescale_into(out: NDArray[Any], stored: NDArray[Any], frame: Frame) -> None:
    """Write stored value times slope plus intercept of one slice (DICOM PS3.3 C.11.1.1.2).

    `stored` may be a view of `out`.

    Raises
    ------
    _TooWideError
        If a value does not fit the integers of `out`.
    """
    if out.dtype.kind == "f":
        np.multiply(stored, np.float64(frame.slope), out=out, casting="unsafe")
        if frame.intercept:
            np.add(out, np.float64(frame.intercept), out=out, casting="unsafe")
        return
    slope, intercept = int(frame.slope), int(frame.intercept)
    limits = np.iinfo(out.dtype)
    ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
    if min(ends) < limits.min or max(ends) > limits.max:
        raise _TooWideError
    # The result fits, so arithmetic that wraps around comes out at it: no wider copy of the slice is needed.
    span = 1 << limits.bits
    if stored.dtype.itemsize == out.dtype.itemsize:
        bits = stored.view(out.dtype)
        if bits.ctypes.data != out.ctypes.data:
            out[...] = bits
    else:
        out[...] = stored.astype(out.dtype)
    if slope != 1:
        out *= out.dtype.type((slope - limits.min) % span + limits.min)
    if intercept:
        out += out.dtype.type((intercept - limits.min) % span + limits.min)


def _unit(header: Elements, frames: Sequence[Frame]) -> Unit:
    modality, units = text(header, "Modality"), text(header, "Units")
    if modality == "CT" and all(frame.rescale_type in (None, "HU") for frame in frames):
        return "HU"
    if modality == "PT" and units == "BQML":
        return "Bq/mL"
    # PS3.3 C.8.9.1: with Units GML, an absent SUV Type means body weight.
    if modality == "PT" and units == "GML" and text(header, "SUVType") in (None, "BW"):
        return "SUVbw"
    return "1"
