"""Small pictures of a study: one for tables of many, one of what a run found."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.layout import PlaneMask, sections
from voxmetry.report.pictures.planes import PLANES, PlaneName, plane_of
from voxmetry.report.pictures.uptake import OPAQUE, sampled, top_of
from voxmetry.report.pictures.window import display_window

PIXELS = 112
"""Longer side of a thumbnail."""
PREVIEW_PIXELS = 360
"""Height of a preview; it is three pictures wide."""
_GAP = 4
_PALETTE = 64


def render_thumbnail(volume: Volume, segmentation: Segmentation) -> bytes:
    """Draw the axial slice that shows most of the segmentation, with the outlines of its structures, as PNG.

    Without any structure it is the middle slice. The picture is turned as radiologists see it, and pixels are as high
    and as wide as the voxels' millimetres ask for.

    Parameters
    ----------
    volume
        The image (I, J, K).
    segmentation
        Labels on its grid.
    """
    return _png(_slice_of(volume, segmentation, "axial", PIXELS), _PALETTE)


def render_preview(volume: Volume, segmentation: Segmentation, others: Sequence[Volume] = ()) -> bytes:
    """Draw the slice of each plane that shows most of the segmentation, side by side, as PNG: what a run found.

    Parameters
    ----------
    volume
        The image (I, J, K).
    segmentation
        Labels on its grid.
    others
        Further images of the study: a PET is laid over the image in colour.
    """
    overlay = others[0] if others and others[0].unit == "SUVbw" else None
    pictures = [_slice_of(volume, segmentation, name, PREVIEW_PIXELS, overlay) for name in PLANES]
    canvas = np.zeros((PREVIEW_PIXELS, 3 * PREVIEW_PIXELS + 2 * _GAP, 3), np.uint8)
    for place, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top, left = (PREVIEW_PIXELS - height) // 2, place * (PREVIEW_PIXELS + _GAP) + (PREVIEW_PIXELS - width) // 2
        canvas[top : top + height, left : left + width] = picture
    return _png(canvas, 256)


def _slice_of(
    volume: Volume, segmentation: Segmentation, name: PlaneName, pixels: int, overlay: Volume | None = None
) -> NDArray[np.uint8]:
    plane = plane_of(volume.geometry, name)
    shown = sections(PlaneMask(segmentation.array, 0, other=True))[plane.normal]
    index = int(shown.argmax()) if shown.any() else shown.size // 2
    low, high = display_window(volume)
    grey = np.clip((plane.picture(volume.array, index).astype(np.float32) - low) / (high - low), 0, 1) * 255
    labels = plane.picture(segmentation.array, index)
    height, width = plane.size_mm
    scale = pixels / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.array(Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    if overlay is not None:
        share = np.clip(sampled(overlay, volume.geometry, plane, index) / top_of(overlay), 0, 1).astype(np.float32)
        share = np.array(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))
        picture = _mixed(picture, share)
    masks = Image.fromarray(np.ascontiguousarray(labels.astype(np.int32))).resize(size, Image.Resampling.NEAREST)
    return _outline(picture, np.array(masks), segmentation)


def _mixed(picture: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay uptake, as a share of what is brightest, over a picture: from black over red and yellow to white."""
    colour = np.stack([np.clip(3 * share - start, 0, 1) for start in (0, 1, 2)], axis=-1) * 255
    opaque = (OPAQUE * np.sqrt(share))[..., None]
    return np.round(picture * (1 - opaque) + colour * opaque).astype(np.uint8)


def _png(picture: NDArray[np.uint8], colours: int) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(picture).quantize(colours).save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def _outline(picture: NDArray[np.uint8], labels: NDArray[np.int32], segmentation: Segmentation) -> NDArray[np.uint8]:
    for value in np.unique(labels[labels > 0]).tolist():
        mask = labels == value
        colour = segmentation.labels.by_value(value).colour
        picture[mask & ~ndimage.binary_erosion(mask)] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return picture
