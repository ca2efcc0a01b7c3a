"""What the files of a series are: slices of a volume that can be decoded, or something else."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pydicom.pixels import get_decoder
from pydicom.uid import UID

from voxmetry.core.records import Verdict
from voxmetry.io.dicom.headers import Header, sop_class_uid, text, transfer_syntax_uid, whole

VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
"""CT, MR and PET image storage: classic, enhanced, and legacy converted enhanced (DICOM PS3.4 B.5)."""

_MOST_NAMES = 6


def not_an_image(headers: Sequence[Header]) -> tuple[Verdict, str] | None:
    """Refuse what holds no stack of slices: contours, reports, segmentations, screen shots, localizers."""
    classes = {_kind(header) for header in headers}
    if not any(is_volume for is_volume, _ in classes):
        return "not an image", f"{', '.join(sorted(name for _, name in classes))} is no stack of slices"
    if all(_is_localizer(header) for header in headers):
        return "not an image", "a localizer: pictures to plan the scan by"
    return None


def mixed_kinds(headers: Sequence[Header], names: Sequence[str]) -> tuple[Verdict, str] | None:
    """Refuse a series with something among its slices that is none."""
    odd = [name for header, name in zip(headers, names, strict=True) if not _kind(header)[0]]
    if odd:
        return "mixed", f"objects that are no slices among them: {shown(odd)}"
    odd = [name for header, name in zip(headers, names, strict=True) if _is_localizer(header)]
    if odd:
        return "mixed", f"localizers among the slices: {shown(odd)}"
    return None


def undecodable(headers: Sequence[Header], names: Sequence[str]) -> tuple[Verdict, str] | None:
    """Refuse slices whose pixels would not come out as one number a voxel."""
    for header, name in zip(headers, names, strict=True):
        dataset = header.dataset
        if "MOSAIC" in (text(dataset, "ImageType") or ""):
            return "unreadable", f"{name} is a Siemens mosaic: all slices of a volume tiled in one picture"
        if (whole(dataset, "SamplesPerPixel") or 1) != 1 or "COLOR" in (
            text(dataset, "PhotometricInterpretation") or ""
        ):
            return "unreadable", f"{name} is a colour picture, not one number a voxel"
        if "ModalityLUTSequence" in dataset:
            return "unreadable", f"{name} holds a Modality LUT in place of a rescale slope and intercept"
        syntax = transfer_syntax_uid(dataset)
        if syntax is not None and not _can_decode(syntax):
            return "unreadable", f"{name} is encoded as {UID(syntax).name}, for which there is no decoder"
    return None


def shown(names: Sequence[str]) -> str:
    """Join the first few names, and say how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


@functools.cache
def _can_decode(transfer_syntax: str) -> bool:
    uid = UID(transfer_syntax)
    if uid.is_transfer_syntax and not uid.is_encapsulated:
        return True
    try:
        return bool(get_decoder(uid).is_available)
    except NotImplementedError:
        return False


def _kind(header: Header) -> tuple[bool, str]:
    """Return whether the object is a slice of a volume, and the name of its class."""
    uid = sop_class_uid(header.dataset)
    if uid is None:
        modality = text(header.dataset, "Modality") or "an object of unknown kind"
        return modality in VOLUME_CLASSES.values() and "Rows" in header.dataset, modality
    return uid in VOLUME_CLASSES, UID(uid).name


def _is_localizer(header: Header) -> bool:
    return "LOCALIZER" in (text(header.dataset, "ImageType") or "").split("\\")
