"""What training makes small: overlap and cross-entropy (or focal loss) together.

Where structures were not looked for, `StructureLoss` joins their probability to the background's first: whatever is
there may be background or one of them (marginal loss: Fidon 2021, doi 10.1007/978-3-030-87196-3_49; Shi 2021, doi
10.1016/j.media.2021.101979).
"""

from __future__ import annotations

import torch
from monai.losses import FocalLoss
from torch import nn
from torch.nn import functional

MISSED, INVENTED = 0.7, 0.3
"""Weights of Tversky's two errors (Salehi 2017, arXiv 1706.05721)."""
SMOOTH = 1e-5
"""Added above and below, so that a structure that is nowhere has an overlap of 1."""
NOTHING = -1e4
"""Logit of a probability of 0, finite so that its product with 0 is."""


def build_loss(name: str) -> StructureLoss:
    """Return the loss that `TrainSettings.loss` names: logits (B, classes, I, J, K), labels (B, 1, I, J, K) -> scalar.

    Parameters
    ----------
    name
        "dice_ce", "dice_focal" or "tversky".

    Examples
    --------
    >>> logits = torch.zeros(1, 2, 4, 4, 4)
    >>> round(float(build_loss("tversky")(logits, torch.zeros(1, 1, 4, 4, 4).long())), 3) > 0
    True
    """
    missed, invented = (MISSED, INVENTED) if name == "tversky" else (0.5, 0.5)
    return StructureLoss(missed=missed, invented=invented, focal=name == "dice_focal")


class StructureLoss(nn.Module):
    """Overlap of each structure over the whole batch, and cross-entropy (or focal loss) of each voxel.

    Where everything was looked for it is MONAI's DiceCELoss, DiceFocalLoss, or TverskyLoss plus cross-entropy, without
    the background's overlap. A structure that was not looked for has no overlap of its own there, and none counts in
    the mean that was looked for nowhere in the batch.

    Parameters
    ----------
    missed, invented
        Weights of the two errors; one half each is Dice.
    focal
        Focal loss (gamma 2) in place of the cross-entropy.
    """

    def __init__(self, *, missed: float = 0.5, invented: float = 0.5, focal: bool = False) -> None:
        super().__init__()
        self.missed, self.invented = missed, invented
        self.focal = FocalLoss(include_background=False, gamma=2.0) if focal else None
        self.overlap: torch.Tensor | None = None
        """(structures,) the overlap that was seen last, 0 to 1; nan for what was not looked for or is not there."""

    def forward(self, logits: torch.Tensor, label: torch.Tensor, absent: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss.

        Parameters
        ----------
        logits
            (B, classes, I, J, K).
        label
            (B, 1, I, J, K) class indices.
        absent
            (B, classes, I, J, K) or (B, classes, 1, 1, 1) bool, True where a structure was not looked for; None:
            nowhere.
        """
        counted = torch.ones(logits.shape[1] - 1, dtype=torch.bool, device=logits.device)
        nothing: torch.Tensor | None = None
        if absent is not None:
            logits = join_unknown(logits, absent)
            counted = ~absent[:, 1:].transpose(0, 1).flatten(1).all(1)
            nothing = absent[:, 1:].all(1, keepdim=True)
            # A label of what was not looked for says no more than one of the background.
            label = torch.where(absent.expand_as(logits).gather(1, label), 0, label)
        logs = functional.log_softmax(logits, 1)
        overlap = self._overlap(logs, label)
        with torch.no_grad():
            seen = torch.bincount(label.flatten(), minlength=logits.shape[1])[1:] > 0
            self.overlap = torch.where(counted & seen, overlap, torch.nan)
        # Without a look at what is counted, which a GPU would have to be waited for.
        shape = torch.where(counted, 1 - overlap, 0).sum() / counted.sum().clamp_min(1)
        return shape + self._voxels(logits, logs, label, nothing)

    def _overlap(self, logs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return Tversky's index of each structure."""
        shares, n_classes = logs.exp(), logs.shape[1]
        found = shares.transpose(0, 1).flatten(1).sum(1)
        flat = label.flatten()
        true = torch.bincount(flat, minlength=n_classes).to(found.dtype)
        both = torch.zeros_like(found).index_add(0, flat, shares.gather(1, label).flatten())
        wrong = self.invented * (found - both) + self.missed * (true - both)
        # For Dice these are MONAI's terms halved, and so is what keeps a structure that is nowhere at 1.
        small = SMOOTH / 2 if self.missed == self.invented else SMOOTH
        return ((both + small) / (both + wrong + small))[1:]

    def _voxels(
        self, logits: torch.Tensor, logs: torch.Tensor, label: torch.Tensor, nothing: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the mean over the voxels about which anything is known."""
        if self.focal is not None:
            shares = functional.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1)
            focal: torch.Tensor = self.focal(logits, shares)
            return focal
        each = -logs.gather(1, label)
        if nothing is None:
            return each.mean()
        weight = (~nothing).to(each.dtype).expand_as(each)
        return (each * weight).sum() / weight.sum().clamp_min(1)


def on_grid_of(output: torch.Tensor, label: torch.Tensor, absent: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Return label and `absent` on the grid of an output that is coarser by whole numbers, by nearest neighbour."""
    factors = [n // m for n, m in zip(label.shape[2:], output.shape[2:], strict=True)]
    if max(factors) == 1:
        return [label, absent]
    i, j, k = (slice(factor // 2, None, factor) for factor in factors)
    whole = absent is not None and absent.shape[2:] == label.shape[2:]
    return [label[:, :, i, j, k], absent[:, :, i, j, k] if whole and absent is not None else absent]


def join_unknown(logits: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """Return logits whose softmax joins what was not looked for to the background.

    Parameters
    ----------
    logits
        (B, classes, I, J, K); class 0 is the background.
    absent
        (B, classes, I, J, K) or (B, classes, 1, 1, 1) bool, False for the background.

    Examples
    --------
    >>> shares = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1, 1)
    >>> absent = torch.tensor([False, True, False]).reshape(1, 3, 1, 1, 1)
    >>> [round(float(share), 2) for share in join_unknown(shares.log(), absent).softmax(1).flatten()]
    [0.7, 0.0, 0.3]
    """
    joins = absent.clone()
    joins[:, 0] = True
    background = torch.logsumexp(logits.masked_fill(~joins, -torch.inf), 1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(absent[:, 1:], NOTHING)], 1)
