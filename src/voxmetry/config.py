"""Settings and model specifications, read from strict YAML.

An unknown key, a wrong type or a value out of range is a `ConfigError` that names the file and the key. Nothing here
is evaluated: a configuration is data.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias, TypeVar

import yaml
from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator

from voxmetry.core.base import Record
from voxmetry.core.labels import LabelTable
from voxmetry.core.networks import MonaiNetwork, NnunetNetwork
from voxmetry.errors import ConfigError

Triple: TypeAlias = tuple[float, float, float]
MapName: TypeAlias = Literal["probabilities", "entropy", "disagreement"]
"""What can be written for each voxel beside its label; see `nn.maps`."""
IntTriple: TypeAlias = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Spacing: TypeAlias = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


def _check_axcodes(codes: str) -> str:
    if sorted(codes) == ["I", "J", "K"]:
        return codes
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    if sorted(axes.get(code, -1) for code in codes) != [0, 1, 2]:
        raise ValueError(f"{codes!r} is not one each of R or L, A or P, S or I, such as 'RAS', nor an order of IJK")
    return codes


Axcodes: TypeAlias = Annotated[str, AfterValidator(_check_axcodes)]
R = TypeVar("R", bound=Record)


class Range(Record):
    """Lowest and highest value, both included."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def __contains__(self, x: float) -> bool:
        return self.low <= x <= self.high


class Normalise(Record):
    """How intensities of one input become network input.

    'zscore': clip to the given percentiles of the voxels that are not exactly 0 (or of all), then subtract their mean
    and divide by their standard deviation. 'window': clip to [low, high] in the image's unit, then subtract `mean` and
    divide by `sd`. 'shift': the same without clipping. 'minmax': scale the lowest and the highest value to low and
    high (0 and 1 if not given).
    """

    method: Literal["zscore", "window", "shift", "minmax"]
    percentiles: tuple[float, float] = (0.5, 99.5)
    nonzero: bool = True
    keep_zeros: bool = False
    """'zscore' with `nonzero`: leave the voxels that are not counted as they are."""
    low: float | None = None
    high: float | None = None
    mean: float = 0.0
    sd: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method == "window" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("method 'window' needs low and high, low below high")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles {self.percentiles} are not two rising numbers in 0..100")
        return self


class SeriesRules(Record):
    """Which series of a study is meant, beyond its modality.

    What a header leaves open breaks no rule but `description`. Patterns are regular expressions, searched without
    regard to case in Series Description and Protocol Name.
    """

    description: tuple[str, ...] = ()
    """One of these must be found."""
    not_description: tuple[str, ...] = ()
    """None of these may be found."""
    body_part: tuple[str, ...] = ()
    """Body Part Examined."""
    thickness_mm: Range | None = None
    """Slice thickness, or the step between slices where the header does not state it."""
    phase: tuple[Literal["native", "arterial", "portal venous", "delayed"], ...] = ()
    """Contrast phase, as far as description and protocol name one."""
    plane: tuple[Literal["axial", "coronal", "sagittal"], ...] = ()
    """Orientation of the slices; oblique ones count as the nearest."""

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for pattern in (*self.description, *self.not_description):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return self


class InputSpec(Record):
    """One input channel."""

    name: str
    modality: Literal["CT", "MR", "PT"]
    normalise: Normalise
    series: SeriesRules | None = None
    """Which series of a DICOM study this input is, where its modality alone does not say."""
    then: tuple[Normalise, ...] = ()
    """Further steps, each on the result of the one before."""


class NetworkSpec(Record):
    """A DynUNet: one entry a level, from full resolution downwards.

    The patch must be divisible by the product of the strides along each axis.
    """

    kind: Literal["dynunet"] = "dynunet"
    channels: tuple[Annotated[int, Field(ge=1)], ...]
    strides: tuple[IntTriple, ...]
    kernels: tuple[IntTriple, ...]
    residual: bool = False
    deep_supervision: Annotated[int, Field(ge=0)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

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
        i, j, k = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
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
    skip_up_to: float | None = None
    """Windows in which the first input is nowhere above this value, in the image's unit, are background and are not
    run. None runs all. For CT, whose air is about -1000 HU."""


class Resampling(Record):
    """How images reach the model's grid, and which grid that is.

    'centred': linear; the grid shares its centre with the study's own. 'monai': linear; the grid starts at the centre
    of the study's first voxel, as MONAI's `Spacing` has it. 'nnunet': nnU-Net's order of steps: crop to what is not
    zero, normalise on the study's own voxels, then resample so that the outermost voxel edges agree; what was cropped
    away is background.
    """

    rule: Literal["centred", "monai", "nnunet"] = "centred"
    order: Literal[1, 3] = 1
    """Of the splines for images, with 'nnunet': 1 linear, 3 cubic. Scores are always interpolated linearly."""
    slices_apart: bool | None = None
    """With 'nnunet': resample each thick slice by itself, and take the nearest slice, for images and scores. None:
    where the largest voxel size is more than `anisotropy` times the smallest."""
    anisotropy: Annotated[float, Field(ge=1)] = 3.0

    @model_validator(mode="after")
    def _linear(self) -> Self:
        if self.rule != "nnunet" and (self.order != 1 or self.slices_apart is not None):
            raise ValueError(f"rule {self.rule!r} is linear along all axes: order and slices_apart belong to 'nnunet'")
        return self


class CleanStep(Record):
    """One step of the clean-up after the network.

    'largest': keep the largest connected component. 'drop_small': remove components below `min_volume_ml`.
    'fill_holes': fill background that the structure encloses. Components are 26-connected.
    """

    step: Literal["largest", "drop_small", "fill_holes"]
    labels: tuple[str, ...] = ()
    """Structures that it applies to; none given means all, each by itself."""
    min_volume_ml: Annotated[float, Field(ge=0)] = 0.0
    together: bool = False
    """Treat the named labels as one structure: what belongs to the union's largest component stays."""


class Landmarks(Record):
    """Ranges of three percentiles of the values of the training images, as `image_flags.landmarks` finds them."""

    p05: Range
    p50: Range
    p95: Range


class TrainingDomain(Record):
    """What the model has seen. An input outside is segmented all the same, and flagged."""

    spacing_mm: tuple[Range, Range, Range] | None = None
    """None where it is not known, as for a model of another framework: then nothing is flagged."""
    field_of_view_mm: tuple[Range, Range, Range] | None = None
    """Extent of the image along the model's axes (its orientation), voxel edges included."""
    obliqueness_degrees: Range | None = None
    """Angle between the image's axes and the patient's; a network sees a turned grid as a turned patient."""
    volume_ml: dict[str, Range] = Field(default_factory=dict)
    """Volume seen per structure, widened by the margin that the model card states."""
    intensity: dict[str, Landmarks] = Field(default_factory=dict)
    """Values seen per input; written by `voxmetry calibrate`."""


def predicted_dice(intercept: float, slope: float, expected_dice: float) -> float:
    """Return intercept + slope x expected Dice, kept within 0 and 1.

    Examples
    --------
    >>> predicted_dice(-1.0, 2.0, 0.95), predicted_dice(0.5, 1.0, 0.9)
    (0.9, 1.0)
    """
    return min(1.0, max(0.0, round(intercept + slope * expected_dice, 6)))


class Quality(Record):
    """How the Dice of one structure is foretold, fitted on cases that the network had not seen.

    From the expected Dice of `nn.confidence` by `predicted_dice`.
    """

    intercept: float
    slope: float
    review_below: float
    """A predicted Dice below asks for a look."""
    error: float
    """Mean absolute error of the prediction on cases that it was not fitted on."""
    n_cases: Annotated[int, Field(ge=1)]

    def predict(self, expected_dice: float) -> float:
        """Return the predicted Dice.

        Examples
        --------
        >>> Quality(intercept=-1.0, slope=2.0, review_below=0.8, error=0.02, n_cases=40).predict(0.95)
        0.9
        """
        return predicted_dice(self.intercept, self.slope, expected_dice)


class Weights(Record):
    """The file that holds the network's parameters, and what it must hash to."""

    file: str = "weights.safetensors"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _network_kind(value: object) -> object:
    return value.get("kind", "dynunet") if isinstance(value, dict) else getattr(value, "kind", None)


Network: TypeAlias = Annotated[
    Annotated[NetworkSpec, Tag("dynunet")]
    | Annotated[NnunetNetwork, Tag("nnunet")]
    | Annotated[MonaiNetwork, Tag("monai")],
    Discriminator(_network_kind),
]


class ModelSpec(Record):
    """A model: what it takes, what it does to it, what it returns. The content of `model.yaml`."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: str
    summary: str
    licence: str
    body_part: str
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    orientation: Axcodes = "RAS"
    """Or an order of "IJK": the axes as they are stored, in that order and whatever their direction."""
    spacing_mm: Spacing
    resampling: Resampling = Resampling()
    window: WindowSpec
    network: Network
    members: Annotated[int, Field(ge=1)] = 1
    """Networks of an ensemble, whose scores are averaged; the weights file holds all of them."""
    labels: LabelTable
    activation: Literal["none", "softmax"] = "none"
    """What is done to the scores on the model's grid, before they are interpolated. The largest logit is the largest
    probability, but not so between two voxels."""
    regions: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """None: one output for the background and one a label, of which the largest wins. Else one output a region, each
    with its own probability: in this order, a region above one half paints this label value over those before."""
    clean: tuple[CleanStep, ...] = ()
    training_domain: TrainingDomain
    quality: dict[str, Quality] = Field(default_factory=dict)
    """By structure; made by `voxmetry calibrate`. Empty where nothing is foretold."""
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
        named = {name for step in self.clean for name in step.labels} | set(self.training_domain.volume_ml)
        named |= set(self.quality)
        if named - known:
            raise ValueError(f"labels {sorted(named - known)} are not in the label table {sorted(known)}")
        return self

    @property
    def n_classes(self) -> int:
        """Number of the network's output channels: the background and each label, or each region."""
        return len(self.regions) if self.regions else len(self.labels) + 1


class Augment(Record):
    """Probabilities and strengths of the random changes to a training case. All are drawn per case and step."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0,)
    affine_probability: float = 0.5
    rotate_degrees: float = 20.0
    scale: float = 0.2
    elastic_probability: float = 0.0
    low_resolution_probability: float = 0.25
    low_resolution_zoom: tuple[float, float] = (0.5, 1.0)
    blur_probability: float = 0.2
    blur_sigma_voxels: tuple[float, float] = (0.5, 1.2)
    noise_probability: float = 0.2
    noise_sd: float = 0.15
    bias_field_probability: float = 0.2
    contrast_probability: float = 0.3
    contrast_gamma: tuple[float, float] = (0.7, 1.5)
    scale_intensity_probability: float = 0.3
    scale_intensity: float = 0.25


class TrainSettings(Record):
    """One training run. The content of a file in `configs/train`."""

    schema_version: Literal[1] = 1
    model: ModelSpec
    data: str
    """A data set as `train.dataset.open_data` takes it, relative to this file, to VOXMETRY_DATA or to the working
    folder."""
    start_from: str | None = None
    """Model folder or bundled model whose weights the run starts from; its network must be the same. None starts from
    random weights."""
    teacher: str | None = None
    """Model folder or bundled model, such as an ensemble of folds, whose probabilities the network learns as well."""
    teacher_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the teacher's probabilities in the loss; the labels have the rest. Not used without a teacher."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the patients that is held out; 0 trains on all. Not used where `fold` is given."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts that a cross-validation deals the patients into."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The part that this run holds out, counted from 0; None is no run of a cross-validation."""
    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 45
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["bf16", "float32"] = "bf16"
    loss: Literal["dice_ce", "dice_focal", "tversky"] = "dice_ce"
    """Dice and cross-entropy; Dice and focal loss; or Tversky and cross-entropy, where a missed voxel weighs more than
    an invented one, for structures of few voxels."""
    border_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the truth that a voxel beside another structure gives away to it: for borders that are drawn along a
    slice. 0 keeps labels as they are."""
    foreground_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the patches that are centred on a structure, each structure of the case as often as the others, so that
    rare ones are seen. The rest is placed anywhere; cases without a structure stay in."""
    validate_every: Annotated[int, Field(ge=1)] = 5
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: the folds are counted from 0")
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        model = self.model
        if model.network.kind != "dynunet" or model.members > 1 or model.regions or model.resampling.rule != "centred":
            raise ValueError(
                "model: training takes a network of kind 'dynunet', one member, no regions and the centred grid; "
                "what was imported from another framework is trained there"
            )
        return self


class DicomOutput(Record):
    """Which DICOM objects are written of a study that is DICOM itself."""

    seg: bool = False
    """A DICOM segmentation, seg.dcm."""
    rtstruct: bool = False
    """An RT structure set, rtstruct.dcm."""
    sr: bool = False
    """A structured report of the measurements, sr.dcm, with the segmentation that it refers to."""
    pdf: bool = False
    """The report as a PDF file, and inside a DICOM object, report.dcm."""
    key_images: bool = False
    """The report's pictures with their words as Secondary Capture images, key_image_01.dcm and on."""
    deidentify: bool = False
    """Whether these objects lose the patient's identity; a copy of the series that they refer to comes with them."""
    seg_kind: Literal["binary", "labelmap"] = "binary"
    keep_empty_frames: bool = False
    """Whether a segment has a frame on each slice, as some viewers need."""

    @property
    def any_object(self) -> bool:
        """Whether anything is written."""
        return self.seg or self.rtstruct or self.sr or self.pdf or self.key_images


class StudySettings(Record):
    """How one study is run. The content of a file in `configs/study`; each field is an option of `voxmetry segment`."""

    series: str | None = None
    """Series Instance UID, where the folder holds more than one candidate."""
    modality: Literal["CT", "MR", "PT"] | None = None
    """What a file without DICOM headers is; None takes the model's word for it, after a look at the values."""
    unit: Literal["SUVbw"] | None = None
    """What a PET file without DICOM headers holds; None leaves it open, and no SUV is named."""
    device: Literal["auto", "cpu", "cuda", "mps", "openvino"] = "auto"
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    execution: Literal["eager", "compile", "graph"] = "eager"
    """How torch runs the network: operation by operation, compiled, or as a CUDA graph."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """The most that the process may hold, in 10^9 bytes; None takes what the system has left."""
    tolerance_mm: Annotated[float, Field(gt=0)] = 1.0
    """Tolerance of the surface Dice against a reference."""
    maps: tuple[MapName, ...] = ()
    """What is written for each voxel beside its label: probabilities.nii, entropy.nii, disagreement.nii."""
    dicom: DicomOutput = DicomOutput()
    report: Literal["full", "brief", "none"] = "full"
    """A report; a thumbnail, and a report only if the study is flagged for review; neither."""
    overwrite: bool = False
    suv: Literal["bw", "lbm", "bsa", "none"] = "bw"
    """What a PET series becomes: SUV by body weight, lean body mass or body surface area, or its stored values."""
    allow_uneven: bool = False
    """Take a DICOM series with missing slices or uneven steps, interpolated onto a regular grid."""
    resample_tilt: bool = False
    """Take a DICOM series whose stack leans (gantry tilt), resampled onto a grid at right angles."""


def load_yaml(path: Path | str, kind: type[R]) -> R:
    """Read a strict YAML file as a record.

    Parameters
    ----------
    path
        The file.
    kind
        The record type, such as `ModelSpec`.

    Raises
    ------
    ConfigError
        If the file is missing, is no YAML, or has an unknown, missing or unusable key; the message names each.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            found=f"{path} cannot be read: {_why(error)}",
            expected=f"a YAML file with the keys of {kind.__name__}",
            fix="check the path, and that it is a text file that you may read",
        ) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            found=f"{path} is not valid YAML: {error}", expected="a YAML mapping", fix="mend the line that is named"
        ) from error
    return parse_record(data, kind, where=str(path))


def parse_record(data: object, kind: type[R], *, where: str) -> R:
    """Turn plain data into a record; `where` names its origin in an error.

    Raises
    ------
    ConfigError
        If a key is unknown, missing or unusable.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"]) or "(top level)"
            lines.append(f"{key}: {item['msg']}")
        raise ConfigError(
            found=f"{where}: " + "; ".join(lines),
            expected=f"the keys and values of {kind.__name__}",
            fix="correct the keys that are named; an unknown key is often a typo",
        ) from error


def dump_yaml(record: Record) -> str:
    """Write a record as YAML that `load_yaml` reads back to an equal one."""
    text: str = yaml.safe_dump(
        record.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
