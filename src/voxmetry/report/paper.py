"""Sheets of a PDF: headings, text, tables and pictures with the report's fonts and colours."""

from __future__ import annotations

import datetime
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fpdf import FPDF
from fpdf.enums import MethodReturnValue, XPos, YPos
from fpdf.fonts import FontFace, TTFFont

from voxmetry.report.document import ReportDocument
from voxmetry.report.fonts import FAMILY, Fonts
from voxmetry.report.pictures.illustrations import Illustration
from voxmetry.report.tables import Column, Row, Table

if TYPE_CHECKING:
    from voxmetry.report.pictures.material import Material


MARGIN_MM = 14.0
BODY_PT, SMALL_PT = 8.5, 7.2
INK, MUTED, LINE = (24, 32, 38), (85, 97, 107), (205, 212, 216)
TONES = {
    "accept": ((238, 246, 241), (47, 143, 91), (26, 104, 64)),
    "review": ((253, 244, 228), (213, 133, 18), (122, 67, 0)),
    "reject": ((253, 238, 236), (208, 55, 43), (154, 27, 18)),
}
"""Ground, edge and word of the verdict."""
MOST_ROWS = 60
"""Rows of a table on paper; the page and the table files have all."""
DEFINED = {
    *("volume_ml", "extent_rl_mm", "intensity_mean", "long_axis_mm", "short_axis_mm", "suv_peak"),
    *("total_lesion_glycolysis_suv_ml", "dice", "iou", "surface_dice", "hausdorff_mm", "hd95_mm", "assd_mm", "surface"),
}
_SWATCH_MM = 4.6


class Paper(FPDF):  # type: ignore[misc]
    """Pages with a foot, and the blocks that a report is made of."""

    def __init__(self, document: ReportDocument, fonts: Fonts, page: str, *, share: float = 1.0) -> None:
        super().__init__(format=page, unit="mm")
        self.document, self.say, self.used = document, document.language, fonts
        self.share = share
        fonts.register(self)
        self.set_margins(MARGIN_MM, 12.0, MARGIN_MM)
        self.set_auto_page_break(True, margin=15.0)
        # Text begins at the margin, not beside it.
        self.c_margin = 0.0
        self.set_title(self.fit(document.title))
        self.set_creator("Voxmetry")
        self.set_lang(self.say.code)
        # Not the time of writing: equal reports are equal files, and the page says when the study was run.
        self.set_creation_date(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        self.set_text_shaping(True)
        self.set_draw_color(*LINE)
        self.alias_nb_pages("{pages}")
        self.add_page()

    @property
    def room_mm(self) -> float:
        """Width between the margins."""
        return float(self.w - 2 * MARGIN_MM)

    def close_fonts(self) -> None:
        """Close the files of all fonts: writing the document closes those that it embeds, and no others."""
        for font in self.fonts.values():
            if isinstance(font, TTFFont):
                font.close()

    def fit(self, text: str) -> str:
        """Leave of a text what the fonts can write."""
        return self.used.fit(text)

    def footer(self) -> None:
        """Write the notice and the page's number at the foot of each page."""
        self.set_y(-11.0)
        self.face(SMALL_PT, MUTED)
        self.cell(self.room_mm - 30, 4, self.fit(self.document.notice))
        # The number of pages is not known yet: the place is that of one digit, flush with the margin.
        width = self.get_string_width(self.say("Page {n} of {pages}", n=self.page_no(), pages=0))
        self.set_x(self.w - MARGIN_MM - width)
        self.cell(30, 4, self.say("Page {n} of {pages}", n=self.page_no(), pages="{pages}"))

    def face(self, size: float, colour: tuple[int, int, int] = INK, *, bold: bool = False) -> None:
        """Set the font of what is written next."""
        self.set_font(FAMILY, "B" if bold else "", size)
        self.set_text_color(*colour)

    def lines(
        self,
        text: str,
        size: float = BODY_PT,
        colour: tuple[int, int, int] = INK,
        *,
        bold: bool = False,
        width: float = 0,
        dry: bool = False,
    ) -> float:
        """Write a paragraph from the present place on, and return its height; only measure it where `dry`."""
        self.face(size, colour, bold=bold)
        height = self.multi_cell(
            width,
            size * 0.47,
            self.fit(text),
            align="L",
            new_x=XPos.LEFT,
            new_y=YPos.NEXT,
            dry_run=dry,
            output=MethodReturnValue.HEIGHT,
        )
        return float(height)

    def need(self, height_mm: float) -> None:
        """Begin a new page where less than this is left."""
        if self.will_page_break(height_mm):
            self.add_page()

    def heading(self, text: str, *, room_mm: float = 26.0) -> None:
        """Write a heading, with room for something below it on the same page."""
        self.need(room_mm)
        self.ln(2.4)
        self.set_x(MARGIN_MM)
        self.lines(text, 10.5, bold=True)
        self.ln(0.8)

    def head(self) -> None:
        """Write what the report is."""
        self.lines("Voxmetry · " + self.say("Segmentation report"), SMALL_PT, MUTED)
        self.ln(0.6)
        self.lines(self.document.title, 14, bold=True)
        if self.document.description:
            self.lines(self.document.description, 9.5, MUTED)
        self.ln(2)

    def verdict(self) -> None:
        """Write whether to trust it, on a ground of its own."""
        verdict = self.document.verdict
        ground, edge, word = TONES.get(verdict.state, TONES["review"])
        flags = [flag for flag in self.document.flags if flag.severity != "note"]
        said = [verdict.detail, *(f"• {flag.label + ': ' if flag.label else ''}{flag.message}" for flag in flags[:4])]
        if len(flags) > 4:
            said.append("• " + self.say("{n} more", n=len(flags) - 4))
        inner = self.room_mm - 8
        height = self.lines(verdict.headline, 10.5, word, bold=True, width=inner, dry=True)
        height += sum(self.lines(line, width=inner, dry=True) for line in said) + 4.5
        top = self.get_y()
        self.set_fill_color(*ground)
        self.rect(MARGIN_MM, top, self.room_mm, height, style="F")
        self.set_fill_color(*edge)
        self.rect(MARGIN_MM, top, 1.1, height, style="F")
        self.set_xy(MARGIN_MM + 4, top + 2)
        self.lines(verdict.headline, 10.5, word, bold=True, width=inner)
        for line in said:
            self.set_x(MARGIN_MM + 4)
            self.lines(line, width=inner)
        self.set_xy(MARGIN_MM, top + height + 2.5)

    def facts(self) -> None:
        """Write what was examined, in three columns."""
        width = self.room_mm / 3
        facts = self.document.examined
        for start in range(0, len(facts), 3):
            top = low = self.get_y()
            for place, fact in enumerate(facts[start : start + 3]):
                self.set_xy(MARGIN_MM + place * width, top)
                self.lines(fact.term, SMALL_PT, MUTED, width=width - 3)
                self.set_x(MARGIN_MM + place * width)
                self.lines(fact.detail, width=width - 3)
                low = max(low, self.get_y())
            self.set_xy(MARGIN_MM, low + 1.2)

    def tabulate(self, table: Table) -> None:
        """Write a table whose head is repeated on each page, with its notes below it."""
        self.need(24.0)
        self.set_x(MARGIN_MM)
        self.lines(table.caption, SMALL_PT, MUTED)
        self.ln(0.6)
        size = BODY_PT if len(table.columns) <= 8 else SMALL_PT - 0.4
        self.face(size)
        self.set_fill_color(255, 255, 255)
        first, *others = _widths(self, table, size)
        with self.table(
            col_widths=(_SWATCH_MM, first, *others),
            width=_SWATCH_MM + first + sum(others),
            align="L",
            text_align=("L", "L", *("R" if column.numeric else "L" for column in table.columns)),
            borders_layout="HORIZONTAL_LINES",
            line_height=size * 0.47,
            padding=(0.75, 1.0, 0.75, 0.6),
            v_align="TOP",
            headings_style=FontFace(emphasis="BOLD", color=MUTED, size_pt=size - 0.6),
        ) as grid:
            head = grid.row()
            head.cell(self.fit(table.head), colspan=2)
            for column in table.columns:
                head.cell(self.fit(_head(column)))
            for row in table.rows[:MOST_ROWS]:
                self._row(grid.row(), row)
        self.face(SMALL_PT)
        self.ln(0.8)
        for number, note in enumerate(table.notes, start=1):
            self.lines(f"{number}) {note}", SMALL_PT, MUTED)
        if len(table.rows) > MOST_ROWS:
            self.lines(
                self.say("{rows} of {n} rows; the HTML report has all.", rows=MOST_ROWS, n=len(table.rows)),
                SMALL_PT,
                MUTED,
            )

    def _row(self, grid: Any, row: Row) -> None:
        colour = tuple(int(row.colour[at : at + 2], 16) for at in (1, 3, 5)) if row.colour else INK
        grid.cell("■", style=FontFace(color=colour))
        grid.cell(self.fit(row.label))
        for cell in row.cells:
            text = f"{cell.text} {cell.note})" if cell.note else cell.text
            tone = TONES["review"][2] if cell.tone == "review" else INK
            grid.cell(self.fit(text), style=FontFace(color=tone))

    def pictures(self, illustration: Illustration, material: Material) -> None:
        """Write three pictures side by side with their captions."""
        gap = 2.5
        edge = self.share * (self.room_mm - 2 * gap) / 3
        self.need(edge + 16)
        self.ln(1.6)
        self.set_x(MARGIN_MM)
        self.lines(illustration.title, 9, bold=True)
        self.lines(illustration.caption, SMALL_PT, MUTED)
        if illustration.keys:
            self._keys(illustration)
        self.ln(0.8)
        top = low = self.get_y()
        for place, picture in enumerate(illustration.pictures):
            left = MARGIN_MM + place * (edge + gap)
            png = io.BytesIO(material.pictures[illustration.id, place])
            self.image(png, left, top, edge, edge, alt_text=self.fit(picture.alt))
            self.set_xy(left, top + edge + 0.6)
            self.lines(picture.caption, SMALL_PT, MUTED, width=edge)
            low = max(low, self.get_y())
        self.set_xy(MARGIN_MM, low)

    def _keys(self, illustration: Illustration) -> None:
        self.face(SMALL_PT)
        for key in illustration.keys:
            text = self.fit(key.label)
            self.face(SMALL_PT)
            width = self.get_string_width(text) + 6.5
            if width > self.room_mm:
                # A name longer than a line, which the table spells out, is cut here.
                room = len(text) * (self.room_mm - 10) / width
                text, width = text[: int(room)] + "…", self.room_mm
            if self.get_x() + width > self.w - MARGIN_MM:
                self.ln(3.6)
                self.set_x(MARGIN_MM)
            self.set_text_color(*(int(key.colour[at : at + 2], 16) for at in (1, 3, 5)))
            self.cell(3.2, 3.6, "■")
            self.set_text_color(*INK)
            self.cell(width - 3.2, 3.6, text)
        self.ln(3.8)
        self.set_x(MARGIN_MM)


def _head(column: Column) -> str:
    head = column.head.replace("\u2060", "")
    return f"{head}\n{column.unit}" if column.unit else head


def _widths(paper: Paper, table: Table, size: float) -> list[float]:
    """Share the page's width among the columns: numbers take what they need, words the rest."""
    # A hair less than there is: what is shared out adds up to it but for its last digit.
    room = paper.room_mm - _SWATCH_MM - 0.01

    def needs(texts: Sequence[str], *, bold: bool) -> float:
        paper.face(size, bold=bold)
        return max((float(paper.get_string_width(paper.fit(text))) for text in texts), default=0.0) + 3.0

    columns = []
    for n, column in enumerate(table.columns):
        told = [row.cells[n].text + (" 0)" if row.cells[n].note else "") for row in table.rows[:MOST_ROWS]]
        # A head may break between words, but neither it within one nor a number.
        words = _head(column).split()
        columns.append(min(max(needs(told, bold=False), needs(words, bold=True)), 60.0 if column.numeric else 46.0))
    first = min(needs([row.label for row in table.rows[:MOST_ROWS]] + [table.head], bold=False), 62.0)
    wanted = first + sum(columns)
    if wanted > room:
        words_share = [first, *(w for w, c in zip(columns, table.columns, strict=True) if not c.numeric)]
        squeeze = max(0.25, (room - (wanted - sum(words_share))) / sum(words_share))
        first *= squeeze
        columns = [w if c.numeric else w * squeeze for w, c in zip(columns, table.columns, strict=True)]
        total = first + sum(columns)
        if total > room:
            first, columns = first * room / total, [w * room / total for w in columns]
    return [first, *columns]
