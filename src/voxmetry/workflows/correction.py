"""Read a person's correction of a label map: whose it is, that it is of this study, and what its structures are."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from voxmetry.core.axes import find_move
from voxmetry.core.labels import LabelTable
from voxmetry.core.records.correction import Correction
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import clean
from voxmetry.errors import ConfigError, GeometryError, InputError, LabelError
from voxmetry.io.annotations.formats import is_drawings, read_drawings
from voxmetry.io.annotations.itk_snap import itk_snap_beside, read_itk_snap
from voxmetry.io.annotations.shapes import Drawings, SliceKeys, SliceNumbers, masks_of, onto
from voxmetry.io.digest import digest_of
from voxmetry.io.overlapping import Overlap
from voxmetry.io.read import read_segmentation
from voxmetry.io.seg_nrrd import SUFFIX as SEG_NRRD
from voxmetry.io.segmentations import is_structures, layers_of
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.measurement.correction import digest_of_labels, measure_correction
from voxmetry.measurement.pairing import has_real_names
from voxmetry.workflows.correction_structures import in_table


@dataclass(frozen=True)
class CorrectionOptions:
    """How corrections are read.

    Parameters
    ----------
    author, made
        Who made them and when (ISO 8601); what the file says where empty.
    names
        Names (or values) in the file to those of the label map.
    structures
        Names in the file of those to take, with `*` and `?`; all if not given.
    overlap
        What a voxel of two structures becomes.
    labels
        A file of ITK-SNAP's labels for label maps without names.
    slice_numbers
        What a number in the name of a picture counts, for slice annotations.
    rest
        What slices hold that nobody drew on: the model's labels, or none.
    allow_empty
        Whether a correction without a voxel is taken: there is none of it.
    allow_elsewhere
        Whether a correction is taken that shares no voxel with any structure of what it corrects.
    """

    author: str = ""
    made: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    structures: tuple[str, ...] = ()
    overlap: Overlap = "refuse"
    labels: Path | None = None
    slice_numbers: SliceNumbers = "index"
    rest: Literal["model", "empty"] = "model"
    allow_empty: bool = False
    allow_elsewhere: bool = False


@dataclass(frozen=True)
class Corrected:
    """What a correction is a correction of.

    Parameters
    ----------
    before
        The model's label map.
    keys
        What the image's slices are known by.
    series_uid
        Series Instance UID of the image; None where it is not from DICOM.
    model, model_version, weights_sha256
        Which model made the label map.
    """

    before: Segmentation
    keys: SliceKeys
    series_uid: str | None
    model: str
    model_version: str
    weights_sha256: str


@dataclass(frozen=True)
class Said:
    """What a folder or file says about a correction beside its voxels; empty where it says nothing.

    Parameters
    ----------
    author, made
        Who and when.
    labels
        What the values mean.
    drawings
        The slice annotations, where they were read already.
    """

    author: str = ""
    made: str = ""
    labels: LabelTable | None = None
    drawings: Drawings | None = None


def read_correction(
    path: Path,
    target: Corrected,
    how: CorrectionOptions = CorrectionOptions(),
    *,
    said: Said = Said(),
) -> tuple[Segmentation, Correction]:
    """Read a correction, and compare it with what it corrects.

    Parameters
    ----------
    path
        `.seg.nrrd`, NIfTI, NRRD, MetaImage, a DICOM SEG, an RT structure set, a folder of masks, or slice annotations
        of CVAT, COCO, Label Studio, Labelbox or VIA.
    target
        What it corrects.
    how
        Names, author, what is taken though it is odd.
    said
        What is known from beside the file, such as MONAI Label's list.

    Returns
    -------
    Segmentation, Correction
        The corrected label map, on the grid and with the table of the one that it corrects, and the record.

    Raises
    ------
    GeometryError
        If it lies on another grid.
    LabelError
        If it has structures that the label map does not know, or structures overlap.
    InputError
        If it is of another series, empty, shares nothing with what it corrects, changes while it is read, or nobody
        says who made it.
    FormatError
        If the file is damaged.
    """
    sha256 = _digest(path)
    found = _read(path, target, how, said)
    if _digest(path) != sha256:
        raise InputError(
            found=f"{path.name} changed while it was read",
            expected="a file that stays as it is",
            fix="wait until the program has saved it, then give the same command again",
        )
    after = in_table(
        found.layers,
        target.before.labels,
        path.name,
        names=how.names,
        structures=how.structures,
        overlap=how.overlap,
    )
    if found.drawn:
        after = onto(target.before, after, found.drawn, keep_rest=how.rest == "model")
    author = clean(how.author or found.author)
    if not author:
        raise InputError(
            found=f"nothing in {path.name} says who made the correction",
            expected="the name of the person",
            fix="name the person: --author NAME",
        )
    correction = Correction(
        author=author,
        made=_moment(how.made) or found.made or _saved(path),
        format=found.format,
        source_sha256=sha256,
        model=target.model,
        model_version=target.model_version,
        weights_sha256=target.weights_sha256,
        before_sha256=digest_of_labels(target.before),
        drawn_slices=found.drawn,
        rest=how.rest if found.drawn else "",
        structures=measure_correction(before=target.before, after=after),
    )
    _require_plausible(after, target.before, correction, how, path.name)
    return after, correction


@dataclass(frozen=True)
class _Found:
    layers: tuple[Segmentation, ...]
    format: str
    author: str = ""
    made: str = ""
    drawn: tuple[int, ...] = ()


def _read(path: Path, target: Corrected, how: CorrectionOptions, said: Said) -> _Found:
    grid = target.before.geometry
    if said.drawings is not None or is_drawings(path):
        drawings = said.drawings or read_drawings(path)
        layers, _, drawn = masks_of(drawings, target.keys, grid, numbers=how.slice_numbers)
        return _Found(layers, drawings.program, said.author or drawings.author, _moment(drawings.made), drawn)
    if is_structures(path):
        is_dicom = not path.is_dir() and suffix_of(path) not in ITK
        if is_dicom:
            author, made, kind = _dicom_words(path, target, said)
        else:
            author, made, kind = said.author, said.made, "masks" if path.is_dir() else _kind(path)
        return _Found(layers_of(path, None, grid, 0.5)[0], kind, author, made)
    if not path.name.lower().endswith(SEG_NRRD) and suffix_of(path) not in (*NIFTI, *ITK):
        raise InputError(
            found=f"{path.name} is of no format that corrections are read from",
            expected=".seg.nrrd, NIfTI, NRRD, MetaImage, DICOM SEG, RTSTRUCT, or an export of CVAT, COCO, Label "
            "Studio, Labelbox or VIA",
            fix="export the segmentation in one of these",
        )
    layer = read_segmentation(path, as_labels=True)
    layer = dataclasses.replace(layer, labels=_table(path, layer, how, said))
    move = find_move(layer.geometry, grid, what=f"{path.name} and the image")
    return _Found((Segmentation(move(layer.array), grid, layer.labels),), _kind(path), said.author, said.made)


def _kind(path: Path) -> str:
    if path.name.lower().endswith(SEG_NRRD):
        return "3D Slicer segmentation"
    return {".nii": "NIfTI", ".nii.gz": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD"}.get(suffix_of(path), "MetaImage")


def _table(path: Path, layer: Segmentation, how: CorrectionOptions, said: Said) -> LabelTable:
    """Return what the values of a label map mean: as it says itself, as its folder says, or as ITK-SNAP's file does."""
    if has_real_names(layer.labels):
        return layer.labels
    beside = how.labels or (None if said.labels is not None else itk_snap_beside(path))
    table = read_itk_snap(beside) if beside is not None else said.labels
    if table is None:
        return layer.labels
    present = [label.value for label in layer.labels if (layer.array == label.value).any()]
    unknown = sorted(set(present) - set(table.values))
    if unknown:
        raise LabelError(
            found=f"values {unknown[:10]} in {path.name} that {beside.name if beside else 'its list'} does not name",
            expected=f"0 and {', '.join(f'{x.value} {x.name}' for x in table)}",
            fix="save the labels again together with the segmentation",
        )
    return LabelTable(labels=tuple(label for label in table if label.value in present))


def _dicom_words(path: Path, target: Corrected, said: Said) -> tuple[str, str, str]:
    """Return author, time and kind of a DICOM object, and see that it is of the image's series."""
    from voxmetry.io.dicom.read.headers import lenient, read_all, text

    dataset = read_all(path, path.name)
    with lenient():
        is_contours = text(dataset, "Modality") == "RTSTRUCT"
        wanted = (target.series_uid or "").partition("#")[0]
        named = set(_uids(dataset, "SeriesInstanceUID", own=False))
        if wanted and named and wanted not in named:
            raise InputError(
                found=f"{path.name} refers to another series than the one that was segmented",
                expected="a segmentation of the image of this study",
                fix="pass the correction that was made on this series",
            )
        names = ("OperatorsName",) if is_contours else ("ContentCreatorName", "OperatorsName")
        author = next((str(name) for key in names if (name := text(dataset, key))), "")
        day, hour = ("StructureSetDate", "StructureSetTime") if is_contours else ("ContentDate", "ContentTime")
        made = _dicom_time(text(dataset, day) or "", text(dataset, hour) or "")
    author = said.author or author.replace("^", " ").strip()
    return author, said.made or made, "RTSTRUCT" if is_contours else "DICOM SEG"


def series_of(path: Path) -> tuple[str, ...]:
    """Return the series that a DICOM object with structures refers to; none for any other file.

    Raises
    ------
    FormatError
        If it is DICOM and damaged.
    """
    from voxmetry.io.dicom.read.headers import lenient, looks_like_dicom, read_all

    if not path.is_file() or suffix_of(path) in (*NIFTI, *ITK) or not looks_like_dicom(path):
        return ()
    dataset = read_all(path, path.name)
    with lenient():
        return tuple(dict.fromkeys(_uids(dataset, "SeriesInstanceUID", own=False)))


def _uids(dataset: Any, keyword: str, *, own: bool = True) -> list[str]:
    """Return the values of an element in the items of the sequences that refer to series, at any depth."""
    found = [str(dataset.get(keyword))] if own and dataset.get(keyword) else []
    for sequence in (
        "ReferencedSeriesSequence",
        "ReferencedFrameOfReferenceSequence",
        "RTReferencedStudySequence",
        "RTReferencedSeriesSequence",
    ):
        for item in dataset.get(sequence) or []:
            found += _uids(item, keyword)
    return found


def _dicom_time(day: str, hour: str) -> str:
    if not re.fullmatch(r"\d{8}", day):
        return ""
    digits = re.sub(r"\D", "", hour.partition(".")[0])[:6].ljust(6, "0")
    return _moment(f"{day[:4]}-{day[4:6]}-{day[6:]}T{digits[:2]}:{digits[2:4]}:{digits[4:]}")


def _moment(text: str) -> str:
    """Return a time as ISO 8601 in UTC, to the second; empty where it is none."""
    if not text:
        return ""
    try:
        found = datetime.datetime.fromisoformat(text.strip().replace("/", "-"))
        # A time without a zone is one of the clock on the wall.
        return found.astimezone(datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return ""


def require_moment(text: str) -> str:
    """Return a time that a person gave as ISO 8601.

    Raises
    ------
    ConfigError
        If it is none.
    """
    found = _moment(text)
    if text and not found:
        raise ConfigError(
            found=f"--when {text!r}", expected="a date and time as 2026-11-30T14:05", fix="write it so, or leave it out"
        )
    return found


def _saved(path: Path) -> str:
    saved = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return saved.isoformat(timespec="seconds")


def _digest(path: Path) -> str:
    if not path.exists():
        raise InputError(found=f"nothing at {path.name}", expected="a correction", fix="check the path")
    try:
        return digest_of([path])
    except OSError as error:
        raise InputError(
            found=f"{path.name} cannot be read: {error.strerror or type(error).__name__}",
            expected="a file that may be read",
            fix="check its permissions",
        ) from error


def _require_plausible(
    after: Segmentation, before: Segmentation, correction: Correction, how: CorrectionOptions, name: str
) -> None:
    if not after.array.any() and not how.allow_empty:
        raise InputError(
            found=f"{name} is empty: no voxel of any structure",
            expected="a correction with at least one structure",
            fix="if there is none of them in this image, say so: --allow-empty",
        )
    both = [row for row in correction.structures if row.status in ("changed", "unchanged") and row.dice > 0]
    if before.array.any() and after.array.any() and not both and not how.allow_elsewhere:
        raise GeometryError(
            found=f"{name} shares no voxel with any structure that it corrects",
            expected="a correction of this study: in most, the larger part stays",
            fix="check that it is of this study; if the model was wrong all over, say so: --allow-elsewhere",
        )
