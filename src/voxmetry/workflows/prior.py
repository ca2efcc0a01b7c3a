"""Hold a study against an earlier run of the same patient: structures, lesions, RECIST.

A run's folder holds a reduced image, `overview.nii.gz`. It is fine enough to bring two time points together; sizes are
always measured on the label maps' own grids.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from voxmetry._version import __version__
from voxmetry.core.labels import LabelTable, plain_name
from voxmetry.core.records import Flag, Lesion, Measurement, SourceInfo, StudyResult
from voxmetry.core.records.follow_up import FollowUp, PriorComparison, StructureChange
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.io.read import read_segmentation
from voxmetry.measurement.follow_up import TimePoint, follow_up
from voxmetry.measurement.recist import percent
from voxmetry.workflows.run_folder import SEGMENTATION, read_overview, read_result

_CARRIED = ("registration", "not_covered", "matched_by_distance")
"""Flags of a follow-up that are not said by the study's own flags."""

LARGER_THAN_MEMORY = "the study is larger than memory"


class MeasuredStudy(Protocol):
    """What was measured on a study: a `StudyResult`, or what becomes one."""

    @property
    def source(self) -> SourceInfo: ...  # noqa: D102
    @property
    def labels(self) -> LabelTable: ...  # noqa: D102
    @property
    def measurements(self) -> tuple[Measurement, ...]: ...  # noqa: D102
    @property
    def lesions(self) -> tuple[Lesion, ...]: ...  # noqa: D102


def compare_with_prior(
    result: MeasuredStudy,
    prior: Path | str,
    *,
    segmentation: Segmentation | None,
    image: Volume | None,
    names: Mapping[str, str] | None = None,
) -> PriorComparison:
    """Hold a study against the folder of an earlier run.

    Parameters
    ----------
    result
        What was measured now.
    prior
        The folder that `voxmetry segment` wrote for the earlier study: `result.json`, `seg.nii.gz`, and
        `overview.nii.gz` where lesions have to be matched and the two studies share no frame of reference.
    segmentation
        The labels of now, (I, J, K); None where they are too large to match lesions in.
    image
        The image of now, on the same grid or reduced, to bring the two together; None where there is none.
    names
        Names (or values) of the earlier run's structures to those of now.

    Returns
    -------
    PriorComparison
        Without `follow_up`, and with the reason, where there are no lesions or they could not be matched.

    Raises
    ------
    InputError
        If the folder holds no run.
    FormatError
        If a file in it is none of this software.
    """
    folder = Path(prior)
    earlier = _renamed(read_result(folder), names or {})
    followed, reason, flags = _follow(result, earlier, folder, segmentation, image)
    if earlier.source.series_uid is not None and earlier.source.series_uid == result.source.series_uid:
        message = "The prior is a run on the same series: a change is one of the model or of its version."
        flags = (*flags, Flag(code="same_series", severity="review", message=message))
    return PriorComparison(
        voxmetry_version=__version__,
        prior=earlier.provenance,
        structures=_structures(result, earlier),
        follow_up=followed,
        reason=reason,
        flags=flags,
    )


def _renamed(earlier: StudyResult, names: Mapping[str, str]) -> StudyResult:
    """Give the structures of the earlier run the names that they have now."""
    if not names:
        return earlier
    table = earlier.labels.renamed(names)
    measured = tuple(m.model_copy(update={"label": table.by_value(m.value).name}) for m in earlier.measurements)
    return earlier.model_copy(update={"labels": table, "measurements": measured})


def _follow(
    result: MeasuredStudy, earlier: StudyResult, folder: Path, segmentation: Segmentation | None, image: Volume | None
) -> tuple[FollowUp | None, str, tuple[Flag, ...]]:
    if not any(label.kind == "lesion" for label in (*result.labels, *earlier.labels)):
        return None, "no structure is a lesion", ()
    if not (result.lesions or earlier.lesions):
        return None, "neither study has a lesion", ()
    if segmentation is None:
        return None, LARGER_THAN_MEMORY, ()
    before = read_segmentation(folder / earlier.files.get("segmentation", SEGMENTATION), labels=earlier.labels)
    try:
        found = follow_up(
            baseline=TimePoint(_placed(before, earlier.source), overview=read_overview(folder, earlier)),
            current=TimePoint(_placed(segmentation, result.source), overview=image),
        )
    except InputError as error:
        flag = Flag(
            code="lesions_not_matched",
            severity="note",
            message=f"Lesions were not matched with those of the prior: {error.found}.",
        )
        return None, error.found, (flag,)
    return found, "", tuple(flag for flag in found.flags if flag.code in _CARRIED)


def _placed(segmentation: Segmentation, source: SourceInfo) -> Segmentation:
    """Name the study's frame of reference, which a label map's file does not hold."""
    return dataclasses.replace(
        segmentation, geometry=dataclasses.replace(segmentation.geometry, frame_uid=source.frame_uid)
    )


def _structures(result: MeasuredStudy, earlier: StudyResult) -> tuple[StructureChange, ...]:
    now = {m.label: m for m in result.measurements}
    ours = {plain_name(name): name for name in now}
    before = {ours.get(plain_name(m.label), m.label): m for m in earlier.measurements}
    both = {name: (now.get(name), before.get(name)) for name in {**now, **before}}
    return tuple(
        _structure(name, ours, theirs)
        for name, (ours, theirs) in both.items()
        if any(m is not None and m.n_voxels for m in (ours, theirs))
    )


def _structure(name: str, ours: Measurement | None, theirs: Measurement | None) -> StructureChange:
    v0, v1 = (m.volume_ml if m is not None else math.nan for m in (theirs, ours))
    d0, d1 = (m.max_diameter_mm if m is not None else math.nan for m in (theirs, ours))
    reasons = [f"not known to the {'later' if m is ours else 'earlier'} model" for m in (ours, theirs) if m is None]
    reasons += [
        f"not found in the {'later' if m is ours else 'earlier'} study"
        for m in (ours, theirs)
        if m is not None and not m.n_voxels
    ]
    return StructureChange(
        label=name,
        value=ours.value if ours is not None else None,
        volume_prior_ml=v0,
        volume_ml=v1,
        volume_change_ml=v1 - v0,
        volume_change_percent=percent(v1, v0),
        max_diameter_prior_mm=d0,
        max_diameter_mm=d1,
        max_diameter_change_mm=d1 - d0,
        cut_off=any(m is not None and m.touches_border for m in (ours, theirs)),
        reason="; ".join(reasons),
    )
