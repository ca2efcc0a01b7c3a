"""The sliding window: network scores for a volume of any size."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import torch
from monai.inferers import SlidingWindowInferer

from voxmetry.config import WindowSpec
from voxmetry.errors import InferenceError
from voxmetry.nn.tiles import even_starts, nnunet_importance


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
    if window.placement == "nnunet":
        return _nnunet_scores(network, tensor, window)
    inferer = SlidingWindowInferer(
        roi_size=window.patch,
        sw_batch_size=batch,
        overlap=window.overlap,
        mode=window.blending,
        padding_mode="constant",
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
    _require_finite(total)
    return total


def _nnunet_scores(
    network: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor, window: WindowSpec
) -> torch.Tensor:
    """Run the network as nnU-Net places its windows; each patch is mirrored by itself."""
    shape = tensor.shape[2:]
    short = [max(0, patch - size) for patch, size in zip(window.patch, shape, strict=True)]
    pads = [part for missing in reversed(short) for part in (missing // 2, missing - missing // 2)]
    padded = torch.nn.functional.pad(tensor, pads)
    weights = nnunet_importance(window.patch).to(tensor.device)
    sizes = zip(padded.shape[2:], window.patch, strict=True)
    starts = [even_starts(size, patch, window.overlap) for size, patch in sizes]
    turns: list[tuple[int, ...]] = [()]
    for axis in window.mirror_axes:
        turns += [(*turn, axis + 2) for turn in turns]
    total = count = torch.zeros(())
    with torch.inference_mode():
        for corner in itertools.product(*starts):
            i, j, k = (slice(start, start + size) for start, size in zip(corner, window.patch, strict=True))
            patch = padded[..., i, j, k]
            images = [torch.flip(network(torch.flip(patch, turn)), turn).float() for turn in turns]
            scores = torch.stack(images).mean(0)
            if total.ndim == 0:
                total = torch.zeros((*scores.shape[:2], *padded.shape[2:]), device=scores.device)
                count = torch.zeros(padded.shape[2:], device=scores.device)
            total[..., i, j, k] += scores * weights
            count[i, j, k] += weights
    _require_finite(total)
    i, j, k = (slice(missing // 2, missing // 2 + size) for missing, size in zip(short, shape, strict=True))
    return (total / count)[..., i, j, k]


def _require_finite(scores: torch.Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise InferenceError(
            found="the network returned scores that are not finite",
            expected="finite scores",
            fix="run on another device or in float32; if it stays, the weights are damaged",
        )
