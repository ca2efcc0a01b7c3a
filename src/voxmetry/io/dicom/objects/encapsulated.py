"""What a PACS shows that knows neither segmentations nor structured reports: the PDF, and pictures."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from voxmetry.errors import FormatError, InputError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.objects.characters import fitted
from voxmetry.io.dicom.objects.origin import Origin, new_object, settle
from voxmetry.io.dicom.objects.source import Source
from voxmetry.io.dicom.read.headers import lenient, unreadable

_PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
_PICTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def write_encapsulated_pdf(
    pdf: str | os.PathLike[str],
    source: Source,
    path: str | os.PathLike[str],
    *,
    origin: Origin,
    title: str = "Segmentation report",
) -> Any:
    """Write a PDF file as a DICOM object of the patient's study.

    Parameters
    ----------
    pdf
        The PDF file.
    source
        Headers of the series that the report is about; its instances are named as the document's source.
    path
        The file; written whole or not at all.
    origin
        Who made it.
    title
        Document Title and Series Description.

    Raises
    ------
    FormatError
        If the file is no PDF.
    InputError
        If it cannot be read.
    OutputError
        If the file cannot be written.
    """
    name = Path(pdf).name
    try:
        content = Path(pdf).read_bytes()
    except OSError as error:
        raise unreadable(name, error) from error
    if not content.startswith(b"%PDF-") or b"%%EOF" not in content[-1024:]:
        raise FormatError(
            found=f"{name} does not begin and end as a PDF file does",
            expected="a complete PDF file",
            fix="write the report again",
        )
    with lenient():
        dataset = new_object(source, origin, sop_class=_PDF_CLASS, modality="DOC", description=title)
        _conversion(dataset, "WSD")
        dataset.BurnedInAnnotation = "NO"
        dataset.RecognizableVisualFeatures = "NO"
        dataset.DocumentTitle = fitted(title, 1024)
        dataset.ConceptNameCodeSequence = []
        dataset.SourceInstanceSequence = [_instance(header) for header in source.headers]
        dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
        dataset.EncapsulatedDocumentLength = len(content)
        dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
        settle(dataset, source)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return dataset


def write_secondary_capture(
    picture: NDArray[np.uint8],
    source: Source,
    path: str | os.PathLike[str],
    *,
    origin: Origin,
    number: int = 1,
    series_uid: str | None = None,
    description: str = "Key images",
) -> Any:
    """Write a colour picture as a Secondary Capture image of the patient's study.

    Parameters
    ----------
    picture
        (rows, columns, 3), red, green, blue.
    source
        Headers of the series that it shows.
    path
        The file; written whole or not at all.
    origin
        Who made it.
    number
        Instance Number, from 1.
    series_uid
        Series Instance UID, the same for pictures that belong together; a new one if not given.
    description
        Series Description.

    Raises
    ------
    InputError
        If the picture is of another shape or type.
    OutputError
        If the file cannot be written.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(
            found=f"a picture of type {picture.dtype} and shape {picture.shape}",
            expected="uint8 of shape (rows, columns, 3)",
            fix="convert it to red, green and blue in 0..255",
        )
    with lenient():
        dataset = new_object(source, origin, sop_class=_PICTURE_CLASS, modality="OT", description=description)
        if series_uid:
            dataset.SeriesInstanceUID = series_uid
        dataset.InstanceNumber = number
        _conversion(dataset, "WSD")
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.BurnedInAnnotation = "NO"
        dataset.PatientOrientation = dataset.Laterality = ""
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.Rows, dataset.Columns = picture.shape[:2]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.SourceImageSequence = [_instance(header) for header in source.headers]
        raw = np.ascontiguousarray(picture).tobytes()
        dataset.PixelData = raw + b"\0" * (len(raw) % 2)
        dataset["PixelData"].VR = "OB"
        settle(dataset, source)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return dataset


def _conversion(dataset: Any, kind: str) -> None:
    now = datetime.datetime.now().astimezone()
    dataset.ConversionType = kind
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.AcquisitionDateTime = ""


def _instance(header: Any) -> Any:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item
