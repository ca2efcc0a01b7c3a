"""Probabilities, entropy and disagreement on the study's own grid, written to disk slab by slab in 16 bits.

Each map is an uncompressed NIfTI file, which viewers open and nibabel maps without reading it; `maps.json` beside them
holds the order of the classes and what each map is. Scores are interpolated, then turned into probabilities: with the
bounded memory of a slab, whatever the number of classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from voxmetry.config import MapName, ModelSpec
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import atomic_path, make_folder, write_text
from voxmetry.io.nifti_mapped import STEPS, MappedNifti
from voxmetry.nn.corner_scores import MIXED, CornerScores
from voxmetry.nn.grids import is_turned, restoring_positions
from voxmetry.nn.mirroring import Run, SwappedSides, averaged, mirror_turns
from voxmetry.nn.oblique import Places
from voxmetry.nn.restore import Axis, reached_rows, thin_slabs
from voxmetry.nn.slabs import Slab

FILES = {name: f"{name}.nii" for name in ("probabilities", "entropy", "disagreement")} | {"maps": "maps.json"}
"""What may be written, by what it is."""

DEFINITIONS = {
    "probabilities": "softmax of the interpolated scores (of regions: their logistic function), (I, J, K, n_classes)",
    "entropy": "-sum p ln p over the classes in nats (of regions: the mean over them of their binary entropy)",
    "disagreement": "mutual information between class and member in nats: the entropy of the members' mean "
    "probability less the mean of their entropies, in each window, blended and interpolated as scores are",
}

BLOCK_VALUES = 2_000_000
"""Interpolated scores held at once, 8 MB of float32; those of one slice where that is more.

Copies of this size fit a cache. Those of just under 32 MiB come from glibc's heap, which they tear: the peak then
differs from run to run by a fifth.
"""


class MapWriter:
    """Takes slabs of scores in their order and fills the files; use it in a `with` block.

    Parameters
    ----------
    folder
        Where the files go. They appear when the block ends well, each under its name.
    wanted
        Which maps.
    grid, native, spec
        As for `restore.Restorer`.

    Raises
    ------
    ConfigError
        If disagreement is asked of a model with one network.
    OutputError
        If the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, wanted: Sequence[MapName], grid: Geometry, native: Geometry, spec: ModelSpec
    ) -> None:
        require_maps(wanted, spec)
        self._folder, self._wanted, self._native, self._spec = make_folder(folder), tuple(wanted), native, spec
        self._places = Places(grid, native) if is_turned(native, spec) else None
        self._moved, oriented = reorientation(native, spec.orientation)
        if self._places is None:
            at, self._box = restoring_positions(grid, oriented, spec)
            self._axes = [Axis.between(*pair) for pair in zip(at, grid.shape, strict=True)]
            self._done = 0
        self._files: dict[str, MappedNifti] = {}
        self._stack = ExitStack()

    def __enter__(self) -> MapWriter:
        spec = self._spec
        # The mean entropy of regions has two outcomes; disagreement is at most the entropy.
        widest = math.log(2 if spec.regions is not None else spec.n_classes)
        with ExitStack() as stack:
            for name in self._wanted:
                path = stack.enter_context(atomic_path(self._folder / FILES[name]))
                n, top = (spec.n_classes, 1.0) if name == "probabilities" else (None, widest)
                # All zeros: what a cropped model does not cover stays 0.
                self._files[name] = MappedNifti.create(path, self._native, n=n, top=top)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]
        if error[0] is None:
            write_text(self._folder / FILES["maps"], json.dumps(self._description(), indent=1))

    def feed(self, slab: Slab) -> None:
        """Write all native voxels that this slab reaches."""
        if self._places is not None:
            for thin in thin_slabs(slab):
                self._feed_turned(thin, self._places)
            return
        rows = reached_rows(self._axes, slab, self._done)
        others = [len(place.low) for axis, place in enumerate(self._axes) if axis != slab.axis]
        depth = max(1, BLOCK_VALUES // (len(slab.sums) * others[0] * others[1]))
        for start in range(rows.start, rows.stop, depth):
            self._write(slab, slice(start, min(start + depth, rows.stop)))
        self._done = rows.stop

    def _write(self, slab: Slab, rows: slice) -> None:
        axes = [*self._axes]
        axes[slab.axis] = axes[slab.axis].part(rows, slab.start)
        scores = interpolate_scores(slab, axes, softmax=self._spec.activation == "softmax")
        box: list[slice] = [slice(None)] * 3
        box[slab.axis] = rows
        for target, values in self._stored(scores):
            self._moved.forward(target)[self._box][tuple(box)] = values

    def _feed_turned(self, slab: Slab, places: Places) -> None:
        softmax = self._spec.activation == "softmax"
        shape = tuple(slab.sums.shape[1:])
        everywhere = torch.full(shape, MIXED, dtype=torch.int16, device=slab.sums.device)
        corners = CornerScores.of(everywhere, slab.sums, slab.weights, (True, True, True), softmax=softmax)
        for lot in places.reached(slab):
            n = len(lot.voxels[0])
            for chunk in torch.arange(n, device=slab.sums.device).split(max(1, BLOCK_VALUES // len(slab.sums))):
                scores = corners.interpolated(*lot.part(chunk)).t()[:, :, None, None]
                scores = _as_logits(scores) if softmax else scores
                voxels = tuple(index[chunk.cpu().numpy()] for index in lot.voxels)
                for target, values in self._stored(scores):
                    target[voxels] = values[:, 0, 0]

    def _stored(self, scores: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each image on the disk, and what belongs there of scores (n, I, J, K)."""
        found = maps_of(scores, self._spec, self._wanted)
        for name, file in self._files.items():
            stored = (found[name] * (STEPS / file.top)).round_().clamp_(0, STEPS).to(torch.int32).cpu().numpy()
            yield from zip(file.images(), stored, strict=True)

    def _description(self) -> dict[str, object]:
        names = ["background", *self._spec.labels.names] if self._spec.regions is None else list(self._spec.regions)
        return {
            "classes": names,
            "maps": {name: DEFINITIONS[name] for name in self._wanted},
        }


def require_maps(wanted: Sequence[MapName], spec: ModelSpec) -> None:
    """Raise `ConfigError` where a map is unknown or does not apply to the model."""
    unknown = [name for name in wanted if name not in DEFINITIONS]
    if unknown:
        raise ConfigError(found=f"maps {', '.join(unknown)}", expected=f"of {', '.join(DEFINITIONS)}", fix="name these")
    if "disagreement" in wanted and (spec.members < 2 or spec.regions is not None):
        raise ConfigError(
            found=f"a map of disagreement of {spec.name}, which has {spec.members} network(s)",
            expected="an ensemble of at least two, that chooses the largest score",
            fix="leave it out, or use a model with several members",
        )


def with_disagreement(
    members: tuple[Run, ...],
    mirror_axes: tuple[int, ...],
    *,
    watch: Callable[[int, torch.Tensor], None] | None = None,
    swapped: SwappedSides | None = None,
) -> Run:
    """Make one function of an ensemble: the mean scores, and the members' disagreement as one channel more.

    `watch` is called with each member's place and its scores; `swapped` as in `averaged`.
    """
    turns = len(mirror_turns(mirror_axes))
    odds: list[torch.Tensor] = []

    def look(place: int, sums: torch.Tensor) -> None:
        odds.append((sums / turns).softmax(1))
        if watch is not None:
            watch(place, sums)

    mean = averaged(members, mirror_axes, watch=look, swapped=swapped)

    def run(patches: torch.Tensor) -> torch.Tensor:
        odds.clear()
        # By the same sums in the same order as without the map: asking for it changes no score.
        scores = mean(patches)
        apart = entropy(torch.stack(odds).mean(0)) - torch.stack([entropy(each) for each in odds]).mean(0)
        return torch.cat([scores, apart.clamp_min(0)[:, None]], dim=1)

    return run


def entropy(odds: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats over axis 1 of probabilities (B, n, ...)."""
    return torch.special.entr(odds).sum(1)


def interpolate_scores(slab: Slab, axes: Sequence[Axis], *, softmax: bool = False) -> torch.Tensor:
    """Return all scores (n, I, J, K) at the target's voxels, interpolated linearly; after a softmax if asked for."""
    own = axes[slab.axis]
    first, last = int(own.low.min()), int(own.high.max())
    part = slab.sums.narrow(slab.axis + 1, first, last - first + 1).float()
    values = part / slab.weights.narrow(slab.axis, first, last - first + 1).clamp_min(torch.finfo(torch.float32).tiny)
    if softmax:
        values = values.softmax(0)
    for axis, place in enumerate(axes):
        shift = first if axis == slab.axis else 0
        below, above = (
            values.index_select(axis + 1, torch.from_numpy(side - shift).to(values.device))
            for side in (place.low, place.high)
        )
        shape = [1] * 4
        shape[axis + 1] = -1
        values = torch.lerp(below, above, torch.from_numpy(place.share).to(values.device).reshape(shape))
    return _as_logits(values) if softmax else values


def _as_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of interpolated probabilities: one more softmax gives them back."""
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


def maps_of(scores: torch.Tensor, spec: ModelSpec, wanted: Sequence[MapName]) -> dict[str, torch.Tensor]:
    """Return each map as (1, I, J, K) or (n_classes, I, J, K) float32, of scores (n, I, J, K)."""
    n = spec.n_classes
    found: dict[str, torch.Tensor] = {}
    if spec.regions is not None:
        odds = scores[:n].sigmoid()
        spread = (torch.special.entr(odds) + torch.special.entr(1 - odds)).mean(0, keepdim=True)
    else:
        odds = scores[:n].softmax(0)
        spread = torch.special.entr(odds).sum(0, keepdim=True)
    for name in wanted:
        found[name] = {"probabilities": odds, "entropy": spread}.get(name, scores[n:])
    return found
