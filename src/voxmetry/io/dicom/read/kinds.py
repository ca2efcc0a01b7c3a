"""What the files of a series are: slices of a volume that can be decoded, or something else."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import UID

from voxmetry.io.dicom.read.decode import can_decode, is_encapsulated
from voxmetry.io.dicom.read.elements import PIXEL_DATA
from voxmetry.io.dicom.read.encoding import UNDEFINED
from voxmetry.io.dicom.read.headers import Header, sop_class_uid, text, transfer_syntax_uid, whole

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

_OTHER_KINDS = {
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture: a screenshot, a scan of paper, or a page made for reading",
    "1.2.840.10008.5.1.4.1.1.7.1": "a secondary capture: a page of black and white",
    "1.2.840.10008.5.1.4.1.1.7.2": "a secondary capture: pages of grey",
    "1.2.840.10008.5.1.4.1.1.7.3": "a secondary capture: pages of grey",
    "1.2.840.10008.5.1.4.1.1.7.4": "a secondary capture: pages in colour",
    "1.2.840.10008.5.1.4.1.1.88.67": "a radiation dose report",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
    "1.2.840.10008.5.1.4.1.1.11.1": "a way to show images, without an image",
}
_PAGES = ("SCREEN SAVE", "SCREENSAVE", "PROT", "DOSE", "REPORT", "CT_SOM5 PROT", "CT_SOM7 PROT", "PATIENT PROTOCOL")
"""Values of Image Type on pages that scanners file as images: the protocol, the dose report, a copy of the screen."""


def not_an_image(header: Header) -> str | None:
    """Say what an object is that is no slice of a volume; None for a slice."""
    uid = sop_class_uid(header.dataset)
    kinds = (text(header.dataset, "ImageType") or "").upper().split("\\")
    described = (text(header.dataset, "SeriesDescription") or "").lower()
    if uid in _OTHER_KINDS:
        if "dose" in described:
            return "a dose report, as a picture of its page"
        return _OTHER_KINDS[uid]
    is_volume, name = _kind(header)
    if not is_volume:
        return f"{name} is no stack of slices"
    if "LOCALIZER" in kinds:
        return "a localizer: pictures to plan the scan by"
    if any(kind in _PAGES for kind in kinds) and "ImagePositionPatient" not in header.dataset:
        return "a page that the scanner made: its protocol, the dose, or a copy of the screen"
    return None


def undecodable(header: Header, name: str) -> str | None:
    """Say why the pixels of a slice would not come out as one number a voxel; None where they would."""
    dataset = header.dataset
    samples, colours = whole(dataset, "SamplesPerPixel"), text(dataset, "PhotometricInterpretation") or ""
    if not colours:
        return f"{name} does not say whether it is grey or coloured (Photometric Interpretation)"
    if samples is None:
        return f"{name} does not say how many values a pixel has (Samples per Pixel)"
    if samples != 1 or not colours.startswith("MONOCHROME"):
        return f"{name} is a colour picture, not one number a voxel"
    if "ModalityLUTSequence" in dataset:
        return f"{name} holds a Modality LUT in place of a rescale slope and intercept"
    pixels = dataset.pixels
    if pixels is None:
        return f"{name} holds no pixel data"
    if pixels.tag != PIXEL_DATA:
        return f"{name} holds floating-point pixel data, which CT, MR and PET images do not"
    syntax = transfer_syntax_uid(dataset)
    if syntax is not None and not can_decode(syntax):
        return f"{name} is encoded as {UID(syntax).name}, for which there is no decoder"
    if is_encapsulated(syntax) != (pixels.length == UNDEFINED):
        return f"{name} is not encoded as its transfer syntax says"
    allocated, stored = whole(dataset, "BitsAllocated"), whole(dataset, "BitsStored")
    if allocated not in (8, 16, 32) or not 1 <= (stored or 0) <= allocated:
        held = f"{stored or 'an unknown number of'} bits of {allocated or 'an unknown number'}"
        return f"{name} stores {held}, not 1 to 32 bits of 8, 16 or 32"
    if whole(dataset, "PixelRepresentation") not in (0, 1):
        return f"{name} does not say whether its pixels are signed (Pixel Representation)"
    return None


def shown(names: Sequence[str]) -> str:
    """Join the first few names, and say how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _kind(header: Header) -> tuple[bool, str]:
    """Return whether the object is a slice of a volume, and the name of its class."""
    uid = sop_class_uid(header.dataset)
    if uid is None:
        modality = text(header.dataset, "Modality") or "an object of unknown kind"
        return modality in VOLUME_CLASSES.values() and "Rows" in header.dataset, modality
    return uid in VOLUME_CLASSES, UID(uid).name
