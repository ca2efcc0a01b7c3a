"""From a result to a report: the document says it, each face of the report only spells it out."""

from __future__ import annotations

from voxmetry.report.document import ReportDocument
from voxmetry.report.language import Language, languages, load_language
from voxmetry.report.pictures.material import Material, draw
from voxmetry.report.write import PAGES, build_document, write_faces, write_report

__all__ = [
    "PAGES",
    "Language",
    "Material",
    "ReportDocument",
    "build_document",
    "draw",
    "languages",
    "load_language",
    "write_faces",
    "write_report",
]
