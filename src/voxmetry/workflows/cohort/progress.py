"""What an earlier run did with a study, and whether that still holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from voxmetry.workflows.cohort.records import Fault, FileMark, PlannedStudy, RunSettings, State


@dataclass(frozen=True)
class Progress:
    """A row of the record, as far as planning needs it."""

    state: State
    recipe: str
    files: Mapping[str, FileMark]
    seconds: float
    """Of the study itself; 0 where it is not known. Several are under way at once."""
    run: str
    span: tuple[str, str]
    """When it was started and finished, as ISO 8601."""
    fault_json: str | None


def progress_of(study: PlannedStudy, before: Progress | None, out: Path, settings: RunSettings) -> PlannedStudy:
    """Decide whether a study runs: what is done and still whole does not, nor what failed and would fail again."""
    if study.state != "waiting":
        return study
    failed = before is not None and before.state in ("failed", "set aside")
    if before is None or before.state in ("waiting", "running", "refused", "duplicate"):
        why = "it was under way when its run ended" if before is not None and before.state == "running" else ""
        return _left_out(study) if settings.only_failed else study.model_copy(update={"why": why})
    if before.recipe != study.recipe:
        if settings.only_failed and not failed:
            return study.model_copy(update={"state": "done"})
        if is_corrected(out, before.files):
            return study.model_copy(update={"state": "refused", "fault": _CORRECTED})
        return study.model_copy(update={"why": "its input, model, settings or the version of voxmetry changed"})
    if failed:
        if settings.only_failed:
            return study.model_copy(update={"why": f"{before.state} before"})
        update = {"state": before.state, "fault": _fault(before)}
        return study.model_copy(update=update)
    if not settings.skip_done and (damaged := damaged_file(out, before.files)):
        if is_corrected(out, before.files):
            return study.model_copy(update={"state": "refused", "fault": _CORRECTED})
        again = {"why": f"{damaged} is not as the record says"}
        return _left_out(study) if settings.only_failed else study.model_copy(update=again)
    return study.model_copy(update={"state": "done"})


_CORRECTED = Fault(
    error="OutputExistsError",
    found="its result was corrected by a person, and a run would replace it",
    expected="a study whose result is the model's own",
    fix="write to another folder; or, where the correction is kept elsewhere, remove this study's folder first",
)


def is_corrected(out: Path, files: Mapping[str, FileMark]) -> bool:
    """Whether the result among a study's files is one that a person corrected."""
    for name in files:
        if not name.endswith("result.json"):
            continue
        try:
            content = json.loads((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and content.get("correction"):
            return True
    return False


def _left_out(study: PlannedStudy) -> PlannedStudy:
    # 'running' is the one state that a plan does not otherwise use: neither done nor to be done by this call.
    return study.model_copy(update={"state": "running", "why": "not done yet; left out by --only-failed"})


def _fault(before: Progress) -> object:
    return Fault.model_validate_json(before.fault_json) if before.fault_json else None


def damaged_file(out: Path, files: Mapping[str, FileMark]) -> str | None:
    """Return the name of the first file that is not as it was written; None where all are."""
    if not files:
        return "a list of its files"
    for name, mark in files.items():
        if mark_of(out / name) != mark:
            return Path(name).name
    return None


def mark_of(path: Path) -> FileMark | None:
    """Return size and SHA-256 of a file; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileMark(sha256=digest, n_bytes=file.tell())
    except OSError:
        return None
