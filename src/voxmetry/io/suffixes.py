"""Which formats a file's name stands for."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
"""Read where they are named; a folder's pairs are not looked for."""
IMAGES = (*NIFTI, *PAIRS, *ITK)
"""Files of one image that are no DICOM."""


def suffix_of(path: Path) -> str:
    """Return the part of the name that says what the file is, in lower case; `.nii.gz` counts as one.

    Examples
    --------
    >>> suffix_of(Path("a.b/case.1.NII.gz")), suffix_of(Path("scan.nrrd"))
    ('.nii.gz', '.nrrd')
    """
    name = path.name.lower()
    return next((end for end in (".nii.gz", ".hdr.gz", ".img.gz") if name.endswith(end)), path.suffix.lower())
