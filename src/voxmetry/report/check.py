"""The page of a data check: what was found, by case, with pictures of the cases to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import VoxmetryError
from voxmetry.io import read_segmentation
from voxmetry.io.atomic import write_text
from voxmetry.report.comparison.pictures import AGREED, EXTRA, MISSED, PIXELS, error_panels, render_error
from voxmetry.report.document import NOTICE
from voxmetry.report.html import data_uri, environment
from voxmetry.report.tables import Cell, Column, Row, Table, Tone
from voxmetry.report.text import clean, count, ratio
from voxmetry.train.cases import DataSet
from voxmetry.train.data_check import prediction_of
from voxmetry.train.dataset import read_labelled
from voxmetry.train.findings import DataCheck, Finding

MOST_PICTURED, MOST_ROWS = 8, 60
_TONES: dict[str, Tone] = {"error": "review", "review": "review", "note": "note"}


@dataclass(frozen=True, kw_only=True)
class CheckedCase:
    """Pictures of one case."""

    case: str
    words: str
    pictures: tuple[tuple[str, str], ...]
    """Address and caption."""


@dataclass(frozen=True, kw_only=True)
class CheckDocument:
    """A page without its looks."""

    title: str
    notice: str = NOTICE
    headline: str
    counts: tuple[str, ...]
    findings: Table | None
    agreements: Table | None
    pictured: tuple[CheckedCase, ...]


def write_check_page(check: DataCheck, data: DataSet, path: Path, *, predictions: Path | None = None) -> None:
    """Write the page of a data check; cases with an error or for review are pictured as far as they can be read.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    by_case: dict[str, list[Finding]] = {}
    for row in check.findings:
        if row.severity != "note":
            by_case.setdefault(row.case, []).append(row)
    drawn = [_draw(case, rows, data, predictions) for case, rows in list(by_case.items())[:MOST_PICTURED]]
    document = build_check_document(check, [case for case in drawn if case is not None])
    colours = {"agreed": AGREED, "missed": MISSED, "extra": EXTRA}
    page = environment().get_template("check.html.j2").render(document=document, pixels=PIXELS, colours=colours)
    write_text(path, page)


def build_check_document(check: DataCheck, pictured: Sequence[CheckedCase] = ()) -> CheckDocument:
    """Turn a data check into the sentences and tables of its page."""
    by_severity = {
        name: [row for row in check.findings if row.severity == name] for name in ("error", "review", "note")
    }
    errors, review = len(by_severity["error"]), len(by_severity["review"])
    headline = "Nothing stands in the way of training"
    if errors:
        headline = f"{count(errors, 'error')} to mend before training"
    elif review:
        headline = f"{count(review, 'finding')} to look at"
    counts = [
        f"{count(check.n_cases, 'case')} of {count(check.n_patients, 'patient')}, {check.n_read} could be read.",
        f"{count(errors, 'error')}, {review} to review, {count(len(by_severity['note']), 'note')}.",
    ]
    rows = [
        Row(
            label=clean(row.case),
            colour="",
            cells=(
                Cell(text=row.severity, tone=_TONES[row.severity]),
                Cell(text=row.code.replace("_", " ")),
                Cell(text=clean(row.message)),
            ),
        )
        for row in check.findings[:MOST_ROWS]
    ]
    if len(check.findings) > MOST_ROWS:
        counts.append(f"The first {MOST_ROWS} are shown; data-check.json has all.")
    return CheckDocument(
        title=f"Data check of {clean(check.data)}",
        headline=headline,
        counts=tuple(counts),
        findings=Table(
            id="findings",
            caption="What was found, errors first.",
            columns=tuple(Column(head=head, numeric=False) for head in ("Severity", "What", "In words")),
            rows=tuple(rows),
        )
        if rows
        else None,
        agreements=_agreements(check),
        pictured=tuple(pictured),
    )


def _agreements(check: DataCheck) -> Table | None:
    if not check.agreements:
        return None
    rows = [
        Row(
            label=clean(row.case),
            colour="",
            cells=(
                Cell(text=clean(row.structure)),
                Cell(text="other rater" if row.source == "rater" else "prediction"),
                Cell(text=ratio(row.dice)),
            ),
        )
        for row in check.agreements[:20]
    ]
    return Table(
        id="agreements",
        caption="Agreement of the label with another rater's, or with a prediction of a model that has not seen the "
        "case; the lowest first.",
        columns=(
            Column(head="Structure", numeric=False),
            Column(head="Label against", numeric=False),
            Column(head="Dice"),
        ),
        rows=tuple(rows),
    )


def _draw(name: str, findings: Sequence[Finding], data: DataSet, predictions: Path | None) -> CheckedCase | None:
    """Draw a case's label; against the other rater or the prediction where that is what was found."""
    (case,) = data.select([name]).cases
    try:
        found = read_labelled(case, data)
        volumes, label = found.volumes, found.label
        path = prediction_of(name, predictions) if any(row.code == "disagreement" for row in findings) else None
        if any(row.code == "raters" for row in findings):
            path = case.other_labels[0]
        other = read_segmentation(path, image=volumes[0]) if path is not None else None
    except VoxmetryError:
        return None
    ours, theirs = _masks(label, other, findings)
    if not (ours | theirs).any():
        return None
    pictures = []
    for panel in error_panels(ours, theirs, label.geometry, volumes[0]):
        caption = f"{panel.plane.capitalize()}, slice {panel.index + 1} of {panel.n_slices}"
        png = render_error(panel, ours, theirs, label.geometry, volumes[0])
        pictures.append((data_uri(png), caption))
    return CheckedCase(
        case=clean(name), words=clean(" ".join(row.message for row in findings)), pictures=tuple(pictures)
    )


def _masks(
    label: Segmentation, other: Segmentation | None, findings: Sequence[Finding]
) -> tuple[np.ndarray, np.ndarray]:
    names = [row.structure for row in findings if row.structure is not None and row.structure in label.labels.names]
    theirs = label.mask(names[0]) if names else label.array > 0
    if other is None:
        return theirs, theirs
    ours = other.mask(names[0]) if names and names[0] in other.labels.names else other.array > 0
    return ours, theirs
