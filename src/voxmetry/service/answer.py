"""A segmentation as the clients of MONAI Label take it, and a label map as they send it back.

3D Slicer names segments by their position: the values of an answer are 1 to N without gaps, in the order of its names,
and at most 255. OHIF sends and takes bytes without a geometry, in the order of a DICOM series' columns, rows and slices
along its normal, which is that of a volume here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxmetry import io
from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.core.segmentation import Segmentation, values_present
from voxmetry.core.text import clean
from voxmetry.errors import FormatError, LabelError
from voxmetry.service.multipart import ReceivedFile

MOST_LABELS = 255
ENCODINGS = (".nrrd", ".seg.nrrd", ".nii.gz", ".nii")


def by_position(segmentation: Segmentation) -> Segmentation:
    """Give the labels the values 1 to N in the order of their table; of more than 255, those that are present.

    Parameters
    ----------
    segmentation
        Labels of any values, (I, J, K).

    Returns
    -------
    Segmentation
        uint8 on the same grid.

    Raises
    ------
    LabelError
        If more than 255 structures are present.

    Examples
    --------
    >>> grid = Geometry(np.eye(4), (1, 1, 3))
    >>> labels = LabelTable.from_names({2: "front", 7: "back"})
    >>> numbered = by_position(Segmentation(np.array([[[0, 7, 2]]], np.uint8), grid, labels))
    >>> numbered.array.ravel().tolist(), numbered.labels.values
    ([0, 2, 1], (1, 2))
    """
    labels = list(segmentation.labels)
    if len(labels) > MOST_LABELS:
        present = values_present(segmentation.array)
        labels = [label for label in labels if label.value in present]
    if len(labels) > MOST_LABELS:
        raise LabelError(
            found=f"{len(labels)} structures in one segmentation",
            expected=f"at most {MOST_LABELS}, which clients of MONAI Label can tell apart",
            fix="ask for some of them: structures in the parameters of the request",
        )
    table = np.zeros(int(np.iinfo(segmentation.array.dtype).max) + 1, np.uint8)
    for position, label in enumerate(labels, start=1):
        table[label.value] = position
    renamed = [label.model_copy(update={"value": n}) for n, label in enumerate(labels, start=1)]
    return Segmentation(table[segmentation.array], segmentation.geometry, LabelTable(labels=tuple(renamed)))


def encode(segmentation: Segmentation, folder: Path, *, extension: str, packed: bool, wide: bool) -> bytes:
    """Return a label map as a file's bytes.

    Parameters
    ----------
    segmentation
        Numbered by `by_position`.
    folder
        For the file meanwhile.
    extension
        One of `ENCODINGS`; anything else becomes `.nrrd`.
    packed
        Whether voxels are compressed; only `.nrrd` can do without.
    wide
        Whether voxels are 16 bits wide, for a client that says so.
    """
    if wide:
        segmentation = Segmentation(segmentation.array.astype(np.uint16), segmentation.geometry, segmentation.labels)
    if extension == ".nrrd" and not packed:
        return _raw_nrrd(segmentation)
    path = folder / f"answer-{secrets.token_hex(8)}{extension}"
    try:
        io.save(segmentation, path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _raw_nrrd(segmentation: Segmentation) -> bytes:
    """Spell out an NRRD file without compression, whose header has line feeds alone."""
    affine = swap_lps_ras(segmentation.geometry.affine)
    vectors = [f"({','.join(repr(float(x)) for x in affine[:3, column])})" for column in range(4)]
    kind = "unsigned char" if segmentation.array.dtype == np.uint8 else "unsigned short"
    lines = (
        "NRRD0004",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, segmentation.geometry.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {vectors[3]}",
    )
    little = segmentation.array.astype(segmentation.array.dtype.newbyteorder("<"), copy=False)
    return ("\n".join(lines) + "\n\n").encode("ascii") + little.tobytes(order="F")


def centroids(segmentation: Segmentation) -> dict[str, list[float]]:
    """Return value and centre (i, j, k) of each structure that is present, by its name."""
    boxes = ndimage.find_objects(segmentation.array)
    found = {}
    for label in segmentation.labels:
        box = boxes[label.value - 1] if label.value <= len(boxes) else None
        if box is None:
            continue
        inside = np.nonzero(segmentation.array[box] == label.value)
        centre = [float(axis.mean()) + part.start for axis, part in zip(inside, box, strict=True)]
        found[label.name] = [float(label.value), *centre]
    return found


def label_names(segmentation: Segmentation) -> dict[str, int]:
    """Return values by names."""
    return {label.name: label.value for label in segmentation.labels}


@dataclass(frozen=True)
class SentLabel:
    """A structure that a client names in a label map.

    Parameters
    ----------
    name
        Its name.
    value
        The value that the client says it has.
    """

    name: str
    value: int


def sent_labels(params: Mapping[str, Any]) -> tuple[SentLabel, ...]:
    """Read `label_info` of the parameters of a saved label.

    Raises
    ------
    FormatError
        If it is no list of names and values.
    """
    info = params.get("label_info") or ()
    try:
        found = [SentLabel(clean(str(each["name"]))[:200], int(each["idx"])) for each in info]
    except (TypeError, KeyError, ValueError) as error:
        raise _bad_info("label_info that is no list of names and idx") from error
    names = [each.name for each in found]
    if len(set(names)) < len(names) or not all(names):
        raise _bad_info("label_info with a name twice, or none")
    if any(not 1 <= each.value <= 65535 for each in found) or len({each.value for each in found}) < len(found):
        raise _bad_info("label_info with an idx twice, or outside 1 to 65535")
    return tuple(found)


def _bad_info(found: str) -> FormatError:
    return FormatError(
        found=found,
        expected='[{"name": "liver", "idx": 1}, ...], each name and each idx once',
        fix="send the names of the segments with their values",
    )


def read_label(file: ReceivedFile, grid: Geometry, named: Sequence[SentLabel]) -> tuple[Segmentation, ...]:
    """Read a label map that a client sends, on the grid of its image and with names.

    Parameters
    ----------
    file
        A label map with a geometry, a `.seg.nrrd`, or the bytes of the voxels alone.
    grid
        Of the image.
    named
        The structures that the client names; none: the file names them itself.

    Returns
    -------
    tuple of Segmentation
        One, or several where structures overlap.

    Raises
    ------
    FormatError, GeometryError, LabelError
        If it cannot be read, lies on another grid, or holds values that nobody names.
    """
    if file.suffix in ("", ".bin"):
        array = _flat(file.path, grid)
        return (_named(array, grid, named, by_place=False),)
    if file.suffix == ".seg.nrrd":
        layers = _layers(file.path, grid)
        for layer in layers:
            grid.require_same(layer.geometry, what="the image and the label map")
        return layers
    found = io.read_segmentation(file.path, image=grid, as_labels=True)
    grid.require_same(found.geometry, what="the image and the label map")
    if not named:
        return (found,)
    return (_named(found.array, grid, named, by_place=True),)


def _layers(path: Path, grid: Geometry) -> tuple[Segmentation, ...]:
    from voxmetry.io.segmentations import is_structures

    if is_structures(path):
        return io.read_layers(path, image=grid)
    return (io.read_segmentation(path, image=grid, as_labels=True),)


def _flat(path: Path, grid: Geometry) -> NDArray[Any]:
    """Read bytes without a header: one or two to a voxel, columns fastest, then rows, then slices."""
    n, size = int(np.prod(grid.shape)), path.stat().st_size
    if size not in (n, 2 * n):
        raise FormatError(
            found=f"{size} bytes of a label map without a header",
            expected=f"{n} or {2 * n}: one or two for each voxel of the image",
            fix="send a label map of the same image, or one with a header, such as .nii.gz or .nrrd",
        )
    return np.fromfile(path, "<u1" if size == n else "<u2").reshape(grid.shape, order="F")


def _named(array: NDArray[Any], grid: Geometry, named: Sequence[SentLabel], *, by_place: bool) -> Segmentation:
    present = values_present(array) - {0}
    values = [each.value for each in named]
    # Slicer exports the segments that it saves as 1 to N, whatever idx it says: that counts those it left out.
    if by_place and present <= set(range(1, len(named) + 1)):
        values = list(range(1, len(named) + 1))
    unknown = sorted(present - set(values))
    if unknown:
        raise LabelError(
            found=f"values {unknown[:10]} in the label map that no name belongs to",
            expected="a name in label_info for each value",
            fix="send the names of all segments with it",
        )
    labels = [
        Label(value=value, name=each.name, colour=PALETTE[place % len(PALETTE)])
        for place, (each, value) in enumerate(zip(named, values, strict=True))
    ]
    return Segmentation(array, grid, LabelTable(labels=tuple(labels)))


def parse_params(text: str | None) -> dict[str, Any]:
    """Read the JSON text `params` of a form; {} where there is none.

    Raises
    ------
    FormatError
        If it is no JSON object.
    """
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise _no_object() from error
    if not isinstance(found, dict):
        raise _no_object()
    return found


def _no_object() -> FormatError:
    return FormatError(found="params that are no JSON object", expected="{...}", fix="send params as JSON text")
