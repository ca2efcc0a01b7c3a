"""The one way in which a verb writes a folder: claim it, hold it, write aside, move everything into place together.

A second process is kept out from before the work until the results stand. An error, Ctrl-C or a full disk leaves what
was there; what a killed process left is swept by the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from voxmetry.errors import ConfigError, LockedError, OutputError, OutputExistsError
from voxmetry.io.atomic import flush_folder, make_folder, output_error

LOCK = ".voxmetry.lock"
EARLIER = "earlier results"
"""Folder inside the hidden one, for what is being replaced."""
STAGE = ".part-"
"""How the name of a hidden folder begins in which results wait until all are whole."""


@contextlib.contextmanager
def output_folder(
    path: str | os.PathLike[str],
    names: Iterable[str],
    *,
    overwrite: bool = False,
    apart_from: Iterable[str | os.PathLike[str] | None] = (),
    outside: Iterable[str | os.PathLike[str] | None] = (),
) -> Iterator[Path]:
    """Hold an output folder, and yield a hidden folder in it to write to; the block's end moves all into place.

    Enter it before any work is spent. Until the block ends well, earlier results stay whole.

    Parameters
    ----------
    path
        The folder; it is made where it is missing.
    names
        Files and folders that may be written, relative to `path`. An earlier one that has no successor is removed. The
        last one is moved last, and its earlier file is removed first: where it is, all others are of the same run.
        What else lies in the hidden folder at the end is moved as well, before the last one.
    overwrite
        Whether earlier results of these names may be replaced.
    apart_from
        What is read, None for what is not given: results among the input would be taken for more of it the next time,
        and an earlier result that is read would be replaced by what is made of it.
    outside
        Folders that are read with all that lies below them, and would hold results of a kind that is read.

    Yields
    ------
    Path
        The hidden folder.

    Raises
    ------
    ConfigError
        If the folder is one of those that are read, lies below one, or what is read would be replaced.
    OutputExistsError
        If earlier results are there and `overwrite` is off.
    LockedError
        If another process writes to the folder.
    OutputError
        If the folder cannot be made, held or written to.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.csv").write_text("old")
    >>> with output_folder(folder, ["a.csv", "b.html"], overwrite=True) as stage:
    ...     _ = (stage / "b.html").write_text("new")
    >>> [entry.name for entry in folder.iterdir()]
    ['b.html']
    """
    folder, names = Path(path), list(names)
    require_apart(folder, apart_from, names)
    require_outside(folder, outside)
    require_no_results(folder, names, overwrite=overwrite)
    make_folder(folder)
    with held(folder / LOCK, what="writes to this folder", fix="wait for it, or write to another folder"):
        # Another run may have ended between the first look and the lock.
        require_no_results(folder, names, overwrite=overwrite)
        _sweep(folder)
        stage = folder / f"{STAGE}{secrets.token_hex(6)}"
        try:
            stage.mkdir()
            yield stage
            _move_all(stage, folder, names)
        except OSError as error:
            raise output_error(folder, error) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def require_apart(
    folder: str | os.PathLike[str], read: Iterable[str | os.PathLike[str] | None], names: Iterable[str] = ()
) -> None:
    """Raise `ConfigError` where a folder for results is one that is read, or one of the results is a file that is."""
    folder, names = Path(folder), set(names)
    for source in (Path(each) for each in read if each is not None):
        if source.is_dir() and _is_same(folder, source):
            raise ConfigError(
                found=f"{folder} is the folder that is read",
                expected="another folder for the results, which may lie inside it",
                fix=f"name a new one, such as {folder / 'results'}",
            )
        if source.name in names and _is_same(folder, source.parent):
            raise ConfigError(
                found=f"{source.name} in {folder} is read, and would be replaced by a result",
                expected="another folder for the results",
                fix="name a new one",
            )


def require_outside(folder: str | os.PathLike[str], read: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise `ConfigError` where a folder for results is one that is read with all below it, or lies in one."""
    there = Path(folder).resolve()
    for source in (Path(each) for each in read if each is not None):
        if source.is_dir() and any(_is_same(part, source) for part in (there, *there.parents)):
            raise ConfigError(
                found=f"{Path(folder)} is or lies in {source}, which is read with all that is below it",
                expected="a folder for the results outside of it: they would be taken for input the next time",
                fix="name a folder beside it",
            )


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.is_dir() and folder.samefile(other)
    except OSError:
        return False


def results_in(path: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Return which of the files are in a folder."""
    return [name for name in names if os.path.lexists(Path(path) / name)]


def require_no_results(path: str | os.PathLike[str], names: Iterable[str], *, overwrite: bool) -> None:
    """Raise `OutputExistsError` where one of the files is there already and may not be replaced."""
    there = results_in(path, names)
    if there and not overwrite:
        raise OutputExistsError(
            found=f"{', '.join(there)} in the folder already",
            expected="a folder without earlier results",
            fix="name another folder, or add --overwrite (overwrite=True) to replace them",
        )


def require_no_file(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise `OutputExistsError` where a file that a verb writes is there already and may not be replaced."""
    target = Path(path)
    if os.path.lexists(target) and not overwrite:
        raise OutputExistsError(
            found=f"{target.name} is there already",
            expected="a new file",
            fix="name another file, or add --overwrite (overwrite=True) to replace it",
        )


@contextlib.contextmanager
def held(lock: Path, *, what: str, fix: str) -> Iterator[None]:
    """Hold a lock that the system frees when its holder dies, however it dies; the lock's file goes with it.

    Parameters
    ----------
    lock
        The lock's file; its folder must exist.
    what, fix
        What another process does that holds it, and what to do then, for the error.

    Raises
    ------
    LockedError
        If another process holds it.
    OutputError
        If the lock cannot be made, as on a disk without locks.
    """
    mine = FileLock(lock, timeout=0.1)
    try:
        mine.acquire()
    except Timeout as error:
        raise LockedError(found=f"another process {what}", expected="one at a time", fix=fix) from error
    except NotImplementedError as error:
        raise OutputError(
            found="the disk of the output folder does not know locks",
            expected="a disk on which one run can keep another out",
            fix="choose another disk for the output folder",
        ) from error
    except OSError as error:
        raise output_error(lock.parent, error) from error
    try:
        yield
    finally:
        # While it is held: whoever opened the file meanwhile finds it gone, and makes a new one.
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        mine.release()


def _move_all(stage: Path, folder: Path, names: list[str]) -> None:
    more = sorted(entry.name for entry in stage.iterdir() if entry.name not in names)
    order = [*names[:-1], *more, *names[-1:]]
    new = [name for name in order if os.path.lexists(stage / name)]
    aside, moved = stage / EARLIER, []
    aside.mkdir()
    try:
        # Moved aside and not deleted: what goes wrong from here on is undone. The last one goes first.
        for name in reversed(order):
            if os.path.lexists(folder / name):
                (folder / name).rename(aside / name)
        for name in new:
            (stage / name).replace(folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            (folder / name).rename(stage / name)
        _put_back(aside, folder)
        raise
    flush_folder(folder)


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed left, and put back the earlier results that it had moved aside."""
    for left in folder.glob(f"{STAGE}*/"):
        _put_back(left / EARLIER, folder)
        shutil.rmtree(left, ignore_errors=True)


def _put_back(aside: Path, folder: Path) -> None:
    for earlier in aside.iterdir() if aside.is_dir() else ():
        target = folder / earlier.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        earlier.replace(target)
