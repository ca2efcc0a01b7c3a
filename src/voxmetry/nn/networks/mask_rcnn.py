"""Mask R-CNN in 3-D: a feature pyramid, proposals, boxes that are classified and refined, a mask in each.

He et al. 2017, arXiv 1703.06870. A head for the semantic map lies beside the two stages (Jaeger et al. 2018, arXiv
1811.08661). Boxes are as in `roi_align`: (x0, y0, z0, x1, y1, z1) in voxels of the patch, on edges.

In evaluation mode the network is a function from patches to the logits of the semantic map, as any other; `detect`
returns the instances of the same pass. What it is trained by is in `train.instance_losses`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.data.box_utils import non_max_suppression
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import nn
from torch.nn import functional

from voxmetry.config.networks import MaskRcnnNetwork, NnunetNetwork
from voxmetry.nn.networks.dynunet import to_depth, to_space
from voxmetry.nn.networks.nnunet import NnunetEncoder
from voxmetry.nn.networks.roi_align import roi_align, sample_at

PROPOSAL_IOU = 0.7
"""Of two proposals with a larger IoU the one with the lower score is left out."""
BEFORE_NMS = 1000
"""Proposals of a window that suppression is done among."""
LEAST_SIDE = 1.0
"""Voxels: a box that is shorter along an axis is none."""
MASK_MARGIN = 0.1
"""Share of a box's length that is added on both sides where its mask is drawn: a mask may leave a box that is a little
too small."""
BOX_WEIGHTS = (10.0, 10.0, 10.0, 5.0, 5.0, 5.0)
"""By which the second stage's offsets are multiplied, so that they are as large as other terms of the loss."""


@dataclass(frozen=True, eq=False)
class Features:
    """What one pass of the pyramid gives for patches.

    Parameters
    ----------
    levels
        (B, C, ...) each, finest first, from `pyramid_level` down.
    semantic
        Logits (B, n_classes, I, J, K) of the semantic map.
    shape
        I, J, K.
    """

    levels: list[torch.Tensor]
    semantic: torch.Tensor
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Found:
    """Instances of one window.

    Parameters
    ----------
    boxes
        (N, 6).
    scores
        (N,) 0 to 1, falling.
    things
        (N,) int64, the place in `MaskRcnn.things`.
    masks
        (N, S, S, S) logits in the boxes, enlarged by `MASK_MARGIN`.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    things: torch.Tensor
    masks: torch.Tensor


class MaskRcnn(nn.Module):
    """The network.

    Parameters
    ----------
    spec
        What it is made of.
    n_inputs, n_classes
        Channels in, and classes of the semantic map with the background.
    things
        Class indices of the structures whose instances are told apart.
    spacing_mm
        Of the model's grid.
    """

    def __init__(
        self,
        spec: MaskRcnnNetwork,
        *,
        n_inputs: int,
        n_classes: int,
        things: Sequence[int],
        spacing_mm: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.spec, self.things = spec, tuple(things)
        self.encoder = NnunetEncoder(_encoder(spec), n_inputs * math.prod(spec.space_to_depth))
        pyramid = spec.channels[spec.pyramid_level :]
        self.pyramid = FeaturePyramidNetwork(3, list(pyramid), spec.pyramid_channels)
        self.strides = [spec.stride(level) for level in range(spec.pyramid_level, len(spec.channels))]
        self.proposing = ProposalHead(spec.pyramid_channels, len(spec.anchors_mm))
        self.classifying = BoxHead(spec, len(self.things))
        self.drawing = MaskHead(spec, len(self.things))
        self.semantic = SemanticHead(spec, n_classes)
        self.anchors = _anchor_generator(spec, spacing_mm)
        self.coder = BoxCoder((1.0,) * 6)
        self.refiner = BoxCoder(BOX_WEIGHTS)

    def forward(
        self, x: torch.Tensor, learn: Callable[[MaskRcnn, Features], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return logits (B, n_classes, I, J, K) of the semantic map for patches (B, n_inputs, I, J, K).

        With `learn`, return what it makes of the network and of the features: the loss. Training goes through here, so
        that precision and processes apply to all of it.
        """
        found = self.features(x)
        return found.semantic if learn is None else learn(self, found)

    def features(self, x: torch.Tensor) -> Features:
        """Run encoder, pyramid and semantic head."""
        levels = self.encoder(to_depth(x, self.spec.space_to_depth))
        named = OrderedDict((str(place), level) for place, level in enumerate(levels[self.spec.pyramid_level :]))
        pyramid = list(self.pyramid(named).values())
        semantic = self.semantic(pyramid[0], levels[0])
        i, j, k = x.shape[2:]
        return Features(pyramid, semantic, (i, j, k))

    def proposal_levels(self, found: Features) -> list[torch.Tensor]:
        """Return the levels of the pyramid that proposals are made on."""
        return [found.levels[level - self.spec.pyramid_level] for level in self.spec.proposal_levels]

    def anchor_boxes(self, found: Features) -> torch.Tensor:
        """Return the boxes that proposals start from: (A, 6) float32, level after level, voxel after voxel."""
        levels = self.proposal_levels(found)
        image = levels[0].new_zeros((1, 1, *found.shape), dtype=torch.float32)
        boxes: torch.Tensor = self.anchors(image, [level.float() for level in levels])[0]
        return boxes

    def propose(self, found: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for all anchors how likely each holds a thing, logits (B, A), and its offsets (B, A, 6)."""
        return self.proposing(self.proposal_levels(found))

    @torch.no_grad()
    def proposals(
        self, logits: torch.Tensor, offsets: torch.Tensor, anchors: torch.Tensor, shape: tuple[int, int, int]
    ) -> list[torch.Tensor]:
        """Choose the boxes (N, 6) of each image that go on to the second stage."""
        chosen = []
        for scores, moved in zip(logits.float(), offsets.float(), strict=True):
            best = scores.topk(min(BEFORE_NMS, len(scores))).indices
            boxes = clipped(self.coder.decode_single(moved[best], anchors[best]), shape)
            large = is_box(boxes)
            boxes, kept = boxes[large], scores[best][large]
            order = non_max_suppression(boxes, kept, PROPOSAL_IOU, self.spec.proposals)
            chosen.append(boxes[order])
        return chosen

    def classify(self, found: Features, boxes: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N, 1 + things), nothing first, and offsets (N, 6) for the boxes of all images together."""
        return self.classifying(roi_align(found.levels, self.strides, boxes, self.spec.box_size))

    def draw(self, found: Features, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits (N, things, S, S, S) of masks in the boxes, each enlarged by `MASK_MARGIN`."""
        wide = [enlarged(own) for own in boxes]
        return self.drawing(roi_align(found.levels, self.strides, wide, self.spec.mask_size))

    @torch.no_grad()
    def detect(self, x: torch.Tensor) -> tuple[torch.Tensor, list[Found]]:
        """Return the semantic map's logits (B, n_classes, I, J, K) for patches, and the instances in each."""
        seen = self.features(x)
        logits, offsets = self.propose(seen)
        boxes = self.proposals(logits, offsets, self.anchor_boxes(seen), seen.shape)
        classes, moved = self.classify(seen, boxes)
        counts = [len(own) for own in boxes]
        chosen = [
            self._choose(*parts, seen.shape)
            for parts in zip(boxes, classes.float().split(counts), moved.float().split(counts), strict=True)
        ]
        masks = self.draw(seen, [own for own, _, _ in chosen]).float().split([len(own) for own, _, _ in chosen])
        found = []
        for (own, scores, things), drawn in zip(chosen, masks, strict=True):
            found.append(Found(own, scores, things, drawn[torch.arange(len(own), device=own.device), things]))
        return seen.semantic, found

    def _choose(
        self, boxes: torch.Tensor, classes: torch.Tensor, moved: torch.Tensor, shape: tuple[int, int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Refine boxes, and leave out those that hold nothing, lie at the place of a better one, or are too many."""
        shares = classes.softmax(1)[:, 1:]
        refined = clipped(self.refiner.decode_single(moved, boxes), shape)
        rows, things = torch.nonzero((shares >= self.spec.min_score) & is_box(refined)[:, None], as_tuple=True)
        own, scores = refined[rows], shares[rows, things]
        kept = []
        for thing in range(len(self.things)):
            at = torch.nonzero(things == thing).flatten()
            kept.append(at[non_max_suppression(own[at], scores[at], self.spec.max_iou)])
        order = torch.cat(kept)
        order = order[scores[order].argsort(descending=True, stable=True)][: self.spec.most]
        return own[order], scores[order], things[order]


class ProposalHead(nn.Module):
    """How likely each anchor holds a thing, and where its box lies: the same layers for all levels."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.layer = nn.Conv3d(channels, channels, 3, padding=1)
        self.logits = nn.Conv3d(channels, anchors, 1)
        self.offsets = nn.Conv3d(channels, 6 * anchors, 1)
        # Of the anchors one in a hundred holds a thing at first (Lin 2017, arXiv 1708.02002).
        for layer, bias in ((self.logits, -math.log(99.0)), (self.offsets, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias = nn.Parameter(torch.full((layer.out_channels,), bias))

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, A) and (B, A, 6), in the order of `MaskRcnn.anchor_boxes`."""
        logits, offsets = [], []
        for level in levels:
            x = functional.relu(self.layer(level))
            logits.append(self.logits(x).movedim(1, -1).flatten(1))
            offsets.append(self.offsets(x).movedim(1, -1).reshape(len(x), -1, 6))
        return torch.cat(logits, 1).float(), torch.cat(offsets, 1).float()


class BoxHead(nn.Module):
    """What a box holds, and how to refine it."""

    def __init__(self, spec: MaskRcnnNetwork, things: int) -> None:
        super().__init__()
        wide = spec.pyramid_channels * spec.box_size**3
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(wide, spec.head_channels),
            nn.LayerNorm(spec.head_channels),
            nn.ReLU(inplace=True),
            nn.Linear(spec.head_channels, spec.head_channels),
            nn.LayerNorm(spec.head_channels),
            nn.ReLU(inplace=True),
        )
        self.logits = nn.Linear(spec.head_channels, 1 + things)
        self.offsets = nn.Linear(spec.head_channels, 6)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (N, 1 + things) and (N, 6) for features (N, C, s, s, s)."""
        x = self.layers(x)
        return self.logits(x).float(), self.offsets(x).float()


class MaskHead(nn.Module):
    """The mask of a thing in a box, twice as fine as the features."""

    def __init__(self, spec: MaskRcnnNetwork, things: int) -> None:
        super().__init__()
        channels, self.things = spec.pyramid_channels, things
        self.layers = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose3d(channels, max(8, channels // 2), 2, 2),
            nn.ReLU(inplace=True),
            nn.Conv3d(max(8, channels // 2), things, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, things, 2 s, 2 s, 2 s) for features (N, C, s, s, s)."""
        if not len(x):
            return x.new_zeros((0, self.things, *(2 * size for size in x.shape[2:])))
        drawn: torch.Tensor = self.layers(x)
        return drawn.float()


class SemanticHead(nn.Module):
    """The semantic map at full resolution, from the finest level of the pyramid and the first of the encoder."""

    def __init__(self, spec: MaskRcnnNetwork, n_classes: int) -> None:
        super().__init__()
        first, wide = spec.channels[0], spec.pyramid_channels
        self.narrow = nn.Conv3d(wide, first, 1)
        self.layers = nn.Sequential(
            nn.Conv3d(2 * first, first, 3, padding=1),
            nn.InstanceNorm3d(first, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv3d(first, n_classes * math.prod(spec.space_to_depth), 1),
        )
        self.block = spec.space_to_depth

    def forward(self, pyramid: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return logits (B, n_classes, I, J, K)."""
        up = functional.interpolate(self.narrow(pyramid), size=first.shape[2:], mode="trilinear", align_corners=False)
        return to_space(self.layers(torch.cat([up, first], 1)), self.block)


def _encoder(spec: MaskRcnnNetwork) -> NnunetNetwork:
    levels = len(spec.channels)
    blocks = spec.encoder_blocks * (2 if spec.encoder == "plain" else 1)
    return NnunetNetwork(
        kind="nnunet",
        encoder=spec.encoder,
        channels=spec.channels,
        strides=spec.strides,
        kernels=spec.kernels,
        encoder_blocks=(blocks,) * levels,
        decoder_convolutions=(1,) * (levels - 1),
    )


def _anchor_generator(spec: MaskRcnnNetwork, spacing_mm: tuple[float, float, float]) -> AnchorGeneratorWithAnchorShape:
    shapes = [[mm / step for mm, step in zip(shape, spacing_mm, strict=True)] for shape in spec.anchors_mm]
    return AnchorGeneratorWithAnchorShape([2.0**place for place in range(len(spec.proposal_levels))], shapes)


def clipped(boxes: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return boxes (N, 6) cut off at the edges of a patch."""
    most = torch.tensor([*shape, *shape], device=boxes.device, dtype=boxes.dtype)
    return boxes.clamp_min(0).minimum(most)


def is_box(boxes: torch.Tensor) -> torch.Tensor:
    """Say of each box (N, 6) whether it is `LEAST_SIDE` long along each axis at least, (N,) bool."""
    return ((boxes[:, 3:] - boxes[:, :3]) >= LEAST_SIDE).all(1)


def enlarged(boxes: torch.Tensor) -> torch.Tensor:
    """Return boxes (N, 6) with `MASK_MARGIN` on both sides of each axis."""
    more = MASK_MARGIN * (boxes[:, 3:] - boxes[:, :3])
    return torch.cat([boxes[:, :3] - more, boxes[:, 3:] + more], 1)


def mask_in_voxels(
    mask: torch.Tensor, box: torch.Tensor, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """Return a mask's logits on the voxels of the patch.

    Parameters
    ----------
    mask
        (S, S, S) logits in the box, enlarged by `MASK_MARGIN`.
    box
        (6,).
    shape
        Of the patch.

    Returns
    -------
    logits
        (i, j, k) of the voxels whose centre the enlarged box holds; may be empty.
    place
        Where in the patch they lie.
    """
    wide = enlarged(box[None])[0].cpu()
    low = torch.ceil(wide[:3] - 0.5).clamp_min(0).long().tolist()
    high = torch.floor(wide[3:] + 0.5).long().tolist()
    i, j, k = (slice(a, max(a, min(b, n))) for a, b, n in zip(low, high, shape, strict=True))
    if any(s.stop == s.start for s in (i, j, k)):
        return mask.new_zeros([s.stop - s.start for s in (i, j, k)]), (i, j, k)
    centres = torch.meshgrid(*(torch.arange(s.start, s.stop) + 0.5 for s in (i, j, k)), indexing="ij")
    points = (torch.stack(centres, -1) - wide[:3]) / (wide[3:] - wide[:3]) * torch.tensor(mask.shape)
    drawn = sample_at(mask[None], points[None].to(mask.device))[0, 0]
    return drawn, (i, j, k)
