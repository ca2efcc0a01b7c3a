"""What a model is: the content of `model.yaml`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from voxmetry.config.domain import Quality, TrainingDomain
from voxmetry.config.inputs import InputSpec
from voxmetry.config.networks import Channels, Counts, FcnNetwork, MaskRcnnNetwork, MonaiNetwork, NnunetNetwork
from voxmetry.core.base import Record
from voxmetry.core.labels import LabelTable

Triple: TypeAlias = tuple[float, float, float]
MapName: TypeAlias = Literal["probabilities", "entropy", "disagreement"]
"""What can be written for each voxel beside its label; see `nn.uncertainty_maps`."""
Size: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
IntTriple: TypeAlias = tuple[Size, Size, Size]
Spacing: TypeAlias = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


def _check_axcodes(codes: str) -> str:
    if sorted(codes) == ["I", "J", "K"]:
        return codes
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    if sorted(axes.get(code, -1) for code in codes) != [0, 1, 2]:
        raise ValueError(f"{codes!r} is not one each of R or L, A or P, S or I, such as 'RAS', nor an order of IJK")
    return codes


Axcodes: TypeAlias = Annotated[str, AfterValidator(_check_axcodes)]


MOST_MEMBERS = 100
"""Networks of an ensemble."""


class NetworkSpec(Record):
    """A DynUNet: one entry a level, from full resolution downwards.

    The patch must be divisible by the product of the strides along each axis, times `space_to_depth`.
    """

    kind: Literal["dynunet"] = "dynunet"
    channels: tuple[Channels, ...]
    strides: tuple[Counts, ...]
    kernels: tuple[Counts, ...]
    residual: bool = False
    deep_supervision: Annotated[int, Field(ge=0)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    space_to_depth: IntTriple = (1, 1, 1)
    """Blocks of so many voxels become channels before the first level, and the scores' channels become voxels again
    after the last (Shi 2016, arXiv 1609.05158): all levels run on a grid that is coarser by this."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not len(self.channels) == len(self.strides) == len(self.kernels) or len(self.channels) < 3:
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.strides)} strides and {len(self.kernels)} kernels: "
                "each level needs one of each, three levels at least"
            )
        if self.deep_supervision > len(self.channels) - 2:
            raise ValueError(
                f"deep_supervision {self.deep_supervision} with {len(self.channels)} levels: at most two fewer"
            )
        return self

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What the patch must be divisible by along each axis."""
        i, j, k = (self.space_to_depth[axis] * math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (i, j, k)


class WindowSpec(Record):
    """The sliding window: patch in voxels of the model's grid and the share that neighbours overlap by."""

    patch: IntTriple
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    placement: Literal["monai", "nnunet"] = "monai"
    """'monai': steps of a fixed size, the last window moved back inside. 'nnunet': as many windows, evenly spread, and
    nnU-Net's own Gaussian. The two see other patches, and so give other scores."""
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    """Axes along which the scores are averaged over both mirror images."""
    swap_on_mirror: tuple[tuple[str, str], ...] = ()
    """Pairs of structures that are each other's mirror image, such as the left and the right kidney: their scores
    change places in an image that is mirrored from left to right. Both sides of a body are then measured alike."""
    skip_up_to: float | None = None
    """Windows in which the first input is nowhere above this value, in the image's unit, are background and are not
    run. None runs all. For CT, whose air is about -1000 HU."""
    padding: Literal["zeros", "replicate"] = "zeros"
    """What an image that is smaller than the patch is filled up with: 0, or its outermost voxels."""


class Resampling(Record):
    """How images reach the model's grid, and which grid that is.

    'centred': linear; the grid shares its centre with the study's own. 'monai': linear; the grid starts at the centre
    of the study's first voxel, as MONAI's `Spacing` has it. 'nnunet': nnU-Net's order of steps: crop to what is not
    zero, normalise on the study's own voxels, then resample so that the outermost voxel edges agree; what was cropped
    away is background. 'native': not at all; the network takes the study's own voxels.
    """

    rule: Literal["centred", "monai", "nnunet", "native"] = "centred"
    order: Literal[1, 3] = 1
    """Of the splines for images, with 'nnunet': 1 linear, 3 cubic."""
    score_order: Literal[0, 1] = 1
    """Of scores on their way back, with 'nnunet' and 'monai': 1 linear; 0 takes those of the nearest voxel, as where
    labels are chosen on the model's grid."""
    slices_apart: bool | None = None
    """With 'nnunet': resample each thick slice by itself, and take the nearest slice, for images and scores. None:
    where the largest voxel size is more than `anisotropy` times the smallest."""
    anisotropy: Annotated[float, Field(ge=1)] = 3.0
    keep_first: bool = False
    """With 'nnunet': the first axis keeps its voxels, as for a network that works slice by slice."""

    @model_validator(mode="after")
    def _linear(self) -> Self:
        if self.rule != "nnunet" and (self.order != 1 or self.slices_apart is not None):
            raise ValueError(f"rule {self.rule!r} is linear along all axes: order and slices_apart belong to 'nnunet'")
        if self.rule not in ("nnunet", "monai") and self.score_order != 1:
            raise ValueError(f"rule {self.rule!r} interpolates scores linearly: score_order 0 is for 'nnunet', 'monai'")
        return self


class CleanStep(Record):
    """One step of the post-processing after the network.

    'largest': keep the largest connected component. 'drop_small': remove components below `min_volume_ml`.
    'fill_holes': fill background that the structure encloses. Components are 26-connected.
    """

    step: Literal["largest", "drop_small", "fill_holes"]
    labels: tuple[str, ...] = ()
    """Structures that it applies to; none given means all, each by itself."""
    min_volume_ml: Annotated[float, Field(ge=0)] = 0.0
    together: bool = False
    """Treat the named labels as one structure: what belongs to the union's largest component stays."""


class TotalRule(Record):
    """A sum of structures that each is a share of, such as the intracranial volume."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    labels: tuple[str, ...] = ()
    """Structures that it is of; none given means all."""


class InstanceRule(Record):
    """How a model without instances of its own tells those of its structures apart, after the clean-up.

    'components': what hangs together (26 neighbours) is one. 'watershed': components are cut where they are narrow.
    """

    method: Literal["components", "watershed"]
    labels: tuple[str, ...] = ()
    """Structures that it applies to; none given means those of kind 'lesion', or all where there is none."""
    min_volume_ml: Annotated[float, Field(ge=0)] = 0.0
    """Smaller parts are no instances; they stay in the label map."""
    neck: Annotated[float, Field(ge=0, le=1)] = 0.8
    """For 'watershed': parts are cut where the way between them is narrower than this share of the narrower part."""


def _check_file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ValueError(f"{name!r} is not the name of a file in the model's folder")
    return name


class Weights(Record):
    """The file that holds the network's parameters, and what it must hash to."""

    file: Annotated[str, AfterValidator(_check_file_name)] = "weights.safetensors"
    """A file in the model's folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _network_kind(value: object) -> object:
    return value.get("kind", "dynunet") if isinstance(value, dict) else getattr(value, "kind", None)


Network: TypeAlias = Annotated[
    Annotated[NetworkSpec, Tag("dynunet")]
    | Annotated[NnunetNetwork, Tag("nnunet")]
    | Annotated[MonaiNetwork, Tag("monai")]
    | Annotated[FcnNetwork, Tag("fcn")]
    | Annotated[MaskRcnnNetwork, Tag("maskrcnn")],
    Discriminator(_network_kind),
]


class PreviousStage(Record):
    """What the second network of a cascade is told of the first one's labels, beside the images.

    nnU-Net's `3d_cascade_fullres`: Isensee 2021, Nature Methods 18, 203.
    """

    values: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Label values of the first network; each becomes an input, 1 inside the structure and 0 elsewhere, in this
    order, after the images."""


class Clicks(Record):
    """How a network takes clicks: a channel for the background and one for each structure, after the images."""

    reach_mm: Annotated[float, Field(gt=0, le=1000)] = 20.0
    """A click is 1 where it was made and falls evenly to 0 at this distance."""


class ModelSpec(Record):
    """A model: what it takes, what it does to it, what it returns. The content of `model.yaml`."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: str
    summary: str
    licence: str
    body_part: str
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    previous: PreviousStage | None = None
    """For the second network of a cascade, which a model of kind composite runs: it takes no study by itself."""
    orientation: Axcodes = "RAS"
    """Or an order of "IJK": the axes as they are stored, in that order and whatever their direction."""
    spacing_mm: Spacing
    resampling: Resampling = Resampling()
    window: WindowSpec
    network: Network
    intensity_model: bool = False
    """Whether the network's scores are weighed by how likely each voxel's intensity is in each structure, by normal
    distributions that are fitted to each window; two sides of `window.swap_on_mirror` have one."""
    members: Annotated[int, Field(ge=1, le=MOST_MEMBERS)] = 1
    """Networks of an ensemble, whose scores are averaged; the weights file holds all of them."""
    labels: LabelTable
    activation: Literal["none", "softmax"] = "none"
    """What is done to the scores on the model's grid, before they are interpolated. The largest logit is the largest
    probability, but not so between two voxels."""
    regions: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """None: one output for the background and one a label, of which the largest wins. Else one output a region, each
    with its own probability: in this order, a region above one half paints this label value over those before."""
    clean: tuple[CleanStep, ...] = ()
    instances: InstanceRule | None = None
    """None: structures are not told apart, unless the network itself gives instances, or the user asks for it."""
    clicks: Clicks | None = None
    """None: the network takes no clicks. Without any it is the automatic one."""
    total: TotalRule | None = None
    """None: the report gives no shares."""
    training_domain: TrainingDomain
    quality: dict[str, Quality] = Field(default_factory=dict)
    """By structure; made by `voxmetry calibrate`. Empty where nothing is predicted."""
    weights: Weights | None = None
    """None in a template that training starts from; a model folder always has them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis, (size, divisor) in enumerate(zip(self.window.patch, self.network.divisor, strict=True)):
            if size % divisor:
                legal = max(1, round(size / divisor)) * divisor
                raise ValueError(
                    f"window.patch is {size} along axis {axis}, which the network's strides need to be a multiple "
                    f"of {divisor}: {legal} would do"
                )
        self._check_mirrored()
        if self.previous and self.resampling.rule != "nnunet":
            raise ValueError(f"`previous` labels are resampled as nnU-Net does; resampling.rule {self.resampling.rule}")
        if self.regions and set(self.regions) != set(self.labels.values):
            raise ValueError(f"regions paint {sorted(set(self.regions))}, labels are {sorted(self.labels.values)}")
        if self.regions and self.activation != "none":
            raise ValueError("regions have a probability each, to which a softmax does not apply")
        steps = {how.method for how in (self.inputs[0].normalise, *self.inputs[0].then)}
        if self.window.skip_up_to is not None and steps - {"window", "shift"}:
            raise ValueError(
                "window.skip_up_to needs a first input that is normalised by 'window' or 'shift': "
                "what is scaled by the image's own values has no fixed unit"
            )
        known = set(self.labels.names)
        named = {name for step in self.clean for name in step.labels} | set(self.training_domain.structures)
        named |= set(self.quality) | set(self.instances.labels if self.instances else ())
        named |= set(self.total.labels if self.total else ())
        if named - known:
            raise ValueError(f"labels {sorted(named - known)} are not in the label table {sorted(known)}")
        return self

    def _check_mirrored(self) -> None:
        if not self.window.swap_on_mirror:
            return
        if odd := self.labels.misnamed(self.window.swap_on_mirror):
            raise ValueError(f"window.swap_on_mirror: {', '.join(odd)}: each is to be a label of the model, named once")
        sideways = self.left_right_axis
        if sideways not in self.window.mirror_axes or self.regions:
            shown = "none here" if sideways is None else [sideways]
            raise ValueError(
                f"window.swap_on_mirror needs the axis from left to right ({shown}) in mirror_axes, "
                "and a model without regions"
            )

    @model_validator(mode="after")
    def _takes_clicks(self) -> Self:
        if self.clicks is None:
            return self
        unfit = {
            "a network of kind 'maskrcnn'": isinstance(self.network, MaskRcnnNetwork),
            "regions": self.regions is not None,
            "labels of a previous stage": self.previous is not None,
            "members above 1": self.members > 1,
            "window.skip_up_to": self.window.skip_up_to is not None,
        }
        if any(unfit.values()):
            raise ValueError(f"clicks do not go with {', or '.join(name for name, has in unfit.items() if has)}")
        return self

    @model_validator(mode="after")
    def _weighs_intensities(self) -> Self:
        unfit = {
            "a network of kind 'maskrcnn'": isinstance(self.network, MaskRcnnNetwork),
            "regions": self.regions is not None,
            "a single structure": len(self.labels) == 1,
        }
        if self.intensity_model and any(unfit.values()):
            raise ValueError(
                "intensity_model weighs structures against each other: it does not go with "
                f"{', or '.join(name for name, has in unfit.items() if has)}"
            )
        return self

    @model_validator(mode="after")
    def _instances(self) -> Self:
        if not isinstance(self.network, MaskRcnnNetwork):
            return self
        odd = sorted(set(self.network.things) - set(self.labels.names))
        if odd:
            raise ValueError(f"network.things: {', '.join(odd)}: no labels of the model")
        unfit = {
            "members above 1": self.members > 1,
            "regions": self.regions is not None,
            "window.mirror_axes": bool(self.window.mirror_axes),
            "an activation": self.activation != "none",
        }
        if any(unfit.values()):
            raise ValueError(f"a network of kind 'maskrcnn' takes no {', no '.join(k for k, v in unfit.items() if v)}")
        return self

    @property
    def left_right_axis(self) -> int | None:
        """The axis of the model's grid from left to right; None where axes are taken as they are stored."""
        return next((axis for axis, code in enumerate(self.orientation) if code in "RL"), None)

    @property
    def architecture(self) -> str:
        """What decides the network's tensors and operations, but for its patch and members, as text."""
        parts: list[object] = [self.network.model_dump_json(), self.n_channels, self.n_classes, self.clicks is not None]
        if self.intensity_model:
            names = self.labels.names
            parts.append([(names.index(one), names.index(other)) for one, other in self.window.swap_on_mirror])
        return repr(parts)

    @property
    def n_channels(self) -> int:
        """Number of the network's input channels: the images, and the structures of a previous stage."""
        return len(self.inputs) + (len(self.previous.values) if self.previous else 0)

    @property
    def n_classes(self) -> int:
        """Number of the network's output channels: the background and each label, or each region."""
        return len(self.regions) if self.regions else len(self.labels) + 1
