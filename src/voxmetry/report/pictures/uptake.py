"""A PET at the positions of another image's slices, and how strongly it is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxmetry.core.geometry import Geometry
from voxmetry.core.volume import Volume
from voxmetry.report.pictures.planes import ViewPlane
from voxmetry.report.pictures.window import display_window

OPAQUE = 0.75
"""How much of the image the brightest uptake hides."""


def sampled(overlay: Volume, onto: Geometry, plane: ViewPlane, index: int) -> NDArray[np.float32]:
    """Return the overlay's values at the voxels of one slice of another grid, (rows, columns) as the picture lies.

    Linear between the overlay's voxels; 0 outside of it.
    """
    shape = [1 if axis == plane.normal else n for axis, n in enumerate(onto.shape)]
    ijk = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"))
    ijk[plane.normal] = index
    across = np.linalg.solve(overlay.geometry.affine, onto.affine)
    at = np.tensordot(across[:3, :3], ijk, axes=1) + across[:3, 3, None, None, None]
    values = ndimage.map_coordinates(overlay.array.astype(np.float32, copy=False), at, order=1, cval=0.0)
    picture: NDArray[np.float32] = plane.picture(values, 0)
    return picture


def top_of(overlay: Volume) -> float:
    """Return the value that is drawn brightest."""
    return max(display_window(overlay)[1], 1e-6)
