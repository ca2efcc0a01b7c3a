"""What Mask R-CNN makes small: of proposals, of boxes, of masks, and of the semantic map beside them.

He et al. 2017, arXiv 1703.06870. Anchors are matched by ATSS (Zhang 2020, arXiv 1912.02424).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.hard_negative_sampler import HardNegativeSampler
from monai.data.box_utils import box_iou
from torch import nn
from torch.nn import functional

from voxmetry.nn.networks.mask_rcnn import Features, MaskRcnn, enlarged
from voxmetry.nn.networks.roi_align import sample_at, sample_points
from voxmetry.ops.boxes import label_boxes

CANDIDATES = 4
"""Anchors nearest to a box on each level that ATSS looks at, for each anchor shape."""
ANCHORS, ANCHOR_SHARE, POOL = 64, 0.33, 20.0
"""Anchors of an image that a step learns from, the share of them that hold a thing, and from how many times as many of
the hardest the others are drawn."""
MATCH_IOU = 0.5
"""A proposal with a larger IoU with a thing's box holds it."""
POSITIVE_SHARE = 0.5
"""Most of the boxes of the second stage that hold a thing."""
BETA = 1 / 9
"""Below this an offset's error counts squared."""


@dataclass(frozen=True, eq=False)
class Target:
    """The instances of one image.

    Parameters
    ----------
    boxes
        (N, 6) float32; see `nn.networks.roi_align`.
    things
        (N,) int64, the place in `MaskRcnn.things`.
    ids
        (N,) the values of the instances in `map`.
    map
        (I, J, K) the instance of each voxel, 0 for none.
    """

    boxes: torch.Tensor
    things: torch.Tensor
    ids: torch.Tensor
    map: torch.Tensor


def targets_of(instances: torch.Tensor, label: torch.Tensor, things: Sequence[int]) -> list[Target]:
    """Find boxes and structures of the instances in patches.

    Parameters
    ----------
    instances
        (B, 1, I, J, K) whole numbers.
    label
        (B, 1, I, J, K) class indices: an instance is of the class that most of its voxels have.
    things
        Class indices of the structures whose instances count.

    Examples
    --------
    >>> patch = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    >>> patch[0, 0, 1:3, :2, 3] = 7
    >>> found, = targets_of(patch, (patch > 0).long(), [1])
    >>> found.boxes.tolist(), found.ids.tolist()
    ([[1.0, 0.0, 3.0, 3.0, 2.0, 4.0]], [7])
    """
    found = []
    for row, classes in zip(instances[:, 0], label[:, 0], strict=True):
        array, known = row.cpu().numpy(), classes.cpu().numpy()
        values = np.flatnonzero(np.bincount(array.ravel(), minlength=1)[1:]) + 1
        number = np.zeros(int(array.max()) + 1, np.int32)
        number[values] = np.arange(1, len(values) + 1)
        dense = number[array]
        boxes, kinds, ids = [], [], []
        for place, box in label_boxes(dense).items():
            inside = known[box][dense[box] == place]
            kind = int(np.bincount(inside).argmax())
            if kind in things:
                boxes.append([*(float(s.start) for s in box), *(float(s.stop) for s in box)])
                kinds.append(list(things).index(kind))
                ids.append(int(values[place - 1]))
        device = row.device
        found.append(
            Target(
                torch.tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 6),
                torch.tensor(kinds, dtype=torch.long, device=device),
                torch.tensor(ids, dtype=row.dtype, device=device),
                row,
            )
        )
    return found


class InstanceLoss:
    """The sum of all terms, as a function of the network and its features.

    Parameters
    ----------
    targets
        The instances of each image of the batch.
    semantic
        The loss of the semantic map, logits (B, n_classes, I, J, K) and labels (B, 1, I, J, K) to a scalar.
    label
        (B, 1, I, J, K) class indices.
    seed
        Decides which anchors and boxes are drawn.
    """

    def __init__(self, targets: Sequence[Target], semantic: nn.Module, label: torch.Tensor, *, seed: int) -> None:
        self.targets, self.semantic, self.label, self.seed = list(targets), semantic, label, seed
        self.parts: dict[str, float] = {}
        """The terms that were seen last."""

    def __call__(self, network: MaskRcnn, found: Features) -> torch.Tensor:
        """Return the loss."""
        devices = [found.semantic.device] if found.semantic.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            terms = proposal_losses(network, found, self.targets)
            boxes = sampled_boxes(network, found, self.targets, terms.pop("logits"), terms.pop("offsets"))
            terms |= box_losses(network, found, self.targets, boxes)
            terms["mask"] = mask_loss(network, found, self.targets, boxes)
        terms["semantic"] = self.semantic(found.semantic.float(), self.label)
        self.parts = {name: float(term.detach()) for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()


def proposal_losses(network: MaskRcnn, found: Features, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
    """Return the losses of the first stage, "proposal" and "proposal_box", and its "logits" and "offsets"."""
    logits, offsets = network.propose(found)
    anchors, shapes = network.anchor_boxes(found), len(network.spec.anchors_mm)
    matcher = ATSSMatcher(CANDIDATES, box_iou, center_in_gt=False)
    sampler = HardNegativeSampler(ANCHORS, ANCHOR_SHARE, min_neg=ANCHORS // 4, pool_size=POOL)
    places = [int(np.prod(level.shape[2:])) for level in network.proposal_levels(found)]
    matches = [matcher(target.boxes, anchors, places, shapes)[1].to(anchors.device) for target in targets]
    holds = [(match >= 0).float() for match in matches]
    chosen = sampler(holds, logits.detach().sigmoid().flatten())
    positive, negative = (torch.stack([mask.bool() for mask in masks]) for masks in chosen)
    picked = positive | negative
    truth = torch.stack(holds)
    near = [moved[mask] for moved, mask in zip(offsets, positive, strict=True)]
    wanted = [
        network.coder.encode_single(target.boxes[match[mask]], anchors[mask]) if bool(mask.any()) else anchors[:0]
        for target, match, mask in zip(targets, matches, positive, strict=True)
    ]
    return {
        "logits": logits,
        "offsets": offsets,
        "proposal": functional.binary_cross_entropy_with_logits(logits[picked], truth[picked]),
        "proposal_box": _offsets_loss(torch.cat(near), torch.cat(wanted), count=int(picked.sum())),
    }


@dataclass(frozen=True, eq=False)
class Sampled:
    """Boxes of one image for the second stage.

    Parameters
    ----------
    boxes
        (N, 6).
    match
        (N,) the place of the thing that each holds in its `Target`, -1 for none.
    """

    boxes: torch.Tensor
    match: torch.Tensor


def sampled_boxes(
    network: MaskRcnn, found: Features, targets: Sequence[Target], logits: torch.Tensor, offsets: torch.Tensor
) -> list[Sampled]:
    """Draw boxes of each image among the proposals and the things' own boxes."""
    proposals = network.proposals(logits.detach(), offsets.detach(), network.anchor_boxes(found), found.shape)
    chosen = []
    for own, target in zip(proposals, targets, strict=True):
        boxes = torch.cat([own, target.boxes])
        match = torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
        if len(target.boxes):
            best = box_iou(boxes, target.boxes).max(dim=1)
            match = torch.where(best.values >= MATCH_IOU, best.indices, match)
        positive, negative = (torch.nonzero(part).flatten() for part in (match >= 0, match < 0))
        most = network.spec.samples
        positive = _drawn(positive, int(POSITIVE_SHARE * most))
        picked = torch.cat([positive, _drawn(negative, most - len(positive))])
        chosen.append(Sampled(boxes[picked], match[picked]))
    return chosen


def _drawn(places: torch.Tensor, most: int) -> torch.Tensor:
    return places[torch.randperm(len(places), device=places.device)[:most]]


def box_losses(
    network: MaskRcnn, found: Features, targets: Sequence[Target], sampled: Sequence[Sampled]
) -> dict[str, torch.Tensor]:
    """Return the losses of the second stage: "class" and "box"."""
    classes, moved = network.classify(found, [own.boxes for own in sampled])
    holds = torch.cat([own.match >= 0 for own in sampled])
    truth, wanted = [], []
    for own, target in zip(sampled, targets, strict=True):
        there = own.match >= 0
        kinds = torch.zeros_like(own.match)
        kinds[there] = 1 + target.things[own.match[there]]
        truth.append(kinds)
        if bool(there.any()):
            wanted.append(network.refiner.encode_single(target.boxes[own.match[there]], own.boxes[there]))
    if not len(classes):
        nothing = (network.classifying.logits.weight.sum() + network.classifying.offsets.weight.sum()) * 0
        return {"class": nothing, "box": nothing}
    return {
        "class": functional.cross_entropy(classes, torch.cat(truth)),
        "box": _offsets_loss(moved[holds], torch.cat(wanted) if wanted else moved[:0], count=len(classes)),
    }


def mask_loss(
    network: MaskRcnn, found: Features, targets: Sequence[Target], sampled: Sequence[Sampled]
) -> torch.Tensor:
    """Return cross-entropy and Dice of the masks of boxes that hold a thing."""
    boxes, truth, things = [], [], []
    size = 2 * network.spec.mask_size
    for own, target in zip(sampled, targets, strict=True):
        at = torch.nonzero(own.match >= 0).flatten()[: network.spec.mask_samples]
        boxes.append(own.boxes[at])
        things.append(target.things[own.match[at]])
        points = sample_points(enlarged(own.boxes[at]), size)
        for place, where in zip(own.match[at].tolist(), points, strict=True):
            inside = (target.map == target.ids[place]).float()
            truth.append(sample_at(inside[None], where[None])[0, 0] >= 0.5)
    if not truth:
        # A box of nothing, so that each weight has a gradient in each step.
        whole = torch.tensor([[0.0, 0.0, 0.0, *map(float, found.shape)]], device=found.semantic.device)
        return network.draw(found, [whole, *[whole[:0]] * (len(targets) - 1)]).sum() * 0
    chosen = torch.cat(things)
    logits = network.draw(found, boxes)[torch.arange(len(chosen), device=chosen.device), chosen]
    wanted = torch.stack(truth).float()
    share = logits.sigmoid()
    overlap = (2 * (share * wanted).flatten(1).sum(1) + 1) / ((share + wanted).flatten(1).sum(1) + 1)
    return functional.binary_cross_entropy_with_logits(logits, wanted) + (1 - overlap).mean()


def _offsets_loss(found: torch.Tensor, wanted: torch.Tensor, *, count: int) -> torch.Tensor:
    return functional.smooth_l1_loss(found, wanted, beta=BETA, reduction="sum") / max(1, count)
