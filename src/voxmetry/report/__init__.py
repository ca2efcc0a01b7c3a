"""From a result to a report: the document says it, each face of the report only spells it out."""

from __future__ import annotations

from pathlib import Path

from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.io.atomic import write_text
from voxmetry.report.document import ReportDocument, build_document
from voxmetry.report.html import draw_pictures, render_html

__all__ = ["ReportDocument", "build_document", "write_report"]


def write_report(
    result: StudyResult,
    path: Path | str,
    *,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
) -> None:
    """Write a report as one self-contained HTML file.

    The file is written under a temporary name and renamed when it is complete. It opens from disk without a request,
    has no script, and names neither the patient nor a path.

    Parameters
    ----------
    result
        What was measured.
    path
        The file, such as `report.html`. An existing one is replaced.
    volume
        The image, (I, J, K).
    segmentation
        The labels that were measured, on the image's grid.
    reference
        The labels that they were compared with, on the same grid, with the same label values: outlined dashed.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    OutputError
        If the file cannot be written.
    """
    document = build_document(result, volume, segmentation, reference)
    pictures = draw_pictures(document, volume, segmentation, reference)
    write_text(Path(path), render_html(document, pictures))
