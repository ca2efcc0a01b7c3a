"""A volume as a plain DICOM image series: for demonstrations, tests and exchange."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Float64, swap_lps_ras
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError, InputError, OutputExistsError
from voxmetry.io.atomic import atomic_path, output_error

_AXES = {"axial": "LPS", "coronal": "LIA", "sagittal": "PIR"}
"""Where a row, a column and the stack run: the usual display."""


def write_series(
    volume: Volume,
    folder: str | os.PathLike[str],
    *,
    modality: Literal["CT", "MR"],
    description: str = "",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    series_uid: str | None = None,
    study_uid: str | None = None,
) -> tuple[Path, ...]:
    """Write a volume as a CT or MR image series, one file a slice, without any patient identity.

    Parameters
    ----------
    volume
        Whole numbers in int16, on a grid with axes at right angles; it may be oblique to the patient.
    folder
        Made if it is missing; must be empty.
    modality
        "CT" (values are Hounsfield units) or "MR".
    description
        Series Description.
    plane
        Which of the grid's axes is stacked: the one closest to S for "axial", A for "coronal", R for "sagittal". Rows
        and columns run as usually shown: right to left, anterior to posterior, superior to inferior.
    series_uid, study_uid
        Made at random where not given. The frame of reference is the volume's own, or a new one.

    Returns
    -------
    tuple of Path
        The files in slice order.

    Raises
    ------
    InputError
        If the values are not whole numbers that fit int16, or the description is too long.
    GeometryError
        If the axes are not at right angles, which DICOM slices cannot hold.
    OutputExistsError
        If the folder is not empty.
    OutputError
        If the folder or a file cannot be written.
    """
    if len(description) > 64:
        raise InputError(
            found=f"a description of {len(description)} characters",
            expected="at most 64, which is all that DICOM allows",
            fix="shorten it",
        )
    array, affine = _reoriented(volume, plane)
    values = _as_int16(array)
    target = _empty_folder(Path(folder))
    common = {
        "modality": modality,
        "description": description,
        "series_uid": series_uid or generate_uid(),
        "study_uid": study_uid or generate_uid(),
        "frame_uid": volume.geometry.frame_uid or generate_uid(),
    }
    paths: list[Path] = []
    try:
        for k in range(values.shape[2]):
            paths.append(target / f"{k + 1:04d}.dcm")
            with atomic_path(paths[-1]) as temporary:
                _slice(values[:, :, k], affine, k, common).save_as(temporary, enforce_file_format=True)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return tuple(paths)


def _reoriented(volume: Volume, plane: str) -> tuple[NDArray[Any], Float64]:
    """Permute and flip to (along a row, down a column, stacked), and the LPS+ affine of that."""
    grid = volume.geometry
    if not grid.is_orthogonal:
        raise GeometryError(
            found="a grid whose axes are not at right angles",
            expected="an orthogonal grid: a DICOM slice has its rows, columns and normal at right angles",
            fix="resample the volume onto an orthogonal grid first",
        )
    moved, turned = reorientation(grid, _AXES[plane])
    return moved.forward(volume.array), swap_lps_ras(turned.affine)


def _as_int16(array: NDArray[Any]) -> NDArray[np.int16]:
    limits = np.iinfo(np.int16)
    fits = limits.min <= array.min() and array.max() <= limits.max
    if not fits or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
        raise InputError(
            found=f"values of type {array.dtype} from {array.min():g} to {array.max():g}",
            expected=f"whole numbers in {limits.min}..{limits.max}, which a slice can store without loss",
            fix="scale and round the volume first",
        )
    return array.astype(np.int16)


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise output_error(folder, error) from error
    if occupied:
        raise OutputExistsError(
            found=f"the folder {folder.name} is not empty",
            expected="an empty or new folder, so that no other series is mixed in",
            fix="choose another folder",
        )
    return folder


def _slice(pixels: NDArray[np.int16], affine: Float64, k: int, common: dict[str, str]) -> Any:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 0] / spacing[0], affine[:3, 1] / spacing[1]
    position = affine[:3, 3] + k * affine[:3, 2]
    is_ct = common["modality"] == "CT"
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = common["study_uid"], common["series_uid"]
    dataset.FrameOfReferenceUID = common["frame_uid"]
    for keyword in _EMPTY:
        setattr(dataset, keyword, "")
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL" if is_ct else "OTHER"]
    dataset.Modality, dataset.SeriesDescription = common["modality"], common["description"]
    dataset.SeriesNumber, dataset.InstanceNumber = 1, k + 1
    dataset.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
    dataset.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*row, *column)]
    dataset.PixelSpacing = [format_number_as_ds(float(spacing[1])), format_number_as_ds(float(spacing[0]))]
    # A grid knows how far apart its slices are, and not how thick each of them was acquired.
    dataset.SliceThickness, dataset.SpacingBetweenSlices = "", format_number_as_ds(float(spacing[2]))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    if is_ct:
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "HU"
        dataset.KVP, dataset.AcquisitionNumber = "", ""
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "RM", "NONE", "3D"
        dataset.ScanOptions, dataset.EchoTime, dataset.EchoTrainLength = "", "", ""
    dataset.PixelData = pixels.T.astype("<i2").tobytes()
    return dataset


# Elements of type 2: they must be there, and are empty where nothing is known, as here.
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("Manufacturer", "PositionReferenceIndicator", "Laterality"),
)
