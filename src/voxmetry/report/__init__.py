"""From a result to a report: the document says it, each face of the report only spells it out."""

from __future__ import annotations

from voxmetry.report.again import Wishes, rewrite_report
from voxmetry.report.document import ReportDocument
from voxmetry.report.language import Language, languages, load_language
from voxmetry.report.material import Material, draw, read_material
from voxmetry.report.prior import compare_with_prior
from voxmetry.report.results import read_result
from voxmetry.report.write import PAGES, build_document, write_faces, write_report

__all__ = [
    "PAGES",
    "Language",
    "Material",
    "ReportDocument",
    "Wishes",
    "build_document",
    "compare_with_prior",
    "draw",
    "languages",
    "load_language",
    "read_material",
    "read_result",
    "rewrite_report",
    "write_faces",
    "write_report",
]
