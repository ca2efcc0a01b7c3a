"""The record as tidy tables: one row a structure or lesion, and one row a study that has none."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from voxmetry.core.records import Comparison, Lesion, Measurement
from voxmetry.core.text import csv_cells
from voxmetry.errors import MissingExtraError
from voxmetry.io.atomic import atomic_path
from voxmetry.measurement.tables import columns, require_parquet
from voxmetry.workflows.cohort.database import reading
from voxmetry.workflows.cohort.records import CohortPlan

CSV, PARQUET = "measurements.csv", "measurements.parquet"

_STUDY = (
    *('"case"', "model", "state", "needs_review", "flags", "reason_not_done", "modality", "format", "seconds"),
    *("peak_memory_mb", "device", "voxmetry_version"),
)
_MEASURED = tuple(name for name in columns(Measurement) if name not in ("reason",))
_COMPARED = tuple(
    name
    for name in columns(Comparison)
    if name not in ("label", "value", "reason", "n_voxels_prediction", "volume_prediction_ml")
)
# What only a lesion has comes behind; what it shares with a structure stands in the same columns.
_OF_LESIONS = tuple(name for name in columns(Lesion) if name not in (*_MEASURED, "id", "reason"))
COLUMNS = (
    *(name.strip('"') for name in _STUDY),
    *("level", "input", "lesion"),
    *_MEASURED,
    *_COMPARED,
    *_OF_LESIONS,
    "reason_undefined",
)
"""The columns of both tables. Units are in the names; what is undefined is empty."""

_BATCH = 20_000

_BEHIND = 1 << 20
"""More than any label value: rows of further inputs come after those of the first."""


def export_tables(out: Path, *, parquet: bool | None = None) -> tuple[Path, ...]:
    """Write `measurements.csv`, and `measurements.parquet` where pyarrow is installed, from the record of a folder.

    Parameters
    ----------
    out
        The folder of a cohort; a run may be writing to it.
    parquet
        Whether Parquet is written; None writes it where it can be.

    Returns
    -------
    tuple of Path
        The files. Each has one row a study, model and structure or lesion (`level` tells them apart); a study without
        a structure, because it failed or is not done yet, is one row with its state. What was measured on a further
        image of a model with several inputs, such as SUV on the PET, is on rows of the levels 'other structure' and
        'other lesion', with the name of the input.

    Raises
    ------
    MissingExtraError
        If Parquet is asked for and pyarrow is missing.
    FormatError, OutputError
        If there is no record, or a file cannot be written.
    """
    if parquet is not False:
        try:
            require_parquet()
            parquet = True
        except MissingExtraError:
            if parquet:
                raise
            parquet = False
    with reading(out) as db:
        with atomic_path(out / CSV) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for batch in batches(db):
                writer.writerows(map(csv_cells, batch))
        if parquet:
            _write_parquet(db, out / PARQUET)
    return (out / CSV, *([out / PARQUET] if parquet else []))


def batches(db: sqlite3.Connection) -> Iterator[list[Sequence[Any]]]:
    """Yield the rows of the tables, some thousands at a time."""
    db.row_factory = None
    db.create_function("codes", 1, _codes, deterministic=True)
    db.create_function("found", 1, _found, deterministic=True)
    study = (
        's."case", s.model, s.state, s.needs_review, codes(s.flags), found(s.fault), s.modality, s.format, '
        "s.seconds, s.peak_memory_mb, s.device, json_extract(s.versions, '$.voxmetry')"
    )
    measured = ", ".join(f'm."{name}"' for name in _MEASURED)
    compared = ", ".join(f'c."{name}"' for name in _COMPARED)
    reason = "nullif(trim(coalesce(m.reason, '') || ' ' || coalesce(c.reason, '')), '')"
    shared = ", ".join(f'l."{name}"' if name in columns(Lesion) else "NULL" for name in _MEASURED)
    alone = ", ".join(f'l."{name}"' for name in _OF_LESIONS)
    cursor = db.execute(
        f"SELECT {study}, iif(m.label IS NULL, 'study', 'structure'), NULL, NULL, {measured}, {compared}, "
        f"{_nulls(_OF_LESIONS)}, {reason}, s.position AS position, m.value AS place, -1e300 AS size FROM studies s "
        'LEFT JOIN measurements m ON m."case" = s."case" AND m.model = s.model AND s.state = \'done\' '
        'LEFT JOIN comparisons c ON c."case" = m."case" AND c.model = m.model AND c.label = m.label '
        f"UNION ALL SELECT {study}, 'lesion', NULL, l.id, {shared}, {_nulls(_COMPARED)}, {alone}, "
        "nullif(l.reason, ''), s.position, l.value, -l.volume_ml FROM studies s "
        'JOIN lesions l ON l."case" = s."case" AND l.model = s.model AND s.state = \'done\' '
        f"UNION ALL SELECT {study}, 'other structure', m.input, NULL, {measured}, {_nulls(_COMPARED)}, "
        f"{_nulls(_OF_LESIONS)}, nullif(m.reason, ''), s.position, m.value + {_BEHIND}, -1e300 FROM studies s "
        'JOIN other_measurements m ON m."case" = s."case" AND m.model = s.model AND s.state = \'done\' '
        f"UNION ALL SELECT {study}, 'other lesion', l.input, l.id, {shared}, {_nulls(_COMPARED)}, {alone}, "
        f"nullif(l.reason, ''), s.position, l.value + {_BEHIND}, -l.volume_ml FROM studies s "
        'JOIN other_lesions l ON l."case" = s."case" AND l.model = s.model AND s.state = \'done\' '
        "ORDER BY position, 2, place, size"
    )
    while batch := cursor.fetchmany(_BATCH):
        yield [row[: len(COLUMNS)] for row in batch]


def _nulls(names: Sequence[str]) -> str:
    return ", ".join(["NULL"] * len(names))


def _codes(flags: str | None) -> str:
    return " ".join(dict.fromkeys(flag["code"] for flag in json.loads(flags or "[]")))


def _found(fault: str | None) -> str | None:
    return json.loads(fault)["found"] if fault else None


def _write_parquet(db: sqlite3.Connection, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, _type(name, pa)) for name in COLUMNS])
    # An open file: of a path, pyarrow makes text and looks for a URI in it.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        for batch in batches(db):
            columns = zip(*batch, strict=True)
            arrays = [
                pa.array(_typed(column, schema.field(place).type, pa), schema.field(place).type)
                for place, column in enumerate(columns)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _type(name: str, pa: Any) -> Any:
    if name in ("needs_review", "touches_border"):
        return pa.bool_()
    fields = {**Lesion.model_fields, **Comparison.model_fields, **Measurement.model_fields}
    # The parts of positions in mm: three columns a point.
    if name.endswith(("_r_mm", "_a_mm", "_s_mm")) or name in ("seconds", "peak_memory_mb"):
        return pa.float64()
    kind: Any = fields[name].annotation if name in fields else str
    kinds: dict[Any, Any] = {int: pa.int64(), int | None: pa.int64(), float: pa.float64()}
    return kinds.get(kind, pa.string())


def _typed(column: Sequence[Any], kind: Any, pa: Any) -> Sequence[Any]:
    return [None if x is None else bool(x) for x in column] if kind == pa.bool_() else column


def save_plan(plan: CohortPlan, path: Path) -> None:
    """Write a plan as CSV: one row a study and model, with what would be done and why.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    columns = ("case", "model", "state", "why", "study", "series", "modality", "seconds_foreseen", "memory_mb_foreseen")
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for study in plan.studies:
            why = study.fault.found if study.fault else study.why
            seen = study.candidate
            numbers = (study.seconds_foreseen, study.memory_mb_foreseen)
            cells = ("" if math.isnan(x) else f"{x:.6g}" for x in numbers)
            row = (study.case, study.model, study.state, why, seen.path, seen.series, seen.modality, *cells)
            writer.writerow(csv_cells(row))
