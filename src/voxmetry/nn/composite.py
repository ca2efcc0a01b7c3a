"""Models made of others, run as one: merged, voted, inside the box of what another model finds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from voxmetry.config import ModelSpec, Weights
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Label, LabelTable
from voxmetry.core.records import FastRun
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.models import find_member, find_model, members_sha256, read_any_spec
from voxmetry.models.composite import CompositeSpec, Member
from voxmetry.nn.common_grid import CommonGrid, box_of, inside
from voxmetry.nn.label_merging import kept_aside, paint, placed, vote
from voxmetry.nn.merged_spec import join_labels
from voxmetry.nn.model import fast_runs_together
from voxmetry.nn.predictor import Predictor, Study
from voxmetry.ops.boxes import Box
from voxmetry.ops.components import clean
from voxmetry.ops.relabel import relabelled

COARSE_MARGIN_MM = 20.0
"""Round the box that a coarse pass finds: two to six of its voxels, for what it missed."""


@dataclass(frozen=True)
class How:
    """How networks are run; see `Predictor`."""

    device: str = "auto"
    precision: str = "auto"
    execution: str = "eager"
    memory_gb: float | None = None
    tell: Callable[[str], None] | None = None
    above: tuple[Path, ...] = ()
    """Folders of the models that this one is part of."""
    places: Mapping[str, Path] = field(default_factory=dict)
    """Folders of members that are not found by their names."""
    fast: bool = False
    """Whether each network runs fast, see `load_model`."""


class Composite:
    """A model of models as a function from volumes to one label map.

    A member is loaded when it is first needed and kept for the next study; members run one after the other, so that the
    memory of a study is that of one. A study is resampled once for all of them, where they share a grid.

    Parameters
    ----------
    name
        A model's name, its folder, or its specification with the folder that its members' names start from.
    how
        Device, precision and memory of all members.
    structures
        Names of what is wanted; only members that give some of it run. None given: all.
    fast
        Trade accuracy for time. A model that names a coarse one lets that find the box of what is wanted, and runs the
        members inside of it only, as they run without `fast`; of any other the members run fast, see `load_model`.

    Raises
    ------
    ModelError
        If a member is missing or does not give the values that it is said to.
    ConfigError
        If a structure is unknown.
    """

    def __init__(
        self,
        name: str | Path | tuple[CompositeSpec, Path],
        how: How = How(),
        *,
        structures: Sequence[str] = (),
        fast: bool = False,
    ) -> None:
        self.spec, self._folder = name if isinstance(name, tuple) else _read(name)
        if self._folder != Path() and self._folder.resolve() in how.above:
            raise ConfigError(
                found=f"{self.spec.name} is made of itself",
                expected="members that do not lead back to the model",
                fix="correct the members in its model.yaml",
            )
        inside = fast and self.spec.coarse is not None
        self._how = replace(how, above=(*how.above, self._folder.resolve()), fast=(how.fast or fast) and not inside)
        self._wanted = chosen_labels(self.spec.labels, structures)
        self._needed = self.spec.needed(tuple(structures))
        self._loaded: dict[str, Predictor | Composite] = {}
        self._coarse = self.spec.coarse if inside else None
        self.notes: tuple[str, ...] = ()
        """What a person should know about the last study, each a sentence."""
        for member in self.spec.members:
            self._require(member)
        if self._coarse:
            self._find(self._coarse)
        self.weights = Weights(file="members", sha256=members_sha256(self.spec, self._folder, how.places))
        """Checksum of all members' checksums."""
        first = self._load(self._needed[0].model)
        self.device: str = first.device
        self.precision: str = first.precision

    @functools.cached_property
    def networks(self) -> tuple[tuple[ModelSpec, Path], ...]:
        """Specification and folder of each network that gives some of the labels, those of nested composites too."""
        return tuple(found for member in self._needed for found in _networks(self._find(member.model)))

    @property
    def fast(self) -> FastRun | None:
        """What is traded for time; None where runs are full ones."""
        if self._coarse:
            return FastRun(coarse=self._coarse)
        if not self._how.fast:
            return None
        return fast_runs_together([run for ready in self._loaded.values() if (run := ready.fast) is not None])

    @property
    def last_plan(self) -> str:
        """How the members ran on the last study, one after the other."""
        plans = {name: ready.last_plan for name, ready in self._loaded.items()}
        return "; ".join(f"{name}: {plan}" for name, plan in plans.items() if plan)

    def __call__(self, volumes: Study) -> Segmentation:
        """Segment one study on the first volume's own grid, and clean up.

        Parameters
        ----------
        volumes
            One volume, or one for each input of the model in its order.

        Raises
        ------
        VoxmetryError
            If the input does not fit a member, or memory does not suffice.
        """
        study = [volumes] if isinstance(volumes, Volume) else list(volumes)
        native, self.notes = study[0].geometry, ()
        box = self._box(study)
        if box is None:
            array = np.zeros(native.shape, dtype=_type_of(self.spec.labels), order="F")
        else:
            array = placed(self._labels([_inside(volume, box, native) for volume in study]), box, native.shape)
        found = Segmentation(array, native, self.spec.labels)
        return only(clean(found, self.spec.clean), self._wanted)

    def _box(self, study: Sequence[Volume]) -> Box | None:
        """Return the voxels that the members see, None where there is nothing to look at."""
        box: Box = (
            slice(0, study[0].array.shape[0]),
            slice(0, study[0].array.shape[1]),
            slice(0, study[0].array.shape[2]),
        )
        looks: list[tuple[str, Sequence[str], float]] = []
        if self.spec.crop:
            looks.append((self.spec.crop.model, self.spec.crop.structures, self.spec.crop.margin_mm))
        if self._coarse:
            looks.append((self._coarse, self._wanted.names, COARSE_MARGIN_MM))
        for model, structures, margin_mm in looks:
            found = self._load(model)(study)
            values = [found.labels[name].value for name in structures if name in found.labels.names]
            part = box_of(found.array, margin_mm, found.geometry, values)
            if part is None:
                self.notes += (f"{model} found no {', '.join(structures[:6])}: nothing was looked for inside of it.",)
                return None
            box = _common(box, part)
        return box if all(part.start < part.stop for part in box) else None

    def _labels(self, study: Sequence[Volume]) -> np.ndarray:
        """Return the members' labels on the grid of a study or of a box of it."""
        if self.spec.grid is None:
            return self._together(self._needed, study)
        grid = CommonGrid(study[0].geometry, self.spec.grid.spacing_mm)
        return grid.back(self._together(self._needed, [_onto(volume, study[0], grid) for volume in study]))

    def _together(self, members: Sequence[Member], study: Sequence[Volume]) -> np.ndarray:
        if self.spec.how == "vote":
            maps = [kept_aside(self._run(member, study), left) for left, member in _counted_down(members)]
            return vote(maps if self.spec.precedence == "earlier" else maps[::-1])
        if self.spec.how == "cascade":
            return self._second(members, study)
        earlier = self.spec.precedence == "earlier"
        return paint((self._run(member, study) for member in members), earlier=earlier)

    def _second(self, members: Sequence[Member], study: Sequence[Volume]) -> np.ndarray:
        """Return the labels of a cascade's second network, which is told those of the first."""
        first, second = members
        self._say(f"{first.model}, the first stage")
        found = self._load(first.model)(study)
        network = self._load(second.model)
        if not isinstance(network, Predictor):
            raise ConfigError(
                found=f"{second.model}, itself a model of kind composite, as the second stage of {self.spec.name}",
                expected="one network whose model.yaml has `previous`",
                fix="correct the members in model.yaml",
            )
        self._say(f"{second.model}, the second stage")
        return relabelled(network(study, previous=found).array, second.values, _type_of(self.spec.labels))

    def _run(self, member: Member, study: Sequence[Volume]) -> np.ndarray:
        """Run one member; return its labels as values of this model's table."""
        self._say(f"{member.model} ({', '.join(_names(member, self.spec.labels)[:3])} ...)")
        found = self._load(member.model)(study)
        return relabelled(found.array, member.values, _type_of(self.spec.labels))

    def _load(self, model: str) -> Predictor | Composite:
        """Return a member that is ready to run; it is loaded once."""
        if model not in self._loaded:
            folder, how = self._find(model), replace(self._how, places={})
            if isinstance(read_any_spec(folder), CompositeSpec):
                self._loaded[model] = Composite(folder, how)
            else:
                self._loaded[model] = Predictor(
                    folder,
                    device=how.device,
                    precision=how.precision,
                    execution=how.execution,
                    fast=how.fast,
                    memory_gb=how.memory_gb,
                    tell=how.tell,
                )
        return self._loaded[model]

    def _find(self, model: str) -> Path:
        return self._how.places.get(model) or find_member(model, self._folder)

    def _require(self, member: Member) -> None:
        """See that a member is there and gives the values that are taken from it."""
        spec = read_any_spec(self._find(member.model))
        unknown = set(member.values) - set(spec.labels.values)
        if unknown:
            raise ConfigError(
                found=f"{self.spec.name} takes the values {sorted(unknown)} from {member.model}",
                expected=f"values that it gives: {sorted(spec.labels.values)}",
                fix="correct `values` in model.yaml",
            )
        have = [item.modality for item in spec.inputs]
        if have != [item.modality for item in self.spec.inputs]:
            raise ConfigError(
                found=f"{member.model}, which takes {', '.join(have)}",
                expected=f"{', '.join(item.modality for item in self.spec.inputs)}, as {self.spec.name}",
                fix="use models of the same inputs",
            )

    def _say(self, line: str) -> None:
        if self._how.tell:
            self._how.tell(line)


def combine(
    models: Sequence[str | Path],
    how: How = How(),
    *,
    structures: Sequence[str] = (),
    fast: bool = False,
) -> Composite:
    """Make one model of several, each of whose structures keep their values, in one map.

    Where two claim a voxel, the one that is named later has it.

    Raises
    ------
    ConfigError
        If two give the same value or the same name, or take other inputs.
    """
    specs = [(str(model), read_any_spec(model)) for model in models]
    labels: list[Label] = []
    for name, spec in specs:
        for label in spec.labels:
            other = next((had for had in labels if had.value == label.value or had.name == label.name), None)
            if other is not None:
                raise ConfigError(
                    found=f"{name} gives {label.value} {label.name}, and a model before it {other.value} {other.name}",
                    expected="models whose values and names of structures differ",
                    fix=f"give each its own values: voxmetry models merge {' '.join(map(str, models))} --name NAME, "
                    "then segment with -m NAME",
                )
            labels.append(label)
    members = tuple(
        Member(model=f"{place}", values={value: value for value in spec.labels.values})
        for place, (_, spec) in enumerate(specs)
    )
    spec = join_labels([spec for _, spec in specs], labels, members, "+".join(spec.name for _, spec in specs))
    places = {f"{place}": find_model(model) for place, model in enumerate(models)}
    return Composite((spec, Path()), replace(how, places=places), structures=structures, fast=fast)


def _networks(folder: Path) -> list[tuple[ModelSpec, Path]]:
    spec = read_any_spec(folder)
    if isinstance(spec, ModelSpec):
        return [(spec, folder)]
    return [found for member in spec.members for found in _networks(find_member(member.model, folder))]


def is_composite(name: object) -> bool:
    """Say whether a name or folder is that of a composite model; what is no name is not.

    Raises
    ------
    ModelError, ConfigError
        If there is no such model, or its model.yaml cannot be used.
    """
    return isinstance(name, (str, Path)) and isinstance(read_any_spec(name), CompositeSpec)


def chosen_labels(labels: LabelTable, structures: Sequence[str]) -> LabelTable:
    """Return the labels of these names, in the table's order; all for none.

    Raises
    ------
    ConfigError
        If the table lacks one.
    """
    unknown = [name for name in structures if name not in labels.names]
    if unknown:
        raise ConfigError(
            found=f"no structure {', '.join(unknown)}",
            expected=f"some of {', '.join(labels.names)}",
            fix="use these names: voxmetry models show MODEL",
        )
    return LabelTable(labels=tuple(label for label in labels if not structures or label.name in structures))


def only(segmentation: Segmentation, labels: LabelTable) -> Segmentation:
    """Return a label map of these labels only; the rest becomes background."""
    if labels.values == segmentation.labels.values:
        return segmentation
    same = {value: value for value in labels.values}
    array = relabelled(segmentation.array, same, segmentation.array.dtype)
    return Segmentation(array, segmentation.geometry, labels)


def _read(name: str | Path) -> tuple[CompositeSpec, Path]:
    folder = find_model(name)
    spec = read_any_spec(folder)
    if isinstance(spec, ModelSpec):
        raise ConfigError(
            found=f"{spec.name}, which is one network", expected="a model of kind composite", fix="use Predictor"
        )
    return spec, folder


def _counted_down(members: Sequence[Member]) -> Iterator[tuple[int, Member]]:
    """Return each member with how many come after it."""
    return zip(range(len(members) - 1, -1, -1), members, strict=True)


def _names(member: Member, labels: LabelTable) -> list[str]:
    return [labels.by_value(value).name for value in member.values.values()]


def _type_of(labels: LabelTable) -> np.dtype:
    return np.dtype(np.uint8 if max(labels.values) < 256 else np.uint16)


def _common(a: Box, b: Box) -> Box:
    i, j, k = (slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return (i, j, k)


def _inside(volume: Volume, box: Box, native: Geometry) -> Volume:
    """Return the box of a volume on the first one's grid; another grid is left whole, and is resampled later."""
    same = volume.geometry.shape == native.shape and np.allclose(volume.geometry.affine, native.affine)
    return inside(volume, box) if same else volume


def _onto(volume: Volume, first: Volume, grid: CommonGrid) -> Volume:
    """Bring a volume onto the common grid; one on a grid of its own is left to the member."""
    same = volume.geometry.shape == first.geometry.shape and np.allclose(volume.geometry.affine, first.geometry.affine)
    return grid.resample(volume) if same else volume
