"""What the readers of slice annotations share."""

from __future__ import annotations

from voxmetry.errors import FormatError

MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, MemoryError)
"""What a file raises that lacks something or holds something else in its place."""


def malformed(name: str, what: str, why: str) -> FormatError:
    """Return the error of a file that is damaged."""
    return FormatError(
        found=f"{name} is not {what} that can be read: {why}",
        expected="the file as the program exported it",
        fix="export the annotations again",
    )


def not_filled(kind: str, label: str) -> FormatError:
    """Return the error of a shape that encloses nothing or is of a kind that is not read."""
    return FormatError(
        found=f"a shape of the kind {kind!r} for {label}",
        expected="shapes that enclose an area: polygons, rectangles, ellipses or painted masks",
        fix="take it out of the export, or draw the outline as a polygon",
    )


def one_of(names: list[str]) -> str:
    """Return the name if all are the same, else nothing: a file of several people has no one author."""
    given = {name for name in names if name}
    return given.pop() if len(given) == 1 else ""
