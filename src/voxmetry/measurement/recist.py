"""RECIST 1.1 on lesions that were followed through time: target lesions, sums of diameters, category and rule.

The rules are those of Eisenhauer et al., 2009, doi:10.1016/j.ejca.2008.10.026. What they leave to a person (whether a
new lesion is unequivocal, whether other lesions progressed, confirmation of a response) stays with a person: it is a
caveat of the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from voxmetry.core.geometry import Geometry
from voxmetry.core.records import Lesion
from voxmetry.core.records.follow_up import Category, LesionChange, Response
from voxmetry.errors import ConfigError, LabelError

MOST_TARGETS, MOST_IN_ORGAN = 5, 2
MEASURABLE_MM, MEASURABLE_NODE_MM, NORMAL_NODE_MM = 10.0, 15.0, 10.0
THICK_SLICE_MM = 5.0
PROGRESSION_SHARE, PROGRESSION_MM, RESPONSE_SHARE = 0.20, 5.0, 0.30
_SLACK = 1e-9
_VOLUMES = ("volume_baseline_ml", "volume_follow_up_ml")

CAVEATS = {
    "non-target": "progression of lesions that are no targets is a person's judgement: it is not looked for",
    "confirmation": "no confirmation at a later scan is asked for, as trials without a control group do",
    "markers": "tumour markers and symptoms are not known here",
}


def diameter_mm(lesion: Lesion, nodes: Sequence[str] = ()) -> float:
    """Return the diameter that RECIST sums: the long axis, of a lymph node the short axis, in mm."""
    return lesion.short_axis_mm if lesion.label in nodes else lesion.long_axis_mm


def is_measurable(lesion: Lesion, geometry: Geometry, nodes: Sequence[str] = ()) -> bool:
    """Whether a lesion is large enough to be a target.

    The long axis is 10 mm at least, or twice the slice distance where that is above 5 mm; a lymph node's short axis is
    15 mm at least.

    Parameters
    ----------
    geometry
        The grid that it was measured on.
    """
    slice_mm = geometry.spacing_mm[lesion.slice_axis]
    least = MEASURABLE_NODE_MM if lesion.label in nodes else MEASURABLE_MM
    if slice_mm > THICK_SLICE_MM:
        least = max(least, 2 * slice_mm)
    return diameter_mm(lesion, nodes) >= least - _SLACK


def choose_targets(lesions: Sequence[Lesion], geometry: Geometry, nodes: Sequence[str] = ()) -> tuple[str, ...]:
    """Choose target lesions by size: five at most, two at most in one organ, measurable ones only.

    Parameters
    ----------
    lesions
        Those of the baseline. Where no organ is known (`location` is None), the limit of two cannot be applied.
    """
    ranked = sorted((x for x in lesions if is_measurable(x, geometry, nodes)), key=lambda x: -diameter_mm(x, nodes))
    chosen: list[Lesion] = []
    for lesion in ranked:
        in_organ = sum(x.location == lesion.location for x in chosen if lesion.location is not None)
        if len(chosen) < MOST_TARGETS and in_organ < MOST_IN_ORGAN:
            chosen.append(lesion)
    return tuple(x.id for x in chosen)


def require_targets(
    targets: Sequence[str], lesions: Sequence[Lesion], geometry: Geometry, nodes: Sequence[str] = ()
) -> None:
    """Raise unless the named target lesions are there, measurable, five at most and two at most in one organ."""
    known = {x.id: x for x in lesions}
    wrong = [name for name in targets if name not in known or list(targets).count(name) > 1]
    if wrong:
        raise LabelError(
            found=f"target lesions {', '.join(dict.fromkeys(wrong))}, not at baseline or named twice",
            expected=f"ids among {', '.join(known) or '(none)'}",
            fix="name each target lesion once, by its id at baseline",
        )
    small = [name for name in targets if not is_measurable(known[name], geometry, nodes)]
    places = [known[name].location for name in targets if known[name].location is not None]
    crowded = sorted({str(place) for place in places if places.count(place) > MOST_IN_ORGAN})
    if small or crowded or len(targets) > MOST_TARGETS:
        raise ConfigError(
            found=f"{len(targets)} target lesions"
            + (f", too small: {', '.join(small)}" if small else "")
            + (f", more than two in {', '.join(crowded)}" if crowded else ""),
            expected="five at most, two at most in one organ, each measurable (10 mm, lymph nodes 15 mm in the short "
            "axis, twice the slice distance where slices are further than 5 mm apart)",
            fix="name other lesions, or none: the largest measurable ones are then chosen",
        )


def respond(
    changes: Sequence[LesionChange],
    *,
    baseline: Mapping[str, Lesion],
    follow_up: Mapping[str, Lesion],
    grids: tuple[Geometry, Geometry],
    targets: Sequence[str],
    nodes: Sequence[str] = (),
    nadir_mm: float | None = None,
) -> Response:
    """Give the RECIST 1.1 category of the later time point.

    Parameters
    ----------
    changes
        How the lesions of both time points belong together.
    baseline, follow_up
        The lesions by id.
    grids
        The grids that they were measured on.
    targets
        Ids at baseline.
    nodes
        Structures that are lymph nodes.
    nadir_mm
        Smallest sum of diameters of the same targets so far; that of the baseline counts as well.

    Returns
    -------
    Response
        The category with the rule that gave it.
    """
    with_target = [row for row in changes if row.target]
    sum_baseline = math.fsum(diameter_mm(baseline[name], nodes) for name in targets)
    seen = [row for row in with_target if row.status != "not covered"]
    lost = len(with_target) - len(seen)
    sum_seen = math.fsum(row.diameter_follow_up_mm for row in seen)
    nadir = min(sum_baseline, nadir_mm) if nadir_mm is not None else sum_baseline
    sums = (sum_baseline, nadir, sum_seen)
    new = [
        name
        for row in changes
        if row.status == "new"
        for name in row.follow_up_ids
        if _counts_as_new(follow_up[name], grids[1], nodes)
    ]
    target, why = _target_response(seen, lost, sums, follow_up, nodes) if targets else (None, "")
    non_target = _non_target_response([row for row in changes if row.status != "new"], targets, follow_up, nodes)
    category, rule = _overall(target, why, non_target, new)
    return Response(
        category=category,
        rule=rule,
        target_response=target,
        non_target_response=non_target,
        targets=tuple(targets),
        new_lesions=tuple(new),
        caveats=_caveats(changes, baseline, follow_up, grids, targets, new),
        **_sums(sums, lost, bool(targets)),
    )


def _sums(sums: tuple[float, float, float], lost: int, any_target: bool) -> dict[str, float | str]:
    baseline, nadir, now = sums if any_target else (math.nan,) * 3
    now = math.nan if lost else now
    reason = f"{lost} target lesions are not covered by the follow-up image" if lost else ""
    return {
        "sum_baseline_mm": baseline,
        "sum_nadir_mm": nadir,
        "sum_follow_up_mm": now,
        "change_from_baseline_percent": percent(now, baseline),
        "change_from_nadir_mm": now - nadir,
        "change_from_nadir_percent": percent(now, nadir),
        "reason": reason if any_target else "no target lesion",
    }


def percent(now: float, before: float) -> float:
    """Return the change in percent of what was before; nan where that was 0."""
    return 100 * (now - before) / before if before else math.nan


def _counts_as_new(lesion: Lesion, geometry: Geometry, nodes: Sequence[str]) -> bool:
    # A node of 10 mm in the short axis has become abnormal; other lesions count from where they can be measured.
    if lesion.label in nodes:
        return lesion.short_axis_mm >= NORMAL_NODE_MM - _SLACK
    return is_measurable(lesion, geometry, nodes)


def _is_cleared(row: LesionChange, follow_up: Mapping[str, Lesion], nodes: Sequence[str]) -> bool:
    if row.status == "gone":
        return True
    left = [follow_up[name] for name in row.follow_up_ids]
    return row.label in nodes and bool(left) and all(x.short_axis_mm < NORMAL_NODE_MM for x in left)


def _target_response(
    seen: Sequence[LesionChange],
    lost: int,
    sums: tuple[float, float, float],
    follow_up: Mapping[str, Lesion],
    nodes: Sequence[str],
) -> tuple[Category, str]:
    baseline, nadir, now = sums
    grown = now - nadir
    if grown >= PROGRESSION_MM - _SLACK and grown >= PROGRESSION_SHARE * nadir - _SLACK and grown > 0:
        share = f"{100 * grown / nadir:.0f} %" if nadir else "from 0"
        return "PD", (
            f"the sum of diameters grew by {grown:.1f} mm ({share}) over its smallest value {nadir:.1f} mm: "
            "at least 5 mm and 20 %"
        )
    if lost:
        return "NE", f"{lost} target lesions are not covered by the follow-up image, and the others do not show PD"
    if all(_is_cleared(row, follow_up, nodes) for row in seen):
        return "CR", "all target lesions are gone" + (" (lymph nodes below 10 mm)" if nodes else "")
    fallen = (baseline - now) / baseline
    if fallen >= RESPONSE_SHARE - _SLACK:
        return (
            "PR",
            f"the sum of diameters fell by {100 * fallen:.0f} % from the baseline's {baseline:.1f} mm: 30 % or more",
        )
    return "SD", (
        f"the sum of diameters went from {baseline:.1f} mm at baseline to {now:.1f} mm (smallest so far "
        f"{nadir:.1f} mm): neither 30 % less nor 20 % and 5 mm more"
    )


def _non_target_response(
    rows: Sequence[LesionChange], targets: Sequence[str], follow_up: Mapping[str, Lesion], nodes: Sequence[str]
) -> Category | None:
    others = [row for row in rows if any(name not in targets for name in row.baseline_ids)]
    if not others:
        return None
    if any(row.status == "not covered" for row in others):
        return "NE"
    return "CR" if all(_is_cleared(row, follow_up, nodes) for row in others) else "non-CR/non-PD"


def _overall(
    target: Category | None, why: str, non_target: Category | None, new: Sequence[str]
) -> tuple[Category, str]:
    """Combine targets, other lesions and new ones by tables 1 and 2 of RECIST 1.1."""
    if new:
        return "PD", f"new lesions: {', '.join(new)}"
    if target is None:
        reasons: dict[Category | None, tuple[Category, str]] = {
            None: ("NE", "no lesion at baseline and none now: nothing to evaluate"),
            "CR": ("CR", "no target lesion; all other lesions are gone"),
            "NE": ("NE", "no target lesion; other lesions are not covered by the follow-up image"),
        }
        return reasons.get(non_target, ("non-CR/non-PD", "no target lesion; other lesions are still there"))
    if target == "CR" and non_target in ("non-CR/non-PD", "NE"):
        still = "are still there" if non_target == "non-CR/non-PD" else "are not all covered by the follow-up image"
        return "PR", f"{why}, but other lesions {still}"
    return target, why


def _caveats(
    changes: Sequence[LesionChange],
    baseline: Mapping[str, Lesion],
    follow_up: Mapping[str, Lesion],
    grids: tuple[Geometry, Geometry],
    targets: Sequence[str],
    new: Sequence[str],
) -> tuple[str, ...]:
    found = []
    planes = [sorted({x.plane for x in lesions.values()}) for lesions in (baseline, follow_up)]
    if all(planes) and planes[0] != planes[1]:
        found.append(f"diameters were measured in {' and '.join(', '.join(x) for x in planes)} slices: not comparable")
    for lesions, grid, when in ((baseline, grids[0], "baseline"), (follow_up, grids[1], "follow-up")):
        thick = max((grid.spacing_mm[x.slice_axis] for x in lesions.values()), default=0.0)
        if thick > THICK_SLICE_MM:
            found.append(f"{when}: slices {thick:.1f} mm apart; RECIST asks for 5 mm, or for lesions of twice that")
        cut = [x.id for x in lesions.values() if x.touches_border]
        if cut:
            found.append(f"{when}: cut off by the image's border, so measured too small: {', '.join(cut)}")
    small = [name for row in changes if row.status == "new" for name in row.follow_up_ids if name not in new]
    if small:
        found.append(f"new and too small to count, so look: {', '.join(small)}")
    several = [row for row in changes if row.target and row.status in ("merged", "split", "regrouped")]
    if several:
        found.append("a target lesion merged or split: parts are added up, a merged one counts with its own diameter")
    joined = [row for row in several if any(name not in targets for name in row.baseline_ids)]
    if joined:
        names = ", ".join(name for row in joined for name in row.baseline_ids)
        found.append(f"a target lesion merged with one that is none, which raises the sum by itself: {names}")
    before, after = (math.fsum(getattr(row, x) for row in changes if row.target) for x in _VOLUMES)
    longer = math.fsum(row.diameter_change_mm for row in changes if row.target)
    if (after - before) * longer < 0:
        found.append(
            f"the volume of the target lesions went from {before:.2f} to {after:.2f} mL while the sum of diameters "
            "went the other way"
        )
    if targets and any(baseline[name].location is None for name in targets):
        found.append("no organs are known: at most two targets in one organ was not looked at")
    if any(row.status not in ("new", "gone") and not row.target for row in changes):
        found.append(CAVEATS["non-target"])
    return (*found, CAVEATS["confirmation"], CAVEATS["markers"])
