"""A sheet of made images: three planes of each, beside them the labels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.labels import LabelTable
from voxmetry.plot.base import new_figure

WINDOW = (1.0, 99.5)
"""Percentiles of a picture that are black and white."""


def slice_sheet(rows: Sequence[tuple[NDArray[np.floating], NDArray[np.integer]]], labels: LabelTable) -> bytes:
    """Draw the middle slices of images and their labels.

    Parameters
    ----------
    rows
        Image (I, J, K) and label map of the same shape, along R, A, S.
    labels
        The table with the colours of the values.

    Returns
    -------
    bytes
        A PNG picture, one row an image.
    """
    colours = np.zeros((max(labels.values, default=0) + 1, 3))
    for item in labels:
        colours[item.value] = item.rgb
    figure = new_figure(12.0, 2.1 * len(rows))
    panels = figure.subplots(len(rows), 6, squeeze=False)
    for line, (image, label) in zip(panels, rows, strict=True):
        low, high = np.percentile(image, WINDOW)
        for axis in range(3):
            place = image.shape[axis] // 2
            flat, values = (np.take(array, place, axis).T[::-1] for array in (image, label))
            line[2 * axis].imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            line[2 * axis + 1].imshow(colours[values])
    for panel in panels.flat:
        panel.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return picture.getvalue()
