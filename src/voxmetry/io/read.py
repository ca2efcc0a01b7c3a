"""Read and save by what the path is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from voxmetry.config import SeriesRules
from voxmetry.core.axes import find_move
from voxmetry.core.base import Unit
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.memory import is_mapped
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError, OutputError, OutputExistsError
from voxmetry.io.label_maps import existing, naming_file, read_label_map
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.overlapping import Overlap, flatten
from voxmetry.io.segmentations import choose, is_structures, layers_of
from voxmetry.io.suffixes import IMAGES, ITK, NIFTI, suffix_of

Modality: TypeAlias = Literal["CT", "MR", "PT"]

_WRITABLE = (*NIFTI, ".nrrd", ".mha", ".mhd")


def read_volume(
    path: str | os.PathLike[str],
    *,
    modality: Modality | None = None,
    series: str | None = None,
    unit: Unit | None = None,
    rules: SeriesRules | None = None,
    suv: Literal["bw", "lbm", "bsa", "none"] = "bw",
    allow_uneven: bool = False,
    resample_tilt: bool = False,
    mapped: bool = False,
) -> Volume:
    """Read one image: a NIfTI, NRRD or MetaImage file, a folder of DICOM files, or one DICOM file of a series.

    Parameters
    ----------
    path
        A file, or a folder that is searched for DICOM files with all its subfolders. A DICOM file stands for the
        whole series that it belongs to, as far as it lies in the same folder.
    modality
        Take only DICOM series of this modality. For other files, which do not say what they are, "CT" declares that
        the values are Hounsfield units.
    series
        Series Instance UID, to choose where a folder holds several; with `#2` its second volume, where one series mixes
        several.
    unit
        What the values are, where the file does not say: "SUVbw" for a PET image that was converted already.
    rules
        What else the series must be, such as `InputSpec.series` of a model.
    suv
        What a PET series becomes: SUV by body weight, lean body mass or body surface area, or "none" for its values as
        they are stored.
    allow_uneven, resample_tilt
        Take a series with missing slices or uneven steps, or one whose stack leans, resampled onto a regular grid;
        `source.processing` says how.
    mapped
        Take an image that needs more than half of the free memory without holding it. One that is stored unpacked and
        without scaling (`.nii`, raw NRRD and MetaImage) is read where it lies: its file must stay as it is while the
        volume is used. Of any other the voxels go into a temporary file (`TMPDIR`) that is gone when the volume is, a
        DICOM series slice by slice. A series that is resampled when it is read (`allow_uneven`, `resample_tilt`) is
        held. Without this such an image is refused.

    Returns
    -------
    Volume
        Array (I, J, K) and geometry in RAS+ mm.

    Raises
    ------
    InputError
        If there is nothing at the path, the image cannot be used, or its headers say another unit than `unit`.
    SeriesError
        If no series, or more than one, can be taken; it lists every candidate and why each is not taken.
    FormatError
        If the file is of no known format, or damaged.
    GeometryError
        If the file does not say where its voxels lie.
    """
    source = existing(path)
    if source.is_file() and suffix_of(source) in IMAGES:
        with naming_file(source.name):
            return _read_file(source, unit or ("HU" if modality == "CT" else "1"), mapped=mapped)
    from voxmetry.io.dicom import choose_series, list_series, read_series
    from voxmetry.io.dicom.read.choose import allowed_verdicts
    from voxmetry.io.dicom.read.headers import looks_like_dicom

    if source.is_file() and source.suffix.lower() not in (".dcm", ".zip") and not looks_like_dicom(source):
        raise FormatError(
            found=f"{source.name} is of no format that can be read",
            expected=f"a name that ends in {', '.join((*NIFTI, *ITK))}, or DICOM content",
            fix="convert the image to NIfTI first",
        )
    allowed = allowed_verdicts(allow_uneven=allow_uneven, resample_tilt=resample_tilt)
    chosen = choose_series(list_series(source), modality=modality, series_uid=series, rules=rules, allowed=allowed)
    volume = read_series(chosen, suv=suv, allow_uneven=allow_uneven, resample_tilt=resample_tilt, mapped=mapped)
    if unit is not None and volume.unit != unit:
        raise InputError(
            found=f"a series in {volume.unit} that was declared to be in {unit}",
            expected="the unit that its headers say",
            fix="leave the unit out; it is for files without DICOM headers",
        )
    return volume


def _read_file(source: Path, unit: Unit, *, mapped: bool) -> Volume:
    if suffix_of(source) not in ITK:
        from voxmetry.io.nifti import read_nifti

        return read_nifti(source, unit=unit, mapped=mapped)
    from voxmetry.io.itk import read_itk

    return read_itk(source, unit=unit, mapped=mapped)


def read_segmentation(
    path: str | os.PathLike[str],
    labels: LabelTable | None = None,
    *,
    image: Volume | Geometry | None = None,
    overlap: Overlap = "refuse",
    structures: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    found_only: bool = False,
    as_labels: bool = False,
    mapped: bool = False,
) -> Segmentation:
    """Read a label map (NIfTI, NRRD, MetaImage), a DICOM SEG, an RT structure set, or a folder of NIfTI masks.

    Parameters
    ----------
    path
        The file, or the folder. Floating-point voxels are accepted where all are whole numbers.
    labels
        What the values mean. Without it, the table inside the file is taken; without that too, each value present
        is named `label_<value>`. From a SEG, a structure set or a folder of masks, the structures of this table are
        taken, found by name or code, and get its values.
    image
        The image that was segmented, or its grid. An RT structure set needs it; a label map of the same voxels in
        another order of the axes is turned to it, and one of other voxels refused.
    overlap
        What a voxel of two structures becomes: an error ('refuse'), or the structure whose value is lower ('first')
        or higher ('last').
    structures
        Names of the structures to read, in any case, with `*` and `?` for any characters; all if not given.
    names
        New names by those that the structures have, or by their values: `{"GTV_Mass_CT": "tumour"}`.
    found_only
        Of structures kept apart: the table has those of `labels` that the file holds, not all of `labels`.
    as_labels
        Take a map of many values without a table for what it says it is, though it looks like an image.
    mapped
        Whether a label map in one file may lie in a file where it has no room in memory, as for `read_volume`.

    Returns
    -------
    Segmentation
        uint8 where all values are below 256, else uint16.

    Raises
    ------
    LabelError
        If the values are not whole numbers in 0..65535, the table does not name all of them, structures overlap, or
        the file looks like an image: many values without a table that change from voxel to voxel.
    InputError, FormatError, GeometryError
        As `read_volume`.
    """
    source = existing(path)
    if is_structures(source):
        layers, pairs = layers_of(source, labels, image, 0.5, structures, found_only=found_only)
        return _renamed(flatten(layers, overlap, source.name, pairs), names, source.name)
    segmentation = read_label_map(source, labels, as_labels=as_labels, mapped=mapped)
    if structures:
        segmentation = choose((segmentation,), structures, source.name)[0][0]
    segmentation = _renamed(segmentation, names, source.name)
    if image is None:
        return segmentation
    grid = image.geometry if isinstance(image, Volume) else image
    move = find_move(segmentation.geometry, grid, what=f"{source.name} and the image")
    zeros = zeros_on_disk if is_mapped(segmentation.array) else np.zeros
    return Segmentation(move(segmentation.array, zeros), grid, segmentation.labels)


def _renamed(segmentation: Segmentation, names: Mapping[str, str] | None, name: str) -> Segmentation:
    if not names:
        return segmentation
    with naming_file(name):
        return dataclasses.replace(segmentation, labels=segmentation.labels.renamed(names))


def save(x: Volume | Segmentation, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Write an image or a label map; the suffix decides on the format. The file is there in full or not at all.

    Parameters
    ----------
    x
        What to write. A label map carries its label table inside the file.
    path
        Ends in `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd`.
    overwrite
        Whether a file of that name is replaced.

    Raises
    ------
    OutputError
        If the suffix is of no known format or the file cannot be written.
    OutputExistsError
        If the file is there already and `overwrite` is false.
    """
    target = Path(path)
    suffix = suffix_of(target)
    if suffix not in _WRITABLE:
        raise OutputError(
            found=f"no format to write {target.name} in",
            expected=f"a name that ends in {', '.join(_WRITABLE)}",
            fix="choose one of these suffixes",
        )
    if not overwrite and target.exists():
        raise OutputExistsError(
            found=f"{target.name} is there already",
            expected="a name that is free",
            fix="choose another name, or replace it: --overwrite (overwrite=True)",
        )
    if suffix in NIFTI:
        from voxmetry.io.nifti import write_nifti

        write_nifti(x, target)
    else:
        from voxmetry.io.itk import write_itk

        write_itk(x, target)
