"""What a report says, once: every face of it (page, print, structured report) only spells this out.

All wording is template text with numbers in it, so that a report cannot say what was not measured.
"""

from __future__ import annotations

from typing import Literal

from voxmetry.core.base import Record
from voxmetry.core.labels import Label
from voxmetry.core.records import Flag, SourceInfo, StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError
from voxmetry.report.facts import Fact, Group, definitions, examined, provenance
from voxmetry.report.illustrations import Illustration, Illustrations, illustrate
from voxmetry.report.lesions import lesion_table
from voxmetry.report.tables import (
    EMPTY_ROWS,
    Table,
    comparison_table,
    findings_table,
    intensity_table,
)
from voxmetry.report.text import clean, count, ratio

NOTICE = "Research use only. Not a medical device."


class Verdict(Record):
    """Whether to look before the numbers are used, in one line and in one sentence."""

    state: Literal["ok", "review"]
    headline: str
    detail: str


class FlagLine(Record):
    """One flag as the report shows it."""

    severity: Literal["note", "review"]
    message: str
    code: str
    label: str = ""
    colour: str = ""


class ReportDocument(Record):
    """A report without its looks."""

    title: str
    notice: str = NOTICE
    description: str
    """The series description as it came with the study; empty where there was none."""
    examined: tuple[Fact, ...]
    verdict: Verdict
    summary: tuple[str, ...]
    findings: Table
    lesions: Table | None = None
    not_found: str = ""
    """The structures without a voxel where these are too many for rows of their own."""
    flags: tuple[FlagLine, ...]
    illustrations: tuple[Illustration, ...]
    not_pictured: str = ""
    intensities: Table | None
    comparison: Table | None
    comparison_summary: tuple[str, ...] = ()
    definitions: tuple[Fact, ...]
    provenance: tuple[Group, ...]


def build_document(
    result: StudyResult, volume: Volume, segmentation: Segmentation, reference: Segmentation | None = None
) -> ReportDocument:
    """Turn a result into findings, tables, flags, definitions, provenance and the plan of its pictures.

    Parameters
    ----------
    result
        What was measured.
    volume
        The image, (I, J, K).
    segmentation
        The labels that were measured, on the image's grid.
    reference
        The labels that they were compared with, on the same grid, with the same label values.

    Returns
    -------
    ReportDocument
        Holds no array, no path and no patient identity.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    LabelError
        If the result measures a value that its label table does not name.
    """
    _require_one_grid(result, volume, segmentation, reference)
    drawn = illustrate(result, volume, segmentation, reference)
    return ReportDocument(
        title=_title(result),
        description=clean(result.source.description),
        examined=examined(result, volume.geometry),
        verdict=_verdict(result),
        summary=_summary(result),
        findings=findings_table(result),
        lesions=lesion_table(result),
        not_found=_not_found(result),
        flags=_flags(result),
        illustrations=drawn.illustrations,
        not_pictured=_not_pictured(drawn),
        intensities=intensity_table(result),
        comparison=comparison_table(result),
        comparison_summary=_comparison_summary(result),
        definitions=definitions(result),
        provenance=provenance(result),
    )


def _require_one_grid(
    result: StudyResult, volume: Volume, segmentation: Segmentation, reference: Segmentation | None
) -> None:
    volume.geometry.require_same(segmentation.geometry, what="the image and its segmentation")
    if reference is not None:
        volume.geometry.require_same(reference.geometry, what="the image and the reference")
    if tuple(result.source.shape) != volume.geometry.shape:
        raise GeometryError(
            found=f"a result of a study of shape {tuple(result.source.shape)} and an image of {volume.geometry.shape}",
            expected="the image that the result was measured on",
            fix="pass the image and the segmentation of the same run as the result",
        )


def _title(result: StudyResult) -> str:
    return f"Segmentation of {_article(result.source)} with {clean(result.provenance.model)}"


def _article(source: SourceInfo) -> str:
    names = {"CT": "a CT image", "MR": "an MR image", "PT": "a PET image"}
    return names.get(source.modality or "", "an image")


def _verdict(result: StudyResult) -> Verdict:
    reviews = sum(flag.severity == "review" for flag in result.flags)
    notes = len(result.flags) - reviews
    also = f" {count(notes, 'more flag is a note', 'more flags are notes')}." if notes and reviews else ""
    if result.needs_review:
        return Verdict(
            state="review",
            headline="Look before use",
            detail=f"{count(reviews, 'check asks', 'checks ask')} for a look at the pictures before the numbers "
            f"are used.{also}",
        )
    noted = f" {count(notes, 'flag is a note', 'flags are notes')}." if notes else ""
    return Verdict(
        state="ok",
        headline="No check asks for review",
        detail=f"The automatic checks passed.{noted} They cannot tell whether an outline is right: the pictures can.",
    )


def _summary(result: StudyResult) -> tuple[str, ...]:
    n = len(result.measurements)
    if not n:
        return ("No structure was measured.",)
    found = sum(m.n_voxels > 0 for m in result.measurements)
    return (f"{found} of {count(n, 'structure')} found.",)


def _not_found(result: StudyResult) -> str:
    absent = [clean(m.label) for m in result.measurements if not m.n_voxels]
    return f"Not found ({len(absent)}): {', '.join(absent)}." if len(absent) > EMPTY_ROWS else ""


def _flags(result: StudyResult) -> tuple[FlagLine, ...]:
    labels: dict[str | None, Label] = {label.name: label for label in result.labels}

    def line(flag: Flag) -> FlagLine:
        label = labels.get(flag.label)
        return FlagLine(
            severity=flag.severity,
            message=clean(flag.message),
            code=clean(flag.code),
            label=clean(flag.label or ""),
            colour=label.colour if label else "",
        )

    first = [line(flag) for flag in result.flags if flag.severity == "review"]
    return (*first, *(line(flag) for flag in result.flags if flag.severity != "review"))


def _not_pictured(drawn: Illustrations) -> str:
    if not drawn.left_out:
        return ""
    shown = sum(illustration.label is not None for illustration in drawn.illustrations)
    names = ", ".join(clean(name) for name in drawn.left_out)
    return (
        f"{shown} of {shown + len(drawn.left_out)} structures have pictures of their own: first those flagged for "
        "review, then missed and extra ones, then lesions, then by lowest Dice where there is a reference, then by "
        f"volume. Without: {names}."
    )


def _comparison_summary(result: StudyResult) -> tuple[str, ...]:
    if not result.comparisons:
        return ()
    by_status = {
        status: [c for c in result.comparisons if c.status == status]
        for status in ("both", "missed", "extra", "absent")
    }
    counts = [f"{len(by_status['both'])} in both", f"{len(by_status['missed'])} missed"]
    counts.append(f"{len(by_status['extra'])} extra")
    counts.append(f"{len(by_status['absent'])} in neither")
    lines = [f"{count(len(result.comparisons), 'structure')}: {', '.join(counts)}."]
    worst = min((c for c in by_status["both"] if c.dice == c.dice), key=lambda c: c.dice, default=None)
    if worst is not None:
        lines.append(f"Lowest Dice among those in both: {ratio(worst.dice)} ({clean(worst.label)}).")
    for status, sentence in (
        ("missed", "Missed, in the reference and not in the prediction"),
        ("extra", "Extra, in the prediction and not in the reference"),
    ):
        if by_status[status]:
            lines.append(f"{sentence}: {', '.join(clean(c.label) for c in by_status[status])}.")
    return tuple(lines)
