"""Networks that other frameworks trained, described as data; `nn.networks` builds them."""

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
        i, j, k = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (i, j, k)

    @property
    def deep_supervision(self) -> int:
        """Number of coarser outputs; none, as it is not trained here."""
        return 0


MonaiName: TypeAlias = Literal["SegResNet", "SegResNetDS", "UNet", "SwinUNETR", "DynUNet", "BasicUNet"]
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
        """Number of coarser outputs; none, as it is not trained here."""
        return 0


def _numbers(value: JsonValue) -> Iterator[float]:
    """Yield the size of each number in a nested value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield abs(value)
