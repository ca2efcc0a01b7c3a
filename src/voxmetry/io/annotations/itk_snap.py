"""ITK-SNAP's file of labels beside a label map: `idx r g b a vis mesh "name"`, one line each."""

from __future__ import annotations

import re
from pathlib import Path

from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.text_files import read_text
from voxmetry.errors import LabelError
from voxmetry.io.atomic import write_text

_LINE = re.compile(r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"(.*)"\s*$')
HEAD = "################################################\n# ITK-SnaP Label Description File\n"
_COLUMNS = "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL\n################################################\n"
_SUFFIXES = (".label", ".lbl", ".txt")
_LIMIT_BYTES = 4_000_000


def is_itk_snap(path: Path) -> bool:
    """Whether a file looks like ITK-SNAP's labels: each line that is no comment is one."""
    try:
        if not path.is_file() or path.stat().st_size > _LIMIT_BYTES:
            return False
        lines = _lines(read_text(path))
    except (OSError, UnicodeDecodeError):
        return False
    return bool(lines) and all(_LINE.match(line) for _, line in lines)


def read_itk_snap(path: Path) -> LabelTable:
    """Read ITK-SNAP's labels; 0, the "Clear Label", is the background.

    Raises
    ------
    LabelError
        If a line is none of a label, or a value or a name is there twice.
    """
    try:
        lines = _lines(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__})") from error
    labels: list[Label] = []
    for number, line in lines:
        found = _LINE.match(line)
        if found is None:
            raise _damaged(path, f"line {number} is no label")
        value, red, green, blue = (int(found[group]) for group in range(1, 5))
        if value == 0:
            continue
        if value > 65535 or max(red, green, blue) > 255 or not found[8].strip():
            raise _damaged(path, f"line {number} has a value, colour or name that cannot be")
        labels.append(Label(value=value, name=found[8].strip(), colour=f"#{red:02X}{green:02X}{blue:02X}"))
    for what in ("value", "name"):
        seen = [getattr(label, what) for label in labels]
        if len(set(seen)) < len(seen):
            raise _damaged(path, f"a {what} stands there twice")
    return LabelTable(labels=tuple(labels))


def itk_snap_beside(path: Path) -> Path | None:
    """Find ITK-SNAP's labels of a label map: the file of the same name, else the only such file in its folder."""
    stem = re.sub(r"(\.nii\.gz|\.nii|\.nrrd|\.mha|\.mhd)$", "", path.name, flags=re.IGNORECASE)
    own = [path.with_name(stem + suffix) for suffix in _SUFFIXES]
    for beside in own:
        if is_itk_snap(beside):
            return beside
    # One file of labels serves a folder of label maps.
    others = [entry for entry in sorted(path.parent.iterdir()) if entry.suffix.lower() in _SUFFIXES]
    found = [entry for entry in others if is_itk_snap(entry)]
    return found[0] if len(found) == 1 else None


def write_itk_snap(table: LabelTable, path: Path) -> None:
    """Write a label table as ITK-SNAP reads it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in table:
        red, green, blue = (round(255 * channel) for channel in label.rgb)
        name = re.sub(r'["\r\n]', " ", label.name)
        lines.append(f'{label.value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"')
    write_text(path, HEAD + _COLUMNS + "\n".join(lines) + "\n")


def _lines(text: str) -> list[tuple[int, str]]:
    numbered = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in numbered if line.strip() and not line.lstrip().startswith("#")]


def _damaged(path: Path, why: str) -> LabelError:
    return LabelError(
        found=f"{path.name} is no file of ITK-SNAP's labels: {why}",
        expected='lines of IDX R G B A VIS MSH "LABEL"',
        fix="save it again in ITK-SNAP: Segmentation, Save Label Descriptions",
    )
