"""Studies that were found twice: the same series under two paths, the same file under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from voxmetry.workflows.cohort.multi_input import Image, image_of
from voxmetry.workflows.cohort.records import Candidate, Fault, PlannedStudy

_ENDS = 1 << 16


def mark_duplicates(studies: Sequence[PlannedStudy]) -> list[PlannedStudy]:
    """Turn all but the first of what is the same into duplicates, and refuse a name that is taken.

    A DICOM series is known by its UID, a file by its bytes, a study of several images by all of them. Of files only
    those of one size are read: their ends first, all of them where the ends agree.
    """
    images = {
        image_of(image): (image, study.case)
        for study in reversed(studies)
        if study.state == "waiting"
        for image in study.candidate.images
    }
    series, parted = _by_series(images)
    same = {**series, **_by_content(images)}
    first: dict[tuple[object, ...], str] = {}
    taken: set[tuple[str, str]] = set()
    marked: list[PlannedStudy] = []
    for study in studies:
        mine = [image_of(image) for image in study.candidate.images]
        known_as = (study.model, *(same.get(image, image) for image in mine))
        in_parts = next((parted[image] for image in mine if image in parted), None)
        if study.state != "waiting":
            marked.append(study)
        elif in_parts is not None:
            marked.append(study.model_copy(update={"state": "refused", "fault": in_parts}))
        elif known_as in first:
            marked.append(study.model_copy(update={"state": "duplicate", "fault": _same(first[known_as])}))
        elif study.key in taken:
            marked.append(study.model_copy(update={"state": "refused", "fault": _name_taken(study)}))
        else:
            taken.add(study.key)
            first[known_as] = study.case
            marked.append(study)
    return marked


Images = Mapping[Image, tuple[Candidate, str]]
"""Each image with the name of the first case that has it, the last image first."""


def _by_series(images: Images) -> tuple[dict[Image, Image], dict[Image, Fault]]:
    """Return which series are another one again, and which are in parts in several folders."""
    groups: dict[str, list[Image]] = {}
    for image, (candidate, _) in images.items():
        if candidate.series:
            groups.setdefault(candidate.series, []).insert(0, image)
    same: dict[Image, Image] = {}
    parted: dict[Image, Fault] = {}
    for first, *others in groups.values():
        for later in others:
            if images[later][0].shape == images[first][0].shape:
                same[later] = first
            else:
                parted[later] = _parts(images[first][1])
                parted[first] = _parts(images[later][1])
    return same, parted


def _by_content(images: Images) -> dict[Image, Image]:
    paths = [path for (path, _), (candidate, _) in images.items() if candidate.format in ("NIfTI", "ITK")][::-1]
    same: dict[Image, Image] = {}
    for group in _of_one_size(paths):
        if len(group) < 2:
            continue
        for alike in _split(group, _ends):
            for equal in _split(alike, _whole) if len(alike) > 1 else []:
                same |= {(path, ""): (equal[0], "") for path in equal[1:]}
    return same


def _of_one_size(paths: Iterable[str]) -> Iterable[list[str]]:
    return _split(list(paths), lambda path: str(Path(path).stat().st_size))


def _split(paths: Sequence[str], key: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        try:
            mark = key(path)
        except OSError:
            # It went away, or can no longer be read: its own study will say so.
            mark = f"unread {path}"
        groups.setdefault(mark, []).append(path)
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
        error="Duplicate",
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
