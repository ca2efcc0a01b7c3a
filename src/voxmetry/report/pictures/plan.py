"""Which pictures a report has: a record, so that a report can be spelt again without the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voxmetry.report.pictures.panels import Panel

MOST_STRUCTURES = 12
"""Structures that have pictures of their own; with more, a page would be slow to open and tiring to read."""
MOST_LESIONS = 12
"""Lesions that have pictures of their own."""
MOST_ERRORS = 3
"""Compared structures whose error is drawn, the worst first."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The panels of one structure, of one lesion, of one structure's error, or of all structures together.

    'fusion' and 'projection' are of the second image, such as the PET beside a CT.
    """

    id: str
    kind: Literal["overview", "fusion", "projection", "structure", "lesion", "error"]
    value: int | None = None
    lesion: str | None = None
    """Id of the lesion in the result."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class PicturePlan:
    """All pictures of a report, and what is to be known of the image's grid."""

    extent_mm: tuple[float, float, float]
    oblique_degrees: float
    present: tuple[int, ...]
    """Values that the segmentation or the reference holds."""
    compared: bool
    pictures: tuple[Planned, ...]
    left_out: tuple[str, ...] = ()
    """Names of the structures that are there and have no picture of their own."""
    lesions_left_out: int = 0
    apart: bool = False
    """Whether each instance is drawn in place of its structure; it counts as a lesion then."""
