"""The demo: real anatomy through the whole straight path.

Brain and regions are cropped from the ICBM 2009a nonlinear symmetric T1 template; its notice lies beside them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from voxmetry.config import StudySettings
from voxmetry.core.records import StudyResult
from voxmetry.errors import ConfigError
from voxmetry.io import list_series, read_volume
from voxmetry.io.dicom.objects.write import write_series
from voxmetry.io.output_folder import require_no_results
from voxmetry.workflows.run_folder import OUTPUTS
from voxmetry.workflows.segment import segment_study

FOLDER = Path(__file__).parent
DESCRIPTION = "ICBM 152 template"
BRAIN, HIPPOCAMPUS = "brain-mr", "hippocampus-mr"


def run_demo(
    out: Path | str,
    *,
    model: str = BRAIN,
    side: Literal["left", "right"] = "right",
    settings: StudySettings | None = None,
    tell: Callable[[str], None] | None = None,
) -> StudyResult:
    """Write the template's brain, or a region of it, as a DICOM series, segment it, measure it, report it.

    Parameters
    ----------
    out
        Folder for the results; the DICOM series goes into `out`/dicom.
    model
        "brain-mr" for the whole brain, "hippocampus-mr" for the region round one hippocampus.
    side
        Which hippocampus.
    settings, tell
        As for `segment_study`.

    Returns
    -------
    StudyResult
        As `segment_study` returns it.

    Raises
    ------
    ConfigError
        If no image ships for the model.
    VoxmetryError
        As `segment_study`.
    """
    out, settings = Path(out), settings or StudySettings()
    image, what = _example(model, side)
    require_no_results(out, OUTPUTS.values(), overwrite=settings.overwrite)
    remove_own_series(out / "dicom")
    write_series(read_volume(image), out / "dicom", modality="MR", description=f"{DESCRIPTION}, {what}")
    return segment_study(out / "dicom", out, model, settings=settings, tell=tell)


def _example(model: str, side: str) -> tuple[Path, str]:
    """Return the image for a model and what it shows."""
    if model == BRAIN:
        return FOLDER / "icbm152-brain.nii.gz", "brain"
    if model == HIPPOCAMPUS:
        return FOLDER / f"icbm152-hippocampus-{side}.nii.gz", f"hippocampus, {side}"
    raise ConfigError(
        found=f"a demo of {model}",
        expected=f"{BRAIN} or {HIPPOCAMPUS}: the template of many brains shows no person, and no CT like it may ship",
        fix=f"voxmetry segment STUDY -m {model} -o OUT, with a study of yours",
    )


def remove_own_series(folder: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else: a folder with any other series or file stays."""
    if not folder.is_dir():
        return
    series = list_series(folder)
    own = sum(item.n_files for item in series if item.description.startswith(DESCRIPTION))
    if own == sum(1 for _ in folder.rglob("*")):
        shutil.rmtree(folder)
