"""Text that came from a file, made harmless for where it is shown.

Names of structures, cases and files, descriptions and headers are written by anybody. Each medium reads some
characters as more than text: a terminal obeys control characters, a spreadsheet runs what begins with `=`, a page
turns a line about at a U+202E, XML has no form feed, matplotlib sets what stands between two `$` as a formula. One
function for each medium takes that away and leaves the rest as it is; jinja escapes the markup of pages.
"""

from __future__ import annotations

import codecs
import difflib
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping

_KEPT = {"\u200c", "\u200d", "\u2060"}
"""Format characters that only join or part letters: Persian and Indic scripts need them."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with where a spreadsheet may run it; the last four are the full-width forms of the first four."""

_LOOKS = str.maketrans(
    {
        "±": "+/-",
        "×": "x",
        "·": ".",
        "•": "*",
        "…": "...",
        "–": "-",
        "—": "-",
        "−": "-",
        "µ": "u",
        "²": "2",
        "°": " degrees",
        "■": "#",
        "─": "-",
        "│": "|",
        "├": "+",
        "└": "+",
    }
)
"""What this package itself writes, in signs that every character set has."""


def _harmless(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cs":
        # Half a surrogate pair: a byte of a file name that is not UTF-8, which no UTF-8 file can hold.
        return "\ufffd"
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "" if kind == "Cf" and character not in _KEPT else character


def visible(text: str, *, keep: str = "") -> str:
    r"""Take out what is not seen and yet does something: control characters, line ends, marks of direction.

    Control characters and line ends become spaces, half surrogates the replacement character, and format characters
    such as U+202E are left out. Characters of `keep` stay.

    Examples
    --------
    >>> visible("liver\x1b[2J\u202egnp.exe"), visible("a\nb", keep="\n")
    ('liver [2Jgnp.exe', 'a\nb')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(x if x in keep else _harmless(x) for x in text)


def is_text(name: str) -> bool:
    r"""Whether a name of a file is text: its bytes may be no UTF-8 at all, and then it holds half surrogates.

    Examples
    --------
    >>> is_text("l\xe4sion"), is_text("l\udce4sion")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in name)


def clean(text: str) -> str:
    r"""Make text fit for one line of a page, a picture or a table: `visible`, with single spaces.

    Markup is not touched here: what renders a page escapes it.

    Examples
    --------
    >>> clean(" T1\x00 sag\n")
    'T1 sag'
    """
    return re.sub(r"\s+", " ", visible(text)).strip()


def terminal(text: str) -> str:
    r"""Make text fit for a terminal: line ends stay, no control character or escape sequence does.

    Examples
    --------
    >>> terminal("kidney [left]\n\x1b]0;title\x07")
    'kidney [left]\n ]0;title '
    """
    return visible(text, keep="\n")


def csv_cell(value: object) -> object:
    r"""Make a value fit for a CSV file that a spreadsheet opens.

    Text that a spreadsheet would run as a formula gets an apostrophe in front, which it shows as text. Numbers, also
    those that are written out, stay as they are.

    References
    ----------
    OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection

    Examples
    --------
    >>> csv_cell("=HYPERLINK(0)"), csv_cell("-2.5"), csv_cell(-2.5), csv_cell("liver")
    ("'=HYPERLINK(0)", '-2.5', -2.5, 'liver')
    """
    if not isinstance(value, str):
        return value
    runs = value.lstrip(" ").startswith(_FORMULA) and not _is_number(value)
    return ("'" if runs else "") + visible(value)


def csv_row(row: Mapping[str, object]) -> dict[str, object]:
    """Make each cell of a row fit for a CSV file."""
    return {name: csv_cell(value) for name, value in row.items()}


def csv_cells(row: Iterable[object]) -> list[object]:
    """Make each cell of a row fit for a CSV file."""
    return [csv_cell(value) for value in row]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def figure(text: str) -> str:
    r"""Make text fit for a matplotlib figure, also one that is saved as SVG.

    Examples
    --------
    >>> figure("cost $1 and $2\x0c")
    'cost \\$1 and \\$2'
    """
    return clean(text).replace("$", r"\$")


_MOST_BYTES = 200
"""Of one part of a path: file systems take 255, and temporary names add to it."""
_MOST_PARTS = 8
_UNFIT = re.compile(r'[<>:"|?*\\/]+')
"""What one system or another takes for more than a part of a name."""
_RESERVED = {
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"),
}
"""Names that Windows keeps for devices, with any suffix."""


def folder_name(name: str) -> str:
    r"""Turn a name into one that every file system can hold as one folder's: the one rule for cases and models.

    Path separators and ``<>:"|?*`` become underscores, control characters spaces. The name does not begin with a point
    (it would be hidden, or the folder above), does not end with one or with a space, is none that Windows keeps for a
    device, and has at most 200 bytes. Two names may become one.

    Examples
    --------
    >>> folder_name("../../other"), folder_name("CT 1 [left]"), folder_name(".."), folder_name("nul.nii")
    ('_other', 'CT 1 [left]', '_', '_nul.nii')
    """
    kept = _UNFIT.sub("_", clean(name)).encode("utf-8")[:_MOST_BYTES].decode("utf-8", "ignore").rstrip(". ")
    if kept.startswith("."):
        kept = "_" + kept.lstrip("._")
    if kept.split(".")[0].strip().upper() in _RESERVED:
        kept = "_" + kept
    return kept or "_"


def file_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> list[str]:
    """Give each name one that every file system can hold as a file's, without suffix, and keeps apart from the others.

    Some take letters of either case, or an accented letter in one piece and in two, for the same. The first of such
    names keeps it, and those that can be kept as they are come first; the others get a number.

    Parameters
    ----------
    names
        In their order.
    taken
        Names that other files have.

    Examples
    --------
    >>> file_names(["Liver", "liver", "CON", "a/b", "a_b"])
    ['Liver', 'liver_2', '_CON', 'a_b_2', 'a_b']
    """
    names = list(names)
    used = {as_disks_compare(name) for name in taken}
    found = [""] * len(names)
    for place in sorted(range(len(names)), key=lambda place: folder_name(names[place]) != names[place]):
        stem = plain = folder_name(names[place])
        number = 1
        while as_disks_compare(stem) in used:
            number += 1
            stem = f"{plain}_{number}"
        used.add(as_disks_compare(stem))
        found[place] = stem
    return found


def as_disks_compare(name: str) -> str:
    """Return a name as the least exact of disks takes it: in either case, with accents in one piece or two.

    Examples
    --------
    >>> as_disks_compare("Case_A") == as_disks_compare("case_a")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def inside(name: str) -> str:
    r"""Turn a name with slashes into a relative path that stays inside the folder that it is put into.

    Each part follows `folder_name`; beyond the eighth, parts become one.

    Examples
    --------
    >>> inside("site_a/case_7"), inside("../../other"), inside("/etc/passwd"), inside("a/../b")
    ('site_a/case_7', '_/_/other', 'etc/passwd', 'a/_/b')
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    parts[_MOST_PARTS:] = ["_".join(parts[_MOST_PARTS:])] if len(parts) > _MOST_PARTS else []
    return "/".join(map(folder_name, parts)) or "_"


def _as_the_stream_can(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = found.translate(_LOOKS)
    return (plain if plain.isascii() else plain.encode("ascii", "backslashreplace").decode("ascii")), error.end


ERRORS = "voxmetry-plain"
"""Name of the way to write what a stream's character set does not have; see `codecs.register_error`."""
codecs.register_error(ERRORS, _as_the_stream_can)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of the known names, with a blank behind; nothing where none is near.

    Examples
    --------
    >>> did_you_mean("hipocampus", ["hippocampus-mr", "sarcoma-petct"])
    'did you mean hippocampus-mr? '
    >>> did_you_mean("knee", ["hippocampus-mr", "sarcoma-petct"])
    ''
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1) or [other for other in names if name and other.startswith(name)]
    return f"did you mean {near[0]}? " if near else ""


def word(path: object) -> str:
    """Return a path as one word of a command that can be copied into a shell.

    Examples
    --------
    >>> word("my runs/one")
    "'my runs/one'"
    """
    return shlex.quote(str(path))
