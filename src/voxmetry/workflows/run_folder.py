"""The folder of a run: what its files are called, and its result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from voxmetry import io
from voxmetry.core.json_files import R, read_record
from voxmetry.core.records import StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError, OutputError, VoxmetryError
from voxmetry.nn.uncertainty_maps import FILES as MAP_FILES
from voxmetry.workflows.dicom_names import DICOM_FILES

RESULT, SEGMENTATION, CHANGE = "result.json", "seg.nii.gz", "change.json"
MODEL_SEGMENTATION, CORRECTION = "model_seg.nii.gz", "correction.csv"
"""Of a run whose label map a person corrected: the model's own, and what changed."""
HTML, PDF = "report.html", "report.pdf"
OVERVIEW, OTHER_OVERVIEW = "overview.nii.gz", "other_overview.nii.gz"
"""The images, reduced: to bring two studies together, and to draw the pictures of a report again."""
INSTANCE_FILES = {
    "instances": "instances.nii.gz",
    "panoptic": "panoptic.nii.gz",
    "instance table": "instances.csv",
}
"""What a run with instances has beside its label map."""
OUTPUTS = {
    "segmentation": SEGMENTATION,
    **INSTANCE_FILES,
    "model segmentation": MODEL_SEGMENTATION,
    "correction": CORRECTION,
    "measurements": "measurements.csv",
    "lesions": "lesions.csv",
    "other measurements": "other_measurements.csv",
    "other lesions": "other_lesions.csv",
    "comparison": "comparison.csv",
    "change": CHANGE,
    **MAP_FILES,
    **DICOM_FILES,
    "report_pdf": PDF,
    "overview": OVERVIEW,
    "other overview": OTHER_OVERVIEW,
    "result": RESULT,
    "preview": "preview.png",
    "thumbnail": "thumbnail.png",
    "report": HTML,
}
"""Every file that a run can write. The report is the last one: it is there only if everything else is."""
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    OSError,
    EOFError,
)
"""What libraries raise on headers and values that nobody foresaw."""


class Outputs:
    """The files of a run, each written on its own: one that cannot be written costs none of the others.

    Parameters
    ----------
    folder
        Where they are written.
    keep_earlier
        Whether the run replaces an earlier one: where the system will not write (a full disk), the error is raised
        then, and the earlier files stay as they are.

    Attributes
    ----------
    files
        Names of what was written, by what it is.
    not_written
        Names of what could not be, and why.

    Examples
    --------
    >>> import tempfile
    >>> outputs = Outputs(Path(tempfile.mkdtemp()))
    >>> for what, text in (("one", "1"), ("two", None)):
    ...     with outputs.each(what, f"{what}.txt") as path:
    ...         _ = path.write_text(text)
    >>> outputs.files, outputs.not_written
    ({'one': 'one.txt'}, {'two.txt': 'TypeError'})
    """

    def __init__(self, folder: Path, *, keep_earlier: bool = False) -> None:
        self.folder = folder
        self._keep_earlier = keep_earlier
        self.files: dict[str, str] = {}
        self.not_written: dict[str, str] = {}

    @contextlib.contextmanager
    def each(self, what: str, name: str) -> Iterator[Path]:
        """Yield where a file is written; if that fails, nothing of it is left, and the reason is kept."""
        path = self.folder / name
        try:
            yield path
            if path.exists():
                self.files[what] = name
        except VoxmetryError as error:
            if self._keep_earlier and isinstance(error, OutputError):
                raise
            self.not_written[name] = error.found
        except _UNFORESEEN as error:
            # The words of a library may repeat a header, and with it a name.
            self.not_written[name] = type(error).__name__
        if name in self.not_written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def label_map_of(path: Path) -> Path:
    """Return the label map of a run where the path is its folder; any other path as it is."""
    return path / SEGMENTATION if (path / RESULT).is_file() and (path / SEGMENTATION).is_file() else path


def read_result(folder: Path | str) -> StudyResult:
    """Read the result of a run.

    Raises
    ------
    InputError
        If the folder holds none.
    FormatError
        If the file is none of this version, or damaged.
    """
    return _read_record(Path(folder) / RESULT, StudyResult)


def read_change(folder: Path | str) -> PriorComparison | None:
    """Read what has changed since a prior study; None where the run was compared with none.

    Raises
    ------
    InputError, FormatError
        As `read_result`.
    """
    path = Path(folder) / CHANGE
    return _read_record(path, PriorComparison) if path.exists() else None


def _read_record(path: Path, kind: type[R]) -> R:
    return read_record(
        path,
        kind,
        missing=InputError(
            found=f"no readable {path.name} in the folder",
            expected="the folder of a run of voxmetry segment",
            fix="name the folder that was given with -o / --out",
        ),
        damaged=lambda where: FormatError(
            found=f"a {path.name} that is not as this version writes it, at {where}",
            expected="a result of this version of voxmetry",
            fix="run voxmetry segment again",
        ),
    )


def read_overview(folder: Path | str, result: StudyResult, name: str = OVERVIEW) -> Volume | None:
    """Read a reduced image of a run, (I, J, K); None where the run has none.

    Raises
    ------
    VoxmetryError
        If the file cannot be read.
    """
    path = Path(folder) / name
    if not path.is_file():
        return None
    source = result.source if name == OVERVIEW else result.others[0].source
    read = io.read_volume(path, unit=source.unit)
    return dataclasses.replace(read, geometry=dataclasses.replace(read.geometry, frame_uid=source.frame_uid))
