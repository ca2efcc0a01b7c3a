"""Whether two time points need a registration, the registration, and the checks that say how far to trust it."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.records.follow_up import RegistrationInfo, Row4
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError
from voxmetry.ops.registration import (
    Check,
    Float64,
    Registered,
    check,
    inverse,
    register,
    rotation_degrees,
    transformed,
)

How: TypeAlias = Literal["auto", "none", "rigid", "affine"]

LEAST_COVERED = 0.5
"""Share of the follow-up image that the baseline image must cover."""
MOST_INVERSE_MM = 5.0
"""Registrations there and back may miss each other by so much, at the worst place."""


def align(
    *,
    baseline: Volume | None,
    current: Volume | None,
    grids: tuple[Geometry, Geometry],
    how: How = "auto",
    given: NDArray[np.float64] | None = None,
    ignore: Volume | None = None,
) -> tuple[Float64, RegistrationInfo]:
    """Return the (4, 4) matrix from follow-up to baseline, RAS+ mm, and what is said about it.

    Parameters
    ----------
    baseline, current
        The images; needed where something is registered.
    grids
        Those of the two label maps.
    how
        'auto' registers nothing where both grids name the same frame of reference and overlap.
    given
        A matrix that is known already.
    ignore
        Where voxels of the follow-up image shall not count; see `register`.

    Raises
    ------
    InputError
        If an image is missing or cannot be registered.
    ConfigError
        If the given matrix is none.
    """
    if given is not None:
        matrix = np.array(given, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
            raise ConfigError(
                found=f"a transform of shape {matrix.shape}, or one that cannot be undone",
                expected="(4, 4), RAS+ mm, from follow-up to baseline",
                fix="pass the matrix of an earlier registration",
            )
        return matrix, _plain(matrix, grids, "the transform was given")
    frames = {grid.frame_uid for grid in grids}
    if how == "none" or (how == "auto" and None not in frames and len(frames) == 1):
        info = _plain(np.eye(4), grids, "none was asked for" if how == "none" else "the same frame of reference")
        if how == "none" or info.covered > 0:
            return np.eye(4), info
    if baseline is None or current is None:
        raise InputError(
            found="no image of one of the time points, and no frame of reference that both share",
            expected="both images, to bring them together",
            fix="pass both images (--baseline-image, --image); or --registration none where you know that the "
            "coordinates of the two agree; in Python: registration='none'",
        )
    kind: Literal["rigid", "affine"] = "affine" if how == "affine" else "rigid"
    there = register(moving=baseline, fixed=current, kind=kind, ignore=ignore)
    back = register(moving=current, fixed=baseline, kind=kind)
    agreed = check(there=there.matrix, back=back.matrix, fixed=current.geometry, moving=baseline.geometry)
    return there.matrix, _info(there, agreed, kind, current.geometry)


def _plain(matrix: Float64, grids: tuple[Geometry, Geometry], why: str) -> RegistrationInfo:
    covered = check(there=matrix, back=inverse(matrix), fixed=grids[1], moving=grids[0]).covered
    return RegistrationInfo(
        kind="none",
        matrix_ras_mm=as_rows(matrix),
        covered=covered,
        ok=covered >= LEAST_COVERED,
        reason=why if covered >= LEAST_COVERED else f"{why}; {_too_little(covered)}",
    )


def _too_little(covered: float) -> str:
    return f"only {100 * covered:.0f} % of the follow-up image lies within the baseline image"


def _info(there: Registered, agreed: Check, kind: Literal["rigid", "affine"], fixed: Geometry) -> RegistrationInfo:
    wrong = []
    if agreed.covered < LEAST_COVERED:
        wrong.append(_too_little(agreed.covered))
    if not agreed.max_mm <= MOST_INVERSE_MM:
        wrong.append(f"registrations there and back miss each other by up to {agreed.max_mm:.1f} mm")
    if there.after < there.before:
        wrong.append("the images have less in common than before")
    middle = fixed.to_mm((np.array(fixed.shape) - 1) / 2)
    passed = (
        f"there and back within {agreed.max_mm:.1f} mm, {100 * agreed.covered:.0f} % of the follow-up image covered"
    )
    return RegistrationInfo(
        kind=kind,
        matrix_ras_mm=as_rows(there.matrix),
        rotation_degrees=rotation_degrees(there.matrix),
        shift_mm=float(np.linalg.norm(transformed(middle, there.matrix) - middle)),
        covered=agreed.covered,
        mutual_information_before=there.before if math.isfinite(there.before) else math.nan,
        mutual_information_after=there.after,
        inverse_error_mean_mm=agreed.mean_mm,
        inverse_error_max_mm=agreed.max_mm,
        ok=not wrong,
        reason="; ".join(wrong) or passed,
    )


def as_rows(matrix: Float64) -> tuple[Row4, Row4, Row4, Row4]:
    """Return a (4, 4) matrix as nested tuples, for a record."""
    return cast("tuple[Row4, Row4, Row4, Row4]", tuple(tuple(float(x) for x in row) for row in matrix))
