"""What has changed since an earlier study of the same patient."""

from __future__ import annotations

import math

from voxmetry.core.records import Measurement, StudyResult
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.tables import Cell, Column, Row, Table, signed_millilitres, signed_percent
from voxmetry.report.text import UNDEFINED, clean


def change_table(result: StudyResult, prior: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row a structure that either study has: volumes, their difference in mL and in percent of the prior.

    A structure that touches the edge of one of the images says so: the difference may be one of the field of view.
    """
    before = {m.label: m for m in prior.measurements}
    now = {m.label: m for m in result.measurements}
    names = [name for name in {**now, **before} if any(m.n_voxels for m in _both(now, before, name))]
    if not names:
        return None
    colours = {label.name: label.colour for label in (*prior.labels, *result.labels)}
    rows = []
    for name in names:
        ours, theirs = now.get(name), before.get(name)
        row_id = f"structure-{ours.value}" if ours is not None and ours.n_voxels else ""
        rows.append(Row(id=row_id, label=clean(name), colour=colours[name], cells=_cells(ours, theirs, say)))
    return Table(
        id="change-table",
        caption=say("Volumes held against the prior study"),
        head=say("Structure"),
        columns=(
            Column(head=say("Prior"), unit="mL"),
            Column(head=say("Now"), unit="mL"),
            Column(head=say("Change"), unit="mL"),
            Column(head=say("Change"), unit="%"),
            Column(head=say("Remarks"), numeric=False),
        ),
        rows=tuple(rows),
    )


def change_summary(result: StudyResult, prior: StudyResult, say: Language = ENGLISH) -> tuple[str, ...]:
    """Say which study the prior is, and whether another model measured it."""
    ours, theirs = result.provenance, prior.provenance
    model = clean(f"{theirs.model} {theirs.model_version}")
    lines = [say("Prior study: {when}, {model}.", when=say.moment(theirs.started), model=model)]
    if (ours.model, ours.weights_sha256) != (theirs.model, theirs.weights_sha256):
        lines.append(
            say("The prior was measured with {model}: a part of the change may come from the other model.", model=model)
        )
    return tuple(lines)


def _both(now: dict[str, Measurement], before: dict[str, Measurement], name: str) -> list[Measurement]:
    return [rows[name] for rows in (now, before) if name in rows]


def _cells(ours: Measurement | None, theirs: Measurement | None, say: Language) -> tuple[Cell, ...]:
    before = theirs.volume_ml if theirs is not None else math.nan
    now = ours.volume_ml if ours is not None else math.nan
    difference = now - before
    cut = any(m is not None and m.touches_border for m in (ours, theirs))
    words = [say("not in the prior")] if not before > 0 else []
    words += [say("not in this study")] if not now > 0 else []
    words += [say("cut off at the image's edge")] if cut else []
    return (
        Cell(text=say.millilitres(before)),
        Cell(text=say.millilitres(now)),
        Cell(text=say.number(signed_millilitres(difference))),
        Cell(text=say.number(signed_percent(difference / before)) if before > 0 and now >= 0 else UNDEFINED),
        Cell(text="; ".join(words), tone="review" if cut else "plain"),
    )
