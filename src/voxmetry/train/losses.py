"""What training makes small: overlap and cross-entropy together."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss, DiceFocalLoss, TverskyLoss
from torch import nn

MISSED, INVENTED = 0.7, 0.3
"""Weights of Tversky's two errors (Salehi 2017, arXiv 1706.05721)."""


def build_loss(name: str) -> nn.Module:
    """Return the loss that `TrainSettings.loss` names: logits (B, classes, I, J, K), labels (B, 1, I, J, K) -> scalar.

    Examples
    --------
    >>> logits = torch.zeros(1, 2, 4, 4, 4)
    >>> round(float(build_loss("tversky")(logits, torch.zeros(1, 1, 4, 4, 4).long())), 3) > 0
    True
    """
    overlap = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
    if name == "dice_focal":
        return DiceFocalLoss(gamma=2.0, **overlap)
    if name == "tversky":
        return TverskyCrossEntropy()
    return DiceCELoss(**overlap)


class TverskyCrossEntropy(nn.Module):
    """Tversky loss, in which a missed voxel weighs more than an invented one, plus cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.tversky = TverskyLoss(
            softmax=True, to_onehot_y=True, include_background=False, batch=True, alpha=INVENTED, beta=MISSED
        )
        self.entropy = nn.CrossEntropyLoss()

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the sum of the two."""
        total: torch.Tensor = self.tversky(logits, label) + self.entropy(logits, label[:, 0].long())
        return total
