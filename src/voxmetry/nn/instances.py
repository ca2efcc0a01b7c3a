"""Instances of a study: found window by window beside the semantic map, merged, and painted on the study's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from voxmetry.config import MaskRcnnNetwork, ModelSpec
from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import MOST_INSTANCES, InstanceSegmentation
from voxmetry.core.records import Detection
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.nn.instance_merging import MergedInstance, Place, WindowInstance, merge
from voxmetry.nn.networks.build import thing_classes
from voxmetry.nn.window_weights import blending_weights
from voxmetry.ops.instances import with_boxes

if TYPE_CHECKING:
    from voxmetry.nn.networks.mask_rcnn import Found
    from voxmetry.nn.runtime import TorchRuntime

PAINTED_AT_ONCE = 1_000_000
"""Voxels of the study that a mask is sampled at together: three coordinates in float64 take 24 MB."""
HALF = 128
"""Of 255: from here on a voxel is more likely an instance's than not."""
LEAST_FREE = 0.5
"""Share of an instance's voxels that none of a higher score has."""
LEAST_SHOWN = 13
"""Of 255: what is less likely at the edge of a mask is not kept, so that masks take no more than they need."""


def tells_instances(spec: ModelSpec) -> bool:
    """Say whether a model's network tells instances apart."""
    return isinstance(spec.network, MaskRcnnNetwork)


class InstanceCollector:
    """Runs a network over windows as any runtime, and keeps the instances that it finds.

    Parameters
    ----------
    runtime
        Holds a `MaskRcnn`.
    spec
        The model.
    shape
        Of the prepared image, before it is padded to the patch.
    """

    def __init__(self, runtime: TorchRuntime, spec: ModelSpec, shape: tuple[int, int, int]) -> None:
        self._runtime, self._network = runtime, _network_of(spec)
        self._patch = spec.window.patch
        self._weights = blending_weights(spec.window).numpy()
        self._things = thing_classes(spec)
        # What the sliding window pads before each axis; boxes are kept on the grid without it.
        self._before = [max(size - n, 0) // 2 for n, size in zip(shape, spec.window.patch, strict=True)]
        self._shape = shape
        self.reset()

    def reset(self) -> None:
        """Forget what was found."""
        self._windows: list[tuple[int, ...]] = []
        self._waiting: list[tuple[int, ...]] = []
        self._found: list[WindowInstance] = []

    def begin(self, corners: Sequence[tuple[int, ...]]) -> None:
        """Take the corners, on the padded grid, of the windows that are run next."""
        self._waiting = list(corners)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, n_classes, *patch) of the semantic map of patches (B, C, *patch)."""
        scores, found = self._runtime.detect(patches)
        for corner, semantic, own in zip(self._waiting, scores, found, strict=False):
            self._windows.append(corner)
            self._keep(corner, semantic, own)
        return scores

    def _keep(self, corner: tuple[int, ...], semantic: torch.Tensor, own: Found) -> None:
        from voxmetry.nn.networks.mask_rcnn import mask_in_voxels

        start: NDArray[np.int64] = np.array(corner, np.int64) - np.array(self._before, np.int64)
        margins = _log_odds(semantic.float()) if self._network.mask == "fused" and len(own.boxes) else None
        for box, score, thing, mask in zip(own.boxes, own.scores, own.things, own.masks, strict=True):
            logits, place = mask_in_voxels(mask, box, self._patch)
            if margins is not None:
                logits = fused(logits, margins[(self._things[int(thing)], *place)])
            shown = (logits.sigmoid() * 255).round().to(torch.uint8).cpu().numpy()
            trimmed = _trimmed(shown, place, -np.minimum(start, 0), np.array(self._shape) - start)
            if trimmed is None:
                continue
            kept, (i, j, k) = trimmed
            moved = tuple(slice(part.start + n, part.stop + n) for part, n in zip((i, j, k), start, strict=True))
            at = box.double().cpu().numpy() + np.concatenate([start, start])
            window = len(self._windows) - 1
            self._found.append(
                WindowInstance(at, float(score), int(thing), window, (moved[0], moved[1], moved[2]), kept)
            )

    def merged(self) -> list[MergedInstance]:
        """Return the instances of all windows, each once, on the model's grid; the highest score first."""
        corners = np.array(self._windows, np.float64).reshape(-1, 3) - self._before
        # A window is what it sees of the image, without the padding.
        low, high = np.maximum(corners, 0), np.minimum(corners + self._patch, self._shape)
        windows = np.concatenate([low, high], axis=1)
        weights = self._weights
        if any(self._before) or any(n < p for n, p in zip(self._shape, self._patch, strict=True)):
            cut = tuple(slice(b, b + n) for b, n in zip(self._before, self._shape, strict=True))
            weights = weights[cut]
        found = merge(self._found, windows, weights, min_iou=self._network.merge_iou)
        return [instance for instance in found if instance.score >= self._network.min_score]


def _network_of(spec: ModelSpec) -> MaskRcnnNetwork:
    if not isinstance(spec.network, MaskRcnnNetwork):
        raise ConfigError(
            found=f"a network of kind {spec.network.kind}",
            expected="one of kind 'maskrcnn', which tells instances apart",
            fix="use its label map; connected components or watershed tell apart what does not touch",
        )
    return spec.network


def _log_odds(semantic: torch.Tensor) -> torch.Tensor:
    """Return for each class the logit against all others together, (n_classes, I, J, K)."""
    rows = []
    for place in range(len(semantic)):
        others = torch.cat([semantic[:place], semantic[place + 1 :]])
        rows.append(semantic[place] - others.logsumexp(0))
    return torch.stack(rows)


def fused(mask: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
    """Return the logit of a voxel that two sources speak for, as log odds of independent sources add up.

    It is a probability on both sides of one half, as interpolation between windows and onto the study's grid needs it:
    with a formula that flattens what both deny, masks grew by 15 %.

    Examples
    --------
    >>> fused(torch.tensor([4.0, 4.0, -4.0]), torch.tensor([4.0, -3.0, -4.0])).tolist()
    [8.0, 1.0, -8.0]
    """
    return mask + semantic


def _trimmed(
    mask: NDArray[np.uint8], place: Place, low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], Place] | None:
    """Cut a mask to where it shows anything, within the image; None where nothing is left or it is nowhere likely."""
    start = [max(part.start, int(n)) for part, n in zip(place, low, strict=True)]
    stop = [max(a, min(part.stop, int(n))) for a, part, n in zip(start, place, high, strict=True)]
    inside = mask[tuple(slice(a - p.start, b - p.start) for a, b, p in zip(start, stop, place, strict=True))]
    if inside.size == 0 or int(inside.max()) < HALF:
        return None
    shown = inside >= LEAST_SHOWN
    box = []
    for axis in range(3):
        there = np.flatnonzero(shown.any(axis=tuple(n for n in range(3) if n != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    i, j, k = (slice(a + part.start, a + part.stop) for a, part in zip(start, box, strict=True))
    return np.ascontiguousarray(inside[tuple(box)]), (i, j, k)


def paint(
    instances: Sequence[MergedInstance], semantic: Segmentation, *, grid: Geometry, spec: ModelSpec
) -> InstanceSegmentation:
    """Paint instances on the study's own grid, and into its semantic map.

    Masks are interpolated linearly, as scores are. A voxel is an instance's where its probability is one half or more,
    and where several have it, that of the largest. An instance of which those of a higher score have more than half is
    left out (Kirillov et al. 2019, arXiv 1801.00868). Of structures that are told apart, a voxel of the semantic map
    that no instance has becomes background.

    Parameters
    ----------
    instances
        On the model's grid.
    semantic
        On the study's own grid.
    grid
        The model's grid.
    spec
        The model.
    """
    native = semantic.geometry
    things = [spec.labels.values[place - 1] for place in thing_classes(spec)]
    owner, best = np.zeros(native.shape, np.uint16), np.zeros(native.shape, np.uint8)
    for number, instance in enumerate(instances[:MOST_INSTANCES], start=1):
        parts = [(place, _sampled(instance, grid, place, native)) for place in _parts(instance.place, grid, native)]
        own = sum(int((share >= HALF).sum()) for _, share in parts)
        free = sum(int((share[owner[place] == 0] >= HALF).sum()) for place, share in parts)
        if free < LEAST_FREE * own:
            continue
        for place, share in parts:
            taken = (share >= HALF) & (share > best[place])
            owner[place][taken] = number
            best[place][taken] = share[taken]
    value_of = np.zeros(min(len(instances), MOST_INSTANCES) + 1, semantic.array.dtype)
    value_of[1:] = [things[instance.thing] for instance in instances[:MOST_INSTANCES]]
    array = np.where(np.isin(semantic.array, things), 0, semantic.array).astype(semantic.array.dtype)
    array[owner > 0] = value_of[owner[owner > 0]]
    painted = Segmentation(array, native, semantic.labels)
    nowhere = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    names = {label.value: label.name for label in spec.labels}
    present = np.flatnonzero(np.bincount(owner.ravel(), minlength=1)[1:]) + 1
    number_of = np.zeros(len(value_of), np.uint16)
    number_of[present] = np.arange(1, len(present) + 1)
    rows = [
        Detection(
            value=int(number_of[number]),
            label=names[int(value_of[number])],
            score=round(instances[int(number) - 1].score, 4),
            box_ras_mm=nowhere,
        )
        for number in present
    ]
    return with_boxes(painted, number_of[owner], rows)


def _parts(place: Place, grid: Geometry, native: Geometry) -> list[Place]:
    """Return the boxes of the study's grid, of a bounded size each, that a box of the model's grid reaches into."""
    ends = np.array(np.meshgrid(*[(part.start - 1, part.stop) for part in place], indexing="ij")).reshape(3, -1).T
    corners = native.to_ijk(grid.to_mm(ends))
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, native.shape)
    if (high <= low).any():
        return []
    depth = max(1, PAINTED_AT_ONCE // int((high[1] - low[1]) * (high[2] - low[2])))
    j, k = slice(int(low[1]), int(high[1])), slice(int(low[2]), int(high[2]))
    starts = range(int(low[0]), int(high[0]), depth)
    return [(slice(start, min(start + depth, int(high[0]))), j, k) for start in starts]


def _sampled(instance: MergedInstance, grid: Geometry, place: Place, native: Geometry) -> NDArray[np.uint8]:
    """Return the probability times 255 at the study's voxels of a box, linear between the mask's voxels."""
    from scipy.ndimage import map_coordinates

    # Beyond a mask nothing is likely; at the image's edge the outermost voxel is held, as for scores.
    sides = zip(instance.place, grid.shape, strict=True)
    edges = [(int(part.start > 0), int(part.stop < size)) for part, size in sides]
    start = np.array([part.start - before for part, (before, _) in zip(instance.place, edges, strict=True)])
    ijk = np.stack(np.meshgrid(*[np.arange(part.start, part.stop) for part in place], indexing="ij"), axis=-1)
    at = grid.to_ijk(native.to_mm(ijk.reshape(-1, 3))) - start
    found = map_coordinates(np.pad(instance.mask, edges), at.T, order=1, mode="nearest", prefilter=False)
    return np.rint(found * 255).astype(np.uint8).reshape(ijk.shape[:3])
