"""The report's table of lesions."""

from __future__ import annotations

from voxmetry.core.records import Lesion, StudyResult
from voxmetry.report.tables import Cell, Column, Row, Table
from voxmetry.report.text import UNDEFINED, clean, count, decimals, intensity_places, millilitres, millimetres

MOST_ROWS = 50
"""Lesions that have a row; the table file holds all."""


def lesion_table(result: StudyResult) -> Table | None:
    """One row a lesion, the largest of each structure first; None where there is none."""
    if not result.lesions:
        return None
    rows = sorted(result.lesions, key=lambda x: -x.volume_ml)[:MOST_ROWS]
    unit = next((x.intensity_unit for x in rows if x.intensity_unit), None)
    is_pet = unit == "SUVbw"
    columns = [
        Column(head="Volume", unit="mL"),
        Column(head="Long axis", unit="mm"),
        Column(head="Short axis", unit="mm"),
        Column(head="Largest diameter", unit="mm"),
        *([Column(head="Maximum" if not is_pet else "SUVmax")] if unit else []),
        *([Column(head="SUVpeak"), Column(head="TLG", unit="SUV·mL")] if is_pet else []),
        Column(head="Location", numeric=False),
        Column(head="Remarks", numeric=False),
    ]
    places = intensity_places((x.intensity_max for x in rows), unit)
    colours = {label.value: label.colour for label in result.labels}
    made = []
    for x in rows:
        cells = [millilitres(x.volume_ml), *map(millimetres, (x.long_axis_mm, x.short_axis_mm, x.max_diameter_mm))]
        if unit:
            cells.append(decimals(x.intensity_max, places))
        if is_pet:
            cells += [decimals(x.suv_peak, 2), decimals(x.total_lesion_glycolysis_suv_ml, 1)]
        cells += [_location(x), f"at the image's edge: {', '.join(x.border_sides)}" if x.touches_border else ""]
        made.append(Row(label=clean(x.id), colour=colours[x.value], cells=tuple(Cell(text=text) for text in cells)))
    n = len(result.lesions)
    caption = f"{count(n, 'lesion')}, long and short axis in one axial slice"
    return Table(
        id="lesion-table",
        caption=caption if n <= MOST_ROWS else f"The {MOST_ROWS} largest of {caption}",
        columns=tuple(columns),
        rows=tuple(made),
    )


def _location(x: Lesion) -> str:
    if x.location is None:
        return UNDEFINED
    where = clean(x.location)
    return where if x.location_distance_mm == 0 else f"{millimetres(x.location_distance_mm)} mm from {where}"
