"""A network that takes clicks beside images, and is the automatic one where there are none."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ClickNetwork(nn.Module):
    """Let a network of images and clicks take images alone: the channels of clicks are then empty.

    Parameters
    ----------
    network
        Takes (B, n_images + n_classes, I, J, K).
    n_classes
        One channel of clicks for the background and one for each structure.
    """

    def __init__(self, network: nn.Module, *, n_images: int, n_classes: int) -> None:
        super().__init__()
        self.network, self.n_images, self.n_classes = network, n_images, n_classes

    def forward(self, x: torch.Tensor) -> Any:
        """Return the network's scores for (B, n_images, I, J, K), or that with clicks behind the images."""
        if x.shape[1] == self.n_images:
            x = torch.cat([x, x.new_zeros(x.shape[0], self.n_classes, *x.shape[2:])], dim=1)
        return self.network(x)
