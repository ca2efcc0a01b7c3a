"""A corrected study in the record of its cohort: its numbers are renewed, and no later run takes it for damaged."""

from __future__ import annotations

from pathlib import Path

from voxmetry.core.records import StudyResult
from voxmetry.workflows.cohort.database import NAME, CohortRecord, reading
from voxmetry.workflows.cohort.progress import mark_of
from voxmetry.workflows.cohort.records import FileMark

_DEPTH = 10
"""Folders that a study may lie below its cohort."""


def cohort_of(folder: Path) -> tuple[Path, str] | None:
    """Return the cohort that a run's folder belongs to, and the folder's place in it; None where it is of none."""
    place = folder.absolute()
    for root in place.parents[:_DEPTH]:
        if (root / NAME).is_file():
            return root, place.relative_to(root).as_posix()
    return None


def note_correction(folder: Path, result: StudyResult) -> None:
    """Renew what the record of a cohort says of a study.

    Parameters
    ----------
    folder
        The study's folder; one that is of no cohort is passed over.
    result
        Its new result.

    Raises
    ------
    OutputError, FormatError
        If the record cannot be read or written.
    """
    found = cohort_of(folder)
    if found is None:
        return
    root, place = found
    with reading(root) as db:
        rows = db.execute("SELECT \"case\", model FROM studies WHERE place = ? AND state = 'done'", (place,)).fetchall()
    marks: dict[str, FileMark] = {}
    for name in result.files.values():
        mark = mark_of(folder / name)
        if mark is not None:
            marks[f"{place}/{name}"] = mark
    for row in rows:
        with CohortRecord(root) as record:
            record.corrected((row["case"], row["model"]), result, marks)
