"""The page of a comparison: one self-contained HTML file with tables, charts and pictures of the worst cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import CohortComparison, Comparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.io.atomic import write_text
from voxmetry.report.comparison.document import CohortDocument, WorstRow, build_cohort_document
from voxmetry.report.comparison.pictures import AGREED, EXTRA, MISSED, PIXELS, error_panels, render_error
from voxmetry.report.html import data_uri, environment

MOST_PICTURED = 6
"""Cases with pictures; more would make the page slow to load and to read."""

Mask: TypeAlias = NDArray[np.bool_]
Masks: TypeAlias = tuple[Segmentation, Segmentation, Volume | None]

__all__ = ["CohortDocument", "build_cohort_document", "render_cohort_html", "write_cohort_page"]


@dataclass(frozen=True, kw_only=True)
class ErrorPicture:
    """One slice of one of the worst cases."""

    uri: str
    caption: str
    alt: str


def write_cohort_page(
    cohort: CohortComparison, path: Path | str, *, read: Callable[[str], Masks] | None = None
) -> None:
    """Write the page of a comparison.

    Parameters
    ----------
    cohort
        What was compared.
    path
        The file, such as `comparison.html`; an existing one is replaced.
    read
        Gives the prediction, the reference and the image (or None) of a case by its name, for the pictures of the
        worst cases. None leaves the pictures out.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    document = build_cohort_document(cohort)
    pictures = {place: _draw(row, read) for place, row in enumerate(document.worst[:MOST_PICTURED])} if read else {}
    write_text(Path(path), render_cohort_html(document, pictures))


def render_cohort_html(document: CohortDocument, pictures: Mapping[int, tuple[ErrorPicture, ...]]) -> str:
    """Write a document as one page with the pictures of its worst cases, by their place, inside."""
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            document=document,
            pictures=dict(pictures),
            pixels=PIXELS,
            colours={"missed": MISSED, "extra": EXTRA, "agreed": AGREED},
        )
    )


def _draw(row: WorstRow, read: Callable[[str], Masks]) -> tuple[ErrorPicture, ...]:
    prediction, reference, image = read(row.case)
    ours, theirs = _masks(row.comparison, prediction, reference)
    drawn = []
    for panel in error_panels(ours, theirs, prediction.geometry, image):
        where = f"{panel.plane.capitalize()}, slice {panel.index + 1} of {panel.n_slices}"
        png = render_error(panel, ours, theirs, prediction.geometry, image)
        alt = f"{where} of {row.title}: where prediction and reference differ. {row.caption}"
        drawn.append(ErrorPicture(uri=data_uri(png), caption=where, alt=alt))
    return tuple(drawn)


def _masks(row: Comparison, prediction: Segmentation, reference: Segmentation) -> tuple[Mask, Mask]:
    """Both masks of a row: `value` is the prediction's, or the reference's where the prediction's table has none."""
    ours = np.zeros(prediction.array.shape, bool)
    theirs = ours.copy()
    if row.n_voxels_prediction:
        np.equal(prediction.array, row.value, out=ours)
    if row.value_reference is not None:
        np.equal(reference.array, row.value_reference, out=theirs)
    return ours, theirs
