"""A small picture of a study: for tables of many."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.layout import sections
from voxmetry.report.pictures.planes import plane_of
from voxmetry.report.pictures.window import display_window

PIXELS = 112
"""Longer side of a thumbnail."""
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
    plane = plane_of(volume.geometry, "axial")
    shown = sections(segmentation.array != 0)[plane.normal]
    index = int(shown.argmax()) if shown.any() else shown.size // 2
    low, high = display_window(volume)
    grey = np.clip((plane.picture(volume.array, index).astype(np.float32) - low) / (high - low), 0, 1) * 255
    labels = plane.picture(segmentation.array, index)
    height, width = plane.size_mm
    scale = PIXELS / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    masks = Image.fromarray(np.ascontiguousarray(labels.astype(np.int32))).resize(size, Image.Resampling.NEAREST)
    coloured = _outline(np.array(picture), np.array(masks), segmentation)
    packed = io.BytesIO()
    Image.fromarray(coloured).quantize(_PALETTE).save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def _outline(picture: NDArray[np.uint8], labels: NDArray[np.int32], segmentation: Segmentation) -> NDArray[np.uint8]:
    for value in np.unique(labels[labels > 0]).tolist():
        mask = labels == value
        colour = segmentation.labels.by_value(value).colour
        picture[mask & ~ndimage.binary_erosion(mask)] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return picture
