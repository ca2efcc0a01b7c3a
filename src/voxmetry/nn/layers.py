"""Layers of a network put right for the device that it runs on, and the arithmetic of float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32 on CUDA: torch lets convolutions fall to TF32, ten bits, unless told otherwise."""
    convolutions, matrices = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = convolutions.fp32_precision, matrices.fp32_precision
    convolutions.fp32_precision, matrices.fp32_precision = "ieee", "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision, matrices.fp32_precision = before


class _OutputInFloat32(nn.Module):
    """A 1 x 1 x 1 convolution outside of automatic casts: rounding its results would move labels."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.convolution(x.float())


class _NormOfOne(nn.Module):
    """Instance normalisation that keeps channels last for a batch of one, as batch normalisation does.

    torch's own returns its result with channels first, so that each convolution after it turns it round again.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        if len(x) > 1:
            return norm(x)
        weight, bias = norm.weight, norm.bias
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)


def last_layer_in_float32(network: nn.Module, n_outputs: int) -> nn.Module:
    """Take the convolutions that make scores out of automatic casts: those of 1 x 1 x 1 with one channel an output."""

    def replaced(layer: nn.Module) -> nn.Module | None:
        is_last = isinstance(layer, nn.Conv3d) and layer.out_channels == n_outputs and set(layer.kernel_size) == {1}
        return _OutputInFloat32(layer) if is_last and isinstance(layer, nn.Conv3d) else None

    return _with(network, replaced)


def normalise_channels_last(network: nn.Module) -> nn.Module:
    """Let instance normalisation keep the layout of its input; the values are the same to 5e-7."""

    def replaced(layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, nn.InstanceNorm3d) or layer.track_running_stats:
            return None
        return _NormOfOne(layer)

    return _with(network, replaced)


def _with(network: nn.Module, replaced: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Put other layers in the place of some, once each, wherever a network names them."""
    made: dict[int, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            new = made.get(id(child)) or replaced(child)
            if new is not None:
                made[id(child)] = new
                setattr(parent, name, new)
    return replaced(network) or network
