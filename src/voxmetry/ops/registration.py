"""Bring two images of a patient together: a rigid or an affine transform, by mutual information.

Everything here is in RAS+ mm: both images are first resampled onto upright grids with cubic voxels, so that oblique,
sheared and left-handed grids need no care. The optimiser runs in one thread from fixed samples: the same images give
the same transform, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, FormatError, InputError
from voxmetry.io.atomic import atomic_path, output_error
from voxmetry.ops.resample import resample

Float64: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["rigid", "affine"]

MOST_VOXELS = 1_000_000
"""Size of the grids that are registered: finer ones cost time and move the answer by less than a tenth of a voxel."""
_LATTICE = 9
_LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))
_SAMPLES = 40_000


@dataclass(frozen=True, eq=False)
class Registered:
    """A transform and what it was found by.

    Parameters
    ----------
    matrix
        (4, 4), takes a place of the fixed image to the same place of the moving image, RAS+ mm.
    before, after
        Mutual information (Mattes, 32 bins, nats) without and with the transform.
    """

    matrix: Float64
    before: float
    after: float


@dataclass(frozen=True)
class Check:
    """How well a transform and an independent one back agree, over a lattice of the fixed image.

    Parameters
    ----------
    covered
        Share of the lattice that lies within the moving image.
    mean_mm, max_mm
        Distance of a place from itself after both; nan where nothing is covered.
    """

    covered: float
    mean_mm: float
    max_mm: float


def register(*, moving: Volume, fixed: Volume, kind: Kind = "rigid", ignore: Volume | None = None) -> Registered:
    """Find the transform from the fixed to the moving image with the largest mutual information.

    Parameters
    ----------
    moving, fixed
        Images of the same part of a patient; modality and grid may differ.
    kind
        'rigid': rotation and shift. 'affine': also scale and shear, from the rigid answer on.
    ignore
        On the fixed image's grid, not 0 where its voxels shall not count, such as in lesions that may have grown.

    Returns
    -------
    Registered
        Of three starts (places as they are, middles on each other, centres of mass on each other) the best.

    Raises
    ------
    ConfigError
        If the kind is unknown.
    InputError
        If one of the images is constant, or the two cannot be brought together at all.

    References
    ----------
    Mattes et al., 2003, doi:10.1109/TMI.2003.809072; the optimiser and the samples are those of SimpleITK.
    """
    if kind not in ("rigid", "affine"):
        raise ConfigError(found=f"kind={kind!r}", expected="'rigid' or 'affine'", fix="choose one of the two")
    for image, which in ((moving, "moving"), (fixed, "fixed")):
        if float(image.array.min()) == float(image.array.max()):
            raise InputError(
                found=f"the {which} image has the same value in each voxel",
                expected="an image that shows anatomy",
                fix="pass the image, not an empty one; or bring the two together yourself and register nothing",
            )
    target, source = _itk(fixed), _itk(moving)
    mask = None if ignore is None else _mask(ignore, target)
    import SimpleITK

    try:
        starts = [_improve(start, target, source, mask, _LEVELS[:1], 40) for start in _starts(target, source)]
        best, _ = min(starts, key=lambda item: item[1])
        best, value = _improve(best, target, source, mask, _LEVELS[1:], 200)
        if kind == "affine":
            wider = SimpleITK.AffineTransform(3)
            wider.SetMatrix(best.GetMatrix())
            wider.SetTranslation(best.GetTranslation())
            wider.SetCenter(best.GetCenter())
            best, value = _improve(wider, target, source, mask, _LEVELS[1:], 200)
    except RuntimeError as error:
        raise InputError(
            found="two images that cannot be brought together: too few of their voxels overlap",
            expected="images of the same part of a patient",
            fix="crop both to the same region, or bring them together yourself and register nothing",
        ) from error
    return Registered(_matrix(best), -_value(None, target, source, mask), -value)


def check(*, there: Float64, back: Float64, fixed: Geometry, moving: Geometry) -> Check:
    """Say how far a registration and one in the other direction are from each other's inverse.

    Parameters
    ----------
    there, back
        (4, 4), RAS+ mm, from the fixed to the moving image and back.
    fixed, moving
        The two grids.
    """
    steps = [np.linspace(0, n - 1, _LATTICE) for n in fixed.shape]
    places = fixed.to_mm(np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3))
    moved = transformed(places, there)
    inside = within(moved, moving)
    if not inside.any():
        return Check(0.0, np.nan, np.nan)
    error = np.linalg.norm(transformed(moved, back) - places, axis=1)[inside]
    return Check(float(inside.mean()), float(error.mean()), float(error.max()))


def inverse(matrix: Float64) -> Float64:
    """Return the matrix of the way back."""
    back: Float64 = np.linalg.inv(matrix).astype(np.float64)
    return back


def transformed(places: Float64, matrix: Float64) -> Float64:
    """Map places (..., 3) by a (4, 4) matrix."""
    return places @ matrix[:3, :3].T + matrix[:3, 3]


def within(places: Float64, geometry: Geometry) -> NDArray[np.bool_]:
    """Which places (N, 3) in RAS+ mm lie in a voxel of the grid."""
    index = geometry.to_ijk(places)
    inside = (index >= -0.5) & (index <= np.array(geometry.shape) - 0.5)
    return np.asarray(inside.all(axis=1))


def moved(geometry: Geometry, matrix: Float64) -> Geometry:
    """Return a grid of the moving image as it lies in the fixed image's space."""
    return Geometry(inverse(matrix) @ geometry.affine, geometry.shape)


def rotation_degrees(matrix: Float64) -> float:
    """Angle of a transform's rotation, that nearest to its linear part."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return float(np.rad2deg(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


def _upright(geometry: Geometry, size: int) -> Geometry:
    """Return the upright grid with cubic voxels over the box round a grid, of so many voxels at most."""
    low, high = geometry.corners_mm.min(axis=0), geometry.corners_mm.max(axis=0)
    extent = high - low
    spacing = max(min(geometry.spacing_mm), float((np.maximum(extent, 1).prod() / size) ** (1 / 3)))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    i, j, k = (int(n) for n in np.floor(extent / spacing + 1e-6) + 1)
    return Geometry(affine, (i, j, k), geometry.frame_uid)


def _itk(volume: Volume) -> Any:
    """Return an image whose physical space is RAS+ mm."""
    grid = _upright(volume.geometry, MOST_VOXELS)
    return _at(resample(volume, to=grid).array.astype(np.float32), grid)


def _at(array: NDArray[Any], grid: Geometry) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.affine[:3, 3].tolist())
    return image


def _mask(ignore: Volume, target: Any) -> Any:
    affine = np.diag([*target.GetSpacing(), 1.0])
    affine[:3, 3] = target.GetOrigin()
    grid = Geometry(affine, target.GetSize(), ignore.geometry.frame_uid)
    left_out = resample(ignore, to=grid, interpolation="nearest", outside=0).array
    return _at((left_out == 0).astype(np.uint8), grid)


def _starts(target: Any, source: Any) -> list[Any]:
    import SimpleITK

    middle = np.array(target.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in target.GetSize()]))
    plain = SimpleITK.Euler3DTransform()
    plain.SetCenter(middle.tolist())
    found = [plain]
    for how in (
        SimpleITK.CenteredTransformInitializerFilter.GEOMETRY,
        SimpleITK.CenteredTransformInitializerFilter.MOMENTS,
    ):
        initial = SimpleITK.CenteredTransformInitializer(target, source, SimpleITK.Euler3DTransform(), how)
        start = SimpleITK.Euler3DTransform(initial)
        # About the same middle for all, so that their steps are alike.
        start.SetTranslation((np.array(start.TransformPoint(middle.tolist())) - middle).tolist())
        start.SetCenter(middle.tolist())
        found.append(start)
    return found


def _method(mask: Any) -> Any:
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    # One piece of work at a time: sums over several would differ in their last bits from run to run.
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetMetricSamplingStrategy(method.REGULAR)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    return method


def _improve(
    start: Any, target: Any, source: Any, mask: Any, levels: tuple[tuple[int, float], ...], steps: int
) -> tuple[Any, float]:
    """Climb from a start; return the transform and the metric there (its lowest is the best)."""
    method = _method(mask)
    n = target.GetNumberOfPixels()
    method.SetMetricSamplingPercentagePerLevel([min(1.0, _SAMPLES / (n / shrink**3)) for shrink, _ in levels], 1)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.002,
        numberOfIterations=steps,
        relaxationFactor=0.75,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(target, source)
    return start, method.GetMetricValue()


def _value(start: Any, target: Any, source: Any, mask: Any) -> float:
    """Return the metric of a transform, None for places as they are; nan where too little overlaps."""
    import SimpleITK

    method = _method(mask)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / target.GetNumberOfPixels()), 1)
    method.SetInitialTransform(start or SimpleITK.Euler3DTransform())
    try:
        return float(method.MetricEvaluate(target, source))
    except RuntimeError:
        return float("nan")


def _matrix(transform: Any) -> Float64:
    matrix = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, 3] = origin
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    return matrix


def write_transform(matrix: Float64, path: Path) -> None:
    """Write a transform in ITK's text form (`.tfm`), which 3D Slicer, ANTs and SimpleITK read.

    Parameters
    ----------
    matrix
        (4, 4), RAS+ mm, from the fixed to the moving image. The file speaks LPS+, as all of ITK does.
    path
        Ends in `.tfm` or `.txt`.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    import SimpleITK

    # The inverse of the change is the change itself: F M F.
    lps = swap_lps_ras(swap_lps_ras(matrix).T).T
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    with atomic_path(path) as temporary:
        try:
            SimpleITK.WriteTransform(transform, str(temporary))
        except RuntimeError as error:
            raise output_error(path, OSError("the writer failed, as on a full disk")) from error


def read_transform(path: Path) -> Float64:
    """Read a linear transform from ITK's text form as a (4, 4) matrix, RAS+ mm, from the fixed to the moving image.

    Raises
    ------
    FormatError
        If the file cannot be read, or its transform is not linear.
    """
    import SimpleITK

    try:
        transform = SimpleITK.ReadTransform(str(path))
        matrix = _matrix(transform)
        far = np.array([130.0, -270.0, 410.0])
        is_linear = np.allclose(transform.TransformPoint(far.tolist()), transformed(far, matrix), atol=1e-3)
    except RuntimeError as error:
        raise _no_transform(path, "cannot be read") from error
    if transform.GetDimension() != 3 or not is_linear:
        raise _no_transform(path, "holds a transform that is not linear")
    return swap_lps_ras(swap_lps_ras(matrix).T).T


def _no_transform(path: Path, why: str) -> FormatError:
    return FormatError(
        found=f"{path.name} {why}",
        expected="a rigid or an affine transform of three dimensions in ITK's text form (.tfm)",
        fix="pass the transform.tfm of an earlier follow-up, or save the transform from your own tool as .tfm",
    )
