"""What the verbs print: JSON on standard output for programs, tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from voxmetry.cli.options import FLAGGED
from voxmetry.cli.streams import print_table, say, say_json, table

if TYPE_CHECKING:
    from voxmetry.core.base import Record
    from voxmetry.core.records import (
        CohortComparison,
        Comparison,
        Correction,
        DetectionSummary,
        InstanceMatching,
        Lesion,
        MeanInterval,
        Measurement,
        Part,
        StudyResult,
    )
    from voxmetry.core.records.follow_up import FollowUp
    from voxmetry.core.volume import Volume
    from voxmetry.train.findings import DataCheck

MOST_LESIONS = 30
"""Lesions that a table on the terminal shows; JSON and the table file hold all."""


def study(result: StudyResult, out: Path, *, as_json: bool, verbose: bool = False) -> None:
    """Show what was found, how far to trust it, and where the files are."""
    if as_json:
        say_json(result)
        return
    if result.source.unit == "SUVbw":
        uptake("the PET", result.measurements, result.lesions)
    for other in result.others:
        if other.source.unit == "SUVbw":
            uptake(other.name, other.measurements, other.lesions)
    measurements(result.measurements, as_json=False, lesions=result.lesions)
    if result.instances:
        part_rows(result.instances, what="instance")
    if result.comparisons:
        comparisons(result.comparisons, as_json=False)
    for flag in result.flags:
        say(f"{flag.severity}: {flag.message}", fg="yellow")
    if not result.needs_review:
        say("No automatic check failed; none can tell whether an outline is right.")
    seconds = result.provenance.seconds["total"]
    made = result.provenance
    fast = f", fast ({made.fast})" if made.fast else ""
    say(f"{made.model} on {made.device} in {made.precision}{fast}, {seconds:.1f} s. Research use only.")
    if made.fast and made.fast.no_eight_bits:
        say(f"Not in 8 bits: {made.fast.no_eight_bits}.")
    if verbose and made.plan:
        say(made.plan)
    for name in result.files.values():
        say(f"  {out / name}")


def uptake(name: str, measured: Sequence[Measurement], lesions: Sequence[Lesion]) -> None:
    """Show what a PET is read for, first of all: SUVmax, SUVpeak, metabolic tumour volume and total lesion glycolysis.

    Of a structure whose parts are lesions, the two maxima are those of its hottest lesion, and the total is the sum.
    """
    rows = [row for row in measured if row.n_voxels]
    if not rows:
        return
    made = table([f"uptake on {name}", "SUVmax", "SUVpeak", "SUVmean", "MTV mL", "TLG"])
    for row in rows:
        own = [lesion for lesion in lesions if lesion.value == row.value]
        peak = max((x.suv_peak for x in own if not math.isnan(x.suv_peak)), default=math.nan)
        glycolysis = sum(x.total_lesion_glycolysis_suv_ml for x in own) if own else row.intensity_mean * row.volume_ml
        numbers = (row.intensity_max, peak, row.intensity_mean)
        made.add_row(
            row.label,
            *(_number(x, 2) for x in numbers),
            _number(row.volume_ml, 2),
            _number(glycolysis, 1),
        )
    print_table(made)


def correction(row: Correction) -> None:
    """Show who corrected a label map, and each structure before and after."""
    made = table(["structure", "mL before", "mL after", "difference", "Dice", "added mL", "removed mL"])
    for x in row.structures:
        volumes = (x.volume_before_ml, x.volume_after_ml, x.volume_difference_ml)
        cells = [*(f"{value:.3f}" for value in volumes), _number(x.dice, 3), f"{x.added_ml:.3f}", f"{x.removed_ml:.3f}"]
        made.add_row(x.label, *cells)
    print_table(made)
    say(f"{row.format}, by {row.author}, {row.made}; a correction of {row.model} {row.model_version}.")


def exit_code(result: StudyResult) -> int:
    """Return 1 where a file could not be written, and name it; 3 where the study is flagged; else 0."""
    for name, reason in result.not_written.items():
        say(f"not written: {name}: {reason}", fg="red", err=True)
    return 1 if result.not_written else FLAGGED if result.needs_review else 0


def measurements(rows: Sequence[Measurement], *, as_json: bool, lesions: Sequence[Lesion] = ()) -> None:
    """Show the structures of a segmentation, and its lesions."""
    if as_json:
        from voxmetry.workflows.measure import MEASURED

        say_json({"measurements": _plain(rows), "lesions": _plain(lesions), "definitions": dict(MEASURED)})
        return
    unit = next((row.intensity_unit for row in rows if row.intensity_unit), None)
    named = {"1": "intensity", None: "intensity"}.get(unit, unit)
    made = table(["structure", "mL", "voxels", "R-L, A-P, S-I mm", f"{named}, mean ± SD", "at edge"])
    for row in rows:
        extents = (row.extent_rl_mm, row.extent_ap_mm, row.extent_si_mm)
        made.add_row(
            row.label,
            f"{row.volume_ml:.3f}",
            str(row.n_voxels),
            ", ".join(_number(value, 1) for value in extents),
            f"{_number(row.intensity_mean, 1)} ± {_number(row.intensity_sd, 1)}" if row.intensity_unit else "-",
            ", ".join(row.border_sides) if row.touches_border else "",
        )
    print_table(made)
    if lesions:
        part_rows(lesions)


def part_rows(rows: Sequence[Part], *, what: str = "lesion") -> None:
    """Show one line a lesion or instance, the largest first, and how many there are."""
    shown = sorted(rows, key=lambda row: -row.volume_ml)[:MOST_LESIONS]
    is_pet = any(row.intensity_unit == "SUVbw" for row in shown)
    located, cut = any(row.location for row in shown), any(row.touches_border for row in shown)
    turned = any(row.plane != "axial" for row in shown)
    heads = [what, "mL", "long mm", "short mm", *["plane"] * turned, "3-D mm"]
    heads += (["SUVmax", "SUVpeak", "TLG"] if is_pet else []) + ["location"] * located + ["at edge"] * cut
    made = table(heads)
    for row in shown:
        cells = [_number(row.long_axis_mm, 1), _number(row.short_axis_mm, 1), *[row.plane] * turned]
        cells.append(_number(row.max_diameter_mm, 1))
        if is_pet:
            cells += [_number(row.intensity_max, 2), _number(row.suv_peak, 2)]
            cells.append(_number(row.total_lesion_glycolysis_suv_ml, 1))
        cells += [row.location or "-"] * located + [", ".join(row.border_sides)] * cut
        made.add_row(row.id, f"{row.volume_ml:.2f}", *cells)
    print_table(made)
    if len(rows) > MOST_LESIONS:
        say(f"{len(rows)} {what}s; the {MOST_LESIONS} largest are shown.")


def follow_up(result: FollowUp, written: Sequence[Path], *, as_json: bool) -> None:
    """Show what became of each lesion, the category with its rule, and what to look at."""
    if as_json:
        say_json(result)
        return
    made = table(["before", "now", "status", "mL", "diameter mm", "target"])
    for row in result.changes:
        volumes = f"{_number(row.volume_baseline_ml, 2)} > {_number(row.volume_follow_up_ml, 2)}"
        diameters = f"{_number(row.diameter_baseline_mm, 1)} > {_number(row.diameter_follow_up_mm, 1)}"
        made.add_row(
            "\n".join(row.baseline_ids) or "-",
            "\n".join(row.follow_up_ids) or "-",
            "\n".join(part for part in (row.status, row.trend) if part),
            f"{volumes}\n{_percent(row.volume_change_percent)}",
            f"{diameters}\n{_percent(row.diameter_change_percent)}",
            "yes" if row.target else "",
        )
    print_table(made)
    answer, bridge = result.response, result.registration
    sums = [_number(x, 1) for x in (answer.sum_baseline_mm, answer.sum_nadir_mm, answer.sum_follow_up_mm)]
    say(f"Sum of target diameters: baseline {sums[0]} mm, smallest {sums[1]} mm, now {sums[2]} mm")
    say(f"RECIST 1.1: {answer.category}, {answer.rule}", bold=True)
    say(f"Registration: {bridge.kind}, {bridge.reason}")
    for flag in result.flags:
        say(f"{flag.severity}: {flag.message}", fg="yellow")
    for caveat in answer.caveats:
        say(f"caveat: {caveat}")
    say("Research use only.")
    files(written)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.0f} %"


def comparisons(
    rows: Sequence[Comparison],
    *,
    as_json: bool,
    matchings: Sequence[InstanceMatching] = (),
    definitions: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Show a prediction compared with a reference, with the definitions of the chosen settings."""
    if as_json:
        matched = {"instances": _plain(matchings)} if matchings else {}
        say_json({"comparisons": _plain(rows), **matched, "definitions": dict(definitions)})
        return
    tolerance = rows[0].tolerance_mm if rows else 1.0
    heads = [
        "structure",
        "status",
        "Dice",
        "HD mm",
        "HD95 mm",
        "ASSD mm",
        f"surface Dice at {tolerance:g} mm",
        "± mL",
    ]
    made = table(heads)
    for row in rows:
        made.add_row(
            row.label,
            row.status,
            _number(row.dice, 4),
            *(_number(value, 2) for value in (row.hausdorff_mm, row.hd95_mm, row.assd_mm)),
            _number(row.surface_dice, 4),
            f"{row.volume_difference_ml:+.3f}",
        )
    print_table(made)
    for row in rows:
        if row.surface_dice_at_mm:
            further = ", ".join(f"{_number(x, 4)} at {mm} mm" for mm, x in row.surface_dice_at_mm.items())
            say(f"{row.label}: surface Dice {further}")
        if row.reason:
            say(f"{row.label}: {row.reason}")
    if matchings:
        instances(matchings)


def instances(rows: Sequence[InstanceMatching]) -> None:
    """Show how the instances of each structure were matched."""
    made = table(["structure", "rule", "TP", "FN", "FP", "sens.", "prec.", "F1", "PQ"])
    for row in rows:
        counts = (row.tp_reference, row.fn, row.fp)
        shares = (row.sensitivity, row.precision, row.f1, row.pq)
        kind = f"{row.rule}, {row.kind}"
        made.add_row(row.label, kind, *map(str, counts), *(_number(value, 3) for value in shares))
    print_table(made)


def detection(rows: Sequence[DetectionSummary]) -> None:
    """Show how well instances were found and counted over all cases, with intervals."""
    for row in rows:
        precision = ", ".join(f"AP ({rule}) {_interval(x, 3)}" for rule, x in row.average_precision.items())
        say(f"{row.label}: {precision}")
        numbers = [
            f"PQ {_interval(row.pq, 3)}",
            f"all found in {row.all_found:.0%} of {row.n_cases} cases",
            f"count error {_interval(row.count_error, 2)}",
            f"Dice of matched {_interval(row.dice, 3)}",
            f"HD95 of matched {_interval(row.hd95_mm, 2)} mm",
        ]
        say(f"{row.label}: {', '.join(numbers)}")


def cohort(result: CohortComparison, written: Sequence[Path], *, as_json: bool) -> None:
    """Show the summary of many cases, and what was left out of it."""
    if as_json:
        say_json(result)
        return
    _summary(result)
    if result.other_structures:
        say("The other model:")
        _summary(result.of_other_model())
    if result.panoptic is not None:
        instances(result.panoptic.classes)
        detection(result.detection)
    for row in result.paired:
        say(
            f"{row.label}, {row.metric}: first - other {_interval(row.difference, 4)}, p {_number(row.p_value, 4)}, "
            f"adjusted {_number(row.p_adjusted, 4)}, {row.difference.n} cases, {row.n_undefined} left out"
        )
    if any(s.n_missed + s.n_extra for s in result.structures):
        say(result.policy)
    for case in result.failed:
        say(f"failed: {case.case}: {(case.error or {}).get('found', '')}", fg="red")
    for which, names in (
        ("predictions without a reference", result.unmatched_predictions),
        ("references without a prediction", result.unmatched_references),
    ):
        if names:
            say(f"{len(names)} {which}: {', '.join(names)}", fg="yellow")
    notes(result.notes)
    files(written)


def data_check(found: DataCheck) -> None:
    """Show what was found in a data set, errors first."""
    say(f"{found.data}: {found.n_cases} cases of {found.n_patients} patients, {found.n_read} could be read")
    if not found.findings:
        say("Nothing stands in the way of training.")
        return
    made = table(["case", "severity", "what", "in words"])
    for column in made.columns:
        column.justify = "left"
    for row in found.findings:
        made.add_row(row.case, row.severity, row.code.replace("_", " "), row.message)
    print_table(made)


def _summary(result: CohortComparison) -> None:
    level = f"{result.settings.level:.0%} interval"
    made = table(["structure", "cases", "missed", "extra", f"Dice, {level}", f"HD95 mm, {level}", "lowest Dice"])
    for s in (*result.structures, *([result.overall] if result.overall and len(result.structures) > 1 else [])):
        dice, hd95 = s.present["dice"], s.present["hd95_mm"]
        made.add_row(
            s.label,
            str(dice.mean.n),
            str(s.n_missed),
            str(s.n_extra),
            _interval(dice.mean, 3),
            _interval(hd95.mean, 2),
            f"{_number(dice.worst, 3)} {dice.worst_case or ''}",
        )
    print_table(made)


def notes(texts: Sequence[str]) -> None:
    """Say what was left out."""
    for text in texts:
        say(f"note: {text}", fg="yellow")


def files(written: Sequence[Path]) -> None:
    """Say where the files are."""
    for path in written:
        say(f"  {path}")


def image(volume: Volume, *, as_json: bool) -> None:
    """Show what an image file holds."""
    grid = volume.geometry
    facts = {
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing_mm),
        "axcodes": grid.axcodes,
        "affine_ras_mm": grid.affine.tolist(),
        "dtype": str(volume.array.dtype),
        "minimum": float(volume.array.min()),
        "maximum": float(volume.array.max()),
    }
    if as_json:
        say_json({"image": facts})
        return
    for name, value in facts.items():
        say(f"{name:14} {value}")


def _plain(rows: Sequence[Record]) -> list[dict[str, object]]:
    return [row.model_dump(mode="json") for row in rows]


def _interval(mean: MeanInterval, digits: int) -> str:
    if math.isnan(mean.low):
        return _number(mean.mean, digits)
    return f"{mean.mean:.{digits}f} ({mean.low:.{digits}f} to {mean.high:.{digits}f})"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
