"""What a person should know about two time points before changes between them are believed."""

from __future__ import annotations

import numpy as np

from voxmetry.core.records import Flag
from voxmetry.core.volume import Volume
from voxmetry.io.dicom.read.taken import read_taken
from voxmetry.measurement.follow_up import TimePoint

_SAYS = {
    "same_series": "Both images are one series: what changed is the outlines alone.",
    "same_image": "Both images hold the same values, voxel by voxel: these are no two time points.",
    "same_segmentation": "Both label maps are the same, voxel by voxel: these are no two time points.",
    "other_patient": "The headers of the images have two patient IDs: two patients, or one under two IDs.",
    "wrong_order": "The baseline's image is of a later day than the follow-up's: are the two exchanged?",
}


def flag_time_points(baseline: TimePoint, current: TimePoint) -> tuple[Flag, ...]:
    """Flag time points that are one and the same, of two patients, or in the wrong order; no identity is in the words.

    Patient and order are known of images that were read from DICOM, the rest of all.
    """
    found = []
    ours, theirs = current.image, baseline.image
    if ours is not None and theirs is not None:
        found += _of_headers(theirs, ours)
        if not found and ours.array.shape == theirs.array.shape and np.array_equal(ours.array, theirs.array):
            found.append("same_image")
    a, b = baseline.segmentation, current.segmentation
    if not found and a.geometry.is_same(b.geometry) and np.any(a.array) and np.array_equal(a.array, b.array):
        found.append("same_segmentation")
    return tuple(Flag(code=code, severity="review", message=_SAYS[code]) for code in found)


def _of_headers(baseline: Volume, current: Volume) -> list[str]:
    before, now = baseline.source, current.source
    if before is None or now is None or not (before.files and now.files):
        return []
    if before.series_uid and before.series_uid == now.series_uid:
        return ["same_series"]
    then, later = read_taken(before.files[0]), read_taken(now.files[0])
    found = []
    if then.patient and later.patient and then.patient != later.patient:
        found.append("other_patient")
    if then.day and later.day and then.day > later.day:
        found.append("wrong_order")
    return found
