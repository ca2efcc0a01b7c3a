"""Patients of cases: from a table, and as numbers, so that no name is written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from voxmetry.core.text_files import UNREADABLE, Table, read_table, why_unreadable
from voxmetry.errors import ConfigError


def number_patients(cases: Sequence[str], patients: Mapping[str, Hashable] | None = None) -> dict[str, int]:
    """Give each case the number of its patient, from 1 in the order of the cases.

    Examples
    --------
    >>> number_patients(["a", "b", "c"], {"a": "x", "c": "x"})
    {'a': 1, 'b': 2, 'c': 1}
    """
    unknown = sorted(set(patients or {}) - set(cases))
    if unknown:
        raise ConfigError(
            found=f"patients of cases that are not compared: {', '.join(unknown[:5])}",
            expected="names of cases, without suffix",
            fix="correct the names, or leave these lines out",
        )
    numbers: dict[Hashable, int] = {}
    found = {}
    for case in cases:
        key: Hashable = ("patient", patients[case]) if patients and case in patients else ("case", case)
        found[case] = numbers.setdefault(key, len(numbers) + 1)
    return found


def patient_table(path: Path) -> Table:
    """Read a table that says whose each case is, as it stands.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    try:
        return read_table(path).exact()
    except UNREADABLE as error:
        raise ConfigError(
            found=f"{path.name} cannot be read: {why_unreadable(error)}",
            expected="a CSV file in UTF-8 with the columns case and patient",
            fix="save the table as CSV (UTF-8)",
        ) from error


def read_patients(path: Path) -> dict[str, str]:
    """Read whose case it is from a CSV file with the columns `case` and `patient`.

    Raises
    ------
    ConfigError
        If the file is missing, has not these columns, or names a case twice.
    """
    if not path.is_file():
        raise ConfigError(found=f"no file {path.name}", expected="a CSV file of cases", fix="check the path")
    columns, rows, *_ = patient_table(path)
    if not {"case", "patient"} <= set(columns):
        raise ConfigError(
            found=f"{path.name} with the columns {', '.join(columns) or '(none)'}",
            expected="the columns case and patient",
            fix="write a line 'case,patient' at its head",
        )
    found = {row["case"]: row["patient"] for row in rows}
    if len(found) < len(rows):
        raise ConfigError(
            found=f"{path.name} names a case more than once", expected="one line a case", fix="remove the others"
        )
    return found
