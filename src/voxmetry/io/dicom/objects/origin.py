"""Who made a segmentation, as DICOM wants it said in each object that is derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from voxmetry.errors import InputError
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
    """

    how: How
    algorithm: str = ""
    version: str = ""
    serial: str = ""
    software: str = ""

    def __post_init__(self) -> None:
        if self.how != "manual" and not (self.algorithm and self.version):
            raise InputError(
                found=f"a segmentation that is {self.how}, without the name and version of the algorithm",
                expected="both, which DICOM asks for",
                fix="name them, such as --algorithm NAME/VERSION, or say --made-by manual",
            )

    @property
    def identification(self) -> Any:
        """Algorithm Identification Sequence; None for manual work."""
        from highdicom import AlgorithmIdentificationSequence
        from pydicom.sr.codedict import codes

        if self.how == "manual":
            return None
        return AlgorithmIdentificationSequence(
            name=self.algorithm[:64], family=codes.DCM.ArtificialIntelligence, version=self.version[:64]
        )

    def equipment(self) -> dict[str, str]:
        """Return the words for highdicom's constructors: maker, model, version and serial number of the software."""
        return {
            "manufacturer": "Voxmetry",
            "manufacturer_model_name": (self.algorithm or "Voxmetry")[:64],
            "software_versions": self.software or "unknown",
            "device_serial_number": (self.serial or self.software or "unknown")[:64],
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

    first = source.first
    dataset = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=new_uid(),
        series_number=SERIES_NUMBERS[modality],
        sop_instance_uid=new_uid(),
        sop_class_uid=sop_class,
        instance_number=1,
        modality=modality,
        # The explicit form has two bytes for the length of a contour's numbers: too few for a large outline.
        transfer_syntax_uid=ImplicitVRLittleEndian if modality == "RTSTRUCT" else ExplicitVRLittleEndian,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex or None,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate,
        study_time=first.StudyTime,
        referring_physician_name=first.ReferringPhysicianName,
        specific_character_set=first.get("SpecificCharacterSet"),
        series_description=description[:64],
        **origin.equipment(),
    )
    dataset.copy_patient_and_study_information(first)
    return dataset


def new_uid() -> str:
    """Return a new UID under the root of UUIDs, which needs no registration (PS3.5 B.2)."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def keep_encoded(dataset: Any, *, implicit: bool) -> None:
    """Tell pydicom that elements put in as bytes are in the form that is written, so that it does not parse them.

    Call it on each data set on the way down to such elements, before they are put in.
    """
    from pydicom.charset import convert_encodings
    from pydicom.filewriter import correct_ambiguous_vr

    correct_ambiguous_vr(dataset, True)
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
