"""From a finished study in a folder aside to its place among the results.

A study is written in full inside a folder of its own, then each file is renamed into place, the result last. A worker
that was given up for lost may still be at work: before it renames, it looks whether the study is still its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from voxmetry.errors import OutputError
from voxmetry.io.atomic import make_folder, output_error, write_text
from voxmetry.workflows.cohort.layout import WORK, names_of
from voxmetry.workflows.cohort.progress import mark_of
from voxmetry.workflows.cohort.records import FileMark, Task

LAST = "result.json"
"""Renamed last: it is there only if everything else is."""


class Superseded(Exception):  # noqa: N818  (not an error: the other worker does the study)
    """The study was handed to another worker meanwhile."""


class Claim:
    """A worker's hold on a study, in a small file that the next worker replaces.

    Parameters
    ----------
    task
        The study.
    """

    def __init__(self, task: Task) -> None:
        self._path = _claim_path(Path(task.root), task.key)
        self._token = secrets.token_hex(8)
        before = self._read()
        same_run = before is not None and before.get("run") == task.run
        self.n_starts = (int(str(before.get("n_starts", 0))) if before and same_run else 0) + 1
        content = {"run": task.run, "token": self._token, "n_starts": self.n_starts}
        make_folder(self._path.parent)
        write_text(self._path, json.dumps(content))

    def require(self) -> None:
        """Raise `Superseded` unless the study is still this worker's."""
        now = self._read()
        if now is None or now.get("token") != self._token:
            raise Superseded

    def release(self) -> None:
        """Give the study back, with nothing left to count."""
        now = self._read()
        if now is not None and now.get("token") == self._token:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _read(self) -> dict[str, object] | None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None


def _claim_path(root: Path, key: tuple[str, str]) -> Path:
    return root / WORK / "claims" / hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]


def withdraw(root: Path, key: tuple[str, str]) -> None:
    """Take a study from the worker that has it: what it has done is dropped before it reaches its place."""
    with contextlib.suppress(OSError):
        _claim_path(root, key).unlink(missing_ok=True)


@contextlib.contextmanager
def staging(task: Task) -> Iterator[Path]:
    """Give a folder aside for a study, on the disk of the results; it is gone afterwards."""
    folder = Path(task.root) / WORK / "staging" / secrets.token_hex(8)
    make_folder(folder.parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, task: Task, claim: Claim) -> dict[str, FileMark]:
    """Move what is in a folder to the study's place, and return each file's checksum by its path inside OUT.

    Raises
    ------
    Superseded
        If the study is another worker's by now.
    OutputError
        If a file cannot be moved.
    """
    root = Path(task.root)
    place = make_folder(root / task.place)
    final = names_of(task.stem)
    names = sorted((entry.name for entry in folder.iterdir()), key=lambda name: (name == LAST, name))
    marks = {name: _mark(folder / name) for name in names}
    claim.require()
    _remove_leftovers(place, final, names)
    for name in names:
        target = place / final[name]
        try:
            (folder / name).replace(target)
        except OSError as error:
            raise output_error(target, error) from error
    return {f"{task.place}/{final[name]}": marks[name] for name in names}


def _mark(path: Path) -> FileMark:
    mark = mark_of(path)
    if mark is None:
        raise OutputError(
            found=f"{path.name} was written and cannot be read back",
            expected="a disk that keeps what is written",
            fix="check the disk of the output folder",
        )
    return mark


def _remove_leftovers(place: Path, names: Mapping[str, str], new: list[str]) -> None:
    """Remove what an earlier result has and this one does not, the old result first."""
    old = [names[LAST], *(theirs for ours, theirs in names.items() if ours not in new)]
    for name in dict.fromkeys(old):
        try:
            (place / name).unlink(missing_ok=True)
        except OSError as error:
            raise output_error(place / name, error) from error


def sweep(out: Path) -> None:
    """Remove what workers that died left half-done. Only the holder of the lock may."""
    shutil.rmtree(out / WORK / "staging", ignore_errors=True)
