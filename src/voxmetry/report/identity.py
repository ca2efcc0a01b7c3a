"""Who was examined: only for who asks for it, from the headers of the study, and in no other file."""

from __future__ import annotations

from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.report.facts import Fact
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.text import clean

_TAGS = {
    "PatientName": "Patient",
    "PatientID": "Patient ID",
    "PatientBirthDate": "Birth date",
    "AccessionNumber": "Accession number",
    "StudyDate": "Study date",
}


def read_identity(volume: Volume, say: Language = ENGLISH) -> tuple[Fact, ...]:
    """Read name, ID, birth date, accession number and study date from the image's first DICOM file.

    Raises
    ------
    InputError
        If the image did not come as DICOM: other formats name nobody.
    """
    if volume.source is None or not volume.source.files:
        raise InputError(
            found="an image without DICOM headers",
            expected="a DICOM series, whose headers name the patient",
            fix="pass the DICOM folder with --image, or leave --with-identity out",
        )
    import pydicom

    header = pydicom.dcmread(volume.source.files[0], stop_before_pixels=True, specific_tags=list(_TAGS))
    facts = []
    for tag, term in _TAGS.items():
        value = clean(str(header.get(tag, "") or "").replace("^", " "))
        if value:
            facts.append(Fact(term=say(term), detail=value))
    return tuple(facts)
