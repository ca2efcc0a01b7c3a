"""Files that are there in full or not at all.

A result is written under a temporary name beside its place and moved there in one step when it is complete. A full
disk, an error or Ctrl-C leaves neither half a file nor the temporary one, and an earlier result stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from voxmetry.errors import OutputError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EFBIG: ("the file grew beyond the size that is allowed", "raise the limit, or write to another disk"),
    errno.EACCES: ("permission was denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission was denied", "choose a folder that you may write to"),
    errno.EROFS: ("the disk is read-only", "choose a folder on a disk that can be written to"),
    errno.ENOENT: ("its folder is missing", "make the folder first, or check the path"),
    errno.ENOTDIR: ("its folder is a file", "choose another folder"),
    errno.EEXIST: ("a file of that name is there", "choose another name, or move the file away"),
    errno.EISDIR: ("a folder of that name is in the way", "choose another name"),
}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` if the block ends well and is removed if not.

    Parameters
    ----------
    path
        The file's final place. The temporary file lies in the same folder and has the same suffixes, for writers that
        choose a format by them.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    OutputError
        If the folder is missing or read-only, the disk is full, or nothing was written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("complete")
    >>> [entry.name for entry in folder.iterdir()]
    ['note.txt']
    """
    target = Path(path)
    temporary = target.with_name(f".part-{secrets.token_hex(6)}{''.join(target.suffixes)}")
    try:
        if not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR if target.parent.exists() else errno.ENOENT, "no such folder")
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        flush_folder(target.parent)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        # Not only after an error that Python can name: Ctrl-C and SystemExit pass through here as well.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file of these bytes, in full or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write a UTF-8 text file with \n line ends on every system, in full or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def output_error(path: Path, error: OSError) -> OutputError:
    """Say in words why the system would not write a file."""
    told: BaseException | None = error
    # Some writers raise an error of their own over that of the system, which alone has the reason.
    while told is not None and not (isinstance(told, OSError) and told.errno):
        told = told.__cause__ or told.__context__
    known = told if isinstance(told, OSError) else error
    reason, fix = _REASONS.get(known.errno or 0, (known.strerror or type(error).__name__, "choose another place"))
    return OutputError(
        found=f"{path.name} cannot be written: {reason}",
        expected="an existing folder that can be written to, with room for the file",
        fix=fix,
    )


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can (Windows cannot open a folder)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, where they are not there yet, and see that it can be written to.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to.
    """
    folder = Path(path)
    probe = folder / f".part-{secrets.token_hex(6)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return folder
