"""Text and tables that people and spreadsheets write: in any Unicode, with commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

UNREADABLE = (OSError, UnicodeDecodeError, csv.Error)
"""What reading a text or a table may raise."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before those of 16 bits, with which they begin.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ",;\t"
_OF_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


class Table(NamedTuple):
    """A table with a head.

    Parameters
    ----------
    columns
        Names in the head, without spaces around.
    rows
        Cells by column. Rows without any content are left out.
    lines
        The number of each row as a text editor counts them, where no cell has several lines.
    separator
        What stands between two cells.
    beyond
        Numbers of the lines with more cells than the head.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]
    separator: str
    beyond: tuple[int, ...] = ()

    def exact(self) -> Table:
        """Return the table, whose lines have no more cells than the head.

        Raises
        ------
        csv.Error
            If one has: a separator that is not in quotes would move all that follows it.
        """
        if self.beyond:
            raise csv.Error(f"line {self.beyond[0]} has more cells than the head")
        return self

    def number(self, text: str) -> float:
        """Read a number with a decimal point, or where the columns are not separated by commas with a decimal comma.

        Raises
        ------
        ValueError
            If it is none, or may as well have its comma between thousands.

        Examples
        --------
        >>> Table((), (), (), ";").number("0,85")
        0.85
        """
        if self.separator == "," or "," not in text:
            return float(text)
        if self.separator == "\t" and _OF_THOUSANDS.fullmatch(text.strip()):
            raise ValueError(f"{text} may be a fraction, or thousands")
        if text.count(",") > 1 or "." in text:
            raise ValueError(f"{text} has more than a decimal comma")
        return float(text.replace(",", "."))


def read_text(path: Path) -> str:
    """Read a text: UTF-8, or UTF-16 and UTF-32 that begin with their mark, as Windows programs write them.

    Raises
    ------
    OSError
        If it cannot be read.
    UnicodeDecodeError
        If it is in none of them. Which one of the many sets of 256 letters it is in cannot be known, and a name would
        be another.
    """
    content = path.read_bytes()
    coding = next((coding for mark, coding in _MARKS if content.startswith(mark)), "utf-8")
    text = content.decode(coding)
    if "\0" in text:
        raise UnicodeDecodeError(coding, content, 0, 1, "letters of two bytes without a mark")
    # Line ends of Windows become those of Python, as where a file is opened as text.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: Path) -> Table:
    """Read a table as spreadsheets export it: CSV with commas, with semicolons (and decimal commas), or with tabs.

    A first line `sep=;`, as Excel writes and reads it, names the separator; else it is what the head has most of.

    Raises
    ------
    OSError, UnicodeDecodeError
        As `read_text`.
    csv.Error
        If quotes are not as they should be.
    """
    return parse_table(read_text(path))


def parse_table(text: str) -> Table:
    r"""Read a table from its text, as `read_table`.

    Examples
    --------
    >>> parse_table("case;patient\na;1\n;\n").rows
    ({'case': 'a', 'patient': '1'},)
    """
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)", first.strip('"')) if len(first.strip('"')) == 5 else None
    body = rest if named else text
    separator = named.group(1) if named else _separator(body.partition("\n")[0])
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
    head = [name.strip() for name in next(reader, [])]
    while head and not head[-1]:
        # Columns that were emptied in the spreadsheet.
        head.pop()
    rows: list[dict[str, str]] = []
    lines, beyond = [], []
    for number, cells in enumerate(reader, start=3 if named else 2):
        while len(cells) > len(head) and not cells[-1].strip():
            cells.pop()
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(head):
            beyond.append(number)
        rows.append(dict(zip(head, cells, strict=False)) | dict.fromkeys(head[len(cells) :], ""))
        lines.append(number)
    return Table(tuple(head), tuple(rows), tuple(lines), separator, tuple(beyond))


def _separator(head: str) -> str:
    outside = re.sub(r'"[^"]*"', "", head)
    return max(_SEPARATORS, key=outside.count)


def why_unreadable(error: Exception) -> str:
    """Say in words why a text or a table could not be read.

    Examples
    --------
    >>> try:
    ...     "Größe".encode("cp1252").decode("utf-8")
    ... except UnicodeDecodeError as error:
    ...     why_unreadable(error)
    'it is no Unicode text (UTF-8, or UTF-16 with its mark)'
    """
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return "it is no Unicode text (UTF-8, or UTF-16 with its mark)"
    return str(error) or type(error).__name__
