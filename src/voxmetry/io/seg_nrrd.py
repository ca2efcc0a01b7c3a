"""NRRD files of segments that overlap, as label maps along a list axis: 3D Slicer's `.seg.nrrd`, MITK's `.nrrd`."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import InputError, LabelError, VoxmetryError
from voxmetry.io.atomic import atomic_path
from voxmetry.io.nrrd import is_nrrd, read_nrrd_header, read_nrrd_layers
from voxmetry.io.overlapping import Layers
from voxmetry.io.segment_header import segments_in
from voxmetry.io.slicer_header import Segment, to_slicer

SUFFIX = ".seg.nrrd"


def has_layers(path: Path) -> bool:
    """Whether a file is a NRRD file with segments in several layers."""
    if not is_nrrd(path) or not path.is_file():
        return False
    try:
        header = read_nrrd_header(path)
    except VoxmetryError:
        # What is wrong with it is said by the reader.
        return False
    several = any(n > 1 and kind is None for n, kind in zip(header.stored.sizes, header.directions, strict=True))
    return several and bool(segments_in(header.pairs, path.name))


def read_seg_nrrd(path: Path) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Read the segments of all layers, as few label maps as hold them, and the pairs that overlap.

    Raises
    ------
    FormatError, InputError, GeometryError
        If the file is damaged, or does not say where its voxels lie.
    LabelError
        If its segments contradict the layers.
    """
    array, geometry, pairs = read_nrrd_layers(path)
    segments = segments_in(pairs, path.name)
    if not segments or array.dtype.kind not in "iu" or any(not 0 <= x.layer < len(array) for x in segments):
        raise LabelError(
            found=f"{path.name} holds {len(array)} layers of {array.dtype}, and segments of others",
            expected="whole numbers, and segments of the layers that are there",
            fix="export the segmentation again",
        )
    _require_named(array, segments, path.name)
    layers = Layers(geometry, path.name)
    for segment in segments:
        mask: NDArray[np.bool_] = array[segment.layer] == segment.stored
        layers.add(segment.label, [((slice(None),) * 3, mask)])
    return layers.all(), layers.pairs


def write_seg_nrrd(layers: Sequence[Segmentation], path: Path) -> None:
    """Write label maps of one grid, one a layer, as 3D Slicer does; structures of different layers may overlap.

    Raises
    ------
    InputError
        If the layers lie on different grids, or are none.
    OutputError
        If the file cannot be written.
    """
    if not layers:
        raise InputError(found="no layer", expected="at least one label map", fix="pass the layers of read_layers")
    geometry = layers[0].geometry
    for layer in layers[1:]:
        geometry.require_same(layer.geometry, what="two layers")
    dtype = np.result_type(*(layer.array.dtype for layer in layers)).newbyteorder("<")
    head = _header(layers, geometry, dtype).encode("utf-8")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            # A slab at a time: the layers are the fastest axis.
            for k in range(geometry.shape[2]):
                slab = np.stack([layer.array[:, :, k] for layer in layers]).astype(dtype)
                packed.write(slab.tobytes(order="F"))


def _header(layers: Sequence[Segmentation], geometry: Geometry, dtype: np.dtype[Any]) -> str:
    affine = swap_lps_ras(geometry.affine)
    vectors = [f"({','.join(repr(float(x)) for x in affine[:3, column])})" for column in range(4)]
    lines = [
        "NRRD0005",
        f"type: {'unsigned char' if dtype.itemsize == 1 else 'unsigned short'}",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {len(layers)} {' '.join(map(str, geometry.shape))}",
        f"space directions: none {' '.join(vectors[:3])}",
        "kinds: list domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    for key, value in to_slicer([layer.labels for layer in layers]).items():
        escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", " ")
        lines.append(f"{key}:={escaped}")
    return "\n".join(lines) + "\n\n"


def _require_named(array: NDArray[Any], segments: Sequence[Segment], name: str) -> None:
    for number, layer in enumerate(array):
        known = {segment.stored for segment in segments if segment.layer == number}
        unknown = sorted(set(np.unique(layer).tolist()) - known - {0})
        if unknown:
            raise LabelError(
                found=f"{name} holds the values {unknown[:10]} in layer {number}, which no segment has",
                expected=f"0 and the segments' values: {sorted(known)}",
                fix="export the segmentation again",
            )
