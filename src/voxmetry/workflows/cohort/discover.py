"""What lies in a folder tree: DICOM series and image files, from headers alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from voxmetry.core.records import SeriesInfo
from voxmetry.errors import InputError, VoxmetryError
from voxmetry.io.read import ITK, NIFTI, suffix_of
from voxmetry.workflows.cohort.records import Candidate, Fault

Known = Mapping[str, tuple[Candidate, ...]]
"""What earlier runs found, by path and fingerprint, so that headers are read once."""


def find_studies(
    root: Path, *, leave_out: Path | None = None, known: Known | None = None, tell: Callable[[int], None] | None = None
) -> tuple[Candidate, ...]:
    """Find every image below a folder, in any mixture of DICOM and image files.

    Parameters
    ----------
    root
        The folder. Hidden files and folders are passed over. A folder that holds DICOM files stands, with what is
        below it, for the series inside.
    leave_out
        A folder below it that is not looked into, such as that of the results.
    known
        What an earlier run found at a path with the same fingerprint.
    tell
        Called now and then with the number found so far.

    Returns
    -------
    tuple of Candidate
        In the order of their names. What cannot be used comes with its reason in `fault`.

    Raises
    ------
    InputError
        If there is no such folder, or nothing in it.
    """
    if not root.is_dir():
        raise InputError(
            found=f"no folder {root.name or root}",
            expected="a folder of studies, a CSV manifest or a BIDS data set",
            fix="check the path",
        )
    found: list[Candidate] = []
    for folder, names in _folders(root, leave_out):
        dicom = []
        for name in names:
            path = folder / name
            if suffix_of(path) in (*NIFTI, *ITK):
                found.append(image_candidate(path, case_of(path, root), known=known))
            else:
                dicom.append(path)
        if dicom:
            found += dicom_candidates(folder, dicom, root, known=known)
        if tell:
            tell(len(found))
    if not found:
        raise InputError(
            found=f"no image below {root.name or root}",
            expected=f"DICOM files, or names that end in {', '.join((*NIFTI, *ITK))}",
            fix="check the path",
        )
    return tuple(found)


def _folders(root: Path, leave_out: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with the names of its visible files; links are followed, each folder comes once."""
    seen: set[str] = set()
    skip = os.path.realpath(leave_out) if leave_out else None
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in seen or real == skip:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(parent), sorted(name for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise InputError(
        found=f"the folder {Path(str(error.filename)).name} cannot be opened: {error.strerror}",
        expected="folders that may be read: studies inside would be missing without a word",
        fix="change its permissions, or move it out of the input",
    ) from error


def case_of(path: Path, root: Path) -> str:
    """Name a case after its path inside the input, without suffix.

    Examples
    --------
    >>> case_of(Path("/in/site_a/case_7.nii.gz"), Path("/in"))
    'site_a/case_7'
    """
    inside = path.relative_to(root).as_posix() if path != root else path.name
    suffix = suffix_of(path) if path.suffix and not path.is_dir() else ""
    return inside[: len(inside) - len(suffix)] if suffix in (*NIFTI, *ITK) else inside


def image_candidate(path: Path, case: str, *, known: Known | None = None) -> Candidate:
    """Describe one image file by its header; the case is taken as it is given."""
    mark = ""
    try:
        mark = fingerprint([path])
        for before in (known or {}).get(f"{path}|{mark}", ()):
            return before.model_copy(update={"case": case})
        return _read_grid(path, case, mark)
    except VoxmetryError as error:
        return Candidate(case=case, path=str(path), format=_format(path), fingerprint=mark, fault=fault(error))
    except OSError as error:
        return Candidate(case=case, path=str(path), format=_format(path), fault=_missing(path, error))


def _read_grid(path: Path, case: str, mark: str) -> Candidate:
    base = Candidate(case=case, path=str(path), format=_format(path), fingerprint=mark)
    if suffix_of(path) not in NIFTI:
        return base
    from voxmetry.io.nifti import read_nifti_grid

    geometry, dtype = read_nifti_grid(path)
    facts = {"shape": geometry.shape, "spacing_mm": geometry.spacing_mm, "itemsize": dtype.itemsize}
    return base.model_copy(update=facts)


def _format(path: Path) -> str:
    return "NIfTI" if suffix_of(path) in NIFTI else "ITK" if suffix_of(path) in ITK else "unknown"


def dicom_candidates(
    folder: Path, files: list[Path], root: Path, *, known: Known | None = None
) -> tuple[Candidate, ...]:
    """Describe each series of one folder; nothing where none of the files is DICOM."""
    from voxmetry.io.dicom.read.choose import is_stray
    from voxmetry.io.dicom.read.headers import looks_like_dicom

    # Text files and tables beside the images are no studies; a file named as DICOM without being it is one that failed.
    inside = [path for path in files if path.suffix.lower() in (".dcm", ".ima", ".dicom") or looks_like_dicom(path)]
    if not inside:
        return ()
    mark = fingerprint(inside)
    if before := (known or {}).get(f"{folder}|{mark}"):
        return before
    case = case_of(folder, root)
    try:
        infos = _list_one_folder(folder, inside)
    except VoxmetryError as error:
        return (Candidate(case=case, path=str(folder), format="DICOM", fingerprint=mark, fault=fault(error)),)
    strays = [info for info in infos if is_stray(info)]
    images = [info for info in infos if info.verdict != "not an image" and info not in strays] or strays
    found = tuple(_series(info, folder, _series_case(case, info, len(images)), mark) for info in images)
    if not strays:
        return found
    # A damaged file may be the first or last slice of any of them, where no gap would show that it is lost.
    return tuple(
        candidate.model_copy(update={"fault": candidate.fault or _beside(strays[0]), "verdict": ""})
        for candidate in found
    )


def _list_one_folder(folder: Path, files: list[Path]) -> tuple[SeriesInfo, ...]:
    from voxmetry.io.dicom.read.series import list_files

    return list_files(files, folder)


def _series_case(case: str, info: SeriesInfo, n: int) -> str:
    """Name a series after its folder; where that holds several, with its number and the end of a hash."""
    if n == 1:
        return case
    tail = hashlib.sha256(info.key.encode()).hexdigest()[:6]
    return f"{case}/series-{info.number if info.number is not None else 'x'}-{tail}"


def _series(info: SeriesInfo, folder: Path, case: str, mark: str) -> Candidate:
    size = (info.columns, info.rows, info.n_slices)
    return Candidate(
        case=case,
        path=str(folder),
        series=info.key or None,
        study_uid=info.study_uid,
        verdict=info.verdict,
        format="DICOM",
        modality=info.modality,
        description=info.description,
        body_part=info.body_part,
        shape=size if all(size) else None,
        spacing_mm=info.spacing_mm,
        fingerprint=mark,
        fault=None if info.readable else _unreadable(info),
    )


def _unreadable(info: SeriesInfo) -> Fault:
    return Fault(
        error="SeriesError",
        found=f"{info.verdict}: {info.reason}",
        expected="a series that is complete and regular",
        fix="export the series again; `voxmetry inspect` shows it",
    )


def _beside(strays: SeriesInfo) -> Fault:
    return Fault(
        error="SeriesError",
        found=f"{strays.n_files} damaged files beside it: {strays.reason}",
        expected="a folder without damaged files: one of them may be a slice of this series",
        fix="export them again, or move them away if the series is complete without them",
    )


def fingerprint(files: list[Path]) -> str:
    """Return a short hash of names, sizes and times: it changes when the input does, and costs no reading.

    Raises
    ------
    OSError
        If a file is gone.
    """
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def fault(error: VoxmetryError) -> Fault:
    """Turn an error of this package into a record."""
    return Fault.model_validate(error.to_dict())


def _missing(path: Path, error: OSError) -> Fault:
    return Fault(
        error="InputError",
        found=f"{path.name} cannot be read: {error.strerror or type(error).__name__}",
        expected="a file that exists and may be read",
        fix="check the path and the permissions",
    )
