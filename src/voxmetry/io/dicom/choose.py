"""Choosing one series among those of a study: by what is asked for, never the first that comes."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.core.records import SeriesInfo
from voxmetry.errors import SeriesError


def choose_series(
    infos: Sequence[SeriesInfo], *, modality: str | None = None, series_uid: str | None = None
) -> SeriesInfo:
    """Return the one series that can be read and is of the modality.

    Parameters
    ----------
    infos
        What `list_series` found.
    modality
        "CT", "MR" or "PT"; None takes any.
    series_uid
        Series Instance UID of the one that is meant, where several would do.

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
    refusals = {index: _why_not(info, modality, series_uid) for index, info in enumerate(infos)}
    taken = [info for index, info in enumerate(infos) if not refusals[index]]
    # A damaged file may be the first or last slice of any series, where no gap would show that it is lost.
    strays = [info for info in infos if _is_stray(info)] if series_uid is None else []
    if len(taken) == 1 and not strays:
        return taken[0]
    wanted = f"one series{f' of modality {modality}' if modality else ''} that can be read"
    if series_uid is not None:
        found, fix = f"series {series_uid} cannot be taken", "choose one of those listed, or export the series again"
        if not any(info.series_uid == series_uid for info in infos):
            found = f"no series {series_uid}"
    elif strays and taken:
        found = f"{strays[0].n_files} damaged files beside {len(taken)} series that could be taken"
        fix = "export the damaged files again, or name the series if it is complete without them (--series UID)"
    elif taken:
        found, fix = f"{len(taken)} series that could be taken", "say which one is meant (--series UID)"
    else:
        found, fix = "no series that could be taken", "export the series again so that it is complete and regular"
    lines = [_line(info, refusals[index] or "could be taken") for index, info in enumerate(infos)]
    raise SeriesError(found="\n".join([f"{found}:", *lines]), expected=wanted, fix=fix)


def _is_stray(info: SeriesInfo) -> bool:
    """Whether an entry stands for damaged files that belong to no series."""
    return not info.series_uid and info.modality is None


def _why_not(info: SeriesInfo, modality: str | None, series_uid: str | None) -> str:
    """Say why a series is not taken; empty where it is."""
    if series_uid is not None and info.series_uid != series_uid:
        return "not the one that was named"
    if modality is not None and info.modality != modality and not _is_stray(info):
        return f"modality {info.modality or 'unknown'}, not {modality}"
    if not info.readable:
        return f"{info.verdict}: {info.reason}"
    return ""


def _line(info: SeriesInfo, why: str) -> str:
    size = f"{info.n_slices} slices" if info.n_slices else f"{info.n_files} files"
    spacing = f" at {' x '.join(f'{s:.4g}' for s in info.spacing_mm)} mm" if info.spacing_mm else ""
    description = f" '{info.description}'" if info.description else ""
    uid = info.series_uid or "(no series UID)"
    return f"  {uid}  {info.modality or '?'}{description}, {size}{spacing}: {why}"
