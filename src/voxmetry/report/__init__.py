"""From a result to a report: the document says it, each face of the report only spells it out."""

from __future__ import annotations

from pathlib import Path

from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.document import ReportDocument, spell
from voxmetry.report.language import ENGLISH, Language, languages, load_language
from voxmetry.report.material import Material, draw, read_material
from voxmetry.report.planning import plan_pictures, require_one_grid
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
    "read_material",
    "write_faces",
    "write_report",
]
