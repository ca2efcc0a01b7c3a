"""A list of studies in a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from voxmetry.core.text import visible
from voxmetry.core.text_files import UNREADABLE, read_table, why_unreadable
from voxmetry.errors import ConfigError
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.workflows.cohort.discover import Known, case_of, dicom_candidates, image_candidate
from voxmetry.workflows.cohort.multi_input import combine
from voxmetry.workflows.cohort.oddities import alone, is_text, odd
from voxmetry.workflows.cohort.records import Candidate, Fault

FURTHER = ("study_2", "study_3", "study_4")
COLUMNS = ("study", *FURTHER, "case", "model", "modality", "series", "reference", "patient")


def read_manifest(path: Path, *, known: Known | None = None) -> tuple[Candidate, ...]:
    """Read a manifest.

    Parameters
    ----------
    path
        CSV with a head, as spreadsheets write it (commas, semicolons or tabs; UTF-8 or UTF-16). `study` is the path of
        a file or a DICOM folder, from the manifest's own folder where it is relative. Further columns, each optional:
        `case` (its name in the results), `model`, `modality` (CT, MR or PT), `series` (Series Instance UID),
        `reference` (a label map), `patient` (cases of one patient share it), and `study_2` to `study_4` for models of
        several inputs, in the model's order. A folder with several series serves each model with those of its
        modalities.
    known
        What an earlier run found.

    Returns
    -------
    tuple of Candidate
        One a row, in order. A row whose study is not there comes with its reason.

    Raises
    ------
    ConfigError
        If the file cannot be read, `study` is missing or a column is unknown.
    """
    try:
        table = read_table(path)
    except UNREADABLE as error:
        raise ConfigError(
            found=f"{path.name} cannot be read: {why_unreadable(error)}",
            expected="a CSV file in UTF-8 with a head",
            fix="check the path, and save the table as CSV (UTF-8)",
        ) from error
    _check_head(path, table.columns)
    return tuple(
        _candidate(row, path.parent, known, number, is_whole=number not in table.beyond)
        for row, number in zip(table.rows, table.lines, strict=True)
    )


def _check_head(path: Path, head: Iterable[str]) -> None:
    names = list(head)
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or "study" not in names or len(set(names)) < len(names):
        raise ConfigError(
            found=f"{path.name} has the columns {', '.join(names) or '(none)'}",
            expected=f"study, and any of {', '.join(COLUMNS[1:])}, each once",
            fix=f"rename or remove {', '.join(unknown)}" if unknown else "add a head with the column study",
        )


def _candidate(
    row: dict[str, str], folder: Path, known: Known | None, number: int, *, is_whole: bool = True
) -> Candidate:
    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    study = folder / cells["study"]
    case = cells["case"] or _case(study, folder)
    given = {
        "case": case,
        "model": cells["model"] or None,
        "patient": cells["patient"] or None,
        "reference": str(folder / cells["reference"]) if cells["reference"] else None,
    }
    if not cells["study"] or not is_whole:
        problem = Fault(
            error="ConfigError",
            found=f"line {number} of the manifest has no study, or more cells than the head",
            expected="one path in each line",
            fix="fix the line",
        )
        return Candidate(case=case or f"line-{number}", path="", fault=problem)
    paths = [study, *(folder / cells[name] for name in FURTHER if cells[name])]
    if len(paths) > 1:
        return _several(paths, case, cells).model_copy(update=given)
    found = _look(study, case, cells["series"], known)
    if cells["modality"] and found.format != "DICOM":
        given["modality"] = cells["modality"].upper()
    return found.model_copy(update=given)


def _several(paths: Sequence[Path], case: str, cells: Mapping[str, str]) -> Candidate:
    """Look at the images of one study; the first that cannot be used speaks for all."""
    if cells["modality"] or cells["series"]:
        problem = Fault(
            error="ConfigError",
            found=f"one series or modality for {len(paths)} images",
            expected="neither in a line with several images",
            fix="leave modality and series empty, and name the folder or file of each image",
        )
        return Candidate(case=case, path=str(paths[0]), fault=problem)
    parts = [_look(path, case, "", None) for path in paths]
    for part in parts:
        if part.fault is not None or part.loose:
            fault = part.fault or _named_twice(len(part.parts))
            return part.model_copy(update={"parts": (), "loose": False, "fault": fault})
    return combine(parts, case)


def _look(study: Path, case: str, series: str, known: Known | None) -> Candidate:
    base = Candidate(case=case, path=visible(str(study)), series=series or None, format="DICOM")

    def look() -> Candidate:
        strange = None if study.is_dir() else odd(study) or _absent(study)
        if strange is not None:
            return base.model_copy(update={"fault": strange})
        if not study.is_dir() and suffix_of(study) in (*NIFTI, *ITK):
            return image_candidate(study, case, known=known)
        return _look_at_dicom(study, case, series, base, known)

    return alone(look, lambda fault: base.model_copy(update={"fault": fault}))


def _absent(study: Path) -> Fault | None:
    try:
        study.stat()
    except OSError as error:
        return _gone(study, error)
    return None


def _look_at_dicom(study: Path, case: str, series: str, base: Candidate, known: Known | None) -> Candidate:
    """Look at a folder of DICOM files, or at the series in its folder that one file belongs to."""
    place, mine = study, series
    if not study.is_dir():
        place, mine = study.parent, series or _series_of(study)
    entries = place.rglob("*") if study.is_dir() else place.iterdir()
    files = sorted(entry for entry in entries if entry.is_file() and not entry.name.startswith(".") and is_text(entry))
    infos = dicom_candidates(place, files, place, known=known)
    taken = [info for info in infos if info.series == mine] if mine else [i for i in infos if i.fault is None]
    if len(taken) == 1:
        return taken[0]
    if len(infos) == 1 and not mine:
        return infos[0]
    if len(taken) > 1 and not mine:
        return combine(taken, case, loose=True)
    return base.model_copy(update={"fault": _unclear(study, len(taken), len(infos))})


def _series_of(file: Path) -> str:
    """Return the series that a file says it belongs to; empty where it says none."""
    from voxmetry.io.dicom.read.headers import text, try_header

    header = try_header(file, file.name)
    return (text(header, "SeriesInstanceUID") or "") if header is not None else ""


def _case(study: Path, folder: Path) -> str:
    try:
        return case_of(study, folder)
    except ValueError:
        return case_of(study, study.parent)


def _gone(study: Path, error: OSError) -> Fault:
    return Fault(
        error="InputError",
        found=f"{visible(study.name)} cannot be read: {error.strerror or type(error).__name__}",
        expected="a file or folder that exists and may be read",
        fix="check the path in the manifest",
    )


def _named_twice(n: int) -> Fault:
    return Fault(
        error="SeriesError",
        found=f"a folder with {n} series, in a line with further images",
        expected="the folder alone, of which a model takes the series of its modalities, or a folder for each image",
        fix="leave study_2 and the following empty",
    )


def _unclear(study: Path, n_taken: int, n: int) -> Fault:
    if not n:
        return Fault(
            error="InputError",
            found=f"no image at {study.name}",
            expected="an image file or a folder of DICOM files",
            fix="check the path in the manifest",
        )
    return Fault(
        error="SeriesError",
        found=f"{n_taken} of {n} series at {study.name} could be taken",
        expected="one series",
        fix="name it in the column series (its Series Instance UID; `voxmetry inspect` lists them)",
    )
