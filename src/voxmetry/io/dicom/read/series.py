"""Which series lie in a folder, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydicom.uid import UID

from voxmetry.core.geometry import Geometry
from voxmetry.core.progress import Progress
from voxmetry.core.records import SeriesInfo, SeriesVerdict
from voxmetry.errors import InputError, SeriesError
from voxmetry.io.dicom.read.choose import phase_in
from voxmetry.io.dicom.read.copies import without_copies
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.find import Found, find, find_among, leads_nowhere
from voxmetry.io.dicom.read.frames import Frame, frames_of, names_of
from voxmetry.io.dicom.read.grid import plane_name
from voxmetry.io.dicom.read.headers import (
    Header,
    lenient,
    sop_class_uid,
    text,
    transfer_syntax_uid,
    whole,
)
from voxmetry.io.dicom.read.kinds import VOLUME_CLASSES, not_an_image, shown, undecodable
from voxmetry.io.dicom.read.split import Part, split


def list_series(path: str | os.PathLike[str], *, progress: Progress | None = None) -> tuple[SeriesInfo, ...]:
    """List the DICOM series at a path from headers alone, with a verdict on each.

    Parameters
    ----------
    path
        A folder, which is searched with all its subfolders; a zip archive, which is not unpacked; a DICOMDIR, which
        stands for the files that it names; or one DICOM file, which stands for its series as far as it lies in the
        same folder. Files need no particular name; files that are not DICOM are passed over.
    progress
        Called with the number of files that were looked at, and of all.

    Returns
    -------
    tuple of SeriesInfo
        By series number. Those with verdict 'regular' or 'single' can be read. Files that are damaged, or named as
        DICOM without being it, and links to files that are not there, come as a last entry without modality and series
        UID.

    Raises
    ------
    InputError
        If there is nothing at the path, or no DICOM file in it.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(
            found=f"nothing at {source.name or source}",
            expected="a folder of DICOM files, or one of them",
            fix="check the path",
        )
    with lenient():
        return _list(source, progress)


def _list(source: Path, progress: Progress | None) -> tuple[SeriesInfo, ...]:
    found = find(source, progress)
    headers, damaged = found.headers, found.damaged
    if any(header.path == source for header in headers) or damaged == [source]:
        headers, damaged = _with_same_series(headers, damaged, source)
    if not headers and not damaged:
        raise InputError(
            found=f"no DICOM file in {source.name or source}",
            expected="at least one DICOM file, with any name",
            fix="check the path; images in NIfTI, NRRD or MetaImage form are given by their file, not their folder",
        )
    return _grouped(headers, damaged, found)


def list_files(files: Sequence[Path], folder: Path) -> tuple[SeriesInfo, ...]:
    """List the series of these files alone, as `list_series` does for all files of a folder.

    Parameters
    ----------
    files
        They lie below `folder`; those that are not DICOM are passed over.
    folder
        What their names in a verdict are relative to.
    """
    with lenient():
        found = find_among(files, folder)
        return _grouped(found.headers, found.damaged, found)


def _grouped(headers: Sequence[Header], damaged: list[Path], found: Found) -> tuple[SeriesInfo, ...]:
    groups: dict[tuple[str, ...], list[Header]] = {}
    for header in headers:
        key = _series_key(header)
        if key is None:
            damaged.append(header.path)
        else:
            groups.setdefault(key, []).append(header)
    infos = [
        _beside(_held_against(info, found.lost), found.passed) for group in groups.values() for info in describe(group)
    ]
    infos.sort(key=lambda info: (info.number is None, info.number or 0, info.series_uid, info.volume or 0))
    strays = [_strays(damaged)] if damaged else []
    return (*infos, *strays, *_passed(found.passed))


def _beside(info: SeriesInfo, passed: Mapping[Path, str]) -> SeriesInfo:
    """Say with a series what was passed over in its own folders: it may have been one of its slices."""
    if not passed or not info.readable:
        return info
    folders = {Path(file).parent for file in info.files}
    told = [
        # How many, and no names: this goes into results, and files may be named after patients.
        f"passed over: {why} ({len(paths)} in its folders)"
        for why, paths in _by_reason({path: why for path, why in passed.items() if path.parent in folders})
    ]
    return info.model_copy(update={"processing": (*info.processing, *told)})


def _by_reason(passed: Mapping[Path, str]) -> list[tuple[str, list[Path]]]:
    return [(why, [path for path in passed if passed[path] == why]) for why in dict.fromkeys(passed.values())]


def _passed(passed: Mapping[Path, str]) -> list[SeriesInfo]:
    """List what was passed over, for each reason."""
    return [
        SeriesInfo(
            series_uid="",
            n_files=len(paths),
            n_slices=0,
            verdict="not an image",
            reason=f"{why}: {shown(names_of([str(path) for path in paths]))}",
        )
        for why, paths in _by_reason(passed)
    ]


def _held_against(info: SeriesInfo, lost: dict[str, list[str]]) -> SeriesInfo:
    """Refuse a series of which a DICOMDIR names files that are not there: a lost last slice leaves no gap."""
    names = lost.get(info.series_uid) if info.series_uid else None
    if not names or not info.readable:
        return info
    reason = f"the DICOMDIR names {len(names)} more files of this series that are not there: {shown(sorted(names))}"
    return info.model_copy(update={"verdict": "missing", "reason": reason})


def _series_key(header: Header) -> tuple[str, ...] | None:
    """Return what the files of one series share; None for a file that says too little to belong anywhere.

    Some tools that remove identities blank the Series Instance UID: then folder, study and modality must do, and the
    audit finds out whether that made one grid.
    """
    dataset = header.dataset
    if uid := text(dataset, "SeriesInstanceUID"):
        return (uid,)
    modality = text(dataset, "Modality")
    if modality is None:
        return None
    parts = (text(dataset, keyword) or "" for keyword in ("StudyInstanceUID", "SeriesNumber", "SeriesDescription"))
    return (str(header.path.parent), modality, *parts)


def describe(headers: Sequence[Header]) -> tuple[SeriesInfo, ...]:
    """Make the records of one series, one a volume, from the headers of all its files."""
    headers, copies = without_copies(headers)
    names = names_of([str(header.path) for header in headers])
    others: dict[str, list[int]] = {}
    slices = []
    for index, header in enumerate(headers):
        kind = not_an_image(header)
        if kind is None:
            slices.append(index)
        else:
            others.setdefault(kind, []).append(index)
    found = [_plain([headers[i] for i in members], "not an image", kind) for kind, members in others.items()]
    volumes = _volumes([headers[i] for i in slices], [names[i] for i in slices]) if slices else []
    if len(volumes) > 1:
        volumes = [
            info.model_copy(
                update={
                    "volume": number,
                    "n_volumes": len(volumes),
                    "reason": _joined_reason(info) if info.joins else info.reason,
                }
            )
            for number, info in enumerate(volumes, start=1)
        ]
    if copies:
        told = f"dropped: {copies} files that are copies, byte for byte, of others"
        volumes = [info.model_copy(update={"processing": (*info.processing, told)}) for info in volumes]
    return (*volumes, *found)


def _joined_reason(info: SeriesInfo) -> str:
    parts = " and ".join(f"#{number}" for number in info.joins)
    return f"{info.reason}; {parts} are its parts, and --allow-uneven (allow_uneven=True) reads it as a whole"


def _volumes(headers: Sequence[Header], names: Sequence[str]) -> list[SeriesInfo]:
    for header, name in zip(headers, names, strict=True):
        if problem := undecodable(header, name):
            return [_plain(headers, "unreadable", problem)]
    frames: list[Frame] = []
    try:
        for index, (header, name) in enumerate(zip(headers, names, strict=True)):
            frames += frames_of(header.dataset, name, index)
    except SeriesError as error:
        return [_plain(headers, "unreadable", error.found)]
    parts = split(frames, _modality(headers[0].dataset))
    return [_record(headers, part, alone=len(parts) == 1) for part in parts]


def _record(headers: Sequence[Header], part: Part, *, alone: bool) -> SeriesInfo:
    """Make the record of one volume."""
    audited = part.audit
    ordered = [part.frames[index] for index in audited.order]
    # dict keeps the first of each: an enhanced file is one file however many slices it holds.
    files = list(dict.fromkeys(frame.file for frame in ordered))
    place = {file: index for index, file in enumerate(files)}
    geometry, plane = audited.geometry, ordered[0].plane
    usable = audited.verdict not in ("unreadable", "mixed")
    return _plain([headers[file] for file in files], audited.verdict, audited.reason).model_copy(
        update={
            "n_slices": audited.n_slices,
            "rows": plane.rows,
            "columns": plane.columns,
            "spacing_mm": _rounded(geometry) if geometry else None,
            "axcodes": geometry.axcodes if geometry else None,
            "thickness_mm": plane.thickness_mm,
            "plane": plane_name(plane) if usable else None,
            "differs": {} if alone else part.differs,
            "joins": tuple(index + 1 for index in part.joins),
            "frames": tuple((place[frame.file], frame.index) for frame in ordered),
        }
    )


def _plain(headers: Sequence[Header], verdict: SeriesVerdict, reason: str) -> SeriesInfo:
    """Make a record of what the first header says, for files in the order in which they were found."""
    first = headers[0].dataset
    class_uid, syntax_uid = sop_class_uid(first), transfer_syntax_uid(first)
    description, protocol = text(first, "SeriesDescription") or "", text(first, "ProtocolName") or ""
    return SeriesInfo(
        series_uid=text(first, "SeriesInstanceUID") or "",
        study_uid=text(first, "StudyInstanceUID"),
        frame_uid=text(first, "FrameOfReferenceUID"),
        modality=_modality(first),
        sop_class=UID(class_uid).name if class_uid else None,
        number=whole(first, "SeriesNumber"),
        description=description,
        body_part=text(first, "BodyPartExamined") or "",
        transfer_syntax=UID(syntax_uid).name if syntax_uid else None,
        image_type=text(first, "ImageType") or "",
        protocol=protocol,
        kernel=text(first, "ConvolutionKernel") or "",
        contrast=text(first, "ContrastBolusAgent") or "",
        phase=phase_in(f"{description} {protocol}"),
        n_files=len(headers),
        n_slices=0,
        rows=whole(first, "Rows"),
        columns=whole(first, "Columns"),
        verdict=verdict,
        reason=reason,
        files=tuple(str(header.path) for header in headers),
    )


def _modality(dataset: Elements) -> str | None:
    return text(dataset, "Modality") or VOLUME_CLASSES.get(sop_class_uid(dataset) or "")


def _rounded(geometry: Geometry) -> tuple[float, float, float]:
    """Return the spacing to the nanometre: positions are stored in 16 characters, and the rest is noise."""
    i, j, k = (round(step, 6) for step in geometry.spacing_mm)
    return (i, j, k)


def _strays(paths: Sequence[Path]) -> SeriesInfo:
    files = tuple(map(str, paths))
    gone = [file for file in files if leads_nowhere(file)]
    kinds = (
        ("damaged, or with neither Series Instance UID nor Modality", [file for file in files if file not in gone]),
        ("a link to a file that is not there", gone),
    )
    return SeriesInfo(
        series_uid="",
        n_files=len(files),
        n_slices=0,
        verdict="unreadable",
        reason="; ".join(f"{why}: {shown(names_of(named))}" for why, named in kinds if named),
        files=files,
    )


def _with_same_series(
    headers: Sequence[Header], damaged: Sequence[Path], source: Path
) -> tuple[list[Header], list[Path]]:
    own = [header for header in headers if header.path == source]
    if not own:
        return [], [path for path in damaged if path == source]
    key = _series_key(own[0])
    return [header for header in headers if _series_key(header) == key], list(damaged)
