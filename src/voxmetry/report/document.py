"""What a report says, once: every face of it (page, print, structured report) only spells this out.

All wording is template text with numbers in it, so that a report cannot say what was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from voxmetry.core.labels import Label
from voxmetry.core.records import Flag, StudyResult, Total
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.report.change import change_notes, change_summary, change_tables, merged_flags, response_line
from voxmetry.report.correction import correction_summary, correction_table
from voxmetry.report.facts import Fact, FactGroup, command, definitions, examined, provenance
from voxmetry.report.instances import drawn_result, instance_table, instances_said, without_told
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.lesions import lesion_table
from voxmetry.report.pictures.illustrations import Illustration, illustrate
from voxmetry.report.pictures.plan import PicturePlan
from voxmetry.report.tables import (
    EMPTY_ROWS,
    Table,
    asymmetry_table,
    comparison_table,
    findings_table,
    intensity_table,
)
from voxmetry.report.text import clean

NOTICE = "Research use only. Not a medical device."


@dataclass(frozen=True, kw_only=True)
class ReportVerdict:
    """Whether to look before the numbers are used, in one line and in one sentence."""

    state: Literal["ok", "accept", "review", "reject"]
    headline: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class FlagLine:
    """One flag as the report shows it."""

    severity: Literal["note", "review", "reject"]
    message: str
    code: str
    label: str = ""
    colour: str = ""
    lang: str = ""
    """Language of the message where it is not the report's."""


@dataclass(frozen=True, kw_only=True)
class ReportDocument:
    """A report without its looks."""

    language: Language = ENGLISH
    title: str
    notice: str = NOTICE
    description: str
    """The series description as it came with the study; empty where there was none."""
    examined: tuple[Fact, ...]
    verdict: ReportVerdict
    summary: tuple[str, ...]
    findings: Table
    lesions: Table | None = None
    instances: Table | None = None
    others: tuple[Table, ...] = ()
    """What was measured on the further inputs of the model, such as SUV on the PET."""
    uptake_first: bool = False
    """Whether these come before what was measured on the first: a PET is read for its uptake."""
    asymmetry: Table | None = None
    change: tuple[Table, ...] = ()
    change_summary: tuple[str, ...] = ()
    change_notes: tuple[Fact, ...] = ()
    not_found: str = ""
    """The structures without a voxel where these are too many for rows of their own."""
    flags: tuple[FlagLine, ...]
    illustrations: tuple[Illustration, ...]
    not_pictured: tuple[str, ...] = ()
    intensities: Table | None
    correction: Table | None = None
    """What a person changed in the model's label map."""
    correction_summary: tuple[str, ...] = ()
    comparison: Table | None
    comparison_summary: tuple[str, ...] = ()
    definitions: tuple[Fact, ...]
    provenance: tuple[FactGroup, ...]
    command: str
    """What repeats the run, with STUDY and OUT in place of paths."""


def spell(
    result: StudyResult, plan: PicturePlan, say: Language = ENGLISH, *, prior: PriorComparison | None = None
) -> ReportDocument:
    """Turn a result into findings, tables, flags, definitions, provenance and the words of its pictures.

    Parameters
    ----------
    result
        What was measured.
    plan
        Which pictures there are, from `plan_pictures`.
    say
        The language.
    prior
        The study compared with an earlier one of the same patient.

    Returns
    -------
    ReportDocument
        Holds no array, no path and no patient identity.

    Raises
    ------
    LabelError
        If the result measures a value that its label table does not name.
    """
    if prior is not None:
        result = result.model_copy(update={"flags": merged_flags(result.flags, prior.flags)})
    drawn = drawn_result(result) if plan.apart else result
    result = without_told(result)
    return ReportDocument(
        language=say,
        title=_title(result, say),
        notice=say(NOTICE),
        description=clean(result.source.description),
        examined=examined(result, plan, say),
        verdict=_verdict(result, say),
        summary=(*_summary(result, say), *(response_line(prior, say) if prior is not None else ())),
        findings=_findings(result, say),
        lesions=lesion_table(result, say),
        instances=instance_table(result, say),
        others=other_tables(result, say),
        uptake_first=any(other.source.unit == "SUVbw" for other in result.others),
        asymmetry=asymmetry_table(result, say),
        change=change_tables(result, prior, say) if prior is not None else (),
        change_summary=change_summary(result, prior, say) if prior is not None else (),
        change_notes=change_notes(prior, say) if prior is not None else (),
        not_found=_not_found(result, say),
        flags=_flags(result, say),
        illustrations=illustrate(plan, drawn, say),
        not_pictured=_not_pictured(plan, say, apart=bool(result.instances)),
        intensities=intensity_table(result, say),
        correction=correction_table(result, say),
        correction_summary=correction_summary(result, say),
        comparison=comparison_table(result, say),
        comparison_summary=_comparison_summary(result, say),
        definitions=definitions(result, say, prior=prior),
        provenance=provenance(result, say),
        command=command(result),
    )


def _findings(result: StudyResult, say: Language) -> Table:
    """One row a structure; one that is all instances is nowhere by itself in the viewer."""
    table, told = findings_table(result, say), {clean(row.label) for row in result.instances}
    rows = tuple(replace(row, id="") if row.label in told else row for row in table.rows)
    return replace(table, rows=rows)


def other_tables(result: StudyResult, say: Language = ENGLISH) -> tuple[Table, ...]:
    """One table for each further input: its lesions where there are some, else its structures."""
    made: list[Table] = []
    for other in result.others:
        there = result.model_copy(update={"measurements": other.measurements, "lesions": other.lesions})
        table = lesion_table(there, say) or intensity_table(there, say)
        if table is None:
            continue
        source = other.source
        caption = say(
            "Measured on {name} ({modality}), on its own voxels of {size} mm",
            name=clean(other.name),
            modality=source.modality or "",
            size=say.times(source.spacing_mm, 1),
        )
        # The rows of the first table are those that the viewer jumps to.
        rows = tuple(replace(row, id="") for row in table.rows)
        made.append(replace(table, id=f"other-{len(made) + 1}", caption=caption, rows=rows))
    return tuple(made)


def _title(result: StudyResult, say: Language) -> str:
    model = clean(result.provenance.model)
    if result.source.modality == "CT" and any(other.source.modality == "PT" for other in result.others):
        return say("Segmentation of a PET/CT study with {model}", model=model)
    return say(_TITLES.get(result.source.modality or "", _TITLE), model=model)


_TITLE = "Segmentation of an image with {model}"
_TITLES = {
    "CT": "Segmentation of a CT image with {model}",
    "MR": "Segmentation of an MR image with {model}",
    "PT": "Segmentation of a PET image with {model}",
}


def _verdict(result: StudyResult, say: Language) -> ReportVerdict:
    counts = {severity: sum(flag.severity == severity for flag in result.flags) for severity in SEVERITIES}
    notes = counts["note"]
    if counts["reject"]:
        state: Literal["reject", "review"] = "reject"
        headline = say("Reject: do not use these numbers")
        detail = say.count(
            counts["reject"],
            "{n} check says that the result cannot be relied on.",
            "{n} checks say that the result cannot be relied on.",
        )
    elif counts["review"]:
        state = "review"
        headline = say.count(
            counts["review"],
            "Review recommended: {n} automatic check failed",
            "Review recommended: {n} automatic checks failed",
        )
        detail = say("Look at the pictures before the numbers are used.")
    else:
        noted = " " + say.count(notes, "{n} flag is a note.", "{n} flags are notes.") if notes else ""
        return ReportVerdict(
            state="accept",
            headline=say(NOTHING_FAILED),
            detail=say("No check can tell whether an outline is right: look at the pictures.") + noted,
        )
    also = " " + say.count(notes, "{n} more flag is a note.", "{n} more flags are notes.") if notes else ""
    return ReportVerdict(state=state, headline=headline, detail=detail + also)


NOTHING_FAILED = "No automatic check failed"
"""Promises what was checked and no more: an outline may be wrong all the same."""
SEVERITIES = ("reject", "review", "note")


def _summary(result: StudyResult, say: Language) -> tuple[str, ...]:
    n = len(result.measurements)
    if not n:
        return (say("No structure was measured."),)
    found = sum(m.n_voxels > 0 for m in result.measurements)
    lines = [say.count(n, "{found} of {n} structure found.", "{found} of {n} structures found.", found=found)]
    if result.lesions:
        total = say.millilitres(sum(lesion.volume_ml for lesion in result.lesions))
        lines.append(
            say.count(len(result.lesions), "{n} lesion of {ml} mL.", "{n} lesions of {ml} mL together.", ml=total)
        )
    elif any(label.kind == "lesion" for label in result.labels) and not result.instances:
        lines.append(say("No lesion was found."))
    told = instances_said(result, say)
    return (*lines, *([told] if told else []), *([_total(result.total, say)] if result.total is not None else []))


def _total(total: Total, say: Language) -> str:
    name = clean(total.name.replace("_", " "))
    said = say(
        "{name}: {ml} mL, the sum of {n} structures, of which each is a share.",
        name=say(name[0].upper() + name[1:]),
        ml=say.millilitres(total.volume_ml),
        n=len(total.labels),
    )
    return f"{said} {say('It is too small: a structure is cut off.')}" if total.touches_border else said


def _not_found(result: StudyResult, say: Language) -> str:
    absent = [clean(m.label) for m in result.measurements if not m.n_voxels]
    if len(absent) <= EMPTY_ROWS:
        return ""
    return say("Not found ({n}): {names}.", n=len(absent), names=", ".join(absent))


def _flags(result: StudyResult, say: Language) -> tuple[FlagLine, ...]:
    labels: dict[str | None, Label] = {label.name: label for label in result.labels}

    def line(flag: Flag) -> FlagLine:
        label = labels.get(flag.label)
        told = say.retell(clean(flag.message))
        return FlagLine(
            severity=flag.severity,
            message=clean(flag.message) if told is None else told,
            code=clean(flag.code),
            label=clean(flag.label or ""),
            colour=label.colour if label else "",
            lang="" if told is not None else ENGLISH.code,
        )

    return tuple(line(flag) for severity in SEVERITIES for flag in result.flags if flag.severity == severity)


def _not_pictured(plan: PicturePlan, say: Language, *, apart: bool) -> tuple[str, ...]:
    lines = []
    if plan.left_out:
        shown = sum(planned.kind == "structure" for planned in plan.pictures)
        lines.append(
            say(
                "{shown} of {n} structures have pictures of their own: first those flagged for review, then missed "
                "and extra ones, then lesions, then by lowest Dice where there is a reference, then by volume. "
                "Without: {names}.",
                shown=shown,
                n=shown + len(plan.left_out),
                names=", ".join(clean(name) for name in plan.left_out),
            )
        )
    if plan.lesions_left_out:
        shown = sum(planned.kind == "lesion" for planned in plan.pictures)
        lines.append(
            say(
                "{shown} of {n} instances and lesions have pictures of their own: the largest."
                if apart
                else "{shown} of {n} lesions have pictures of their own: the largest.",
                shown=shown,
                n=shown + plan.lesions_left_out,
            )
        )
    return tuple(lines)


def _comparison_summary(result: StudyResult, say: Language) -> tuple[str, ...]:
    if not result.comparisons:
        return ()
    by_status = {
        status: [c for c in result.comparisons if c.status == status]
        for status in ("both", "missed", "extra", "absent")
    }
    counts = {status: len(cs) for status, cs in by_status.items()}
    lines = [
        say.count(
            len(result.comparisons),
            "{n} structure: {both} in both, {missed} missed, {extra} extra, {absent} in neither.",
            "{n} structures: {both} in both, {missed} missed, {extra} extra, {absent} in neither.",
            **counts,
        )
    ]
    worst = min((c for c in by_status["both"] if c.dice == c.dice), key=lambda c: c.dice, default=None)
    if worst is not None:
        lines.append(
            say(
                "Lowest Dice among those in both: {dice} ({name}).",
                dice=say.ratio(worst.dice),
                name=clean(worst.label),
            )
        )
    for status, sentence in (
        ("missed", "Missed, in the reference and not in the prediction: {names}."),
        ("extra", "Extra, in the prediction and not in the reference: {names}."),
    ):
        if by_status[status]:
            lines.append(say(sentence, names=", ".join(clean(c.label) for c in by_status[status])))
    return tuple(lines)
