"""Cells of a comparison's tables that several of them have."""

from __future__ import annotations

import math
from collections.abc import Callable

from voxmetry.core.records import MeanInterval
from voxmetry.report.tables import Cell


def mean_cell(m: MeanInterval, write: Callable[[float], str], notes: list[str]) -> Cell:
    """Write a mean with its interval; why it has none goes to the notes, once."""
    text = write(m.mean)
    if math.isfinite(m.low):
        text += f" ({write(m.low)} to {write(m.high)})"
    if not m.reason:
        return Cell(text=text)
    reason = m.reason[0].upper() + m.reason[1:]
    if reason not in notes:
        notes.append(reason)
    return Cell(text=text, note=notes.index(reason) + 1)
