"""Studies that were found twice: the same series under two paths, the same file under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from voxmetry.studies.records import Candidate, Fault, PlannedStudy

_ENDS = 1 << 16
_DUPLICATE = "Duplicate"


def mark_duplicates(studies: Sequence[PlannedStudy]) -> list[PlannedStudy]:
    """Turn all but the first of what is the same into duplicates, and refuse a name that is taken.

    A DICOM series is known by its UID, a file by its bytes. Of files only those of one size are read: their ends first,
    all of them where the ends agree.
    """
    first_of = {**_by_series(studies), **_by_content(studies)}
    marked: list[PlannedStudy] = []
    taken: dict[tuple[str, str], str] = {}
    listed: dict[tuple[str, str, str], str] = {}
    for study in studies:
        path, series = study.candidate.path, study.candidate.series or ""
        first = first_of.get((path, series))
        if study.state != "waiting":
            marked.append(study)
        elif first is not None:
            state = "duplicate" if first.error == _DUPLICATE else "refused"
            marked.append(study.model_copy(update={"state": state, "fault": first}))
        elif (path, series, study.model) in listed:
            fault = _same(listed[path, series, study.model])
            marked.append(study.model_copy(update={"state": "duplicate", "fault": fault}))
        elif study.key in taken:
            marked.append(study.model_copy(update={"state": "refused", "fault": _name_taken(study)}))
        else:
            taken[study.key] = path
            listed[path, series, study.model] = study.case
            marked.append(study)
    return marked


Marks = dict[tuple[str, str], Fault]


def _by_series(studies: Iterable[PlannedStudy]) -> Marks:
    groups: dict[str, list[Candidate]] = {}
    for study in studies:
        candidate = study.candidate
        if candidate.series and candidate.fault is None:
            groups.setdefault(candidate.series, []).append(candidate)
    marks: Marks = {}
    for group in groups.values():
        places = list({candidate.path: candidate for candidate in group}.values())
        for later in places[1:]:
            same = later.shape == places[0].shape
            fault = _same(places[0].case) if same else _parts(places[0].case)
            marks[later.path, later.series or ""] = fault
            if not same:
                marks[places[0].path, places[0].series or ""] = _parts(later.case)
    return marks


def _by_content(studies: Iterable[PlannedStudy]) -> Marks:
    files = {
        study.candidate.path: study.candidate.case
        for study in studies
        if study.candidate.format in ("NIfTI", "ITK") and study.candidate.fault is None
    }
    marks: Marks = {}
    for group in _of_one_size(files):
        if len(group) < 2:
            continue
        for same in _split(group, _ends):
            for equal in _split(same, _whole) if len(same) > 1 else []:
                for path in equal[1:]:
                    marks[path, ""] = _same(files[equal[0]])
    return marks


def _of_one_size(paths: Iterable[str]) -> Iterable[list[str]]:
    return _split(list(paths), lambda path: str(Path(path).stat().st_size))


def _split(paths: Sequence[str], key: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return list(groups.values())


def _ends(path: str) -> str:
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read())
    return digest.hexdigest()


def _whole(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(case: str) -> Fault:
    return Fault(
        error=_DUPLICATE,
        found=f"the same image as {case}",
        expected="each image once",
        fix="nothing: it runs once, under the other name",
    )


def _parts(case: str) -> Fault:
    return Fault(
        error="SeriesError",
        found=f"its series is in {case} as well, with another number of slices",
        expected="all slices of a series in one folder",
        fix="put them together, or name the folder above both in a manifest",
    )


def _name_taken(study: PlannedStudy) -> Fault:
    return Fault(
        error="InputError",
        found=f"another study is called {study.case} as well",
        expected="a name of its own for each study: the path without suffix, or the column case of a manifest",
        fix="rename one of the two",
    )
