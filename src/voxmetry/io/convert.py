"""From any form of an image or a segmentation to any other, where it makes sense."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError, OutputExistsError
from voxmetry.io.atomic import make_folder
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.overlapping import Overlap
from voxmetry.io.read import ITK, NIFTI, Modality, read_segmentation, read_volume, save, suffix_of

Target: TypeAlias = Literal["seg", "labelmap", "rtstruct"]
"""What a .dcm file becomes: a SEG of one bit a voxel, a label map SEG, or an RT structure set."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Target | None = None,
    image: str | os.PathLike[str] | None = None,
    series: str | None = None,
    modality: Modality | None = None,
    origin: Origin | None = None,
    overlap: Overlap = "refuse",
    deidentify: bool = False,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Convert an image or a segmentation.

    Parameters
    ----------
    source
        A DICOM series, a NIfTI, NRRD or MetaImage file, a DICOM SEG, an RT structure set, or a folder of NIfTI masks.
    target
        A name that ends in `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd`; in `.dcm` for a SEG or a structure set; or a
        new folder for a DICOM series.
    to
        Which of the two a `.dcm` file is.
    image
        The image that was segmented. Contours need it; a `.dcm` file needs it as a DICOM series, whose patient and
        study it repeats.
    series
        Series Instance UID, where a folder holds several.
    modality
        As `read_volume`; needed where a file becomes a DICOM series.
    origin
        Who made the segmentation, which a `.dcm` file must say.
    overlap
        As `read_segmentation`.
    deidentify
        From a DICOM series to a folder: a copy without the patient's identity.
    overwrite
        Whether an earlier file is replaced; a folder must be empty.

    Returns
    -------
    tuple of Path
        What was written.

    Raises
    ------
    InputError
        If the conversion makes no sense, or something for it is missing.
    OutputExistsError
        If the file is there already.
    VoxmetryError
        As reading and writing raise.
    """
    read_from, write_to = Path(source), Path(target)
    suffix = suffix_of(write_to)
    if suffix == ".dcm":
        if write_to.exists() and not overwrite:
            raise _occupied(write_to)
        return (_to_dicom(read_from, write_to, to, image, series, origin, overlap),)
    if suffix in (*NIFTI, *ITK):
        found = _read(read_from, image, series, modality, overlap)
        save(found, write_to, overwrite=overwrite)
        return (write_to,)
    return _to_series(read_from, write_to, series, modality, deidentify=deidentify)


def holds_structures(source: Path) -> bool:
    """Whether a path is a segmentation by its kind: DICOM SEG, RTSTRUCT, a folder of masks, or a file with labels."""
    from voxmetry.io.dicom.read.headers import begins_as_dicom, read_header, sop_class_uid
    from voxmetry.io.dicom.segmentations.rtstruct import RTSTRUCT_CLASS
    from voxmetry.io.dicom.segmentations.seg import SEG_CLASSES

    if suffix_of(source) in NIFTI:
        from voxmetry.io.nifti import read_nifti_labels

        return read_nifti_labels(source)[2] is not None
    if suffix_of(source) in ITK:
        from voxmetry.io.itk import read_itk_labels

        return read_itk_labels(source)[2] is not None
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    plain = [file for file in files if file.is_file() and not file.name.startswith(".")]
    if source.is_dir() and plain and all(suffix_of(file) in NIFTI for file in plain):
        return True
    if len(plain) != 1:
        return False
    with plain[0].open("rb") as file:
        if not begins_as_dicom(file.read(132)):
            return False
    return sop_class_uid(read_header(plain[0], plain[0].name)) in (*SEG_CLASSES, RTSTRUCT_CLASS)


def _read(
    source: Path,
    image: str | os.PathLike[str] | None,
    series: str | None,
    modality: Modality | None,
    overlap: Overlap,
) -> Volume | Segmentation:
    if source.exists() and (image is not None or holds_structures(source)):
        grid = read_volume(image, series=series) if image is not None else None
        return read_segmentation(source, image=grid, overlap=overlap)
    return read_volume(source, modality=modality, series=series)


def _to_dicom(
    source: Path,
    target: Path,
    to: Target | None,
    image: str | os.PathLike[str] | None,
    series: str | None,
    origin: Origin | None,
    overlap: Overlap,
) -> Path:
    from voxmetry.io.dicom.objects.source import read_source
    from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
    from voxmetry.io.dicom.segmentations.seg_write import write_seg

    missing = [
        words
        for words, value in (
            ("what the .dcm file becomes (--to seg, labelmap or rtstruct)", to),
            ("the DICOM series that was segmented, whose patient and study the file repeats (--image STUDY)", image),
            ("who made the segmentation (--made-by automatic, semiautomatic or manual)", origin),
        )
        if value is None
    ]
    if missing or to is None or image is None or origin is None:
        raise InputError(
            found=f"{target.name} without {'; '.join(missing)}",
            expected="all that a DICOM segmentation must say; nothing of it is made up",
            fix="add what is missing",
        )
    volume = read_volume(image, series=series)
    segmentation = read_segmentation(source, image=volume, overlap=overlap)
    headers = read_source(volume)
    if to == "rtstruct":
        write_rtstruct(segmentation, headers, target, origin=origin)
    else:
        write_seg(segmentation, headers, target, origin=origin, kind="labelmap" if to == "labelmap" else "binary")
    return target


def _to_series(
    source: Path, target: Path, series: str | None, modality: Modality | None, *, deidentify: bool
) -> tuple[Path, ...]:
    from voxmetry.io.dicom.objects.write import write_series

    if target.suffix and not target.is_dir():
        raise InputError(
            found=f"no format to write {target.name} in",
            expected="a suffix of NIfTI, NRRD or MetaImage, .dcm, or a folder's name without a dot",
            fix="choose one of these",
        )
    if source.exists() and holds_structures(source):
        raise InputError(
            found=f"a segmentation, {source.name}, for a folder of image slices",
            expected="an image; a segmentation becomes one .dcm file",
            fix=f"name it {target.name}.dcm, with --to seg or --to rtstruct",
        )
    if deidentify:
        return _copies(source, target, series, modality)
    volume = read_volume(source, modality=modality, series=series)
    if volume.source is not None:
        raise InputError(
            found="a DICOM series for a DICOM series",
            expected="another form, or --deidentify for a copy without the patient",
            fix="copy the files, or add --deidentify",
        )
    if modality not in ("CT", "MR"):
        raise InputError(
            found=f"an image file of modality {modality or 'unknown'} for a DICOM series",
            expected="CT or MR",
            fix="say which (--modality CT)",
        )
    return write_series(volume, target, modality=modality)


def _copies(source: Path, target: Path, series: str | None, modality: Modality | None) -> tuple[Path, ...]:
    from voxmetry.io.dicom.objects.deidentify import UidMap, deidentify_files
    from voxmetry.io.dicom.read.choose import choose_series
    from voxmetry.io.dicom.read.series import list_series

    chosen = choose_series(list_series(source), modality=modality, series_uid=series)
    if target.is_dir() and any(target.iterdir()):
        raise _occupied(target)
    return deidentify_files(chosen.files, make_folder(target), UidMap())


def _occupied(target: Path) -> OutputExistsError:
    return OutputExistsError(
        found=f"{target.name} is there already",
        expected="a name that is free",
        fix="choose another name, or add --overwrite for a file",
    )
