"""From an image to a mask by SimpleITK and scikit-image, one function a method."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.classical.spec import Edges, KMeans, Otsu, PercentOfMaximum, Threshold
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError

Mask: TypeAlias = NDArray[np.bool_]
Float32: TypeAlias = NDArray[np.float32]
AnyMethod: TypeAlias = Threshold | Otsu | PercentOfMaximum | KMeans | Edges


def find(volume: Volume, how: AnyMethod) -> Mask:
    """Return the mask (I, J, K) that a method finds in an image.

    Raises
    ------
    InputError
        If the image holds a single value, or, for a share of the maximum, no positive value.

    Examples
    --------
    >>> from voxmetry import Geometry
    >>> image = Volume(np.array([[[1.0, 2.0, 10.0]]]), Geometry(np.eye(4), (1, 1, 3)))
    >>> find(image, PercentOfMaximum(method="percent_of_maximum", percent=41)).ravel().tolist()
    [False, False, True]
    """
    array = np.asarray(volume.array, dtype=np.float32)
    if array.min() == array.max():
        raise InputError(
            found=f"an image that holds the single value {float(array.min()):g}",
            expected="an image with contrast",
            fix="look at the image",
        )
    match how:
        case Threshold():
            return _between(array, how.low, how.high)
        case Otsu():
            return _otsu(array, how)
        case PercentOfMaximum():
            return _percent(array, how)
        case KMeans():
            return _kmeans(array, how)
        case Edges():
            return _edges(volume, array, how)


def _between(array: Float32, low: float | None, high: float | None) -> Mask:
    mask = np.ones(array.shape, dtype=bool)
    if low is not None:
        mask &= array >= low
    if high is not None:
        mask &= array <= high
    return mask


def _otsu(array: Float32, how: Otsu) -> Mask:
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if how.classes == 2:
        limits = [float(threshold_otsu(array))]
    else:
        limits = [float(x) for x in threshold_multiotsu(array, classes=how.classes)]
    mask: Mask = array > limits[-1] if how.bright else array <= limits[0]
    return mask


def _percent(array: Float32, how: PercentOfMaximum) -> Mask:
    largest = float(array.max())
    if largest <= 0:
        raise InputError(
            found=f"an image whose largest value is {largest:g}",
            expected="positive values, such as SUV: a share of the maximum means nothing otherwise",
            fix="use another method for this image",
        )
    mask: Mask = array >= largest * how.percent / 100
    return mask


def _kmeans(array: Float32, how: KMeans) -> Mask:
    import SimpleITK

    first: NDArray[Any] = np.percentile(array, np.linspace(1, 99, how.clusters))
    # Values that repeat would leave a cluster empty: spread evenly between the extremes instead.
    if len(np.unique(first)) < how.clusters:
        first = np.linspace(float(array.min()), float(array.max()), how.clusters)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    groups = SimpleITK.GetArrayFromImage(SimpleITK.ScalarImageKmeans(image, [float(x) for x in first])).T
    present = [int(group) for group in np.unique(groups)]
    means = {group: float(array[groups == group].mean()) for group in present}
    chosen = (max if how.bright else min)(means, key=means.__getitem__)
    mask: Mask = groups == chosen
    return mask


def _edges(volume: Volume, array: Float32, how: Edges) -> Mask:
    import SimpleITK
    from skimage.segmentation import watershed

    image = _image(volume, array)
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(image, how.sigma_mm)).T
    gradient = SimpleITK.GetArrayFromImage(SimpleITK.GradientMagnitudeRecursiveGaussian(image, how.sigma_mm)).T
    low, high = (float(x) for x in np.percentile(gradient, (80, 95)))
    edges = SimpleITK.CannyEdgeDetection(
        image, lowerThreshold=low, upperThreshold=high, variance=[how.sigma_mm**2] * 3, maximumError=[0.01] * 3
    )
    barrier = gradient + (SimpleITK.GetArrayFromImage(edges).T > 0) * float(gradient.max())
    towards = smooth if how.bright else -smooth
    outside, inside = np.percentile(towards, (how.outside, how.inside))
    seeds = np.zeros(array.shape, np.int32)
    seeds[towards <= outside] = 1
    seeds[towards >= inside] = 2
    mask: Mask = watershed(barrier, seeds) == 2
    return mask


def _image(volume: Volume, array: Float32) -> Any:
    """Return a SimpleITK image whose spacing is the volume's: what these filters measure lengths by."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(volume.geometry.spacing_mm)
    return image
