"""What the DICOM objects of a run are called: apart from what writes them, for those who only send them on."""

from __future__ import annotations

from voxmetry.report.pictures.key_images import MOST_SHEETS

KEY_IMAGES = {f"key_image_{n:02}": f"key_image_{n:02}.dcm" for n in range(1, MOST_SHEETS + 1)}
"""Names of the key images, as many as there can be."""
DICOM_FILES = {
    "dicom_seg": "seg.dcm",
    "rtstruct": "rtstruct.dcm",
    "sr": "sr.dcm",
    "pdf": "report.dcm",
    **KEY_IMAGES,
    "images": "images.zip",
}
"""Names of the DICOM objects; the last is the de-identified copy of the series that they refer to."""
