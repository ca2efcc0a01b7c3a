"""What lies in a folder tree: DICOM series and image files, from headers alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from voxmetry.core.records import SeriesInfo
from voxmetry.core.text import visible
from voxmetry.errors import InputError, VoxmetryError
from voxmetry.io.dicom.read.find import DICOM_SUFFIXES, could_be_a_slice, leads_nowhere
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.workflows.cohort.oddities import alone, is_text, odd, shown
from voxmetry.workflows.cohort.records import Candidate, Fault

Known = Mapping[str, tuple[Candidate, ...]]
"""What earlier runs found, by `key_of` path and fingerprint, so that headers are read once."""


def find_studies(
    root: Path, *, leave_out: Path | None = None, known: Known | None = None, tell: Callable[[int], None] | None = None
) -> Found:
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
    Found
        The images in the order of their names; what cannot be used comes with its reason in `fault`. A folder of label
        maps beside the images is left out, and a note says so.

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
    notes: list[str] = []
    for folder, names in _folders(root, leave_out, found):
        if folder != root and label_maps_of(folder):
            n = sum(suffix_of(folder / name) in (*NIFTI, *ITK) for name in names)
            if n:
                notes.append(_left_out(folder, root, n))
                continue
        found += _look_into(folder, names, root, known)
        if tell:
            tell(len(found))
    if not found:
        raise InputError(
            found=f"no image below {root.name or root}",
            expected=f"DICOM files, or names that end in {', '.join((*NIFTI, *ITK))}",
            fix="check the path",
        )
    return Found(tuple(found), tuple(notes))


class Found(NamedTuple):
    """What lies in a source, and what was left out of it, in words."""

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


def _look_into(folder: Path, names: Sequence[str], root: Path, known: Known | None) -> list[Candidate]:
    """Look at the files of one folder, each by itself."""
    found: list[Candidate] = []
    dicom, strays = [], []
    for name in names:
        path = folder / name
        fault = odd(path)
        if fault is not None:
            found.append(shown(_without_suffix(_inside(path, root), path), fault))
            if could_be_a_slice(path.name) and not fault.found.endswith(PASSED_OVER):
                strays.append(fault)
        elif suffix_of(path) in (*NIFTI, *ITK):
            found.append(image_candidate(path, case_of(path, root), known=known))
        elif is_text(path) and not leads_nowhere(str(path)):
            dicom.append(path)
    if dicom:
        series = dicom_candidates(folder, dicom, root, known=known)
        if strays:
            # A slice that cannot be read may be the first or the last one of any of them.
            missing = _beside(len(strays), strays[0].found)
            series = tuple(one.model_copy(update={"fault": one.fault or missing, "verdict": ""}) for one in series)
        found += series
    return found


PASSED_OVER = ("is a named pipe", "is a socket", "is a device")
LABEL_FOLDERS = re.compile(r"^(labels?|masks?|segmentations?|labels(tr|ts|val|_train|_test))$", re.IGNORECASE)
IMAGE_FOLDERS = re.compile(r"^(images?|images(tr|ts|val|_train|_test))$", re.IGNORECASE)


def label_maps_of(folder: Path) -> bool:
    """Whether a folder holds the label maps of images that lie beside it, by its name and what else is there.

    Examples
    --------
    >>> label_maps_of(Path("/nowhere/labels"))
    False
    """
    if not LABEL_FOLDERS.match(folder.name):
        return False
    try:
        beside = [entry for entry in folder.parent.iterdir() if entry != folder]
        return any(
            IMAGE_FOLDERS.match(entry.name) if entry.is_dir() else suffix_of(entry) in (*NIFTI, *ITK)
            for entry in beside
        )
    except OSError:
        return False


def _left_out(folder: Path, root: Path, n: int) -> str:
    inside = visible(folder.relative_to(root).as_posix())
    files = "1 label map" if n == 1 else f"{n} label maps"
    return (
        f"{files} in {inside} beside the images: not counted as studies. To compare results with them, add "
        f"--references {visible(str(folder))}"
    )


def _folders(root: Path, leave_out: Path | None, found: list[Candidate]) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with the names of its visible files; links are followed, each folder comes once.

    What cannot be opened is added to `found` with its reason.
    """
    seen: set[str] = set()
    skip = os.path.realpath(leave_out) if leave_out else None

    def refuse(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or ""))
        found.append(shown(_inside(path, root), _closed(path, error)))

    for parent, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen or real == skip:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if not is_text(Path(name))]:
            folders.remove(name)
            path = Path(parent, name)
            found.append(shown(_inside(path, root), _no_text(path)))
        yield Path(parent), sorted(name for name in files if not name.startswith("."))


def _closed(path: Path, error: OSError) -> Fault:
    return Fault(
        error="InputError",
        found=f"the folder {visible(path.name)} cannot be opened: {error.strerror or type(error).__name__}",
        expected="folders that may be read: studies inside are missing from this cohort",
        fix="change its permissions, or move it out of the input",
    )


def _no_text(path: Path) -> Fault:
    return Fault(
        error="InputError",
        found=f"the folder {visible(path.name)} has a name that is not UTF-8",
        expected="names that are text: results could not say what they are of",
        fix="rename it; what is inside was not looked at",
    )


def case_of(path: Path, root: Path) -> str:
    """Name a case after its path inside the input, without suffix.

    Examples
    --------
    >>> case_of(Path("/in/site_a/case_7.nii.gz"), Path("/in"))
    'site_a/case_7'
    """
    inside = visible(_inside(path, root))
    return inside if path.is_dir() else _without_suffix(inside, path)


def _without_suffix(name: str, path: Path) -> str:
    suffix = suffix_of(path) if path.suffix else ""
    return name[: len(name) - len(suffix)] if suffix in (*NIFTI, *ITK) else name


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def image_candidate(path: Path, case: str, *, known: Known | None = None) -> Candidate:
    """Describe one image file by its header; the case is taken as it is given."""
    base = Candidate(case=case, path=str(path), format=_format(path))

    def look() -> Candidate:
        mark = fingerprint([path])
        for before in (known or {}).get(key_of(path, mark), ()):
            return before.model_copy(update={"case": case, "path": str(path)})
        marked = base.model_copy(update={"fingerprint": mark})
        return alone(lambda: _read_grid(path, marked), lambda fault: marked.model_copy(update={"fault": fault}))

    return alone(look, lambda fault: base.model_copy(update={"fault": _missing(path, fault)}))


def key_of(path: Path | str, mark: str) -> str:
    """Return what is remembered of an input is known by: a hash, so that no path is kept.

    Examples
    --------
    >>> len(key_of("/data/a.nii", "0" * 24))
    32
    """
    return hashlib.sha256(f"{path}|{mark}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read_grid(path: Path, base: Candidate) -> Candidate:
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
    from voxmetry.io.dicom.read.headers import looks_like_dicom

    # Text files and tables beside the images are no studies; a file named as DICOM without being it is one that failed.
    inside = [path for path in files if path.suffix.lower() in DICOM_SUFFIXES or _begins(looks_like_dicom, path)]
    if not inside:
        return ()
    case = case_of(folder, root)
    base = Candidate(case=case, path=str(folder), format="DICOM")

    def look() -> tuple[Candidate, ...]:
        mark = fingerprint(inside)
        if before := (known or {}).get(key_of(folder, mark)):
            return tuple(one.model_copy(update={"path": str(folder)}) for one in before)
        marked = base.model_copy(update={"fingerprint": mark})
        return alone(
            lambda: _series_of(folder, inside, case, mark), lambda fault: (marked.model_copy(update={"fault": fault}),)
        )

    return alone(look, lambda fault: (base.model_copy(update={"fault": fault}),))


def _begins(looks_like_dicom: Callable[[Path], bool], path: Path) -> bool:
    """Whether a file is one to look at; what cannot even be opened is, so that its reason is told."""
    return alone(lambda: looks_like_dicom(path), lambda _: True)


def _series_of(folder: Path, inside: list[Path], case: str, mark: str) -> tuple[Candidate, ...]:
    from voxmetry.io.dicom.read.choose import is_stray

    infos = _list_one_folder(folder, inside)
    strays = [info for info in infos if is_stray(info)]
    images = [info for info in infos if info.verdict != "not an image" and info not in strays] or strays
    found = tuple(_series(info, folder, _series_case(case, info, len(images)), mark) for info in images)
    if not strays:
        return found
    # A damaged file may be the first or last slice of any of them, where no gap would show that it is lost.
    missing = _beside(strays[0].n_files, strays[0].reason)
    return tuple(one.model_copy(update={"fault": one.fault or missing, "verdict": ""}) for one in found)


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


def _beside(n: int, reason: str) -> Fault:
    return Fault(
        error="SeriesError",
        found=f"{n} damaged {'file' if n == 1 else 'files'} beside it: {reason}",
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


def _missing(path: Path, fault: Fault) -> Fault:
    return fault.model_copy(update={"found": fault.found.replace("it cannot be", f"{visible(path.name)} cannot be", 1)})
