"""The sliding window: network scores for a volume of any size."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from monai.inferers import SlidingWindowInferer

from voxmetry.config import WindowSpec
from voxmetry.errors import InferenceError


def window_scores(
    network: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor, window: WindowSpec, *, batch: int = 1
) -> torch.Tensor:
    """Run the network over overlapping patches and blend them with a Gaussian.

    Parameters
    ----------
    network
        Patches (B, C, *patch) to logits; a module in evaluation mode on the tensor's device is one.
    tensor
        (1, C, I, J, K) float32. Smaller than the patch, it is padded with 0, which is the mean after normalisation.
    window
        Patch, overlap and the axes to mirror along.
    batch
        Patches run at once.

    Returns
    -------
    Tensor
        (1, n_classes, I, J, K) float32 logits on the tensor's device, averaged over the mirror images.

    Raises
    ------
    InferenceError
        If a score is not finite.
    """
    inferer = SlidingWindowInferer(
        roi_size=window.patch, sw_batch_size=batch, overlap=window.overlap, mode="gaussian", padding_mode="constant"
    )
    turns: list[tuple[int, ...]] = [()]
    for axis in window.mirror_axes:
        turns += [(*turn, axis + 2) for turn in turns]
    total = torch.zeros(())
    with torch.inference_mode(), warnings.catch_warnings():
        # MONAI 1.6 indexes with a list where torch wants a tuple.
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)
        for turn in turns:
            scores = inferer(torch.flip(tensor, turn), network)
            total = total.to(tensor.device) + torch.flip(scores, turn).float() / len(turns)
    if not bool(torch.isfinite(total).all()):
        raise InferenceError(
            found="the network returned scores that are not finite",
            expected="finite scores",
            fix="run on another device or in float32; if it stays, the weights are damaged",
        )
    return total
