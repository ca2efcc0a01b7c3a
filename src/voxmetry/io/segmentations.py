"""Segmentations that keep each structure apart: DICOM SEG, RT structure sets, and folders of one mask a structure."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxmetry.core.axes import find_move
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import PALETTE, Code, Label, LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import folder_name
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError, LabelError
from voxmetry.io.label_maps import existing, read_label_map
from voxmetry.io.overlapping import Layers
from voxmetry.io.seg_nrrd import has_layers, read_seg_nrrd
from voxmetry.io.suffixes import IMAGES, NIFTI


def read_layers(
    path: str | os.PathLike[str],
    labels: LabelTable | None = None,
    *,
    image: Volume | Geometry | None = None,
    threshold: float = 0.5,
    structures: Sequence[str] = (),
) -> tuple[Segmentation, ...]:
    """Read structures that may overlap, as few label maps as hold them all.

    Parameters
    ----------
    path
        A DICOM SEG file, an RT structure set, a folder that holds one of these, a folder of NIfTI masks, one a
        structure, named after it, or a `.seg.nrrd` of several layers.
    labels
        The structures that are wanted, found by name (any case), or by code, modifier and laterality. They take this
        table's values; others are left out.
    image
        The image that was segmented, or its grid. An RT structure set needs it, as contours have no voxels; a SEG
        lies on it then, empty slices included.
    threshold
        A fractional segment holds the voxels at or above this share of its maximum.
    structures
        Names of those to read, in any case, with `*` and `?` for any characters; all if not given.

    Returns
    -------
    tuple of Segmentation
        In the order of the structures: each in the first one where it overlaps nothing.

    Raises
    ------
    InputError, FormatError, GeometryError, LabelError
        If there is nothing, it cannot be read, does not fit the image, or holds none of the wanted structures.

    Warns
    -----
    ReadingWarning
        Names the contours that were clipped or left out, as they lie beyond the image or in another frame of reference.
    """
    return layers_of(Path(path), labels, image, threshold, structures)[0]


def layers_of(
    source: Path,
    labels: LabelTable | None,
    image: Volume | Geometry | None,
    threshold: float,
    structures: Sequence[str] = (),
    *,
    found_only: bool = False,
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Return the layers, and the pairs of structures that overlap.

    With `found_only` their tables name the structures of `labels` that the file has, and no others.
    """
    grid = image.geometry if isinstance(image, Volume) else image
    if source.is_dir():
        source, masks = _inside(source)
        if masks:
            layers, pairs = _read_masks(masks, grid, source.name)
            require_some([label for layer in layers for label in layer.labels], labels, structures, source.name)
            return _kept(layers, pairs, labels, structures, source.name, found_only=found_only)
    if has_layers(source):
        layers, pairs = _on(grid, *read_seg_nrrd(source), source.name)
        return _kept(layers, pairs, labels, structures, source.name, found_only=found_only)
    from voxmetry.io.dicom.read.headers import read_header, sop_class_uid
    from voxmetry.io.dicom.segmentations.rtstruct import RTSTRUCT_CLASS, read_rtstruct, structures_in
    from voxmetry.io.dicom.segmentations.seg import SEG_CLASSES, read_seg

    kind = sop_class_uid(read_header(source, source.name))
    if kind in SEG_CLASSES:
        layers, pairs = read_seg(source, grid=grid, threshold=threshold)
        require_some([label for layer in layers for label in layer.labels], labels, structures, source.name)
    elif kind == RTSTRUCT_CLASS and grid is not None:
        # What is wrong with a structure that nobody asked for does not matter.
        require_some(structures_in(source), labels, structures, source.name)
        # Some may be left out as they lie elsewhere, and are told of: what is left is what there is.
        layers, pairs = read_rtstruct(source, grid, wanted=lambda label: _takes(label, labels, structures) is not None)
    elif kind == RTSTRUCT_CLASS:
        raise InputError(
            found=f"{source.name} holds contours, which have no voxels of their own",
            expected="the image that they were drawn on",
            fix="pass it: --image STUDY, or in Python read_segmentation(path, image=read_volume(study))",
        )
    else:
        raise FormatError(
            found=f"{source.name} is a DICOM file without structures",
            expected="a DICOM SEG or an RT structure set",
            fix="pass the segmentation, not the image",
        )
    return _kept(layers, pairs, labels, structures, source.name, found_only=found_only)


def _on(
    grid: Geometry | None, layers: tuple[Segmentation, ...], pairs: tuple[str, ...], name: str
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Move layers onto the image's grid, whose voxels must be theirs."""
    if grid is None:
        return layers, pairs
    move = find_move(layers[0].geometry, grid, what=f"{name} and the image")
    return tuple(Segmentation(move(layer.array), grid, layer.labels) for layer in layers), pairs


def is_structures(path: Path) -> bool:
    """Whether a path keeps structures apart: a folder, a DICOM file, or a `.seg.nrrd` of several layers."""
    if path.is_dir():
        return True
    if path.name.lower().endswith(IMAGES):
        return has_layers(path)
    from voxmetry.io.dicom.read.headers import looks_like_dicom

    return path.suffix.lower() == ".dcm" or looks_like_dicom(path)


def _inside(folder: Path) -> tuple[Path, list[Path]]:
    """Find the one DICOM object with structures in a folder, or its NIfTI masks."""
    from voxmetry.io.dicom.read.headers import looks_like_dicom, read_header, sop_class_uid
    from voxmetry.io.dicom.segmentations.rtstruct import RTSTRUCT_CLASS
    from voxmetry.io.dicom.segmentations.seg import SEG_CLASSES

    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith(".")]
    masks = [entry for entry in files if entry.name.lower().endswith(NIFTI)]
    objects = [
        entry
        for entry in files
        if entry not in masks
        and looks_like_dicom(entry)
        and sop_class_uid(read_header(entry, entry.name)) in (*SEG_CLASSES, RTSTRUCT_CLASS)
    ]
    if len(objects) == 1 and not masks:
        return objects[0], []
    if masks and not objects:
        return folder, masks
    raise InputError(
        found=f"{folder.name} holds {len(objects)} DICOM SEG or RTSTRUCT files and {len(masks)} NIfTI files",
        expected="one DICOM object with structures, or NIfTI masks alone",
        fix="name the file that is meant",
    )


def _read_masks(
    masks: list[Path], grid: Geometry | None, name: str
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Read one mask a file, each holding 0 and one other value."""
    layers: Layers | None = None
    names: set[str] = set()
    for value, path in enumerate(masks, start=1):
        mask = read_label_map(existing(path), None)
        present = np.unique(mask.array[mask.array > 0])
        if present.size > 1:
            raise LabelError(
                found=f"{path.name} holds the values {present[:6].tolist()}",
                expected="a mask of one structure: 0 and one other value",
                fix="name a label map of several structures by its file, not its folder",
            )
        if layers is None:
            layers = Layers(grid or mask.geometry, name)
        other = masks[0].name if grid is None else "the image"
        layers.geometry.require_same(mask.geometry, what=f"{other} and {path.name}")
        structure = _structure_of(path, mask.labels)
        if structure in names:
            structure = _stem(path)
        names.add(structure)
        colour = PALETTE[(value - 1) % len(PALETTE)]
        layers.add(Label(value=value, name=structure, colour=colour), [((slice(None),) * 3, mask.array > 0)])
    if layers is None:
        raise InputError(found=f"no mask in {name}", expected="NIfTI files", fix="check the path")
    return layers.all(), layers.pairs


def _structure_of(path: Path, table: LabelTable) -> str:
    """Return what the structure of a mask is called: as its file, or as its table says if the file is named after it.

    No file can have some names, and others get a number (`file_names`). A file that somebody renamed is another one.
    """
    stem, said = _stem(path), [label.name for label in table]
    if len(said) == 1 and re.fullmatch(re.escape(folder_name(said[0])) + r"(_\d+)?", stem):
        return said[0]
    return stem


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def choose(
    layers: tuple[Segmentation, ...], structures: Sequence[str], name: str
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Keep the structures of these names, and return them in as few layers as hold them, with the pairs that overlap.

    Parameters
    ----------
    layers
        From `read_layers`, or a label map as the only one.
    structures
        Names in any case, with `*` and `?`.
    name
        The file's name, for messages.

    Raises
    ------
    LabelError
        If one of the names fits no structure.
    """
    require_some([label for layer in layers for label in layer.labels], None, structures, name)
    return _kept(layers, (), None, structures, name)


def _kept(
    layers: tuple[Segmentation, ...],
    pairs: tuple[str, ...],
    labels: LabelTable | None,
    structures: Sequence[str],
    name: str,
    *,
    found_only: bool = False,
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Keep the structures that are asked for; those of a table get its values."""
    if labels is None and not structures:
        return layers, pairs
    found = [
        (layer, label, match)
        for layer in layers
        for label in layer.labels
        if (match := _takes(label, labels, structures)) is not None
    ]
    kept = Layers(layers[0].geometry, name)
    # In the table's order, so that layers do not depend on the file's.
    order = {value: place for place, value in enumerate(labels.values if labels is not None else [])}
    for layer, label, match in sorted(found, key=lambda item: order.get(item[2].value, 0)):
        kept.add(match, [((slice(None),) * 3, layer.array == label.value)])
    if labels is None or found_only:
        return kept.all(), kept.pairs
    return tuple(Segmentation(layer.array, layer.geometry, labels) for layer in kept.all()), kept.pairs


def _takes(label: Label, labels: LabelTable | None, structures: Sequence[str]) -> Label | None:
    """Return the label under which a structure is kept; None where it is not asked for."""
    if structures and not any(fits(label.name, pattern) for pattern in structures):
        return None
    return label if labels is None else _match(label, labels)


def fits(name: str, pattern: str) -> bool:
    """Whether a structure's name is the one that is meant, or fits its pattern, in any case.

    Examples
    --------
    >>> fits("GTV_1", "gtv*"), fits("kidney [left]", "kidney [left]"), fits("BODY", "GTV")
    (True, True, False)
    """
    folded, wanted = name.casefold(), pattern.casefold()
    # Brackets are part of many names, so they choose among no characters here.
    return folded == wanted or fnmatch.fnmatchcase(folded, wanted.replace("[", "[[]"))


def require_some(found: Sequence[Label], labels: LabelTable | None, structures: Sequence[str], name: str) -> None:
    """Raise `LabelError` where a name of `structures` fits no label, or none of `labels` is among them."""
    names = [label.name for label in found]
    unknown = [pattern for pattern in structures if not any(fits(x, pattern) for x in names)]
    if unknown:
        raise LabelError(
            found=f"no structure {', '.join(unknown)} in {name}, which holds {', '.join(names) or 'none'}",
            expected="names of structures in it; * and ? stand for any characters",
            fix="choose among these",
        )
    if labels is not None and not any(_takes(label, labels, structures) for label in found):
        raise LabelError(
            found=f"{name} holds {', '.join(names) or 'no structure'}",
            expected=f"at least one of {', '.join(labels.names)}",
            fix="say which is which: --map THEIRS=OURS (names={theirs: ours} in Python), or read without a table",
        )


def _match(label: Label, labels: LabelTable) -> Label | None:
    for wanted in labels:
        if wanted.name.casefold() == label.name.casefold():
            return wanted
    for wanted in labels:
        if wanted.code and (wanted.code.scheme, wanted.code.value) == _key(label.code):
            same_part = _key(wanted.modifier) == _key(label.modifier)
            if same_part and wanted.laterality == label.laterality:
                return wanted
    return None


def _key(code: Code | None) -> tuple[str, str] | None:
    return (code.scheme, code.value) if code else None
