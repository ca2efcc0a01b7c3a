"""Spell a report out as a PDF: the page's sentences, tables and pictures on paper, text that can be selected."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fpdf import FPDF
from fpdf.enums import TableBordersLayout, XPos, YPos
from fpdf.fonts import FontFace

from voxmetry.report.document import ReportDocument
from voxmetry.report.fonts import FAMILY, REPLACEMENT, Fonts, load_fonts
from voxmetry.report.illustrations import Illustration
from voxmetry.report.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from voxmetry.report.material import Material

MARGIN_MM = 14.0
BODY_PT, SMALL_PT = 8.5, 7.2
INK, MUTED, LINE = (24, 32, 38), (85, 97, 107), (205, 212, 216)
TONES = {
    "accept": ((238, 246, 241), (47, 143, 91), (26, 104, 64)),
    "review": ((253, 244, 228), (213, 133, 18), (122, 67, 0)),
    "reject": ((253, 238, 236), (208, 55, 43), (154, 27, 18)),
}
MOST_PICTURED = 4
"""Structures and lesions with pictures on paper, after the overview; the page has more."""
MOST_ROWS = 60
"""Rows of a table on paper; the page and the table files have all."""


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
    paper = _Paper(document, load_fonts(_texts(document)), page)
    paper.head()
    paper.verdict()
    paper.facts()
    _findings(paper, document)
    _pictures(paper, document, material, ("overview",), 1)
    _pictures(paper, document, material, ("lesion", "structure"), MOST_PICTURED)
    _comparison(paper, document, material)
    _small_print(paper, document)
    return bytes(paper.output())


class _Paper(FPDF):  # type: ignore[misc]
    """Pages with a foot, and the blocks that a report is made of."""

    def __init__(self, document: ReportDocument, fonts: Fonts, page: str) -> None:
        super().__init__(format=page, unit="mm")
        self.document, self.say, self.fonts_used = document, document.language, fonts
        fonts.register(self)
        self.set_margins(MARGIN_MM, 12.0, MARGIN_MM)
        self.set_auto_page_break(True, margin=16.0)
        self.set_title(self.fit(document.title))
        self.set_creator("Voxmetry")
        self.set_lang(self.say.code)
        # A fixed date: the report says when the study was run, and equal reports are equal files.
        self.set_creation_date(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        self.set_text_shaping(True)
        self.add_page()

    def fit(self, text: str) -> str:
        return self.fonts_used.fit(text)

    def footer(self) -> None:
        """Write the notice and the page's number at the foot of each page."""
        self.set_y(-12.0)
        self.face(SMALL_PT, MUTED)
        self.cell(0, 4, self.fit(self.document.notice))
        self.set_x(MARGIN_MM)
        # Not the alias of the number of pages, whose width is unknown while it is set.
        number = self.say("Page {n}", n=self.page_no())
        self.cell(0, 4, number, align="R")

    def face(self, size: float, colour: tuple[int, int, int] = INK, *, bold: bool = False) -> None:
        self.set_font(FAMILY, "B" if bold else "", size)
        self.set_text_color(*colour)

    def line_of(self, text: str, size: float = BODY_PT, colour: tuple[int, int, int] = INK, *, bold: bool = False) -> None:
        self.face(size, colour, bold=bold)
        self.multi_cell(0, size * 0.46, self.fit(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT, align="L")

    def heading(self, text: str, *, room_mm: float = 24.0) -> None:
        if self.will_page_break(room_mm):
            self.add_page()
        self.ln(2.6)
        self.line_of(text, 11, bold=True)
        self.ln(0.8)

    def head(self) -> None:
        self.face(SMALL_PT, MUTED)
        self.cell(0, 4, self.fit("Voxmetry – " + self.say("Segmentation report")), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)
        self.line_of(self.document.title, 15, bold=True)
        if self.document.description:
            self.line_of(self.document.description, 9.5, MUTED)
        self.ln(2)

    def verdict(self) -> None:
        verdict = self.document.verdict
        tint, edge, word = TONES.get(verdict.state, TONES["review"])
        reviews = [flag for flag in self.document.flags if flag.severity != "note"]
        lines = [verdict.detail, *(f"• {flag.label + ': ' if flag.label else ''}{flag.message}" for flag in reviews[:5])]
        if len(reviews) > 5:
            lines.append("• " + self.say("{n} more", n=len(reviews) - 5))
        top = self.get_y()
        with self.inset(4.0):
            for dry in (True, False):
                self.set_y(top + 2)
                if not dry:
                    self.set_fill_color(*tint)
                    self.rect(MARGIN_MM, top, self.w - 2 * MARGIN_MM, bottom - top, style="F")
                    self.set_fill_color(*edge)
                    self.rect(MARGIN_MM, top, 1.2, bottom - top, style="F")
                    self.set_y(top + 2)
                # Written twice, the second time over its own box, whose height the first one told.
                with self.local_context() if not dry else self.unseen():
                    self.line_of(verdict.headline, 11, word, bold=True)
                    for line in lines:
                        self.line_of(line)
                bottom = self.get_y() + 2 if not dry else self.measured
        self.set_y(bottom + 2)

    def facts(self) -> None:
        width = (self.w - 2 * MARGIN_MM) / 3
        facts = self.document.examined
        for start in range(0, len(facts), 3):
            top, low = self.get_y(), self.get_y()
            for place, fact in enumerate(facts[start : start + 3]):
                self.set_xy(MARGIN_MM + place * width, top)
                self.face(SMALL_PT, MUTED)
                self.cell(width, 3.4, self.fit(fact.term))
                self.set_xy(MARGIN_MM + place * width, top + 3.4)
                self.face(BODY_PT)
                self.multi_cell(width - 3, 3.8, self.fit(fact.detail), align="L")
                low = max(low, self.get_y())
            self.set_y(low + 1.2)
