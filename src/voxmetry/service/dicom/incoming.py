"""An object that is being received: into a file, up to a limit."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOM_STEP = 1 << 24
"""After how many bytes of an object the room on the disk is looked at again."""


class TooMuchError(OSError):
    """A caller sent more than is taken, or took too long."""


class IncomingObject(io.BytesIO):
    """The data set of one C-STORE request, as pynetdicom writes it: it goes into a file, up to a limit.

    What is beyond the limit, or beyond the room on the disk, is let go, so that the caller can be answered.

    Parameters
    ----------
    folder
        Where the file is made, under a name of ours.
    most_bytes, free_bytes
        Limits of the object, and of what must be left on the disk.
    header
        Makes the file's first bytes, once the request is known; None for an object that is let go.
    """

    def __init__(self, folder: Path, most_bytes: float, free_bytes: float, header: Callable[[], bytes | None]) -> None:
        super().__init__()
        self.path = folder / f"{secrets.token_hex(12)}.part"
        self.n_bytes = 0
        self.problem: str | None = None
        """'size', 'room' or 'kind', where the object was not kept."""
        self._most, self._free, self._header = most_bytes, free_bytes, header
        self._file: io.BufferedWriter | None = None
        self._next_look = 0
        self._lock = threading.Lock()
        self._closed = False

    def write(self, data: Any) -> int:
        """Keep the next bytes of the object."""
        with self._lock:
            if self.problem is None and not self._closed:
                self.n_bytes += len(data)
                try:
                    self._keep(data)
                except OSError:
                    self.problem = "room"
                if self.problem is not None:
                    self._drop()
        return len(data)

    def _keep(self, data: Any) -> None:
        if self.n_bytes > self._most:
            self.problem = "size"
            return
        if self.n_bytes >= self._next_look:
            self._next_look = self.n_bytes + _ROOM_STEP
            if shutil.disk_usage(self.path.parent).free < self._free:
                self.problem = "room"
                return
        if self._file is None:
            header = self._header()
            if header is None:
                self.problem = "kind"
                return
            self._file = self.path.open("xb")
            self._file.write(header)
        self._file.write(data)

    def finish(self) -> Path | None:
        """Close the file and return it; None where nothing came, or it was not kept."""
        with self._lock:
            self._closed = True
            if self._file is None or self.problem is not None:
                return None
            try:
                self._file.flush()
                # The caller deletes its copy once it is told that this one is kept.
                os.fsync(self._file.fileno())
                self._file.close()
            except OSError:
                self.problem = "room"
                self._drop()
                return None
            return self.path

    def drop(self) -> None:
        """Close and delete the file, if it is still where it was made."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._file = None
