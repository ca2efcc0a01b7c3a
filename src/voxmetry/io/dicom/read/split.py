"""Taking apart what one series mixes: each part is one volume, and says what tells it from the others.

A series is left whole wherever it makes one regular grid. What is taken apart is what cannot be one: other sizes,
orientations or pixel spacings; several slices at one place; and stacks that lie between each other's slices.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from voxmetry.io.dicom.read.frames import Frame
from voxmetry.io.dicom.read.grid import SAME_PLACE_MM, Audit, SlicePlane, audit, grid_groups, normal_of, unusable

_KEYS = (
    *("Stack ID", "Acquisition Number", "Temporal Position", "Time Offset", "Repetition", "ASL Context"),
    *("Cardiac Phase", "Respiratory Phase", "Phase Number", "Trigger Time", "Echo Time", "Echo Number", "b-value"),
    *("Diffusion Directionality", "Gradient Direction", "Gradient Number", "Inversion Time", "Flip Angle"),
    *("Complex Component", "Image Type", "Frame Type", "Velocity Encoding", "Contrast Agent", "Acquisition Contrast"),
    *("Convolution Kernel", "KVP", _FILE := "Instance Number"),
)
"""What may tell volumes of one series apart, in the order in which it is tried."""
_MOST_KEYS = 3
_NEIGHBOURS = 1.5
"""Stacks follow each other where the gap between them is no more than so many steps of the wider one."""
_MOST_PARTS = 4096

_MEANS_ANOTHER_IMAGE = (
    *("Stack ID", "Temporal Position", "Time Offset", "Repetition", "ASL Context", "Cardiac Phase"),
    *("Respiratory Phase", "Phase Number", "Echo Time", "Echo Number", "b-value", "Diffusion Directionality"),
    *("Gradient Direction", "Gradient Number", "Inversion Time", "Flip Angle", "Complex Component", "Image Type"),
    *("Frame Type", "Velocity Encoding", "Contrast Agent", "Acquisition Contrast", "Convolution Kernel", "KVP"),
)
"""Slices that differ in one of these are not neighbours in one image, even where they interleave to a regular grid."""

_READABLE = ("regular", "single", "tilted")


@dataclass(frozen=True)
class Part:
    """Frames that are meant to be one volume."""

    frames: list[Frame]
    audit: Audit
    differs: dict[str, str] = field(default_factory=dict)
    """What tells it from the other parts of its series; empty where the series is one volume."""
    joins: tuple[int, ...] = ()
    """Indices of the parts that follow each other in this one, which is uneven; empty for a part that is one stack."""


def split(frames: Sequence[Frame], modality: str | None) -> list[Part]:
    """Take the frames of a series apart into volumes.

    Parameters
    ----------
    frames
        Those of all files of the series.
    modality
        Of the series: in CT an Acquisition Number of its own is a pass of its own, in MR it may be every other slice.

    Returns
    -------
    list of Part
        In the order of the first file of each; one part with all frames where nothing needs taking apart, or where
        nothing in the headers says how: then its verdict says what is wrong.
    """
    if unusable([frame.plane for frame in frames]):
        return [Part(list(frames), audit([frame.plane for frame in frames]))]
    grids = grid_groups([frame.plane for frame in frames])
    stacks = [([frames[index] for index in members], differs) for members, differs in grids]
    lonely = sum(len(members) == 1 for members, _ in stacks)
    if len(stacks) > 2 and lonely * 2 > len(stacks):
        # Slices that turn around an axis: no two of them make a grid.
        return [Part(list(frames), audit([frame.plane for frame in frames]))]
    parts: list[Part] = []
    for members, differs in stacks:
        found = [Part(part.frames, part.audit, differs | part.differs) for part in _stack(members, modality)]
        joined = _joined(members, found)
        first = len(parts)
        parts += found
        if joined is not None:
            parts.append(Part(members, joined, differs, tuple(range(first, len(parts)))))
    return parts


def _joined(frames: list[Frame], parts: list[Part]) -> Audit | None:
    """Return the audit of parts that follow each other as one uneven stack, such as a head in 4 mm and then in 7 mm.

    None where they lie between each other's slices, or further apart than one and a half of their steps.
    """
    if len(parts) < 2 or any(part.audit.verdict != "regular" or part.audit.geometry is None for part in parts):
        return None
    normal = normal_of(frames[0].plane)
    ordered = sorted(parts, key=lambda part: _ends([frame.plane for frame in part.frames], normal))
    told = []
    for lower, upper in itertools.pairwise(ordered):
        gap = _ends([f.plane for f in upper.frames], normal)[0] - _ends([f.plane for f in lower.frames], normal)[1]
        if not 0 < gap <= _NEIGHBOURS * max(_step(lower), _step(upper)):
            return None
    for part in ordered:
        told.append(f"{len(part.frames)} slices {_step(part):.4g} mm apart")
    whole = audit([frame.plane for frame in frames])
    if whole.verdict not in ("uneven", "missing"):
        return None
    return replace(whole, verdict="uneven", reason=f"{', then '.join(told)}, as one stack")


def _step(part: Part) -> float:
    return part.audit.geometry.spacing_mm[2] if part.audit.geometry else 0.0


def _stack(frames: list[Frame], modality: str | None) -> list[Part]:
    """Take apart what has one size, orientation and pixel spacing."""
    whole = audit([frame.plane for frame in frames])
    if whole.verdict in ("single", "unreadable", "mixed"):
        return [Part(frames, whole)]
    if whole.verdict in ("regular", "tilted"):
        return _interleaved(frames, modality) or [Part(frames, whole)]
    uids = [frame.plane.uid for frame in frames if frame.plane.uid]
    if len(set(uids)) < len(uids):
        return [Part(frames, whole)]
    places = _places(frames)
    if whole.verdict == "duplicate":
        return (
            _by_dimensions(frames, places)
            or _by_notes(frames, places)
            or _by_even_notes(frames, places)
            or _by_time(frames, places)
            or _by_number(frames, places)
            or [Part(frames, whole)]
        )
    return _by_notes(frames, places, all_readable=True) or [Part(frames, whole)]


def _places(frames: Sequence[Frame]) -> NDArray[np.intp]:
    """Return the index of the place along the normal of each frame."""
    normal = normal_of(frames[0].plane)
    heights = np.array([frame.plane.position for frame in frames]) @ normal
    order = np.argsort(heights, kind="stable")
    steps = np.concatenate([[False], np.diff(heights[order]) >= SAME_PLACE_MM])
    places = np.empty(len(frames), np.intp)
    places[order] = np.cumsum(steps)
    return places


def _differing(frames: Sequence[Frame], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if len({frame.plane.notes.get(key) for frame in frames}) > 1]


def _groups(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return list(groups.values())


def _by_notes(frames: list[Frame], places: NDArray[np.intp], *, all_readable: bool = False) -> list[Part] | None:
    """Split by the fewest elements that leave one slice at each place; None where none do."""
    crowd = max(Counter(places.tolist()).values())
    n_places = int(places.max()) + 1
    usable = _differing(frames, [key for key in _KEYS if not (all_readable and key == _FILE)])
    place_of = {id(frame): int(place) for frame, place in zip(frames, places, strict=True)}
    for size in range(1, _MOST_KEYS + 1):
        fair: list[tuple[bool, int, list[Part]]] = []
        for keys in itertools.combinations(usable, size):
            groups = _groups(frames, lambda frame, keys=keys: tuple(frame.plane.notes.get(key) for key in keys))  # type: ignore[misc]
            if not 1 < len(groups) <= _MOST_PARTS or (n_places > 1 and min(map(len, groups)) < 2):
                continue
            if any(len({place_of[id(frame)] for frame in group}) < len(group) for group in groups):
                continue
            parts = [_part(group, _told(group[0], keys)) for group in groups]
            readable = all(part.audit.verdict in _READABLE for part in parts)
            if readable or (len(groups) == crowd and not all_readable):
                fair.append((not readable, len(groups), parts))
        if fair:
            return min(fair, key=lambda found: found[:2])[2]
    return None


def _part(frames: list[Frame], differs: dict[str, str]) -> Part:
    return Part(frames, audit([frame.plane for frame in frames]), differs)


def _by_dimensions(frames: list[Frame], places: NDArray[np.intp]) -> list[Part] | None:
    """Split by the file's own dimensions (PS3.3 C.7.6.17); None where it has none, or they leave slices at one place.

    What the dimensions leave together at one place, such as files that each hold a time point of their own, is split
    further by what else the frames say.
    """
    place_of = {id(frame): int(place) for frame, place in zip(frames, places, strict=True)}
    index_of = {id(frame): dict(frame.dimensions) for frame in frames}
    stacked = int(places.max()) > 0
    used: list[str] = []
    groups = [frames]
    for name in dict.fromkeys(name for frame in frames for name, _ in frame.dimensions):
        values = _groups(frames, lambda frame, name=name: index_of[id(frame)].get(name))  # type: ignore[misc]
        if stacked and all(len({place_of[id(frame)] for frame in group}) == 1 for group in values):
            # A dimension that changes with the place alone, such as the time of each slice, tells no volumes apart.
            continue
        keys = (*used, name)
        finer = _groups(frames, lambda frame, keys=keys: tuple(index_of[id(frame)].get(key) for key in keys))  # type: ignore[misc]
        if len(finer) > len(groups):
            used, groups = list(keys), finer
    lonely = sum(len(group) < 2 for group in groups)
    if not 1 < len(groups) <= _MOST_PARTS or (stacked and 2 * lonely > len(groups)):
        return None
    told = [_shown_by(name, frames, index_of) for name in used]
    parts: list[Part] = []
    for group in groups:
        differs = dict(entry(group[0]) for entry in told)
        if len({place_of[id(frame)] for frame in group}) == len(group):
            parts.append(_part(group, differs))
            continue
        rest = _places(group)
        further = _by_notes(group, rest) or _by_even_notes(group, rest) or _by_time(group, rest)
        if further is None:
            return None
        parts += [Part(part.frames, part.audit, differs | part.differs) for part in further]
    return parts


def _shown_by(
    name: str, frames: Sequence[Frame], index_of: dict[int, dict[str, int]]
) -> Callable[[Frame], tuple[str, str]]:
    """Return how a dimension is told: by the element that changes as it does, else by its own name and index."""
    for key in (name, *_KEYS):
        pairs = {(index_of[id(frame)].get(name), frame.plane.notes.get(key, "none")) for frame in frames}
        if len(pairs) == len({index for index, _ in pairs}) == len({value for _, value in pairs}):
            return lambda frame: (key, frame.plane.notes.get(key, "none"))
    return lambda frame: (name, str(index_of[id(frame)].get(name, "none")))


def _by_even_notes(frames: list[Frame], places: NDArray[np.intp]) -> list[Part] | None:
    """Split by as many elements as it takes, each of which has the same values at every place; None elsewhere."""
    place_of = {id(frame): int(place) for frame, place in zip(frames, places, strict=True)}
    n_places = int(places.max()) + 1
    used: list[str] = []
    groups = [frames]
    for key in _differing(frames, _KEYS):
        keys = (*used, key)
        finer = _groups(frames, lambda frame, keys=keys: tuple(frame.plane.notes.get(x) for x in keys))  # type: ignore[misc]
        if len(finer) > len(groups) and all(_is_even(group, place_of, n_places) for group in finer):
            used, groups = list(keys), finer
    if len(groups) < 2 or any(len(group) != n_places for group in groups):
        return None
    return [_part(group, _told(group[0], used)) for group in groups]


def _is_even(frames: Sequence[Frame], place_of: dict[int, int], n_places: int) -> bool:
    counts = Counter(place_of[id(frame)] for frame in frames)
    return len(counts) == n_places and len(set(counts.values())) == 1


def _by_number(frames: list[Frame], places: NDArray[np.intp]) -> list[Part] | None:
    """Split by the order of Instance Number where it goes volume by volume, or place by place; None elsewhere.

    Some series of functional MR say in nothing else which slices were acquired together.
    """
    n_places = int(places.max()) + 1
    numbers = [frame.number for frame in frames]
    if None in numbers or len(set(numbers)) < len(numbers) or n_places < 2 or len(frames) % n_places:
        return None
    order = sorted(range(len(frames)), key=lambda index: numbers[index] or 0)
    times = len(frames) // n_places
    table = np.reshape(order, (times, n_places))
    if not all(len(set(places[row].tolist())) == n_places for row in table):
        table = np.reshape(order, (n_places, times)).T
        if not all(len(set(places[column].tolist())) == 1 for column in table.T):
            return None
        if len({int(place) for place in places[table[0]]}) < n_places:
            return None
    parts = [
        _part([frames[index] for index in row], {"Order of Instance Number": str(number)})
        for number, row in enumerate(table.tolist(), start=1)
    ]
    mixed = any(_differing(part.frames, _MEANS_ANOTHER_IMAGE) for part in parts)
    return None if mixed else parts


def _told(frame: Frame, keys: Sequence[str]) -> dict[str, str]:
    return {key: frame.plane.notes.get(key, "none") for key in keys}


def _by_time(frames: list[Frame], places: NDArray[np.intp]) -> list[Part] | None:
    """Split into time points where each began after the last one was done at every place; None elsewhere."""
    stacks: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for index, (frame, place) in enumerate(zip(frames, places.tolist(), strict=True)):
        if frame.time_s is None:
            return None
        stacks[place].append((frame.time_s, index))
    counts = {len(stack) for stack in stacks.values()}
    if len(counts) != 1 or len(stacks) < 2:
        return None
    points = list(zip(*(sorted(stack) for stack in stacks.values()), strict=True))
    ends = [(min(time for time, _ in point), max(time for time, _ in point)) for point in points]
    if any(late >= next_early for (_, late), (next_early, _) in itertools.pairwise(ends)):
        return None
    parts = []
    for (early, _), point in zip(ends, points, strict=True):
        members = [frames[index] for _, index in point]
        seconds = {"Acquisition Time": f"+{early - ends[0][0]:g} s"}
        parts.append(_part(members, seconds))
    return parts


def _interleaved(frames: list[Frame], modality: str | None) -> list[Part] | None:
    """Split stacks that lie between each other's slices; None where all slices are of one image."""
    keys = (*_MEANS_ANOTHER_IMAGE, "Acquisition Number") if modality == "CT" else _MEANS_ANOTHER_IMAGE
    normal = normal_of(frames[0].plane)
    for key in _differing(frames, keys):
        groups = _groups(frames, lambda frame, key=key: frame.plane.notes.get(key))  # type: ignore[misc]
        if len(groups) * 2 > len(frames) or min(map(len, groups)) < 2:
            continue
        ends = sorted(_ends([frame.plane for frame in group], normal) for group in groups)
        if not any(high > low for (_, high), (low, _) in itertools.pairwise(ends)):
            continue
        parts = [_part(group, _told(group[0], (key,))) for group in groups]
        if all(part.audit.verdict == "regular" for part in parts):
            return parts
    return None


def _ends(planes: Sequence[SlicePlane], normal: NDArray[np.float64]) -> tuple[float, float]:
    heights = np.array([plane.position for plane in planes]) @ normal
    return float(heights.min()), float(heights.max())


def in_words(differs: dict[str, str]) -> str:
    r"""Say what tells a volume from the others of its series.

    Examples
    --------
    >>> in_words({"Echo Time": "4.92", "Image Type": "ORIGINAL\\PRIMARY"})
    'Echo Time 4.92, Image Type ORIGINAL/PRIMARY'
    """
    return ", ".join(f"{key} {value}".replace("\\", "/") for key, value in differs.items())
