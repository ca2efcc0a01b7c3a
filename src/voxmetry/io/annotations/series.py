"""What the slices of an image that was read are known by, and whose pictures those of a file of annotations are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.io.annotations.shapes import Drawings, Picture, SliceKeys


def keys_of(case: str, volume: Volume) -> SliceKeys:
    """Return what the slices of an image are known by.

    Parameters
    ----------
    case
        Name of the case.
    volume
        From DICOM: its slices are known by their UIDs, unless it was resampled.

    Raises
    ------
    SeriesError
        If the files of the series are not those that were read.
    """
    if volume.source is None:
        return SliceKeys(case)
    from voxmetry.io.dicom.read.headers import text
    from voxmetry.io.dicom.read.pixels import slices_of

    slices = slices_of(volume.source)
    if len(slices.frames) != volume.geometry.shape[2]:
        return SliceKeys(case)
    uids = tuple(text(slices.headers[frame.file], "SOPInstanceUID") or "" for frame in slices.frames)
    return SliceKeys(case, uids, tuple(frame.number for frame in slices.frames))


def by_case(drawings: Drawings, keys: Sequence[SliceKeys]) -> dict[str, Drawings]:
    """Share out the pictures of a file among cases: each to the one whose slice it is, by UID or by the longest name.

    Raises
    ------
    InputError
        If something was drawn on a picture of none of the cases, or of several.
    """
    mine: dict[str, list[Picture]] = {}
    strange = []
    for picture in drawings.pictures:
        owners = sorted((key for key in keys if key.owns(picture)), key=lambda key: len(key.case))
        if owners:
            mine.setdefault(owners[-1].case, []).append(picture)
        elif picture.shapes:
            strange.append(picture.stem)
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise InputError(
            found=f"{drawings.program} has drawings on pictures of no study here: {', '.join(strange[:3])}{more}",
            expected="names with a SOP Instance UID of one of its series, or that begin with the name of a case",
            fix="pass the annotations of these studies, or name the pictures after the cases",
        )
    return {case: replace(drawings, pictures=tuple(pictures)) for case, pictures in mine.items()}
