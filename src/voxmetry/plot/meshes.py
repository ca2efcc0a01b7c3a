"""Structures as surfaces in patient space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import clean
from voxmetry.errors import LabelError
from voxmetry.ops.boxes import boxes_of
from voxmetry.plot.base import new_figure

MOST_VOXELS = 60
"""Longest edge of a structure's box in samples; a larger one is thinned out, which no eye sees at this size."""


def surfaces(segmentation: Segmentation, labels: Sequence[str] | None = None) -> Figure:
    """Draw the surfaces of structures from the front, the left and above, in mm.

    The surface runs halfway between the voxels inside and outside (marching cubes) and is drawn in patient space, so
    that an oblique grid is turned as the patient lay.

    Parameters
    ----------
    segmentation
        The label map, (I, J, K).
    labels
        The structures to draw; None draws all that are there.

    Raises
    ------
    LabelError
        If a name is not in the table, or none of the structures has a voxel.

    Examples
    --------
    >>> from voxmetry import LabelTable
    >>> grid = Geometry(np.diag([1.0, 1.5, 3.0, 1.0]), (30, 20, 10))
    >>> array = np.zeros(grid.shape, np.uint8)
    >>> array[5:12, 4:9, 3:7] = 1
    >>> figure = surfaces(Segmentation(array, grid, LabelTable.from_names({1: "liver"})))
    >>> [axes.get_title() for axes in figure.axes]
    ['from the front', 'from the left', 'from above']
    """
    wanted = [segmentation.labels[name] for name in labels] if labels is not None else list(segmentation.labels)
    boxes = boxes_of(segmentation)
    meshes = [
        (label, _mesh(segmentation.array[boxes[label.value]] == label.value, boxes[label.value], segmentation.geometry))
        for label in wanted
        if label.value in boxes
    ]
    if not meshes:
        raise LabelError(
            found="no voxel of the structures to draw",
            expected="at least one structure that is there",
            fix="name structures that were found, or leave labels out",
        )
    figure = new_figure(9.0, 3.6)
    points = np.concatenate([mesh.reshape(-1, 3) for _, mesh in meshes])
    middle, half = (points.min(0) + points.max(0)) / 2, float(np.ptp(points, axis=0).max()) / 2
    light = LightSource(azdeg=225, altdeg=45)
    views = (("from the front", 0, 90), ("from the left", 0, 180), ("from above", 90, 90))
    for place, (title, elevation, azimuth) in enumerate(views, start=1):
        axes: Any = figure.add_subplot(1, 3, place, projection="3d", proj_type="ortho")
        for label, mesh in meshes:
            axes.add_collection3d(
                # Without smoothed edges no seam shows between the triangles.
                Poly3DCollection(
                    mesh, facecolors=label.colour, shade=True, lightsource=light, linewidths=0, antialiaseds=False
                )
            )
        axes.set(
            xlim=(middle[0] - half, middle[0] + half),
            ylim=(middle[1] - half, middle[1] + half),
            zlim=(middle[2] - half, middle[2] + half),
        )
        axes.set_box_aspect((1, 1, 1), zoom=1.35)
        axes.view_init(elev=elevation, azim=azimuth)
        axes.set_axis_off()
        axes.set_title(title, fontsize=9)
    figure.subplots_adjust(left=0, right=1, bottom=0.1, top=0.93, wspace=0)
    figure.text(0.015, 0.045, f"each view {2 * half:.0f} mm wide", fontsize=8.5, va="center")
    for place, (label, _) in enumerate(meshes[:6]):
        x = 0.25 + 0.125 * place
        figure.text(x, 0.045, "■", color=label.colour, fontsize=10, va="center")
        figure.text(x + 0.018, 0.045, clean(label.name), fontsize=8.5, va="center", parse_math=False)
    return figure


def _mesh(mask: NDArray[np.bool_], box: tuple[slice, ...], geometry: Geometry) -> NDArray[np.float64]:
    """Return the triangles (N, 3, 3) of a mask's surface in RAS mm."""
    from skimage.measure import marching_cubes

    step = max(1, -(-max(mask.shape) // MOST_VOXELS))
    vertices, faces, _, _ = marching_cubes(np.pad(mask, step).astype(np.float32), 0.5, step_size=step)
    ijk = vertices - step + np.array([part.start for part in box])
    triangles: NDArray[np.float64] = geometry.to_mm(ijk)[faces]
    return triangles
