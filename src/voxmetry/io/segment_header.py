"""Segments in the header of a NRRD file, whichever program wrote them: 3D Slicer or MITK."""

from __future__ import annotations

from collections.abc import Mapping

from voxmetry.core.labels import LabelTable
from voxmetry.io.label_header import damaged_table
from voxmetry.io.mitk_header import mitk_segments
from voxmetry.io.slicer_header import Segment, slicer_segments


def segments_in(fields: Mapping[str, str], name: str) -> tuple[Segment, ...]:
    """Read the segments from a header's fields; none where it has none.

    Where segments of different layers have one value, labels are numbered in their order.

    Raises
    ------
    LabelError
        If the fields are there but damaged, or two segments of a layer share a value.
    """
    found = slicer_segments(fields, name) or mitk_segments(fields, name)
    places = [(segment.layer, segment.stored) for segment in found]
    if len(set(places)) < len(places):
        raise damaged_table(name, "label values used more than once")
    values = [segment.stored for segment in found]
    if len(set(values)) == len(values):
        return tuple(found)
    return tuple(
        segment._replace(label=segment.label.model_copy(update={"value": number}))
        for number, segment in enumerate(found, start=1)
    )


def table_in(fields: Mapping[str, str], name: str) -> LabelTable | None:
    """Read the segments of a file of one layer as a label table; None where it has none.

    Raises
    ------
    LabelError
        As `segments_in`.
    """
    found = segments_in(fields, name)
    if any(segment.layer for segment in found):
        raise damaged_table(name, "segments of layers that the file does not have")
    return LabelTable(labels=tuple(segment.label for segment in found)) if found else None
