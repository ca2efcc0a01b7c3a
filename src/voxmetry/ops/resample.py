"""Bring an image or a label map onto another grid."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, GeometryError

Interpolation: TypeAlias = Literal["nearest", "linear", "cubic"]

AIR_HU = -1024.0


@overload
def resample(
    x: Volume, *, to: Geometry, interpolation: Interpolation | None = None, outside: float | None = None
) -> Volume: ...


@overload
def resample(
    x: Segmentation, *, to: Geometry, interpolation: Interpolation | None = None, outside: float | None = None
) -> Segmentation: ...


def resample(
    x: Volume | Segmentation, *, to: Geometry, interpolation: Interpolation | None = None, outside: float | None = None
) -> Volume | Segmentation:
    """Resample onto another grid of the same patient space.

    Parameters
    ----------
    x
        An image or a label map.
    to
        The grid that the result has. It may be oblique, sheared, left-handed or partly outside `x`.
    interpolation
        'nearest', 'linear' (the default for images) or 'cubic' (B-spline, which may overshoot). Label maps are
        always 'nearest'. Linear interpolation onto a much coarser grid does not smooth first.
    outside
        Value of the voxels whose centre lies outside `x`, voxel edges included. By default air, -1024 HU, for CT; 0
        for SUV and activity; the smallest value of the image where the unit is "1"; background for label maps.

    Returns
    -------
    Volume or Segmentation
        The same kind as `x`, on the grid `to`. Images come back as float32 (float64 where `x` is float64 or has
        integers of more than 16 bits) unless 'nearest', which keeps the type: rounding would shift the mean.

    Raises
    ------
    GeometryError
        If both grids name a frame of reference and they are not the same.
    ConfigError
        If a label map is to be interpolated, or the value outside does not fit the type.

    Examples
    --------
    >>> grid = Geometry(np.eye(4), (3, 3, 3))
    >>> image = Volume(np.arange(27.0).reshape(3, 3, 3), grid)
    >>> finer = Geometry(np.diag([0.5, 1, 1, 1]), (5, 3, 3))
    >>> resample(image, to=finer).array[:, 0, 0].tolist()
    [0.0, 4.5, 9.0, 13.5, 18.0]
    """
    _require_frame(x.geometry, to)
    if isinstance(x, Segmentation):
        if interpolation not in (None, "nearest") or outside not in (None, 0):
            raise ConfigError(
                found=f"interpolation={interpolation!r} and outside={outside!r} for a label map",
                expected="interpolation 'nearest' and background outside",
                fix="leave both out; a value between two labels means nothing",
            )
        return Segmentation(_resample(x.array, x.geometry, to, "nearest", 0), to, x.labels)
    how = interpolation or "linear"
    if how not in ("nearest", "linear", "cubic"):
        raise ConfigError(
            found=f"interpolation={how!r}", expected="'nearest', 'linear' or 'cubic'", fix="use one of these"
        )
    array = _native(x.array)
    if how != "nearest":
        wide = array.dtype.itemsize > 4 or (array.dtype.kind in "iu" and array.dtype.itemsize > 2)
        array = array.astype(np.float64 if wide else np.float32, copy=False)
    value = _outside(x) if outside is None else float(outside)
    if not _holds(array.dtype, value):
        raise ConfigError(
            found=f"outside={value} for voxels of type {array.dtype}",
            expected="a finite value that the type can hold",
            fix="choose another value, or convert the image to float first",
        )
    return Volume(_resample(array, x.geometry, to, how, value), to, x.unit, x.source)


def _require_frame(a: Geometry, b: Geometry) -> None:
    if a.frame_uid and b.frame_uid and a.frame_uid != b.frame_uid:
        raise GeometryError(
            found="two frames of reference: the two images do not share a coordinate system",
            expected="the same DICOM Frame of Reference UID",
            fix="register one image to the other first; if you know that the coordinates agree, "
            "pass a Geometry whose frame_uid is None",
        )


def _outside(x: Volume) -> float:
    if x.unit == "HU":
        return AIR_HU
    return float(x.array.min()) if x.unit == "1" else 0.0


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return bool(np.isfinite(value))
    return float(value).is_integer() and bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in a type that SimpleITK knows: native byte order, no half precision."""
    kind: Any = np.float32 if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return array.astype(kind, copy=False)


def _resample(array: NDArray[Any], source: Geometry, to: Geometry, how: Interpolation, outside: float) -> NDArray[Any]:
    import SimpleITK

    if np.array_equal(source.affine, to.affine) and source.shape == to.shape:
        return array.copy(order="K")
    # In index space both images are upright with unit voxels and the transform carries the geometry, so that sheared
    # and left-handed grids, whose direction matrices ITK refuses or rounds, need no special case.
    index_to_index = _snap(np.linalg.solve(source.affine, to.affine))
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(index_to_index[:3, :3].ravel().tolist())
    transform.SetTranslation(index_to_index[:3, 3].tolist())
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetSize(to.shape)
    resampler.SetTransform(transform)
    interpolators = {
        "nearest": SimpleITK.sitkNearestNeighbor,
        "linear": SimpleITK.sitkLinear,
        "cubic": SimpleITK.sitkBSpline,
    }
    resampler.SetInterpolator(interpolators[how])
    resampler.SetDefaultPixelValue(outside)
    image = resampler.Execute(SimpleITK.GetImageFromArray(np.ascontiguousarray(_native(array).T)))
    result: NDArray[Any] = SimpleITK.GetArrayFromImage(image).T
    return result


def _snap(x: NDArray[Any]) -> NDArray[Any]:
    """Round what is whole but for noise, so that a voxel centre on a boundary falls on the same side each time."""
    halves = np.round(x * 2) / 2
    return np.where(np.abs(x - halves) < 1e-9, halves, x)
