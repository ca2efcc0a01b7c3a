"""Spell a report out as a PDF: the page's sentences, tables and pictures on paper, text that can be selected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from voxmetry.report.document import ReportDocument
from voxmetry.report.fonts import Fonts, load_fonts
from voxmetry.report.paper import DEFINED, MUTED, SMALL_PT, Paper

if TYPE_CHECKING:
    from voxmetry.report.pictures.material import Material

MOST_PICTURED = 3
"""Structures and lesions with pictures on paper, after the overview; the page has more."""
MANY_ROWS = 20
"""Rows of findings above which the overview alone is on paper: it shows all, and two pages hold it."""
MOSTLY_EMPTY = 0.55
"""Share of its height above which the text of a last page must reach, or smaller pictures are tried."""
SMALLER = (0.92, 0.84, 0.76, 0.7)
"""Shares of the pictures' full size that may save a page."""


def render_pdf(document: ReportDocument, material: Material, *, page: str = "a4") -> bytes:
    """Write a document as a PDF.

    The fonts are embedded. A character that no font at hand has becomes a replacement character, and a line says so.

    Parameters
    ----------
    document
        What the report says.
    material
        Its pictures.
    page
        "a4" or "letter".

    Returns
    -------
    bytes
        The file: the same bytes for the same report.
    """
    fonts = load_fonts(_texts(document))
    papers = [_spelled(document, material, fonts, page, 1.0)]
    try:
        chosen = papers[0]
        if chosen.page > 1 and chosen.get_y() < MOSTLY_EMPTY * chosen.h:
            # Where the smallest pictures save no page, none do.
            papers.append(_spelled(document, material, fonts, page, SMALLER[-1]))
            if papers[-1].page < chosen.page:
                chosen = papers[-1]
                for share in SMALLER[:-1]:
                    papers.append(_spelled(document, material, fonts, page, share))
                    if papers[-1].page == chosen.page:
                        chosen = papers[-1]
                        break
        return bytes(chosen.output())
    finally:
        for paper in papers:
            paper.close_fonts()


def _spelled(document: ReportDocument, material: Material, fonts: Fonts, page: str, share: float) -> Paper:
    """Write all of it, with pictures of a share of their full size."""
    paper = Paper(document, fonts, page, share=share)
    paper.head()
    paper.verdict()
    paper.facts()
    _findings(paper, document)
    _pictures(paper, document, material, ("projection", "fusion"), 2)
    overview = not _is_shown_already(document)
    if overview:
        _pictures(paper, document, material, ("overview",), 1)
    most = 0 if overview and len(document.findings.rows) > MANY_ROWS else MOST_PICTURED
    _pictures(paper, document, material, ("lesion", "structure"), most)
    _comparison(paper, document, material)
    _small_print(paper, document)
    return paper


def _is_shown_already(document: ReportDocument) -> bool:
    """Whether the overview would show a lone structure in the slices of the fused picture, and once more below."""
    kinds = [item.kind for item in document.illustrations]
    return "fusion" in kinds and kinds.count("structure") <= 1 and kinds.count("lesion") <= 1


def _texts(document: ReportDocument) -> Iterator[str]:
    """Yield every text of a document, to see which characters it needs."""
    return _strings([getattr(document, item.name) for item in fields(document) if item.name != "language"])


def _strings(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield item
    elif is_dataclass(item):
        for place in fields(item):
            yield from _strings(getattr(item, place.name))
    elif isinstance(item, (list, tuple)):
        for value in item:
            yield from _strings(value)


def _findings(paper: Paper, document: ReportDocument) -> None:
    say = document.language
    paper.heading(say("Findings"))
    for sentence in document.summary:
        paper.lines(sentence)
    paper.ln(0.8)
    own, others = (document.findings, document.lesions, document.instances), document.others
    for table in (*((*others, *own) if document.uptake_first else (*own, *others)), document.asymmetry):
        if table is not None and table.rows:
            paper.tabulate(table)
            paper.ln(1.6)
    if document.not_found:
        paper.lines(document.not_found, SMALL_PT, MUTED)
    _correction(paper, document)
    if document.change:
        paper.heading(say("Change since the prior study"))
        for sentence in document.change_summary:
            paper.lines(sentence)
        paper.ln(0.8)
        for table in document.change:
            paper.tabulate(table)
            paper.ln(1.6)
        for fact in document.change_notes:
            paper.lines(f"{fact.term}: {fact.detail}", SMALL_PT, MUTED)
    notes = [flag for flag in document.flags if flag.severity == "note"]
    if notes:
        paper.heading(say("Flags"))
        for flag in notes:
            paper.lines(f"{say('Note')}: {flag.label + ': ' if flag.label else ''}{flag.message}")


def _pictures(paper: Paper, document: ReportDocument, material: Material, kinds: Sequence[str], most: int) -> None:
    chosen = [item for kind in kinds for item in document.illustrations if item.kind == kind]
    # A structure of one lesion is that lesion: its pictures would be the same again.
    lesions = [item.title.rpartition("-")[0] for item in chosen if item.kind == "lesion"]
    chosen = [item for item in chosen if item.kind != "structure" or lesions.count(item.title) != 1]
    for illustration in chosen[:most]:
        paper.pictures(illustration, material)
    if len(chosen) > most:
        paper.ln(0.8)
        paper.lines(
            document.language(
                "{shown} of {n} pictures are shown here; the HTML report has all.", shown=most, n=len(chosen)
            ),
            SMALL_PT,
            MUTED,
        )


def _correction(paper: Paper, document: ReportDocument) -> None:
    if document.correction is None:
        return
    paper.heading(document.language("Correction"), room_mm=30)
    for sentence in document.correction_summary:
        paper.lines(sentence)
    paper.ln(0.8)
    paper.tabulate(document.correction)


def _comparison(paper: Paper, document: ReportDocument, material: Material) -> None:
    if document.comparison is None:
        return
    paper.heading(document.language("Comparison with the reference"), room_mm=40)
    for sentence in document.comparison_summary:
        paper.lines(sentence)
    paper.ln(0.8)
    paper.tabulate(document.comparison)
    _pictures(paper, document, material, ("error",), 1)


def _small_print(paper: Paper, document: ReportDocument) -> None:
    say = document.language
    paper.heading(say("Definitions"), room_mm=16)
    # Those of the numbers on these pages, one after the other; the page and result.json list all.
    said = [f"{fact.term}: {fact.detail.rstrip('.')}." for fact in document.definitions if fact.of in DEFINED]
    paper.lines(" ".join(said), SMALL_PT - 0.6, MUTED)
    paper.heading(say("Provenance"), room_mm=16)
    paper.lines(document.command, SMALL_PT)
    paper.ln(0.6)
    for group in document.provenance:
        facts = "; ".join(f"{fact.term} {fact.detail}" for fact in group.facts)
        paper.lines(f"{group.heading}: {facts}", SMALL_PT - 0.6, MUTED)
    if paper.used.missing:
        paper.ln(0.8)
        paper.lines(
            say(
                "No font on this machine has some of the characters in this report: \ufffd stands for each of them. "
                "The HTML report shows them."
            ),
            SMALL_PT,
            MUTED,
        )
