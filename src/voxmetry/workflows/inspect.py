"""What lies at a path: what stands behind `voxmetry inspect`."""

from __future__ import annotations

from pathlib import Path

from voxmetry import io
from voxmetry.core.progress import Progress
from voxmetry.core.records import SeriesInfo
from voxmetry.core.volume import Volume
from voxmetry.io.dicom.read.split import in_words as in_words


def inspect_path(path: Path, *, progress: Progress | None = None) -> tuple[SeriesInfo, ...] | Volume:
    """List the series of a folder, an archive or a DICOMDIR; read any other file.

    Raises
    ------
    VoxmetryError
        If nothing is there, or a file cannot be read.
    """
    if path.is_dir() or not path.exists() or path.suffix.lower() == ".zip" or path.name.upper() == "DICOMDIR":
        return tuple(io.list_series(path, progress=progress))
    return io.read_volume(path)
