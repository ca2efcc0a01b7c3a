"""Instance maps as files: each value one instance, with a table of rows in a CSV file of the same name beside it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import MOST_INSTANCES, InstanceSegmentation
from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.core.records import Detection
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text_files import UNREADABLE, read_table
from voxmetry.errors import FormatError, LabelError
from voxmetry.io.label_maps import read_stored_labels
from voxmetry.io.read import save

UNNAMED = "instance"
"""The structure of instances that no table names."""
_ROUNDING = 1e-3
"""How far a value may be from a whole number, where a file scales its values."""
_NOWHERE = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def save_instances(found: InstanceSegmentation, path: str | os.PathLike[str]) -> None:
    """Write the instance map (NIfTI, NRRD, MetaImage), uint16, with each instance's name and colour in its header.

    Names are those of `measure_instances`: the structure's, and a number within it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    numbers: Counter[str] = Counter()
    names = []
    for row in found.detections:
        numbers[row.label] += 1
        names.append(f"{row.label}-{numbers[row.label]}")
    made = own_labels(found.labels, found.detections, names, [row.value for row in found.detections])
    save(Segmentation(found.array, found.geometry, LabelTable(labels=tuple(made))), path)


def own_labels(
    structures: LabelTable, rows: Sequence[Detection], names: Sequence[str], values: Sequence[int]
) -> list[Label]:
    """Return a label for each instance: the code and kind of its structure, and a colour unlike its neighbours'.

    Parameters
    ----------
    structures
        The label table of the structures.
    rows
        The instances.
    names, values
        What each is called, and its value.
    """
    by_name = {label.name: label for label in structures}
    colours = neighbour_colours(rows)
    return [
        by_name[row.label].model_copy(update={"value": value, "name": name, "colour": colour})
        for row, name, value, colour in zip(rows, names, values, colours, strict=True)
    ]


def neighbour_colours(rows: Sequence[Detection]) -> list[str]:
    """Return a colour for each instance that none of the nearest six before it has, as far as there are colours."""
    from scipy.spatial import cKDTree

    if not rows:
        return []
    middles = np.array([np.mean(row.box_ras_mm, axis=0) for row in rows])
    near = cKDTree(middles).query(middles, k=min(7, len(middles)))[1].reshape(len(middles), -1)
    chosen: list[int] = []
    for place, others in enumerate(near):
        taken = [chosen[other] for other in others if other < place]
        # Of equally free colours the next in turn, so that a row of instances runs through the palette.
        order = [(place + n) % len(PALETTE) for n in range(len(PALETTE))]
        chosen.append(min(order, key=taken.count))
    return [PALETTE[colour] for colour in chosen]


def read_instances(path: str | os.PathLike[str]) -> InstanceSegmentation:
    """Read an instance map, in which each value is one instance.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage. A CSV file of the same name beside it, such as `instances.csv` beside
        `instances.nii.gz`, names the structure of each instance and its score: columns `instance`, `label` and
        `score`. Without it all instances are of one structure, 'instance', and have no score.

    Returns
    -------
    InstanceSegmentation
        Values as in the file; they need not follow one another. Its label map has the structures of the table, numbered
        from 1 in the order of their names. Boxes are not read: each is a point at the origin.

    Raises
    ------
    LabelError
        If a value is no whole number from 0 to 65,535, or the table lacks an instance of the map.
    FormatError
        If the map or the table cannot be read.
    """
    source = Path(path)
    array, geometry = read_stored_labels(source)
    values = _require_values(array, source.name)
    array = np.rint(array).astype(np.uint16)
    table = table_beside(source)
    rows = _rows(table, values, source.name) if table.is_file() else [_row(value) for value in values]
    return of_rows(array, geometry, rows)


def of_rows(array: NDArray[np.uint16], geometry: Geometry, rows: Sequence[Detection]) -> InstanceSegmentation:
    """Return instances with a label map that is made from them."""
    names = {name: place for place, name in enumerate(sorted({row.label for row in rows}), start=1)}
    value_of = np.zeros(MOST_INSTANCES + 1, np.uint16)
    for row in rows:
        value_of[row.value] = names[row.label]
    labels = LabelTable.from_names({value: name for name, value in names.items()} or {1: UNNAMED})
    return InstanceSegmentation(Segmentation(value_of[array], geometry, labels), array, rows)


def table_beside(path: Path) -> Path:
    """Return where the table of an instance map lies.

    Examples
    --------
    >>> table_beside(Path("case_7.nii.gz")).name
    'case_7.csv'
    """
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return path.with_name(f"{Path(name).stem}.csv")


def _require_values(array: NDArray[Any], name: str) -> list[int]:
    values = np.unique(array)
    high = float(values[-1]) if len(values) else 0.0
    wrong = values < 0
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # inf - inf
            wrong |= ~(np.abs(values - np.rint(values)) <= _ROUNDING)
    if wrong.any():
        raise LabelError(
            found=f"values in {name} that are no whole numbers from 0, such as {float(values[wrong][0]):g}",
            expected="an instance map: 0 in the background, and one whole number an instance",
            fix="pass the instance map, not the image or a map of scores",
        )
    n = int(np.count_nonzero(values))
    if high > MOST_INSTANCES:
        what = "more than can be numbered" if n > MOST_INSTANCES else "which could be numbered from 1"
        raise LabelError(
            found=f"{n} instances with values up to {high:.0f} in {name}, {what}",
            expected=f"values from 1 to {MOST_INSTANCES}",
            fix="leave out small instances" if n > MOST_INSTANCES else "number the instances from 1",
        )
    return [int(value) for value in np.rint(values) if value]


def _row(value: int, label: str = UNNAMED, score: float = math.nan) -> Detection:
    return Detection(value=value, label=label, score=score, box_ras_mm=_NOWHERE)


def _rows(path: Path, values: Sequence[int], map_name: str) -> list[Detection]:
    found: dict[int, Detection] = {}
    try:
        table = read_table(path).exact()
        missing = {"instance", "label"} - set(table.columns)
        if missing:
            raise FormatError(
                found=f"{path.name} without the column {' and '.join(sorted(missing))}",
                expected=f"the table of the instances of {map_name}: instance, label, score",
                fix="add the columns, or rename the file if it is another table",
            )
        for line in table.rows:
            value = int(line["instance"])
            score = table.number(line["score"]) if line.get("score") else math.nan
            if math.isinf(score):
                raise ValueError("an infinite score")
            row = _row(value, line["label"] or UNNAMED, score)
            _require_one(found.setdefault(value, row), row, path.name)
    except (*UNREADABLE, ValueError, TypeError) as error:
        raise FormatError(
            found=f"{path.name}, which cannot be read as a table of instances",
            expected="CSV with the columns instance, label and score: a whole number, a name, a number or nothing",
            fix="correct the file, or rename it if it is another table",
        ) from error
    lacking = [value for value in values if value not in found]
    if lacking:
        raise LabelError(
            found=f"instances {lacking[:10]} of {map_name} that {path.name} does not name",
            expected="one row for each instance",
            fix="add the rows, or remove the table",
        )
    # A row whose instance has no voxel, as in a cropped map, says nothing about this map.
    return [found[value] for value in values]


def _require_one(first: Detection, again: Detection, table: str) -> None:
    """Refuse a table that says two things of one instance, as where each structure counts from 1."""
    labels, scores = [first.label, again.label], [str(first.score), str(again.score)]
    if labels[0] != labels[1] or scores[0] != scores[1]:
        said = labels if labels[0] != labels[1] else [f"{first.label} of score {score}" for score in scores]
        raise LabelError(
            found=f"instance {again.value} as {said[0]} and as {said[1]} in {table}",
            expected="each value of an instance map in one row: a voxel is of one instance",
            fix="number the instances of all structures in one row from 1, in the map and in the table",
        )
