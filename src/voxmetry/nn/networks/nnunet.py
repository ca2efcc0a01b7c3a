"""The U-Nets of nnU-Net v2, plain and with a residual encoder, with nnU-Net's own names for their parameters.

MONAI's DynUNet cannot hold them: its decoder takes the kernel of the level below, it has two convolutions a level
whatever the plan says, and its residual blocks are others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from voxmetry.config.networks import NnunetNetwork

Counts = tuple[int, int, int]
ONE = (1, 1, 1)


class _Unit(nn.Module):
    """Convolution, instance normalisation and, unless `active` is off, leaky ReLU."""

    def __init__(
        self,
        spec: NnunetNetwork,
        inputs: int,
        outputs: int,
        kernel: Counts,
        *,
        stride: Counts = ONE,
        bias: bool | None = None,
        active: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        with_bias = spec.convolution_bias if bias is None else bias
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=with_bias)
        self.norm = nn.InstanceNorm3d(outputs, eps=spec.norm_epsilon, affine=spec.norm_affine)
        self.active = _activation(spec) if active else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if self.active is None else self.active(x)


class _Stack(nn.Module):
    """Convolutions one after another; the first has the stride."""

    def __init__(
        self, spec: NnunetNetwork, inputs: int, outputs: int, kernel: Counts, *, count: int, stride: Counts = ONE
    ) -> None:
        super().__init__()
        first = _Unit(spec, inputs, outputs, kernel, stride=stride)
        self.convs = nn.Sequential(first, *(_Unit(spec, outputs, outputs, kernel) for _ in range(count - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class _Residual(nn.Module):
    """Two convolutions and a way past them: mean pooling for the stride, then a 1 x 1 x 1 convolution for channels."""

    def __init__(self, spec: NnunetNetwork, inputs: int, outputs: int, kernel: Counts, stride: Counts) -> None:
        super().__init__()
        self.conv1 = _Unit(spec, inputs, outputs, kernel, stride=stride)
        self.conv2 = _Unit(spec, outputs, outputs, kernel, active=False)
        past: list[nn.Module] = [nn.AvgPool3d(stride, stride)] if stride != ONE else []
        if inputs != outputs:
            past.append(_Unit(spec, inputs, outputs, ONE, bias=False, active=False))
        self.skip = nn.Sequential(*past)
        self.active = _activation(spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.active(self.conv2(self.conv1(x)) + self.skip(x))


class _Blocks(nn.Module):
    """Residual blocks one after another; the first has the stride."""

    def __init__(
        self, spec: NnunetNetwork, inputs: int, outputs: int, kernel: Counts, *, count: int, stride: Counts
    ) -> None:
        super().__init__()
        first = _Residual(spec, inputs, outputs, kernel, stride)
        self.blocks = nn.Sequential(first, *(_Residual(spec, outputs, outputs, kernel, ONE) for _ in range(count - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class NnunetEncoder(nn.Module):
    """The encoder alone: (B, n_inputs, I, J, K) to the features of each level, full resolution first."""

    def __init__(self, spec: NnunetNetwork, n_inputs: int) -> None:
        super().__init__()
        self.stem: nn.Module = nn.Identity()
        before = n_inputs
        if spec.encoder == "residual":
            before = spec.stem_channels or spec.channels[0]
            self.stem = _Stack(spec, n_inputs, before, spec.kernels[0], count=1)
        stages: list[nn.Module] = []
        for level, channels in enumerate(spec.channels):
            kernel, stride, count = spec.kernels[level], spec.strides[level], spec.encoder_blocks[level]
            if spec.encoder == "residual":
                stages.append(_Blocks(spec, before, channels, kernel, count=count, stride=stride))
            else:
                stages.append(nn.Sequential(_Stack(spec, before, channels, kernel, count=count, stride=stride)))
            before = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return one tensor a level."""
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class _Decoder(nn.Module):
    """Upsample by a transposed convolution, join with the encoder's level, convolve; only the finest output is kept."""

    def __init__(self, spec: NnunetNetwork, n_outputs: int) -> None:
        super().__init__()
        upward = list(range(len(spec.channels) - 1))[::-1]
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(
                spec.channels[level + 1],
                spec.channels[level],
                spec.strides[level + 1],
                spec.strides[level + 1],
                bias=spec.convolution_bias,
            )
            for level in upward
        )
        self.stages = nn.ModuleList(
            _Stack(spec, 2 * spec.channels[level], spec.channels[level], spec.kernels[level], count=count)
            for level, count in zip(upward, spec.decoder_convolutions, strict=True)
        )
        self.output = nn.Conv3d(spec.channels[0], n_outputs, 1)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        x = levels[-1]
        for step, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            x = stage(torch.cat((up(x), levels[-2 - step]), dim=1))
        return self.output(x)


class NnunetUNet(nn.Module):
    """Takes (B, n_inputs, I, J, K) with I, J, K divisible by `spec.divisor`; returns logits (B, n_outputs, I, J, K).

    Parameters
    ----------
    spec
        Levels from full resolution downwards.
    n_inputs, n_outputs
        Channels in and out.
    """

    def __init__(self, spec: NnunetNetwork, *, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.encoder = NnunetEncoder(spec, n_inputs)
        self.decoder = _Decoder(spec, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        return self.decoder(self.encoder(x))


def _activation(spec: NnunetNetwork) -> nn.Module:
    return nn.LeakyReLU(spec.negative_slope, inplace=True)
