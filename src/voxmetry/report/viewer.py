"""What the page's viewer gets: the image, the labels and their surfaces, small enough to lie inside the page.

The viewer is for looking, not for measuring: a large image is averaged over blocks of voxels, its values are cut to the
range of all but a thousandth of them and written in 1024 steps, and surfaces are smoothed. The numbers of the report
never come from here.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.boxes import boxes_of, join
from voxmetry.report.pictures.window import BONE, LUNG, SOFT_TISSUE, display_window
from voxmetry.report.reduction import block_label, block_mean, reduced_grid, reduction
from voxmetry.report.text import clean

MOST_VOXELS = 2_000_000
"""Voxels of the embedded image; a page then stays below 10 MB."""
MOST_OVERLAY_VOXELS = 500_000
"""Voxels of the embedded second image: a whole-body PET at 4 mm in the body's box, or twice that."""
MOST_MESH_VOXELS = 250_000
"""Voxels of the grid that surfaces are made on: about 100 000 triangles for a torso with all its organs."""
NEAR_MM = 10.0
"""How far from a structure's centroid a voxel of its own is looked for at first."""
LEVELS = 1023
_WINDOWS = {"Soft tissue": SOFT_TISSUE, "Lung": LUNG, "Bone": BONE}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that the viewer can jump to."""

    id: str
    name: str
    colour: str
    value: int
    ras_mm: tuple[float, float, float]


R = TypeVar("R", Target, "ViewerSurface")


@dataclass(frozen=True, kw_only=True)
class ViewerSurface:
    """Where a structure's triangles lie in the block of all surfaces."""

    value: int
    name: str
    colour: str
    points: int
    """Number of points; each is three 32-bit floats in RAS+ mm."""
    triangles: int


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A further image of the study, such as the PET beside a CT, on its own grid; shown over the first by choice."""

    name: str
    unit: str
    top: float
    """Value that is drawn brightest, to begin with; the scale begins at 0."""
    high: float
    """Largest value that the top of the scale can be set to."""
    image: str
    """NIfTI, gzip, base64."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that the viewer shows, as text that a page can hold."""

    low: float
    high: float
    """Smallest and largest value that the window can take."""
    window: tuple[float, float]
    windows: dict[str, tuple[float, float]]
    unit: str
    reduced: tuple[int, int, int]
    """How many voxels were averaged along each axis; 1 where none."""
    targets: tuple[Target, ...]
    surfaces: tuple[ViewerSurface, ...]
    image: str
    """NIfTI, gzip, base64."""
    labels: str
    """NIfTI, gzip, base64."""
    mesh: str
    """Points and triangles (three 32-bit integers each) of all surfaces one after the other, gzip, base64."""
    overlay: Overlay | None = None


def build_scene(
    result: StudyResult, volume: Volume, segmentation: Segmentation, others: Sequence[Volume] = ()
) -> Scene:
    """Reduce an image and its labels to what a page can carry.

    Parameters
    ----------
    result
        What was measured, for the places to jump to.
    volume
        The image, (I, J, K).
    segmentation
        The labels, on the image's grid.
    others
        The further images of `result.others`, in that order; the first one can be shown over the image.
    """
    steps = reduction(volume.geometry, MOST_VOXELS)
    image = block_mean(volume.array, steps)
    labels = block_label(segmentation.array, steps, present=boxes_of(segmentation))
    grid = reduced_grid(volume.geometry, steps).affine
    low, high = _range(image)
    levels = np.round((np.clip(image, low, high) - low) * (LEVELS / (high - low))).astype(np.int16)
    surfaces, mesh = _surfaces(segmentation)
    ranks = {label.value: rank for rank, label in enumerate(segmentation.labels, start=1)}
    return Scene(
        low=low,
        high=high,
        window=display_window(volume),
        windows=_WINDOWS if volume.unit == "HU" else {},
        unit=volume.unit,
        reduced=steps,
        targets=_ranked(targets(result, segmentation), ranks),
        surfaces=_ranked(surfaces, ranks),
        image=_nifti(levels, grid, slope=(high - low) / LEVELS, offset=low),
        labels=_nifti(_as_ranks(labels, ranks), grid),
        mesh=_packed(mesh),
        overlay=build_overlay(clean(result.others[0].name), others[0]) if result.others and others else None,
    )


def _as_ranks(labels: NDArray[Any], ranks: dict[int, int]) -> NDArray[Any]:
    """Return a label map in which each structure has its place in the table, from 1, in place of its value.

    The viewer keeps a colour for each number up to the largest, in a texture: values go to 65535, which none may hold.
    """
    table = np.zeros(int(labels.max(initial=0)) + 1, np.min_scalar_type(max(ranks.values(), default=0)))
    for value, rank in ranks.items():
        if value < len(table):
            table[value] = rank
    ranked: NDArray[Any] = table[labels]
    return ranked


def _ranked(items: Iterable[R], ranks: dict[int, int]) -> tuple[R, ...]:
    return tuple(replace(item, value=ranks[item.value]) for item in items)


def build_overlay(name: str, volume: Volume) -> Overlay:
    """Reduce a further image to what a page can carry, in 1024 steps from 0 to its largest value but a thousandth."""
    steps = reduction(volume.geometry, MOST_OVERLAY_VOXELS)
    image = block_mean(volume.array, steps)
    _, high = _range(image)
    high = max(high, 1e-6)
    levels = np.round(np.clip(image, 0.0, high) * (LEVELS / high)).astype(np.int16)
    top = min(high, display_window(volume)[1])
    return Overlay(
        name=name,
        unit="SUV" if volume.unit == "SUVbw" else volume.unit,
        top=top if top > 0 else high,
        high=high,
        image=_nifti(levels, reduced_grid(volume.geometry, steps).affine, slope=high / LEVELS),
    )


def overview(volume: Volume, most: int = MOST_VOXELS) -> Volume:
    """Return an image that is small enough to lie in the folder of a run, (I, J, K): a large one is averaged in blocks.

    Whole numbers stay whole numbers, rounded.
    """
    steps = reduction(volume.geometry, most)
    if steps == (1, 1, 1):
        return Volume(volume.array, volume.geometry, volume.unit)
    mean = block_mean(volume.array, steps)
    array = np.rint(mean).astype(volume.array.dtype) if np.issubdtype(volume.array.dtype, np.integer) else mean
    return Volume(array, reduced_grid(volume.geometry, steps), volume.unit)


def overview_of_labels(segmentation: Segmentation) -> Segmentation:
    """Return a segmentation on the grid of its image's `overview`, (I, J, K)."""
    steps = reduction(segmentation.geometry, MOST_VOXELS)
    array = block_label(segmentation.array, steps, present=boxes_of(segmentation))
    return Segmentation(array, reduced_grid(segmentation.geometry, steps), segmentation.labels)


def _range(image: NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(x) for x in np.percentile(image, (0.05, 99.95)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def targets(result: StudyResult, segmentation: Segmentation) -> tuple[Target, ...]:
    """Return where each structure and each lesion can be seen: in a voxel of its own that is near its middle."""
    boxes = boxes_of(segmentation)
    colours = {label.value: label.colour for label in result.labels}
    found = []
    for m in result.measurements:
        box = boxes.get(m.value)
        if box is not None:
            place = _inside(segmentation, m.value, box, m.centroid_ras_mm)
            found.append(
                Target(
                    id=f"structure-{m.value}", name=clean(m.label), colour=colours[m.value], value=m.value, ras_mm=place
                )
            )
    for n, lesion in enumerate(result.lesions, start=1):
        a, b = lesion.long_axis_ends_ras_mm
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
        found.append(
            Target(
                id=f"lesion-{n}", name=clean(lesion.id), colour=colours[lesion.value], value=lesion.value, ras_mm=middle
            )
        )
    return tuple(found)


def _inside(
    segmentation: Segmentation, value: int, box: tuple[slice, ...], centroid: tuple[float, float, float]
) -> tuple[float, float, float]:
    nearest = np.rint(segmentation.geometry.to_ijk(centroid)).astype(int)
    if segmentation.array[tuple(nearest)] == value:
        x, y, z = (float(part) for part in segmentation.geometry.to_mm(nearest))
        return (x, y, z)
    # The nearest voxel is looked for in growing surroundings: a large structure has millions of voxels.
    spacing, reach_mm = np.array(segmentation.geometry.spacing_mm), NEAR_MM
    while True:
        near = np.ceil(reach_mm / spacing).astype(int) + 1
        part = tuple(
            slice(max(edges.start, at - n), max(edges.start, min(edges.stop, at + n + 1)))
            for edges, at, n in zip(box, nearest, near, strict=True)
        )
        voxels = np.argwhere(segmentation.array[part] == value) + [edges.start for edges in part]
        mm = segmentation.geometry.to_mm(voxels)
        apart = np.linalg.norm(mm - centroid, axis=1)
        is_whole = all(a.start == b.start and a.stop == b.stop for a, b in zip(part, box, strict=True))
        if is_whole or (len(apart) and apart.min() <= reach_mm):
            x, y, z = (float(value) for value in mm[apart.argmin()])
            return (x, y, z)
        reach_mm *= 2


def _surfaces(segmentation: Segmentation) -> tuple[tuple[ViewerSurface, ...], bytes]:
    known = boxes_of(segmentation)
    if not known:
        return (), b""
    # Half the grid may be empty: what surfaces are made on is the box of all structures.
    crop = join(list(known.values()))
    array, box = segmentation.array[crop], segmentation.geometry.cropped(crop)
    steps = reduction(box, MOST_MESH_VOXELS)
    labels, affine = block_label(array, steps, present=known), reduced_grid(box, steps).affine
    made, blocks = [], []
    for label in segmentation.labels:
        mesh = _surface(labels == label.value, affine)
        if mesh is None:
            continue
        points, triangles = mesh
        made.append(
            ViewerSurface(
                value=label.value,
                name=clean(label.name),
                colour=label.colour,
                points=len(points),
                triangles=len(triangles),
            )
        )
        blocks += [points.astype("<f4").tobytes(), triangles.astype("<u4").tobytes()]
    return tuple(made), b"".join(blocks)


def _surface(
    mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return points in RAS+ mm, to a tenth, and triangles that face outward; None for an empty mask."""
    from skimage.measure import marching_cubes

    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return None
    box = boxes[0]
    # Room for the blur, and so that a structure at the edge is closed.
    padded = np.pad(mask[box], 3).astype(np.float32)
    blurred = ndimage.gaussian_filter(padded, 0.8)
    smooth = blurred if blurred.max() > 0.55 else padded
    points, triangles, _, _ = marching_cubes(smooth, 0.5)
    points += [part.start - 3 for part in box]
    mm = points @ affine[:3, :3].T + affine[:3, 3]
    if np.linalg.det(affine[:3, :3]) > 0:
        # Marching cubes runs round its triangles clockwise as seen from outside; a mirrored grid turns them about.
        triangles = triangles[:, ::-1]
    return np.round(mm, 1), triangles


def _nifti(array: NDArray[Any], affine: NDArray[np.float64], *, slope: float = 1.0, offset: float = 0.0) -> str:
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    image.header.set_slope_inter(slope, offset)
    image.header.set_xyzt_units("mm")
    return _packed(image.to_bytes())


def _packed(data: bytes) -> str:
    # Without a time, so that the same study makes the same page.
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def as_json(scene: Scene) -> str:
    """Return a scene's small part as JSON that may stand inside a script element."""
    small = asdict(scene)
    for block in ("image", "labels", "mesh"):
        del small[block]
    if scene.overlay is not None:
        del small["overlay"]["image"]
    return json.dumps(small, separators=(",", ":")).replace("<", "\\u003c")
