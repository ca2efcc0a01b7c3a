"""How a model is trained: the content of a training configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from voxmetry.config.model import ModelSpec
from voxmetry.config.synthesis import Synthesis
from voxmetry.core.base import Record


class Augment(Record):
    """Probabilities and strengths of the random changes to a training case. All are drawn per case and step."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0,)
    swap_on_flip: tuple[tuple[str, str], ...] = ()
    """Pairs of structures that are each other's mirror image, such as the left and the right kidney: they change places
    where an image is mirrored from left to right."""
    affine_probability: float = 0.5
    rotate_degrees: float = 20.0
    scale: float = 0.2
    elastic_probability: float = 0.0
    elastic_voxels: tuple[float, float] = (0.5, 2.0)
    """Standard deviation of the shifts of an elastic deformation at its nodes, 16 voxels apart."""
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


REMOVED = {"teacher": None, "teacher_share": 0.5, "border_smoothing": 0.0}
"""Settings of version 0.1.0 that brought nothing, with the values at which they did nothing: runs have them on file."""


FoldNumber = Annotated[int, Field(ge=0)]


class TrainSettings(Record):
    """One training run. The content of a file in `configs/train`.

    Such a file may be `based_on: OTHER.yaml`, a file beside it: then it says what differs, and null takes a key away.
    """

    MAY_BE_BASED_ON_ANOTHER: ClassVar[bool] = True
    schema_version: Literal[1] = 1
    model: ModelSpec
    data: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """A data set as `train.dataset.open_data` takes it, relative to this file, to VOXMETRY_DATA or to the working
    folder; or several, whose structures are matched by name: what a data set's label table lacks was not looked for in
    its cases."""
    start_from: str | None = None
    """Model folder or bundled model whose weights the run starts from; its network must be the same, or a DynUNet of
    blocks (`space_to_depth`) that the new one has finer levels above. None starts from random weights."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the patients that is held out; 0 trains on all. Not used where `fold` is given."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts that a cross-validation deals the patients into."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The part that this run holds out, counted from 0; None is no run of a cross-validation."""
    recipe_chosen_on: (
        Literal["not said", "held-out", "other"] | Annotated[tuple[FoldNumber, ...], Field(min_length=1)]
    ) = "not said"
    """The cases by which network, augmentation and post-processing were chosen. 'held-out': those that this run holds
    out, or any fold of its cross-validation; numbers of folds: what these hold out of this data set; 'other': none of
    it. `evaluate` and `calibrate` say so: a new patient can expect less than cases that took part in the choice."""
    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 45
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which each process passes its batch through the network: a step holds the activations of one part, takes
    about a third longer, and moves the weights as the whole batch does."""
    precision: Literal["auto", "bf16", "fp16", "float32"] = "auto"
    """Of the network's products; "auto" is bf16 where the device multiplies it, else fp16 on CUDA and float32 on a
    processor."""
    loss: Literal["dice_ce", "dice_focal", "tversky"] = "dice_ce"
    """Dice and cross-entropy; Dice and focal loss; or Tversky and cross-entropy, where a missed voxel weighs more than
    an invented one, for structures of few voxels."""
    foreground_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the patches that are centred on a structure, each structure of the case as often as the others, so that
    rare ones are seen. The rest is placed anywhere; cases without a structure stay in."""
    sampling: Literal["cases", "structures"] = "cases"
    """'cases': each case comes equally often. 'structures': the patches that `foreground_fraction` centres on a
    structure choose the structure first, each equally often, and then a case that has it: rare structures are seen as
    often as the others."""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """Batches of an epoch, after which there is a checkpoint; None: enough for each case once."""
    initial_bias: Literal["zero", "frequency"] = "zero"
    """Bias of the last layer at first. 'frequency': the logarithm of each class's share of the training voxels, so that
    the first steps are not spent on learning that most voxels are background."""
    learned_only: tuple[str, ...] = ()
    """Labels that the network learns, so that it does not take them for others, and that the model does not give."""
    validate_every: Annotated[int, Field(ge=1)] = 5
    augment: Augment = Augment()
    synthesis: Synthesis | None = None
    """Train on images that are made from label maps. The data set is then for validation: its held-out cases, or those
    that fold or validation_fraction hold out."""

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, content: object) -> object:
        if not isinstance(content, dict):
            return content
        used = [name for name, idle in REMOVED.items() if content.get(name, idle) != idle]
        # Without a teacher its share did nothing.
        if used and used != ["teacher_share"]:
            raise ValueError(f"{', '.join(used)}: removed, since it made no model better; leave it out")
        return {name: value for name, value in content.items() if name not in REMOVED}

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: the folds are counted from 0")
        if not isinstance(self.recipe_chosen_on, str) and max(self.recipe_chosen_on) >= self.folds:
            raise ValueError(
                f"recipe_chosen_on: fold {max(self.recipe_chosen_on)} of {self.folds}: the folds are counted from 0"
            )
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: a batch of {self.batch_size} has no {self.accumulate} equal parts")
        return self

    @model_validator(mode="after")
    def _sides_known(self) -> Self:
        if odd := self.model.labels.misnamed(self.augment.swap_on_flip):
            raise ValueError(f"augment.swap_on_flip: {', '.join(odd)}: each is to be a label of the model, named once")
        window = self.model.window
        learnt = self.augment.swap_on_flip or (self.synthesis is not None and self.synthesis.mirrored)
        if learnt and self.model.left_right_axis in window.mirror_axes and not window.swap_on_mirror:
            raise ValueError(
                "window.mirror_axes has the axis from left to right, and structures have sides: name those that change "
                "places in window.swap_on_mirror, or their scores would be mixed"
            )
        if self.sampling == "structures" and not self.foreground_fraction:
            raise ValueError("sampling 'structures' needs a foreground_fraction above 0, the share that it applies to")
        return self

    @model_validator(mode="after")
    def _synthesis_fits(self) -> Self:
        made = self.synthesis
        if made is None:
            return self
        odd = sorted(set(made.targets.values()) - set(self.model.labels.names))
        left = sorted(set(self.model.labels.names) - set(made.targets.values()))
        if odd or left:
            raise ValueError(
                "synthesis.targets: "
                + "; ".join(
                    text
                    for text in (
                        f"{', '.join(odd)} are no labels of the model" if odd else "",
                        f"nothing becomes {', '.join(left)}" if left else "",
                    )
                    if text
                )
            )
        if len(self.model.inputs) != 1:
            raise ValueError(f"synthesis makes images of one channel; the model has {len(self.model.inputs)} inputs")
        if self.steps_per_epoch is None and made.label_maps is not None:
            raise ValueError("synthesis needs steps_per_epoch: made images have no number of their own")
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        model = self.model
        if model.network.kind == "nnunet" or model.members > 1 or model.regions or model.resampling.rule != "centred":
            raise ValueError(
                "model: training takes a network of kind 'dynunet', 'maskrcnn', 'fcn' or 'monai', one member, no "
                "regions and the centred grid; what was imported from another framework is trained there"
            )
        odd = sorted(set(self.learned_only) - set(model.labels.names))
        if odd or len(set(self.learned_only)) >= len(model.labels):
            raise ValueError(f"learned_only: {', '.join(odd)}: no labels" if odd else "learned_only: nothing is left")
        if any(len(set(pair) & set(self.learned_only)) == 1 for pair in model.window.swap_on_mirror):
            raise ValueError("learned_only: of two structures in window.swap_on_mirror both go, or neither")
        if (self.initial_bias == "frequency" or self.learned_only) and model.network.kind != "dynunet":
            raise ValueError("initial_bias 'frequency' and learned_only are for a network of kind 'dynunet'")
        if self.learned_only and model.clicks is not None:
            raise ValueError("learned_only: a model with clicks has a channel for each structure that it learns")
        if model.network.kind == "maskrcnn" and self.accumulate > 1:
            raise ValueError("accumulate: a network of kind 'maskrcnn' takes its batch whole; lower batch_size")
        if model.network.kind == "maskrcnn" and self.synthesis is not None:
            raise ValueError("a network of kind 'maskrcnn' is trained on real images, without synthesis")
        return self
