"""What training makes small: overlap and cross-entropy together, and the distance from a teacher's probabilities."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss, DiceFocalLoss, TverskyLoss
from torch import nn
from torch.nn import functional

MISSED, INVENTED = 0.7, 0.3
"""Weights of Tversky's two errors (Salehi 2017, arXiv 1706.05721)."""


def build_loss(name: str, *, n_classes: int = 0, border_smoothing: float = 0.0) -> nn.Module:
    """Return the loss that `TrainSettings.loss` names: logits (B, classes, I, J, K), labels (B, 1, I, J, K) -> scalar.

    Parameters
    ----------
    name
        "dice_ce", "dice_focal" or "tversky".
    n_classes
        With the background; needed with `border_smoothing`.
    border_smoothing
        Share of the truth that a voxel beside another structure gives away to it; see `soft_border`.

    Examples
    --------
    >>> logits = torch.zeros(1, 2, 4, 4, 4)
    >>> round(float(build_loss("tversky")(logits, torch.zeros(1, 1, 4, 4, 4).long())), 3) > 0
    True
    """
    overlap = {"softmax": True, "to_onehot_y": not border_smoothing, "include_background": False, "batch": True}
    criterion: nn.Module
    if name == "dice_focal":
        criterion = DiceFocalLoss(gamma=2.0, **overlap)
    elif name == "tversky":
        criterion = TverskyCrossEntropy(**overlap)
    else:
        criterion = DiceCELoss(**overlap)
    return SoftBorder(criterion, n_classes, border_smoothing) if border_smoothing else criterion


class TverskyCrossEntropy(nn.Module):
    """Tversky loss, in which a missed voxel weighs more than an invented one, plus cross-entropy."""

    def __init__(self, **overlap: bool) -> None:
        super().__init__()
        self.tversky = TverskyLoss(alpha=INVENTED, beta=MISSED, **overlap)
        self.entropy = nn.CrossEntropyLoss()

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the sum of the two; `label` holds class indices or, with a channel a class, shares."""
        target = label[:, 0].long() if label.shape[1] == 1 else label
        total: torch.Tensor = self.tversky(logits, label) + self.entropy(logits, target)
        return total


class SoftBorder(nn.Module):
    """A loss against labels whose borders between two structures are soft."""

    def __init__(self, criterion: nn.Module, n_classes: int, share: float) -> None:
        super().__init__()
        self.criterion, self.n_classes, self.share = criterion, n_classes, share

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss for class indices (B, 1, I, J, K)."""
        total: torch.Tensor = self.criterion(logits, soft_border(label, self.n_classes, self.share))
        return total


def soft_border(label: torch.Tensor, n_classes: int, share: float) -> torch.Tensor:
    """Turn class indices into shares that are soft where one structure touches another.

    A voxel of a structure with another structure among its 26 neighbours keeps `1 - share` of itself; the rest is what
    its neighbourhood holds of each structure. Where an annotator draws that border is a matter of a slice; where a
    structure meets the background is not, and stays hard.

    Parameters
    ----------
    label
        (B, 1, I, J, K), class index.
    n_classes
        With the background.
    share
        0 to 1.

    Returns
    -------
    Tensor
        (B, n_classes, I, J, K), which sum to 1 over the classes.

    Examples
    --------
    >>> row = torch.tensor([0, 1, 1, 2, 2]).reshape(1, 1, 5, 1, 1)
    >>> [[round(float(v), 2) for v in shares] for shares in soft_border(row, 3, 0.3)[0, :, :, 0, 0].T]
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1], [0.0, 0.1, 0.9], [0.0, 0.0, 1.0]]
    """
    hard = functional.one_hot(label[:, 0].long(), n_classes).movedim(-1, 1).float()
    # Padded here, because the pooling refuses what is thinner than its kernel; the zeros cancel in the shares.
    near = functional.avg_pool3d(functional.pad(hard[:, 1:], (1,) * 6), 3, stride=1)
    near = near / near.sum(1, keepdim=True).clamp_min(1e-6)
    mixed = torch.cat([hard[:, :1], (1 - share) * hard[:, 1:] + share * near], dim=1)
    border = ((near > 0).sum(1, keepdim=True) > 1) & (label > 0)
    return torch.where(border, mixed, hard)


def teaching(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a student's logits against a teacher's probabilities, mean over voxels.

    Hinton, Vinyals and Dean 2015, arXiv 1503.02531, at temperature 1.

    Parameters
    ----------
    student, teacher
        Logits (B, classes, I, J, K).
    """
    return functional.cross_entropy(student, teacher.softmax(1))
