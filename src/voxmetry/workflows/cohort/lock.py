"""One run at a time on one folder: a lock that the system frees when its owner dies, and the owner's name."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import held

LOCK, OWNER = "run.lock", "run.owner.json"


@contextlib.contextmanager
def run_lock(
    folder: Path,
    *,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
    what: str = "runs this cohort",
    fix: str = "wait for it, or write to another folder; if its machine is gone for good, add --break-lock",
) -> Iterator[None]:
    """Hold a folder for this process.

    The system itself frees the lock when its holder dies, however it dies, so a lock that is held has a living owner.
    A name left behind without a held lock is that of a run that ended without a word: it is told, and the run goes on.

    Parameters
    ----------
    folder
        Where the lock's two files lie; it must exist.
    force
        Remove the lock file first: for shared disks that keep the lock of a machine that is gone.
    tell
        Called with a sentence about a run that died.
    what, fix
        What is said of a living holder, and what to do then.

    Raises
    ------
    LockedError
        If a living run holds the folder; it names host, process and time.
    OutputError
        If the lock cannot be made, as on a disk without locks.
    """
    if force:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
    holder = owner(folder) if (folder / OWNER).exists() else None
    with held(
        folder / LOCK,
        what=f"{what}: {holder or 'its name is not known yet'}",
        fix=fix,
    ):
        if tell and (before := owner(folder)):
            tell(f"The last run ended without a word ({before}); this one goes on from its record.")
        try:
            write_text(folder / OWNER, json.dumps(_myself()))
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / OWNER).unlink(missing_ok=True)


def owner(folder: Path) -> str | None:
    """Return who holds, or held, the folder, in words; None where no name is left."""
    try:
        content = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _myself() -> dict[str, object]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}
