"""Labelled cases: matched to the model's structures, read, checked and prepared once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from voxmetry.config import MaskRcnnNetwork, ModelSpec, TrainingDomain
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.nn.preprocess import on_model_grid, preprocess, preprocess_labels
from voxmetry.train.cases import Case, Channel, DataSet
from voxmetry.train.dataset import Labelled, naming, read_labelled
from voxmetry.train.instance_labels import components_of
from voxmetry.train.partial import Labelling

PLACES = 10_000
"""Voxels of each structure of a case that patches may be centred on."""


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """One labelled case on the model's grid.

    Parameters
    ----------
    name
        The case's name.
    image
        (C, I, J, K), normalised: float16, half of what is read from disk at each step, where that holds its values;
        else float32.
    label
        (1, I, J, K) uint8, the class index: 0 background, then the place in the label table. (2, I, J, K) where the
        label map leaves something open in a part of the image: the second channel is a voxel's row of `absent`.
    geometry
        The image's own grid, before it was prepared.
    volume_ml
        Volume of each structure on the label's own grid, by name; nan where it was not looked for.
    places
        (N, 2) int64, class index and flat voxel index: at most `PLACES` voxels of each structure, evenly picked.
    source
        SHA-256 of the files that it was made from; "" where nobody asked.
    absent
        (Z, 1 + structures) bool, True where a structure was not looked for; one row where that is so of the whole
        image. Empty: everything was looked for.
    instances
        (1, I, J, K) uint16, the instance that a voxel belongs to; empty where the model tells none apart.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    volume_ml: dict[str, float]
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    source: str = ""
    absent: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool))
    instances: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.uint16))

    @property
    def known(self) -> np.ndarray:
        """(1 + structures,) bool: what was looked for somewhere; empty where that is everything."""
        return np.asarray(~self.absent.all(axis=0)) if len(self.absent) else np.empty(0, bool)


def compact(image: np.ndarray) -> np.ndarray:
    """Return an image in float16 where each value is within its range: rounded by at most a 2,000th of itself.

    Examples
    --------
    >>> compact(np.ones(2, np.float32)).dtype, compact(np.full(2, 1e5, np.float32)).dtype
    (dtype('float16'), dtype('float32'))
    """
    largest = float(np.abs(image).max(initial=0))
    return image.astype(np.float16) if largest <= float(np.finfo(np.float16).max) else image


def load_case(case: Case, data: DataSet, spec: ModelSpec) -> LabelledCase:
    """Read, check and prepare one case.

    Raises
    ------
    VoxmetryError
        If a file cannot be used, or image and label lie on different grids; the message names the case.
    """
    data = for_model(replace(data, cases=(case,)), spec)
    found = read_labelled(data.cases[0], data)
    segmentation = found.unlabelled.hide(found.label)
    counts = np.bincount(segmentation.array.ravel(), minlength=max(spec.labels.values) + 1)
    # A network learns from cases as they lie, and its domain then says how far they were turned.
    spec = spec.model_copy(update={"training_domain": TrainingDomain()})
    with naming(case.name):
        image = preprocess(found.volumes, spec).tensor[0].numpy()
    label = preprocess_labels(segmentation, spec)[None]
    absent = found.unlabelled.table
    if len(absent) > 1:
        label = np.concatenate([label, on_model_grid(found.unlabelled.zones, segmentation.geometry, spec)[None]])
    known = found.unlabelled.known_names
    return LabelledCase(
        name=case.name,
        image=compact(image),
        label=label,
        geometry=found.volumes[0].geometry,
        volume_ml={
            item.name: float(counts[item.value]) * segmentation.geometry.voxel_ml if item.name in known else math.nan
            for item in spec.labels
        },
        places=structure_places(label[:1]),
        absent=absent if absent.any() else np.empty((0, 0), bool),
        instances=_instances(found, segmentation, spec),
    )


def _instances(found: Labelled, segmentation: Segmentation, spec: ModelSpec) -> np.ndarray:
    """Return the instances of a case on the model's grid, for a model that tells them apart.

    Where the case does not say them they are the connected components.
    """
    if not isinstance(spec.network, MaskRcnnNetwork):
        return np.empty((0, 0, 0, 0), np.uint16)
    array = found.instances
    if array is None:
        array = components_of(segmentation, spec.network.things or spec.labels.names)
    return on_model_grid(array, segmentation.geometry, spec)[None]


def structure_places(label: np.ndarray) -> np.ndarray:
    """Pick voxels of each structure of a label (1, I, J, K): (N, 2) class index and flat index, at most `PLACES` each.

    Examples
    --------
    >>> structure_places(np.array([0, 2, 2, 1], np.uint8).reshape(1, 2, 2, 1)).tolist()
    [[1, 3], [2, 1], [2, 2]]
    """
    inside = np.flatnonzero(label)
    values = label.ravel()[inside]
    found = [np.empty((0, 2), np.int64)]
    for index in np.flatnonzero(np.bincount(values)):
        all_of_it = inside[values == index]
        picked = all_of_it[:: max(1, -(-len(all_of_it) // PLACES))]
        found.append(np.stack([np.full_like(picked, index), picked], axis=1))
    return np.concatenate(found)


def for_model(data: DataSet, spec: ModelSpec) -> DataSet:
    """Return the data set with the model's label table and modalities.

    Raises
    ------
    ConfigError
        If it has another number of channels than the model has inputs, or structures that the model does not have.
    """
    if len(data.channels) != len(spec.inputs):
        raise ConfigError(
            found=f"{len(data.channels)} channels in the data set {data.name}: "
            + ", ".join(channel.name for channel in data.channels),
            expected=f"{len(spec.inputs)}, the inputs of the model: " + ", ".join(item.name for item in spec.inputs),
            fix="name one channel for each input, in the model's order, in the data set or in the configuration",
        )
    return replace(
        data,
        labels=spec.labels,
        channels=tuple(Channel(item.name, item.modality) for item in spec.inputs),
        cases=tuple(replace(case, labelling=_matched(case.labelling, data.labels, spec)) for case in data.cases),
    )


def _matched(how: Labelling, table: LabelTable | None, spec: ModelSpec) -> Labelling:
    """Match a label map's own structures to the model's: by name where one is shared, else by value."""
    own = how.labels or table
    if own is None:
        return how
    if {*own.names, *how.absent} & set(spec.labels.names):
        return replace(how, labels=own)
    if not set(own.values) <= set(spec.labels.values):
        raise ConfigError(
            found=f"a data set with the structures {', '.join(own.names)}",
            expected=f"at least one of the model's by name, or all by value: {', '.join(spec.labels.names)}",
            fix="give the structures the model's names in the data set's label table",
        )
    renamed = {label.name: spec.labels.by_value(label.value).name for label in own}
    return replace(
        how,
        known=None if how.known is None else tuple(renamed[name] for name in how.known),
        unknown_below=tuple(renamed[name] for name in how.unknown_below),
        labels=LabelTable(labels=tuple(label.model_copy(update={"name": renamed[label.name]}) for label in own)),
    )
