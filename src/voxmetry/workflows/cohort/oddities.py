"""Directory entries that are no file one can read: links to nothing, pipes, sockets, devices, names that are no text.

A cohort comes from anywhere. Each such entry becomes a row with its reason; none of them is opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from voxmetry.core import text
from voxmetry.core.text import visible
from voxmetry.errors import VoxmetryError
from voxmetry.io.dicom.read.find import could_be_a_slice
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.workflows.cohort.records import Candidate, Fault

T = TypeVar("T")

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def odd(path: Path) -> Fault | None:
    """Say why a directory entry cannot be read; None for a file that can, or that is of no interest.

    What is no regular file is always told. A link that leads nowhere, and a name that is no text, are told where the
    entry could be an image: by its suffix, or because it has none, as DICOM files often do.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _fault(path, _why(path, error), "check it, or remove it") if could_be_an_image(path) else None
    except ValueError:
        return _fault(path, "has a name that no file can have", "check the path")
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")
        return _fault(path, f"is {kind}", "leave it: it is passed over")
    if not is_text(path) and could_be_an_image(path):
        return _fault(path, "has a name that is not UTF-8", "rename it: results could not say what they are of")
    return None


def is_text(path: Path) -> bool:
    """Whether a path is text: its bytes may be no UTF-8 at all."""
    return text.is_text(str(path))


def could_be_an_image(path: Path) -> bool:
    """Whether a name is one that images have: a known suffix, none, or the end of a UID."""
    return suffix_of(path) in (*NIFTI, *ITK) or could_be_a_slice(path.name)


def _why(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT and path.is_symlink():
        return "is a link to a file that is not there"
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    return f"cannot be read: {error.strerror or type(error).__name__}"


def _fault(path: Path, why: str, fix: str) -> Fault:
    return Fault(
        error="InputError", found=f"{visible(path.name)} {why}", expected="a file that exists and may be read", fix=fix
    )


def shown(case: str, fault: Fault) -> Candidate:
    """Return the row of an entry that cannot be read.

    Two names that are no text may look alike when shown: the end of a hash tells them apart.
    """
    if not is_text(Path(case)):
        case += "-" + hashlib.sha256(os.fsencode(case)).hexdigest()[:6]
    return Candidate(case=visible(case), path="", fault=fault)


def alone(look: Callable[[], T], instead: Callable[[Fault], T]) -> T:
    """Look at one entry so that nothing in it can stop the others: whatever it raises becomes its reason.

    This is the border between one study and the cohort. An error that was not foreseen is named by its kind alone; its
    words may hold what a header says.
    """
    try:
        return look()
    except VoxmetryError as error:
        return instead(Fault.model_validate(error.to_dict()))
    except OSError as error:
        why = error.strerror or type(error).__name__
        return instead(_unread(f"it cannot be read: {why}"))
    except Exception as error:  # noqa: BLE001  (see above)
        return instead(_unread(f"its headers cannot be read: {type(error).__name__}, which nobody foresaw"))


def _unread(found: str) -> Fault:
    return Fault(
        error="InputError",
        found=found,
        expected="a file that exists, may be read, and is whole",
        fix="check the path, the permissions and the file",
    )
