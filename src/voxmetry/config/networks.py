"""Networks other than the DynUNet, described as data; `nn.networks` builds them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, JsonValue, model_validator

from voxmetry.core.base import Record

MOST_CHANNELS, MOST_COUNT = 16_384, 1024
"""Limits far above any network that was ever trained: a typo must not ask for a terabyte."""

Count: TypeAlias = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Channels: TypeAlias = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Counts: TypeAlias = tuple[Count, Count, Count]


class NnunetNetwork(Record):
    """A U-Net as nnU-Net v2 plans it, with a plain or a residual encoder; one entry a level, full resolution first.

    Fabian Isensee et al., nnU-Net, doi 10.1038/s41592-020-01008-z; the residual encoder: doi
    10.1007/978-3-031-72114-4_47.
    """

    kind: Literal["nnunet"]
    encoder: Literal["plain", "residual"]
    channels: tuple[Channels, ...]
    strides: tuple[Counts, ...]
    kernels: tuple[Counts, ...]
    encoder_blocks: tuple[Count, ...]
    """Convolutions (plain) or residual blocks at each level."""
    decoder_convolutions: tuple[Count, ...]
    """From the coarsest decoder level to the finest: one fewer than levels."""
    convolution_bias: bool = True
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    norm_affine: bool = True
    negative_slope: Annotated[float, Field(ge=0)] = 0.01
    """Of the leaky ReLU; 0 makes it a ReLU."""
    stem_channels: Channels | None = None
    """Of the residual encoder's first convolution; None: those of the first level."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        sizes = {len(self.channels), len(self.strides), len(self.kernels), len(self.encoder_blocks)}
        if len(sizes) != 1 or len(self.decoder_convolutions) != len(self.channels) - 1 or len(self.channels) < 2:
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.strides)} strides, {len(self.kernels)} kernels, "
                f"{len(self.encoder_blocks)} encoder_blocks, {len(self.decoder_convolutions)} decoder_convolutions: "
                "each level needs one of each, but the coarsest has no decoder_convolutions"
            )
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernels must be odd, so that a convolution keeps the size")
        return self

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What the patch must be divisible by along each axis."""
        return _product(self.strides)

    @property
    def deep_supervision(self) -> int:
        """Number of coarser outputs; none, as it is not trained here."""
        return 0


MonaiName: TypeAlias = Literal["SegResNet", "SegResNetDS", "UNet", "SwinUNETR", "DynUNet", "BasicUNet", "MedNeXt"]
"""MONAI's networks that a model may name: 3-D, one tensor in, logits on the same grid out in evaluation mode."""


class MonaiNetwork(Record):
    """One of MONAI's networks by its name, with plain values as arguments.

    Input and output channels and `spatial_dims` follow from the model and are no arguments here. Numbers in arguments
    are at most MOST_CHANNELS.
    """

    kind: Literal["monai"]
    name: MonaiName
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    multiple_of: Counts = (1, 1, 1)
    """What the patch must be divisible by along each axis."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        largest = max(_numbers(self.arguments), default=0)
        if largest > MOST_CHANNELS:
            raise ValueError(f"arguments hold {largest:g}; no network has more than {MOST_CHANNELS} of anything")
        return self

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What the patch must be divisible by along each axis."""
        return self.multiple_of

    @property
    def deep_supervision(self) -> int:
        """Number of coarser outputs that take part in the loss; none."""
        return 0


class FcnNetwork(Record):
    """A fully convolutional network with skips from its last three levels: with strides to 32, FCN-8s in 3-D.

    One entry a level, full resolution first. Long, Shelhamer and Darrell 2015, arXiv 1411.4038.
    """

    kind: Literal["fcn"]
    channels: Annotated[tuple[Channels, ...], Field(min_length=4)]
    strides: tuple[Counts, ...]
    convolutions: Count = 2
    """At each level."""
    space_to_depth: Counts = (1, 1, 1)
    """Blocks of so many voxels become channels before the first level, and the scores' channels become voxels again
    after the last, as for a DynUNet: all levels run on a grid that is coarser by this."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.channels) != len(self.strides):
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.strides)} strides: each level needs one of each"
            )
        return self

    @property
    def kernels(self) -> tuple[Counts, ...]:
        """Sizes of the convolutions of each level."""
        return ((3, 3, 3),) * len(self.channels)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What the patch must be divisible by along each axis."""
        return _product((self.space_to_depth, *self.strides))

    @property
    def deep_supervision(self) -> int:
        """Number of coarser outputs that take part in the loss; none."""
        return 0


Length: TypeAlias = Annotated[float, Field(gt=0, le=2000)]
Lengths: TypeAlias = tuple[Length, Length, Length]


class MaskRcnnNetwork(Record):
    """Mask R-CNN in 3-D on a feature pyramid, with a head for the semantic map beside it.

    One entry a level, full resolution first. He et al. 2017, arXiv 1703.06870; Lin et al. 2017, arXiv 1612.03144; the
    semantic head beside detection: Jaeger et al. 2018, arXiv 1811.08661.
    """

    kind: Literal["maskrcnn"]
    encoder: Literal["plain", "residual"] = "residual"
    """Of each level: two convolutions as in DynUNet, or residual blocks as in nnU-Net's residual encoder."""
    channels: Annotated[tuple[Channels, ...], Field(min_length=3)]
    strides: tuple[Counts, ...]
    kernels: tuple[Counts, ...]
    encoder_blocks: Count = 1
    """Residual blocks at each level; a plain encoder has two convolutions a block."""
    things: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Structures whose instances are told apart; none named means all. The others are stuff."""
    anchors_mm: Annotated[tuple[Lengths, ...], Field(min_length=1)]
    """Sizes of the boxes that proposals start from, along the model's axes, at the first of `proposal_levels`; at each
    further one they are twice as large."""
    proposal_levels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (2,)
    """Levels on which proposals are made, counted from 0, rising."""
    pyramid_level: Annotated[int, Field(ge=0)] = 1
    """The finest level of the pyramid, which masks and the semantic map are made from."""
    pyramid_channels: Channels = 32
    head_channels: Channels = 128
    """Of the layers that classify and refine a box."""
    box_size: Annotated[int, Field(ge=2, le=32)] = 6
    """Samples along each axis of a box that is classified."""
    mask_size: Annotated[int, Field(ge=4, le=64)] = 14
    """Samples along each axis of a box whose mask is drawn; the mask has twice as many."""
    proposals: Annotated[int, Field(ge=1, le=4096)] = 64
    """Boxes of a window that go on to the second stage."""
    samples: Annotated[int, Field(ge=2, le=4096)] = 32
    """Boxes of an image that a training step classifies."""
    mask_samples: Annotated[int, Field(ge=1, le=1024)] = 8
    """Boxes of an image that a training step draws a mask in."""
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Instances with a lower score are left out."""
    max_iou: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of two boxes of a structure in one window with a larger IoU, the one with the lower score is left out."""
    merge_iou: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Boxes of two windows with a larger IoU, where both windows see, are one instance."""
    most: Annotated[int, Field(ge=1, le=4096)] = 100
    """Instances of a window."""
    space_to_depth: Counts = (1, 1, 1)
    """Blocks of so many voxels become channels before the first level, and the scores' channels become voxels again
    after the last, as for a DynUNet: all levels run on a grid that is coarser by this."""
    mask: Literal["fused", "head"] = "fused"
    """Whether an instance's mask is that of the mask head alone, or of it and the semantic map together: their log odds
    added."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        levels = len(self.channels)
        if not levels == len(self.strides) == len(self.kernels):
            raise ValueError(
                f"{levels} channels, {len(self.strides)} strides and {len(self.kernels)} kernels: each level needs one "
                "of each"
            )
        if list(self.proposal_levels) != sorted(set(self.proposal_levels)) or self.proposal_levels[-1] >= levels:
            raise ValueError(f"proposal_levels {list(self.proposal_levels)}: to rise, and stay below {levels}")
        if self.pyramid_level > self.proposal_levels[0]:
            raise ValueError(
                f"pyramid_level {self.pyramid_level} is above the first of proposal_levels, {self.proposal_levels[0]}"
            )
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernels must be odd, so that a convolution keeps the size")
        if len(set(self.things)) < len(self.things):
            raise ValueError("things: each structure is to be named once")
        return self

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What the patch must be divisible by along each axis."""
        return _product((self.space_to_depth, *self.strides))

    @property
    def deep_supervision(self) -> int:
        """Number of coarser outputs that take part in the loss; none."""
        return 0

    def stride(self, level: int) -> tuple[int, int, int]:
        """Return the voxels of the model's grid that one of a level is long, along each axis."""
        return _product((self.space_to_depth, *self.strides[: level + 1]))


def _product(strides: tuple[Counts, ...]) -> tuple[int, int, int]:
    i, j, k = (math.prod(stride[axis] for stride in strides) for axis in range(3))
    return (i, j, k)


def _numbers(value: JsonValue) -> Iterator[float]:
    """Yield the size of each number in a nested value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield abs(value)
