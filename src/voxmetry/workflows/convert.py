"""From any form of an image or a segmentation to any other: what stands behind `voxmetry convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from voxmetry._version import __version__
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import file_names
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError, LabelError, OutputExistsError
from voxmetry.io.atomic import make_folder
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.output_folder import output_folder, require_apart, require_outside
from voxmetry.io.overlapping import Overlap
from voxmetry.io.read import read_segmentation, save
from voxmetry.io.read_options import ReadOptions as ReadOptions
from voxmetry.io.seg_nrrd import SUFFIX as SEG_NRRD
from voxmetry.io.seg_nrrd import write_seg_nrrd
from voxmetry.io.segmentations import is_structures, read_layers
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of

Target: TypeAlias = Literal["seg", "labelmap", "rtstruct"]
"""What a .dcm file becomes: a SEG of one bit a voxel, a label map SEG, or an RT structure set."""
MadeBy: TypeAlias = Literal["automatic", "semiautomatic", "manual"]


@dataclass(frozen=True)
class Conversion:
    """What becomes of a file.

    Parameters
    ----------
    to
        Which of the two a `.dcm` file is.
    image
        The image that was segmented. Contours need it; a `.dcm` file needs it as a DICOM series, whose patient and
        study it repeats.
    reading
        How the image is read; its modality is needed where a file becomes a DICOM series.
    made_by
        Who made the segmentation, which a `.dcm` file must say.
    algorithm
        NAME/VERSION of the program, where it was not made by hand.
    structures
        Names of the structures to take, in any case, with `*` and `?`; all if not given.
    split
        Whether each structure becomes a mask of its own, `NAME.nii.gz` in a new folder.
    as_labels
        Whether whole numbers are structures even where they look like an image.
    overlap
        As `read_segmentation`, where the target has one value a voxel. A SEG of one bit a voxel and segment and a
        structure set keep structures that overlap, and masks do.
    names
        New names by those that the structures have, or by their values.
    deidentify
        From a DICOM series to a folder: a copy without the patient's identity.
    overwrite
        Whether an earlier file is replaced; a folder must be empty.
    """

    to: Target | None = None
    image: Path | None = None
    reading: ReadOptions = field(default_factory=ReadOptions)
    made_by: MadeBy | None = None
    algorithm: str | None = None
    structures: tuple[str, ...] = ()
    split: bool = False
    as_labels: bool = False
    overlap: Overlap = "refuse"
    names: Mapping[str, str] = field(default_factory=dict)
    deidentify: bool = False
    overwrite: bool = False

    @property
    def origin(self) -> Origin | None:
        """Who made the segmentation, as DICOM wants it."""
        if self.made_by is None:
            return None
        name, _, version = (self.algorithm or "").partition("/")
        return Origin(self.made_by, name, version, software=__version__)


def convert(source: Path, target: Path, how: Conversion = Conversion()) -> tuple[Path, ...]:
    """Convert an image or a segmentation.

    Parameters
    ----------
    source
        A DICOM series, a NIfTI, NRRD or MetaImage file, a DICOM SEG, an RT structure set, or a folder of NIfTI masks.
    target
        A name that ends in `.seg.nrrd`, which keeps structures that overlap, in layers; in `.nii`,
        `.nii.gz`, `.nrrd`, `.mha` or `.mhd`; in `.dcm` for a SEG or a structure set; or a new folder for a DICOM series
        or for masks.
    how
        What becomes of it.

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
    suffix = suffix_of(target)
    chosen = Chosen(source, how.image, how.reading, how.structures, how.overlap, how.names, how.as_labels)
    if how.split:
        return _to_masks(chosen, target)
    if suffix == ".dcm":
        if target.exists() and not how.overwrite:
            raise _occupied(target)
        return (_to_dicom(chosen, target, how.to, how.origin),)
    if target.name.lower().endswith(SEG_NRRD) and chosen.is_segmentation():
        layers = chosen.layers()
        if len(layers) > 1:
            _require_apart(chosen, target)
            if target.exists() and not how.overwrite:
                raise _occupied(target)
            write_seg_nrrd(layers, target)
            return (target,)
    if suffix in (*NIFTI, *ITK):
        _require_apart(chosen, target)
        found = chosen.segmentation() if chosen.is_segmentation() else how.reading.read(source)
        save(found, target, overwrite=how.overwrite)
        return (target,)
    return _to_series(source, target, how.reading, deidentify=how.deidentify)


def _require_apart(chosen: Chosen, target: Path) -> None:
    """Refuse a file that would be one more mask of the folder that is read, or the image that was segmented."""
    masks = chosen.source if chosen.source.is_dir() and holds_structures(chosen.source) else None
    require_apart(target.parent, (masks, chosen.image), [target.name])


@dataclass(frozen=True)
class Chosen:
    """What is read: a file or folder, the image that it belongs to, and which structures of it."""

    source: Path
    image: Path | None
    reading: ReadOptions
    structures: tuple[str, ...]
    overlap: Overlap
    names: Mapping[str, str]
    as_labels: bool = False

    def is_segmentation(self) -> bool:
        """Whether it is read as structures: by what it is, or because an image or names of structures go with it."""
        there = self.source.exists()
        return there and (
            self.image is not None
            or bool(self.structures or self.names or self.as_labels)
            or holds_structures(self.source)
        )

    def grid(self) -> Volume | None:
        """Read the image, where there is one."""
        return self.reading.read(self.image) if self.image is not None else None

    def segmentation(self, volume: Volume | None = None) -> Segmentation:
        """Read the structures as one label map."""
        image = volume or self.grid()
        return read_segmentation(
            self.source,
            image=image,
            overlap=self.overlap,
            structures=self.structures,
            names=self.names,
            as_labels=self.as_labels,
        )

    def layers(self, volume: Volume | None = None) -> tuple[Segmentation, ...]:
        """Read the structures as few label maps as hold them all, unless a rule says where a shared voxel goes."""
        if self.overlap != "refuse" or (self.source.exists() and not is_structures(self.source)):
            return (self.segmentation(volume),)
        layers = read_layers(self.source, image=volume or self.grid(), structures=self.structures)
        together = LabelTable(labels=tuple(label for layer in layers for label in layer.labels)).renamed(self.names)
        tables = [LabelTable(labels=tuple(together.by_value(x.value) for x in layer.labels)) for layer in layers]
        return tuple(Segmentation(x.array, x.geometry, table) for x, table in zip(layers, tables, strict=True))


def holds_structures(source: Path) -> bool:
    """Whether a path is a segmentation by its kind: DICOM SEG, RTSTRUCT, a folder of masks, or a file with labels."""
    from voxmetry.io.dicom.read.headers import begins_as_dicom, read_header, sop_class_uid
    from voxmetry.io.dicom.segmentations.rtstruct import RTSTRUCT_CLASS
    from voxmetry.io.dicom.segmentations.seg import SEG_CLASSES

    if suffix_of(source) in NIFTI:
        from voxmetry.io.nifti import read_nifti_labels

        return read_nifti_labels(source)[2] is not None
    if suffix_of(source) in ITK:
        if is_structures(source):
            return True
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


def _to_dicom(chosen: Chosen, target: Path, to: Target | None, origin: Origin | None) -> Path:
    from voxmetry.io.dicom.objects.source import read_source
    from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
    from voxmetry.io.dicom.segmentations.seg_write import write_seg

    missing = [
        words
        for words, value in (
            ("what the .dcm file becomes (--to seg, labelmap or rtstruct)", to),
            (
                "the DICOM series that was segmented, whose patient and study the file repeats (--image STUDY)",
                chosen.image,
            ),
            ("who made the segmentation (--made-by automatic, semiautomatic or manual)", origin),
        )
        if value is None
    ]
    if missing or to is None or origin is None:
        raise InputError(
            found=f"{target.name} without {'; '.join(missing)}",
            expected="all that a DICOM segmentation must say; nothing of it is made up",
            fix="add what is missing",
        )
    volume = chosen.grid()
    if volume is None:
        raise InputError(found="no image", expected="the DICOM series that was segmented", fix="pass it with --image")
    headers = read_source(volume)
    if to == "rtstruct":
        write_rtstruct(chosen.layers(volume), headers, target, origin=origin)
    elif to == "seg":
        write_seg(chosen.layers(volume), headers, target, origin=origin)
    else:
        write_seg(chosen.segmentation(volume), headers, target, origin=origin, kind="labelmap")
    return target


def _to_masks(chosen: Chosen, target: Path) -> tuple[Path, ...]:
    """Write each structure as a mask of its own, named after it, all of them or none."""
    if target.suffix and not target.is_dir():
        raise InputError(
            found=f"{target.name} for masks of single structures",
            expected="a new folder, by a name without a dot",
            fix="name a folder",
        )
    if target.is_dir() and any(target.iterdir()):
        raise _occupied(target)
    layers = chosen.layers()
    found = [(layer, label) for layer in layers for label in layer.labels]
    if not found:
        raise LabelError(
            found=f"no structure in {chosen.source.name}", expected="at least one", fix="check what the file holds"
        )
    names = [f"{name}.nii.gz" for name in file_names(label.name for _, label in found)]
    with output_folder(target, names) as stage:
        for (layer, label), name in zip(found, names, strict=True):
            mask = (layer.array == label.value).astype(np.uint8)
            table = LabelTable(labels=(label.model_copy(update={"value": 1}),))
            save(Segmentation(mask, layer.geometry, table), stage / name)
    return tuple(target / name for name in names)


def _to_series(source: Path, target: Path, reading: ReadOptions, *, deidentify: bool) -> tuple[Path, ...]:
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
    # A folder is read with all below it: two series would lie there the next time.
    require_outside(target, [source])
    if deidentify:
        return _copies(source, target, reading)
    volume, modality = reading.read(source), reading.modality
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


def _copies(source: Path, target: Path, reading: ReadOptions) -> tuple[Path, ...]:
    from voxmetry.io.dicom.objects.deidentify import UidMap, deidentify_files, require_deidentifier
    from voxmetry.io.dicom.read.choose import allowed_verdicts, choose_series
    from voxmetry.io.dicom.read.series import list_series

    require_deidentifier()
    allowed = allowed_verdicts(allow_uneven=reading.allow_uneven, resample_tilt=reading.resample_tilt)
    chosen = choose_series(list_series(source), modality=reading.modality, series_uid=reading.series, allowed=allowed)
    if target.is_dir() and any(target.iterdir()):
        raise _occupied(target)
    return deidentify_files(chosen.files, make_folder(target), UidMap())


def _occupied(target: Path) -> OutputExistsError:
    return OutputExistsError(
        found=f"{target.name} is there already",
        expected="a name that is free",
        fix="choose another name, or add --overwrite for a file",
    )
