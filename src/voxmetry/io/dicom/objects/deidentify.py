"""De-identification on the way out: DICOM PS3.15 annex E, basic application level confidentiality profile.

By dicom-anonymizer, whose rules are the profile's table E.1-1. UIDs are mapped by a keyed hash, so that objects that
refer to each other still do, in one run or in several with the same key, and nobody without the key can go back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword

from voxmetry.errors import FormatError, InputError, MissingExtraError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, lenient, text

_STANDARD_ROOT = "1.2.840.10008."
"""UIDs below it name classes and encodings, not patients."""
_CLEAN = (
    *("ContentSequence", "SourceImageSequence", "ReferencedImageSequence", "DerivationImageSequence"),
    *("ReferencedSeriesSequence", "CurrentRequestedProcedureEvidenceSequence", "SourceInstanceSequence"),
    "ROIName",
)
"""What the profile removes whole or leaves to a person, and what is cleaned item by item or kept here instead: content,
references and structure names of the objects that this package writes, which hold numbers, codes, UIDs and the label
table's names alone."""
_DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
"""In place of the library's first of January of the year 1, which some validators take for no date."""
_MAKER = "Voxmetry"
"""Manufacturer of the objects that this package writes: their text is the label table's and the model's."""
_FREE = ("LO", "SH", "PN", "ST", "LT", "UT", "UC", "AE", "AS", "UR")
_TECHNICAL = (
    *("RescaleType", "ConvolutionKernel", "FilterType", "SequenceName", "PulseSequenceName", "ImagedNucleus"),
    *("ReceiveCoilName", "TransmitCoilName", "Radiopharmaceutical", "DeidentificationMethod"),
)
"""Text of a source that says how an image was made, and of nobody."""
_OWN = (
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SeriesDescription", "ContentDescription"),
    *("SegmentLabel", "SegmentDescription", "TrackingID", "AlgorithmName", "AlgorithmVersion", "TextValue"),
    "AlgorithmParameters",
    *("ROIName", "ROIDescription", "ROIGenerationDescription", "StructureSetLabel", "StructureSetName"),
    *("DocumentTitle", "MIMETypeOfEncapsulatedDocument", "SegmentAlgorithmName", "ROIObservationLabel"),
    *("DimensionDescriptionLabel", "MappingResource", "MappingResourceName", "TemplateIdentifier"),
)
"""Text that this package writes into its objects."""
_OWN_DATES = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")
_CODED = (
    *("CodeValue", "LongCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"),
    *("ContextIdentifier", "MappingResource", "UniversalEntityID"),
)
_SCHEMES = ("SCT", "SRT", "SNM3", "DCM", "UCUM", "LN", "FMA", "RADLEX", "IBSI", "RFC5646", "ISO3166_1", "UMLS", "99PMP")
"""Code schemes whose meanings are written by their makers, not by a hospital."""
_MUST_BE_THERE = (
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "PositionReferenceIndicator"),
)
_REMOVED = "removed"
_METHOD = "PS3.15 basic application confidentiality profile"


class UidMap:
    """Replaces UIDs, always the same one by the same.

    Parameters
    ----------
    key
        A secret; the same key gives the same UIDs in a later run. A random one if not given.

    Examples
    --------
    >>> uids = UidMap(b"secret")
    >>> uids("1.2.3") == uids("1.2.3") != uids("1.2.4")
    True
    >>> uids("1.2.840.10008.1.2.1")
    '1.2.840.10008.1.2.1'
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def __call__(self, uid: str) -> str:
        """Return the UID that stands for `uid`: of the form of a UUID (PS3.5 B.2)."""
        if not uid or uid.startswith(_STANDARD_ROOT):
            return uid
        digest = hmac.new(self._key, uid.encode("ascii", "replace"), hashlib.sha256).digest()[:16]
        return f"2.25.{int.from_bytes(digest, 'big')}"


def deidentify(dataset: Any, uids: UidMap, *, name: str = "the object") -> Any:
    """Remove from a data set what may tell who the patient is, in place.

    Parameters
    ----------
    dataset
        A complete object with its file meta information.
    uids
        Shared by all objects that refer to each other.
    name
        For messages.

    Returns
    -------
    Dataset
        The same one, marked as de-identified.

    Raises
    ------
    InputError
        If the pixels may show the patient's name (Burned In Annotation YES), which no rule on elements can remove.
    MissingExtraError
        If dicom-anonymizer is not installed.
    """
    require_no_burned_in_words(dataset, name)
    actions = require_deidentifier()
    for keyword in _CLEAN:
        actions.pop((tag_for_keyword(keyword) >> 16, tag_for_keyword(keyword) & 0xFFFF), None)
    with lenient():
        is_own = text(dataset, "Manufacturer") == _MAKER
        if is_own and "ContributingEquipmentSequence" in dataset:
            del dataset.ContributingEquipmentSequence
        _apply(dataset, actions, uids, is_own=is_own)
        _mark(dataset)
    return dataset


def require_deidentifier() -> dict[tuple[int, int], Callable[[Any, Any], None]]:
    """Return the profile's rules by tag.

    Raises
    ------
    MissingExtraError
        If dicom-anonymizer is not installed.
    """
    try:
        from dicomanonymizer.simpledicomanonymizer import initialize_actions_2024b  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            found="no dicom-anonymizer",
            expected="the package, which holds the rules of PS3.15",
            fix="install it: pip install 'voxmetry[deidentify]'",
        ) from error
    return dict(initialize_actions_2024b())


def require_no_burned_in_words(dataset: Any, name: str) -> None:
    """Refuse an image whose pixels may name the patient.

    Raises
    ------
    InputError
        If Burned In Annotation is YES.
    """
    if text(dataset, "BurnedInAnnotation") == "YES":
        raise InputError(
            found=f"{name} says that words are burned into its pixels",
            expected="an image without annotation; rules on elements do not reach pixels",
            fix="leave it out, or have a person blank the words first",
        )


def _apply(
    dataset: Any,
    actions: Mapping[tuple[int, int], Callable[[Any, Any], None]],
    uids: UidMap,
    *,
    is_own: bool,
    is_item: bool = False,
) -> None:
    """Apply the rules to a data set and, which the library leaves out, to the items inside it."""
    dataset.remove_private_tags()
    is_local_code = is_item and text(dataset, "CodingSchemeDesignator") not in (None, *_SCHEMES)
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except PARSING_ERRORS:
            # What cannot be parsed cannot be cleaned.
            del dataset[tag]
            continue
        key = (tag.group, tag.element)
        if element.VR == "UI":
            value = element.value
            element.value = [uids(str(x)) for x in value] if element.VM > 1 else uids(str(value or ""))
        elif key in actions:
            actions[key](dataset, key)
            if tag in dataset and dataset[tag].VR in _DUMMY and dataset[tag].value:
                dataset[tag].value = _DUMMY[dataset[tag].VR]
        elif element.VR in (*_FREE, *_DUMMY) and element.value:
            _blank(dataset, element, is_own=is_own, is_item=is_item and not is_local_code)
        if tag in dataset and dataset[tag].VR == "SQ":
            for item in dataset[tag].value:
                _apply(item, actions, uids, is_own=is_own, is_item=True)


def _blank(dataset: Any, element: Any, *, is_own: bool, is_item: bool) -> None:
    """Remove text or a date that the profile has no rule for, unless it is known to be of no person."""
    keyword = element.keyword
    kept = (*_TECHNICAL, *(_OWN if is_own else ()), *(_CODED if is_item else ()))
    if keyword in kept or (is_own and element.VR in _DUMMY and keyword in _OWN_DATES):
        return
    if element.VR in _DUMMY:
        element.value = _DUMMY[element.VR]
    elif keyword in (*_MUST_BE_THERE, *_CODED):
        element.value = _REMOVED
    else:
        del dataset[element.tag]


def _mark(dataset: Any) -> None:
    from highdicom.sr import CodedConcept

    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = _METHOD
    dataset.DeidentificationMethodCodeSequence = [
        CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile"),
        CodedConcept("113104", "DCM", "Clean Structured Content Option"),
        CodedConcept("113105", "DCM", "Clean Descriptors Option"),
    ]
    if "file_meta" in dataset.__dict__:
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def deidentify_files(
    files: Sequence[str | os.PathLike[str]], folder: Path, uids: UidMap, *, pattern: str = "{:04d}.dcm"
) -> tuple[Path, ...]:
    """Write de-identified copies of files under numbers: names of files may hold those of patients.

    Parameters
    ----------
    files
        DICOM files, in the order of their numbers.
    folder
        Where to; it must exist.
    uids
        Shared by all objects that refer to each other.
    pattern
        Names of the copies, with the number from 1.

    Returns
    -------
    tuple of Path
        The copies.

    Raises
    ------
    FormatError
        If a file cannot be parsed.
    InputError, MissingExtraError
        As `deidentify`.
    OutputError
        If a copy cannot be written; none is left then.
    """
    written: list[Path] = []
    try:
        for number, file in enumerate(files, start=1):
            name = pattern.format(number)
            try:
                with lenient():
                    dataset = pydicom.dcmread(file)
            except PARSING_ERRORS as error:
                raise FormatError(
                    found=f"file {number} cannot be parsed as DICOM ({type(error).__name__})",
                    expected="a complete DICOM file",
                    fix="copy or export the file again from its source",
                ) from error
            deidentify(dataset, uids, name=f"file {number}")
            with lenient(), atomic_path(folder / name) as temporary:
                dataset.save_as(temporary, enforce_file_format=True)
            written.append(folder / name)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return tuple(written)
