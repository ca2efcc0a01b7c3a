"""Look at a data set before training on it: what stands behind `voxmetry data check`."""

from __future__ import annotations

from pathlib import Path

from voxmetry.core.progress import Progress
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.report.check import write_check_page
from voxmetry.train.data_check import agreement_lines as agreement_lines
from voxmetry.train.data_check import check_data
from voxmetry.train.dataset import open_data
from voxmetry.train.findings import DataCheck

OUTPUTS = ("data-check.json", "data-check.html")


def check_paths(
    data: Path,
    *,
    predictions: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[DataCheck, tuple[Path, ...]]:
    """Check a data set, and write what was found.

    Parameters
    ----------
    data
        A folder, or a YAML or CSV manifest.
    predictions
        Folder of label maps by a model that has not seen the cases; None for none.
    out
        Folder for `data-check.json` and `data-check.html`; None writes nothing.
    overwrite
        Whether an earlier check in `out` is replaced.
    progress
        Called after each case with the number that is done and of all.

    Returns
    -------
    DataCheck, tuple of Path
        What was found, and the files that were written.

    Raises
    ------
    VoxmetryError
        If the data set cannot be opened, or the folder not be written.
    """
    if out is None:
        return check_data(open_data(data), predictions=predictions, progress=progress), ()
    with output_folder(out, OUTPUTS, overwrite=overwrite, apart_from=(data, predictions)) as stage:
        opened = open_data(data)
        found = check_data(opened, predictions=predictions, progress=progress)
        write_text(stage / OUTPUTS[0], found.model_dump_json(indent=1))
        write_check_page(found, opened, stage / OUTPUTS[1], predictions=predictions)
    return found, tuple(out / name for name in OUTPUTS)
