"""Structures that there are on both sides of the body."""

from __future__ import annotations

import re
from collections.abc import Iterable

from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Measurement


def pairs(measurements: Iterable[Measurement], labels: LabelTable) -> list[tuple[str, Measurement, Measurement]]:
    """Return the structures that are there on both sides: their common name, the left and the right one.

    A side is the label's laterality, or the word left or right in its name.
    """
    sides: dict[str, dict[str, Measurement]] = {}
    for m in measurements:
        words = re.split(r"[_\W]+", m.label)
        named = [word for word in words if word.lower() in ("left", "right")]
        side = labels.by_value(m.value).laterality or (named[0].lower() if len(named) == 1 else None)
        if side is not None and m.n_voxels:
            rest = " ".join(word for word in words if word.lower() not in ("left", "right"))
            sides.setdefault(rest, {})[side] = m
    return [(name, pair["left"], pair["right"]) for name, pair in sides.items() if len(pair) == 2]
