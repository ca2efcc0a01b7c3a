"""Write a report's faces to files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import write_bytes, write_text
from voxmetry.report.document import ReportDocument, spell
from voxmetry.report.html import render_html
from voxmetry.report.instances import drawn_segmentation
from voxmetry.report.language import ENGLISH, Language, load_language
from voxmetry.report.pictures.material import Material, draw
from voxmetry.report.pictures.planning import plan_pictures, require_one_grid

PAGES = ("a4", "letter")
SUFFIXES = (".html", ".pdf")


def write_report(
    result: StudyResult,
    path: Path | str,
    *,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    others: Sequence[Volume] = (),
    prior: PriorComparison | None = None,
    instances: InstanceSegmentation | None = None,
    language: str = "en",
    page: str = "a4",
) -> None:
    """Write a report: one self-contained HTML file, or a PDF, by the suffix of its name.

    The file is written under a temporary name and renamed when it is complete. The page opens from disk without a
    request and names neither the patient nor a path.

    Parameters
    ----------
    result
        What was measured.
    path
        The file, such as `report.html` or `report.pdf`. An existing one is replaced.
    volume
        The image, (I, J, K).
    segmentation
        The labels that were measured, on the image's grid.
    reference
        The labels that they were compared with, on the same grid, with the same label values: outlined dashed.
    others
        The further images of `result.others`, each on its own grid: the viewer shows the first over the image.
    prior
        The study compared with an earlier one of the same patient, from `compare_with_prior`.
    instances
        The instances of `result.instances`: each is drawn in a colour of its own, with its number.
    language
        "en", "de" or "es".
    page
        Size of the PDF's pages: "a4" or "letter".

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    ConfigError
        If the language, the page or the suffix is unknown.
    OutputError
        If the file cannot be written.
    """
    say = load_language(language)
    require_face(path, page)
    apart = drawn_segmentation(result, segmentation, instances) if instances is not None else None
    material = draw(result, volume, segmentation, reference, others, apart=apart)
    write_faces(spell(result, material.plan, say, prior=prior), material, [path], page=page)


def require_face(path: Path | str, page: str) -> None:
    """See that a file's suffix and a page's size are known.

    Raises
    ------
    ConfigError
        If one of them is not.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES or page not in PAGES:
        raise ConfigError(
            found=f"a report as {suffix or 'a file without suffix'} on {page}",
            expected=f"{' or '.join(SUFFIXES)}, on {' or '.join(PAGES)}",
            fix="name the file report.html or report.pdf",
        )


def write_faces(document: ReportDocument, material: Material, paths: Iterable[Path | str], *, page: str = "a4") -> None:
    """Write a document to files, each as what its suffix says, in full or not at all.

    Raises
    ------
    ConfigError
        If a suffix or the page is unknown.
    OutputError
        If a file cannot be written.
    """
    for path in paths:
        require_face(path, page)
        if Path(path).suffix.lower() == ".pdf":
            from voxmetry.report.pdf import render_pdf

            write_bytes(path, render_pdf(document, material, page=page))
        else:
            write_text(path, render_html(document, material))


def build_document(
    result: StudyResult,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    say: Language = ENGLISH,
) -> ReportDocument:
    """Turn a result into what its report says, pictures planned and not drawn.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    LabelError
        If the result measures a value that its label table does not name.
    """
    require_one_grid(result, volume, segmentation, reference)
    return spell(result, plan_pictures(result, volume, segmentation, reference), say)
