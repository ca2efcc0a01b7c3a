"""The demo: real anatomy through the whole straight path.

The regions are cropped from the ICBM 2009a nonlinear symmetric T1 template; its notice lies beside them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from voxmetry.config import StudySettings
from voxmetry.core.records import StudyResult
from voxmetry.io import list_series, read_volume
from voxmetry.io.dicom.objects.write import write_series
from voxmetry.io.output_folder import require_no_results
from voxmetry.workflows.run_folder import OUTPUTS
from voxmetry.workflows.segment import segment_study

FOLDER = Path(__file__).parent
DESCRIPTION = "ICBM 152 template, hippocampus"


def run_demo(
    out: Path | str,
    *,
    side: Literal["left", "right"] = "right",
    settings: StudySettings | None = None,
    tell: Callable[[str], None] | None = None,
) -> StudyResult:
    """Write a region round one hippocampus as a DICOM series, segment it, measure it, report it.

    Parameters
    ----------
    out
        Folder for the results; the DICOM series goes into `out`/dicom.
    side
        Which hippocampus.
    settings, tell
        As for `segment_study`.

    Returns
    -------
    StudyResult
        As `segment_study` returns it.
    """
    out, settings = Path(out), settings or StudySettings()
    require_no_results(out, OUTPUTS.values(), overwrite=settings.overwrite)
    remove_own_series(out / "dicom")
    region = read_volume(FOLDER / f"icbm152-hippocampus-{side}.nii.gz")
    write_series(region, out / "dicom", modality="MR", description=f"{DESCRIPTION}, {side}")
    return segment_study(out / "dicom", out, "hippocampus-mr", settings=settings, tell=tell)


def remove_own_series(folder: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else: a folder with any other series or file stays."""
    if not folder.is_dir():
        return
    series = list_series(folder)
    own = sum(item.n_files for item in series if item.description.startswith(DESCRIPTION))
    if own == sum(1 for _ in folder.rglob("*")):
        shutil.rmtree(folder)
