"""The folder of a run: what its files are called, and its result."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from voxmetry.core.records import StudyResult
from voxmetry.errors import FormatError, InputError

RESULT, SEGMENTATION, CHANGE = "result.json", "seg.nii.gz", "change.json"
HTML, PDF = "report.html", "report.pdf"


def read_result(folder: Path | str) -> StudyResult:
    """Read the result of a run.

    Raises
    ------
    InputError
        If the folder holds none.
    FormatError
        If the file is none of this version, or damaged.
    """
    path = Path(folder) / RESULT
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            found=f"no readable {RESULT} in the folder",
            expected="the folder of a run of voxmetry segment",
            fix="name the folder that was given with -o / --out",
        ) from error
    try:
        return StudyResult.model_validate_json(text)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole file"
        raise FormatError(
            found=f"a {RESULT} that is not as this version writes it, at {wrong}",
            expected="a result of this version of voxmetry",
            fix="run voxmetry segment again",
        ) from error
