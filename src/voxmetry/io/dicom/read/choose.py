"""Choosing one series among those of a study: by what is asked for, never the first that comes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from voxmetry.config import SeriesRules
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import SeriesError


def allowed_verdicts(*, allow_uneven: bool = False, resample_tilt: bool = False) -> frozenset[str]:
    """Return the verdicts that can be read: those of a regular grid, and those that are resampled by choice."""
    uneven = ("uneven", "missing") if allow_uneven else ()
    return frozenset(("regular", "single", *uneven, *(("tilted",) if resample_tilt else ())))


def choose_series(
    infos: Sequence[SeriesInfo],
    *,
    modality: str | None = None,
    series_uid: str | None = None,
    rules: SeriesRules | None = None,
    allowed: frozenset[str] = allowed_verdicts(),
) -> SeriesInfo:
    """Return the one series that can be read and is of the modality.

    Parameters
    ----------
    infos
        What `list_series` found.
    modality
        "CT", "MR" or "PT"; None takes any.
    series_uid
        Series Instance UID of the one that is meant, where several would do; with `#2` its second volume, where the
        series mixes several.
    rules
        What else a series must be, such as the model's own wishes. They are not asked of a series that is named.
    allowed
        Verdicts that can be read.

    Raises
    ------
    SeriesError
        If none or several can be taken, or the one that is meant cannot be. The message lists every candidate and why
        it is not taken.

    Examples
    --------
    >>> ct = SeriesInfo(series_uid="1.2", modality="CT", n_files=9, n_slices=9, verdict="regular")
    >>> mr = SeriesInfo(series_uid="1.3", modality="MR", n_files=8, n_slices=8, verdict="regular")
    >>> choose_series([ct, mr], modality="MR").series_uid
    '1.3'
    """
    refusals = {
        index: _why_not(info, modality, series_uid, rules, allowed) or _part_of(info, infos, series_uid, allowed)
        for index, info in enumerate(infos)
    }
    taken = [info for index, info in enumerate(infos) if not refusals[index]]
    # A damaged file may be the first or last slice of any series, where no gap would show that it is lost.
    strays = [info for info in infos if is_stray(info)] if series_uid is None else []
    if len(taken) == 1 and not strays and (taken[0].key == series_uid or not _unreadable_beside(taken[0], infos)):
        return taken[0]
    wanted = f"one series{f' of modality {modality}' if modality else ''} that can be read"
    if series_uid is not None:
        found, fix = f"series {series_uid} cannot be taken", "choose one of those listed, or export the series again"
        if not any(series_uid in (info.series_uid, info.key) for info in infos):
            found = f"no series {series_uid}"
    elif strays and taken:
        found = f"{strays[0].n_files} damaged files beside {len(taken)} series that could be taken"
        fix = (
            "export the damaged files again, or name the series if it is complete without them: --series UID; in "
            "Python: series='UID'"
        )
    elif len(taken) == 1:
        found = (
            f"one of the {taken[0].n_volumes} volumes that series {taken[0].series_uid} mixes; others cannot be read"
        )
        fix = f"see whether it is the one that is meant, and name it: {_by_name(taken[0])}"
    elif taken:
        found, fix = (
            f"{len(taken)} series that could be taken",
            f"say which one is meant, such as {_by_name(taken[0])}",
        )
    elif (
        modality
        and (other := sorted({info.modality for info in infos if info.modality} - {modality}))
        and not any(info.modality == modality for info in infos)
    ):
        found = f"no series of modality {modality}, only {', '.join(other)}"
        fix = f"use a model for {' or '.join(other)} (voxmetry models list), or name the folder of the {modality}"
    else:
        found, fix = "no series that could be taken", _advice(infos, modality, allowed)
    lines = [_line(info, refusals[index] or "could be taken") for index, info in enumerate(infos)]
    raise SeriesError(found="\n".join([f"{found}:", *lines]), expected=wanted, fix=fix)


def _advice(infos: Sequence[SeriesInfo], modality: str | None, allowed: frozenset[str]) -> str:
    """Say what to do where no series is taken: it depends on what speaks against them."""
    if infos and all(info.verdict == "not an image" for info in infos):
        if any(info.modality in _DRAWN for info in infos):
            return "name the folder of the images; voxmetry measure and voxmetry convert read what was drawn on them"
        return "name the folder of the images"
    candidates = [info for info in infos if modality in (None, info.modality)]
    usable = next((info for info in candidates if info.verdict in allowed), None)
    if usable is not None:
        return f"name the series that is meant, if it is to be taken all the same: {_by_name(usable)}"
    verdicts = {info.verdict for info in candidates}
    again = "export the series again so that it is complete and regular"
    if "tilted" in verdicts:
        return f"{again}, or resample it: --resample-tilt; in Python: resample_tilt=True"
    if verdicts & {"uneven", "missing"}:
        return f"{again}, or interpolate what is missing: --allow-uneven; in Python: allow_uneven=True"
    return again


def _by_name(info: SeriesInfo) -> str:
    return f"--series {info.key}; in Python: series='{info.key}'"


_DRAWN = ("SEG", "RTSTRUCT")
"""Modalities of objects that hold segmentations."""

_PHASES = (
    ("portal venous", r"portal|porto|\bpv\b|\bvenous\b|\bven\b|venös|\b(?:60|65|70|75|80)\s?s(?:ec)?\b"),
    ("arterial", r"arteri|\bart\b|\bangio\b|\bcta\b"),
    ("delayed", r"delay|\blate\b|excret|equilib|urograph"),
    ("native", r"nativ|non.?contrast|without contrast|unenhanced|\bplain\b|\bpre.?contrast\b|\bw/?o\b"),
)


def phase_in(words: str) -> str:
    """Return the contrast phase that a description names; empty where it names none, or more than one.

    Examples
    --------
    >>> phase_in("Abdomen portalvenous 5.0 B30f"), phase_in("Thorax 1.0 B70f")
    ('portal venous', '')
    """
    named = [phase for phase, pattern in _PHASES if re.search(pattern, words.replace("_", " "), re.IGNORECASE)]
    return named[0] if len(named) == 1 else ""


def _part_of(info: SeriesInfo, infos: Sequence[SeriesInfo], series_uid: str | None, allowed: frozenset[str]) -> str:
    """Say of which stack that is to be read as a whole a volume is a part; empty where it is none, or is named."""
    if info.key == series_uid:
        return ""
    wholes = [other for other in infos if other.series_uid == info.series_uid and info.volume in other.joins]
    return next(
        (f"a part of {whole.key}, which is read as one stack" for whole in wholes if whole.verdict in allowed), ""
    )


def is_stray(info: SeriesInfo) -> bool:
    """Whether an entry stands for damaged files that belong to no series."""
    return not info.series_uid and info.modality is None and info.verdict == "unreadable"


def _unreadable_beside(taken: SeriesInfo, infos: Sequence[SeriesInfo]) -> bool:
    """Whether the series mixes this volume with one that cannot be read: its slices may belong to this one."""
    return any(
        info.series_uid == taken.series_uid and info.volume is not None and not info.readable and not info.joins
        for info in infos
    )


def _why_not(
    info: SeriesInfo,
    modality: str | None,
    series_uid: str | None,
    rules: SeriesRules | None,
    allowed: frozenset[str],
) -> str:
    """Say why a series is not taken; empty where it is."""
    if series_uid is not None and series_uid not in (info.series_uid, info.key):
        return "not the one that was named"
    if modality is not None and info.modality != modality and not is_stray(info):
        return f"modality {info.modality or 'unknown'}, not {modality}"
    if info.verdict not in allowed:
        return f"{info.verdict}: {info.reason}"
    return _against(info, rules) if rules is not None and series_uid is None else ""


def _against(info: SeriesInfo, rules: SeriesRules) -> str:
    """Say which rule a series breaks; empty where it breaks none. What a header leaves open breaks no rule."""
    if rules.description and not any(_is_found(pattern, info) for pattern in rules.description):
        return f"its description matches none of {', '.join(rules.description)}"
    unwanted = [pattern for pattern in rules.not_description if _is_found(pattern, info)]
    if unwanted:
        return f"its description matches {unwanted[0]}, which is not wanted"
    if rules.body_part and info.body_part and info.body_part.upper() not in {part.upper() for part in rules.body_part}:
        return f"body part {info.body_part}, not {' or '.join(rules.body_part)}"
    thickness = info.thickness_mm if info.thickness_mm is not None else (info.spacing_mm or (None,) * 3)[2]
    if rules.thickness_mm and thickness is not None and thickness not in rules.thickness_mm:
        return f"slices of {thickness:g} mm, not {rules.thickness_mm.low:g} to {rules.thickness_mm.high:g}"
    if rules.phase and info.phase and info.phase not in rules.phase:
        return f"{info.phase} phase, not {' or '.join(rules.phase)}"
    if rules.plane and info.plane and info.plane.removeprefix("oblique ") not in rules.plane:
        return f"{info.plane} slices, not {' or '.join(rules.plane)}"
    return ""


def _is_found(pattern: str, info: SeriesInfo) -> bool:
    """Whether a pattern is found in the description or in the protocol, each by itself: `^` and `$` are its ends."""
    return any(re.search(pattern, words, re.IGNORECASE) for words in (info.description, info.protocol))


def _line(info: SeriesInfo, why: str) -> str:
    size = f"{info.n_slices} slices" if info.n_slices else f"{info.n_files} files"
    spacing = f" at {' x '.join(f'{s:.4g}' for s in info.spacing_mm)} mm" if info.spacing_mm else ""
    description = f" '{info.description}'" if info.description else ""
    uid = info.key or "(no series UID)"
    differs = f" ({', '.join(f'{key} {value}' for key, value in info.differs.items())})" if info.differs else ""
    return f"  {uid}  {info.modality or '?'}{description}, {size}{spacing}{differs}: {why}"
