"""Tidy tables of a cohort: one row a case and structure, one row an instance; as CSV and Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from voxmetry.core.base import Record
from voxmetry.core.records import CaseComparison, Comparison, Instance, Measurement, Total
from voxmetry.core.text import csv_row
from voxmetry.errors import MissingExtraError
from voxmetry.io.atomic import atomic_path, write_text

Row: TypeAlias = dict[str, Any]


SHARE = "share_percent"
"""Column of `measurements.csv` for the share of `StudyResult.total`."""
POINTS = {"_ras_mm": ("_{}_mm",), "_ends_ras_mm": ("_end_1_{}_mm", "_end_2_{}_mm")}
"""Fields that hold one position or two, by the end of their name: a column each for right, anterior and superior."""


def columns(kind: type[Record]) -> tuple[str, ...]:
    """Return the columns of a table of these records: one a field, three a position, an `id` first.

    Examples
    --------
    >>> from voxmetry.core.records import Lesion
    >>> columns(Lesion)[:7]
    ('id', 'label', 'value', 'n_voxels', 'volume_ml', 'centroid_r_mm', 'centroid_a_mm')
    """
    fields = sorted(kind.model_fields, key=lambda name: name != "id")
    return tuple(column for name in fields if name != FURTHER for column in _columns_of(name))


def _columns_of(name: str) -> list[str]:
    for end in sorted(POINTS, key=len, reverse=True):
        if name.endswith(end):
            return [name.removesuffix(end) + part.format(axis) for part in POINTS[end] for axis in "ras"]
    return [name]


def records_csv(rows: Sequence[Record], kind: type[Record]) -> str:
    """Spell records as CSV: one row each, the head also of none, an empty cell where a number is undefined."""
    return _written([({}, row) for row in rows], columns(kind))


def measurements_csv(rows: Sequence[Measurement], total: Total | None) -> str:
    """Spell measurements as CSV, with the share of the total as the last column where there is one."""
    if total is None:
        return records_csv(rows, Measurement)
    shares = total.share_percent
    return _written([({SHARE: shares.get(row.label)}, row) for row in rows], (*columns(Measurement), SHARE))


def named_records_csv(tables: Mapping[str, Sequence[Record]], kind: type[Record], *, name: str) -> str:
    """Spell several tables of records as one CSV, whose first column `name` says which table a row is from."""
    rows = [({name: key}, row) for key, table in tables.items() for row in table]
    return _written(rows, (name, *columns(kind)))


def _written(rows: Sequence[tuple[Row, Record]], head: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_row(first | flat(row)) for first, row in rows)
    return text.getvalue()


def flat(row: Record) -> Row:
    """Return a record as the cells of its `columns`; what is undefined is None."""
    cells: Row = {}
    for name, value in _cells(row).items():
        names = _columns_of(name)
        if len(names) == 1:
            cells[name] = " ".join(map(str, value)) if isinstance(value, tuple) else value
        else:
            cells |= zip(names, np.ravel(value).tolist(), strict=True)
    return {name: None if value != value else value for name, value in cells.items()}


def comparison_rows(cases: Sequence[CaseComparison]) -> list[Row]:
    """Return one row a case and structure; a case that failed is one row with its reason in `error`."""
    nothing = dict.fromkeys(name for name in Comparison.model_fields if name != FURTHER)
    rows = []
    for case in cases:
        head = {"case": case.case, "patient": case.patient}
        rows += [{**head, **_cells(row), "error": None} for row in case.comparisons]
        if case.error is not None:
            rows.append({**head, **nothing, "error": case.error["found"]})
    return rows


def instance_rows(cases: Sequence[CaseComparison]) -> list[Row]:
    """Return one row a matched, missed or invented instance."""
    rows = []
    for case in cases:
        for matching in case.matchings:
            for instance in matching.instances:
                cells = _cells(instance)
                x, y, z = cells.pop("centroid_ras_mm")
                for name in ("prediction_ids", "reference_ids"):
                    cells[name] = " ".join(map(str, cells[name]))
                place = {"centroid_r_mm": x, "centroid_a_mm": y, "centroid_s_mm": z}
                rows.append({"case": case.case, "patient": case.patient, **cells, **place, "rule": matching.rule})
    return rows


INSTANCE_COLUMNS = (
    "case",
    "patient",
    *(name for name in Instance.model_fields if name != "centroid_ras_mm"),
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
    "rule",
)
FURTHER = "surface_dice_at_mm"
COMPARISON_COLUMNS = ("case", "patient", *(name for name in Comparison.model_fields if name != FURTHER), "error")


def comparison_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns of `comparison_rows`: one more for each further tolerance."""
    further = dict.fromkeys(name for row in rows for name in row if name not in COMPARISON_COLUMNS)
    return (*COMPARISON_COLUMNS, *further)


def _cells(record: Record) -> Row:
    content = record.model_dump()
    for mm, value in content.pop(FURTHER, {}).items():
        content[f"surface_dice_at_{mm}_mm"] = value
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in content.items()}


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV; what is undefined is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csv_row, rows))
    write_text(path, text.getvalue())


def require_parquet() -> None:
    """Raise `MissingExtraError` unless Parquet can be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            found="the package pyarrow is not installed",
            expected="it, to write Parquet files",
            fix="pip install 'voxmetry[parquet]', or leave the Parquet file out (--no-parquet)",
        ) from error


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of `comparison_rows` as Parquet; what is undefined is null.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """
    require_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    kinds: dict[Any, Any] = {int: pa.int64(), int | None: pa.int64(), float: pa.float64()}
    types = {name: kinds.get(field.annotation, pa.string()) for name, field in Comparison.model_fields.items()}
    types |= {"case": pa.string(), "patient": pa.int64(), "error": pa.string()}
    names = comparison_columns(rows)
    table = pa.Table.from_pylist(
        [dict(row) for row in rows], schema=pa.schema([(name, types.get(name, pa.float64())) for name in names])
    )
    # An open file: of a path, pyarrow makes text and looks for a URI in it.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        parquet.write_table(table, file)
