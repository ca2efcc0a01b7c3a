"""Who made a segmentation, as DICOM wants it said in each object that is derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.uid import CTImageStorage

from voxmetry.errors import InputError
from voxmetry.io.dicom.objects.characters import fitted, settle_characters
from voxmetry.io.dicom.objects.source import Source

How: TypeAlias = Literal["automatic", "semiautomatic", "manual"]

SERIES_NUMBERS = {"SEG": 9001, "RTSTRUCT": 9002, "SR": 9003, "OT": 9004, "DOC": 9005}
"""Series Number by modality: high, so that what was derived sorts after what was scanned."""


@dataclass(frozen=True)
class Origin:
    """How a segmentation came to be.

    Parameters
    ----------
    how
        By a program alone, by a person with one, or by a person.
    algorithm, version
        Name and version of the model; empty for manual work.
    serial
        What tells this device from others: the SHA-256 of the weights, or the version of Voxmetry.
    software
        Version of Voxmetry.
    author
        The person who made or corrected it; empty where a program alone did.
    fast
        What a fast run traded for time, in words; empty for a full one.
    """

    how: How
    algorithm: str = ""
    version: str = ""
    serial: str = ""
    software: str = ""
    author: str = ""
    fast: str = ""

    def __post_init__(self) -> None:
        if self.how != "manual" and not (self.algorithm and self.version):
            raise InputError(
                found=f"a segmentation that is {self.how}, without the name and version of the algorithm",
                expected="both, which DICOM asks for",
                fix="name them, such as --algorithm NAME/VERSION, or say --made-by manual; in Python: Origin('manual')",
            )

    @property
    def person(self) -> str:
        """The author as a value of the type PN; empty where there is none."""
        if not self.author.strip():
            return ""
        name = fitted(self.author.replace("=", " "))
        # A name of a single component is allowed, and highdicom warns of it.
        return name if "^" in name else f"{name[:63]}^"

    @property
    def identification(self) -> Any:
        """Algorithm Identification Sequence; None for manual work."""
        from highdicom import AlgorithmIdentificationSequence
        from pydicom.sr.codedict import codes

        if self.how == "manual":
            return None
        return AlgorithmIdentificationSequence(
            name=fitted(self.algorithm),
            family=codes.DCM.ArtificialIntelligence,
            version=fitted(self.version),
            parameters={"fast": self.fast} if self.fast else None,
        )

    def equipment(self) -> dict[str, str]:
        """Return the words for highdicom's constructors: maker, model, version and serial number of the software."""
        return {
            "manufacturer": "Voxmetry",
            "manufacturer_model_name": fitted(self.algorithm or "Voxmetry"),
            "software_versions": fitted(self.software or "unknown"),
            "device_serial_number": fitted(self.serial or self.software or "unknown"),
        }


def new_object(source: Source, origin: Origin, *, sop_class: str, modality: str, description: str) -> Any:
    """Return a data set with patient, study, equipment and the object's own identity; the rest is for the caller.

    Parameters
    ----------
    source
        Patient and study are copied from its first header.
    origin
        Becomes the equipment.
    sop_class
        SOP Class UID.
    modality
        Of the new series.
    description
        Series Description, at most 64 characters.
    """
    from highdicom.base import SOPClass
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = SOPClass(
        study_instance_uid=source.first.StudyInstanceUID,
        series_instance_uid=new_uid(),
        series_number=SERIES_NUMBERS[modality],
        sop_instance_uid=new_uid(),
        sop_class_uid=sop_class,
        instance_number=1,
        modality=modality,
        # The explicit form has two bytes for the length of a contour's numbers: too few for a large outline.
        transfer_syntax_uid=ImplicitVRLittleEndian if modality == "RTSTRUCT" else ExplicitVRLittleEndian,
        series_description=fitted(description),
        **dict.fromkeys(_IDENTITY.values(), ""),
        **origin.equipment(),
    )
    copy_identity(dataset, source)
    return dataset


_IDENTITY = {
    "PatientID": "patient_id",
    "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
    "AccessionNumber": "accession_number",
    "StudyID": "study_id",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "ReferringPhysicianName": "referring_physician_name",
}
"""Elements of patient and study that highdicom asks for and checks, and its names for them."""


def without_identity(dataset: Any, **elements: Any) -> Any:
    """Return a header for highdicom to make an object of: identifiers and what is given, patient and study empty.

    highdicom refuses a birth date of 19500000 or a sex of "U"; a derived object repeats what the source says, right or
    wrong, and `copy_identity` does that afterwards.
    """
    header = pydicom.Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if keyword in dataset:
            setattr(header, keyword, dataset[keyword].value)
    for keyword in _IDENTITY:
        setattr(header, keyword, "")
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.file_meta = dataset.file_meta
    return header


def copy_identity(dataset: Any, source: Source) -> None:
    """Copy all elements of patient and study from the source's first header, as they are there."""
    kind = tag_for_keyword("SOPClassUID")
    header = pydicom.Dataset({tag: source.first[tag] for tag in source.first.keys() - {kind}})
    # highdicom looks up the elements of a class that it knows; they are the same in all images.
    header.SOPClassUID = CTImageStorage
    dataset.copy_patient_and_study_information(header)


def new_uid() -> str:
    """Return a new UID under the root of UUIDs, which needs no registration (PS3.5 B.2)."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def keep_encoded(dataset: Any, *, implicit: bool) -> None:
    """Tell pydicom that elements put in as bytes are in the form that is written, so that it does not parse them.

    Call it on each data set on the way down to such elements, before they are put in.
    """
    from pydicom.filewriter import correct_ambiguous_vr

    correct_ambiguous_vr(dataset, True)
    _say_encoded(dataset, implicit=implicit)


def settle(dataset: Any, source: Source, *, implicit: bool | None = None) -> None:
    """Choose the character set of an object when its text is complete.

    Parameters
    ----------
    dataset
        Complete but for frames and contours.
    source
        Whose character set is kept where it can be.
    implicit
        Where `keep_encoded` was called before: what it was told.
    """
    settle_characters(dataset, source.first, source.character_set)
    if implicit is not None:
        _say_encoded(dataset, implicit=implicit)


def _say_encoded(dataset: Any, *, implicit: bool) -> None:
    from pydicom.charset import convert_encodings

    characters = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(implicit, True, convert_encodings(characters) if characters else "iso8859")


@contextlib.contextmanager
def headers_taken(what: str, *, fix: str) -> Iterator[None]:
    """Name the headers as the reason where highdicom cannot make an object of them.

    Raises
    ------
    InputError
        In place of what highdicom raises.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            found=f"headers that highdicom cannot make a {what} of ({type(error).__name__})",
            expected="a series whose patient and study elements are well formed",
            fix=fix,
        ) from error
