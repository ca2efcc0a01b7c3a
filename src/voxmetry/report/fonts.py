"""Fonts for the PDF: DejaVu Sans, which comes with matplotlib, and for other scripts what the machine has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from voxmetry.core.text import visible

if TYPE_CHECKING:
    from fpdf import FPDF

FAMILY = "DejaVu Sans"
REPLACEMENT = "\ufffd"
_PREFERRED = ("Noto Sans",)
# Marks of direction and joining have no picture of their own.
_INVISIBLE = {chr(code) for code in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)}


@dataclass(frozen=True)
class Fonts:
    """The fonts of one document, and the characters that none of them has."""

    regular: Path
    bold: Path
    others: tuple[Path, ...] = ()
    """Fonts of the machine for the characters that the first two lack."""
    missing: frozenset[str] = field(default_factory=frozenset)

    def register(self, pdf: FPDF) -> None:
        """Make the fonts known to a PDF."""
        pdf.add_font(FAMILY, "", self.regular)
        pdf.add_font(FAMILY, "B", self.bold)
        names = []
        for number, path in enumerate(self.others):
            pdf.add_font(f"other{number}", "", path)
            names.append(f"other{number}")
        if names:
            pdf.set_fallback_fonts(names, exact_match=False)

    def fit(self, text: str) -> str:
        """Put the replacement character where no font has the character; leave marks without a picture out."""
        kept = (letter for letter in visible(text, keep="\n") if letter not in _INVISIBLE)
        return "".join(REPLACEMENT if letter in self.missing else letter for letter in kept)


def load_fonts(texts: Iterable[str]) -> Fonts:
    """Choose fonts that together have every character of some texts, as far as the machine has such.

    Parameters
    ----------
    texts
        All that will be written.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    regular, bold = folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf"
    wanted = {letter for text in texts for letter in visible(text) if letter.isprintable()} - _INVISIBLE
    missing = {letter for letter in wanted if ord(letter) not in _characters(regular)}
    others: list[Path] = []
    for path in _installed() if missing else ():
        has = _characters(path)
        found = {letter for letter in missing if ord(letter) in has}
        if found:
            others.append(path)
            missing -= found
        if not missing:
            break
    return Fonts(regular, bold, tuple(others), frozenset(missing))


def _installed() -> list[Path]:
    """Return the machine's upright fonts of normal weight, sans-serif ones of wide coverage first."""
    entries = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        and entry.fname.endswith((".ttf", ".otf"))
    ]
    # Fonts whose every glyph is a box with the script's name would claim to have all characters.
    usable = [entry for entry in entries if "last resort" not in entry.name.lower() and entry.name != FAMILY]
    ranked = sorted(usable, key=lambda entry: (not entry.name.startswith(_PREFERRED), entry.name, entry.fname))
    return [Path(entry.fname) for entry in ranked]


def _characters(path: Path) -> set[int]:
    try:
        return set(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        # A font that cannot be opened has no character for us.
        return set()
