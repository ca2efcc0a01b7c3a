"""Which of the two affines of a NIfTI header is meant, and which to write: docs/concepts/coordinates.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

from voxmetry.core.geometry import SAME_GRID_TOLERANCE_MM, Float64, Geometry
from voxmetry.errors import GeometryError

_LENGTH_TOLERANCE = 1e-3
_UNITS = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}


def affine_of(header: Any, shape: tuple[int, int, int], name: str) -> Float64:
    """Return the affine (4, 4) in RAS+ mm that the header means: sform where its code is above 0, else qform.

    Parameters
    ----------
    header
        A nibabel NIfTI header.
    shape
        (I, J, K), for the distance between the corners of the two.
    name
        The file's name, for the error.

    Raises
    ------
    GeometryError
        If neither code is above 0, the two contradict each other, or lengths are not in millimetres.
    """
    units = _UNITS.get(int(header["xyzt_units"]) & 7, "a unit that NIfTI does not know")
    if units not in ("unknown", "mm"):
        raise GeometryError(
            found=f"{name} says that its lengths are in {units}",
            expected="millimetres",
            fix="scale its affine to millimetres and set the unit: img.header.set_xyzt_units('mm')",
        )
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    qform = _qform(header) if qform_code > 0 else None
    if sform_code > 0:
        with np.errstate(invalid="ignore"):  # NaNs that signal, as in `_qform`
            sform: Float64 = header.get_sform()
        if not np.isfinite(sform).all():
            raise GeometryError(
                found=f"{name} has an sform that is not finite",
                expected="twelve finite numbers",
                fix="convert the image again from its source",
            )
        if qform is not None:
            _check_agreement(sform, qform, shape, same_space=sform_code == qform_code, name=name)
        else:
            _check_sizes(sform, header, name)
        return sform
    if qform is None:
        raise GeometryError(
            found=f"{name} has no usable affine: sform code {sform_code}, qform code {qform_code}"
            + (", and a quaternion that is no rotation" if qform_code > 0 else ""),
            expected="an sform or qform code above 0, which says where the voxels lie in the patient",
            fix="convert the image again from its source; the side of the patient cannot be told from this file",
        )
    return qform


def grid_of(header: Any, shape: tuple[int, int, int], name: str) -> Geometry:
    """Return the grid that the header means, with the voxel sizes that it states beside its affine.

    Raises
    ------
    GeometryError
        As `affine_of`.
    """
    i, j, k = (float(mm) for mm in header["pixdim"][1:4])
    return Geometry(affine_of(header, shape, name), shape, stated_spacing_mm=(abs(i), abs(j), abs(k)))


def place_affine(header: Any, geometry: Geometry, code: int) -> None:
    """Store a grid's affine in whichever of sform (float32 matrix) and qform (float32 quaternion) holds it exactly.

    sform where both or neither do, with the qform beside it if that agrees within the tolerance of one grid.
    """
    affine = geometry.affine
    header.set_qform(affine, code, strip_shears=True)
    as_quaternion = header.get_qform()
    in_sform = np.array_equal(affine.astype(np.float32).astype(np.float64), affine)
    in_qform = np.array_equal(as_quaternion, affine)
    if in_sform or not in_qform:
        header.set_sform(affine, code)
        if _corner_distance(as_quaternion, affine, geometry.shape) > SAME_GRID_TOLERANCE_MM:
            header["qform_code"] = 0


def _qform(header: Any) -> Float64 | None:
    fields = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")
    # Damage makes NaNs that signal when they are widened; they are no numbers of a place either way.
    with np.errstate(invalid="ignore"):
        stored = np.concatenate([np.atleast_1d(header[name]).astype(np.float64)[:4] for name in fields])
    if not np.isfinite(stored).all():
        return None
    try:
        qform: Float64 = header.get_qform()
    except (HeaderDataError, ValueError):
        return None
    return qform if np.isfinite(qform).all() else None


def _check_agreement(
    sform: Float64, qform: Float64, shape: tuple[int, int, int], *, same_space: bool, name: str
) -> None:
    """Refuse a header whose two affines give different sides, sizes, or places in what they call the same space."""
    lengths_s, lengths_q = (np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform))
    problem = None
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        problem = "one is the mirror image of the other"
    elif (np.abs(lengths_s - lengths_q) > _LENGTH_TOLERANCE * lengths_q).any():
        sizes = [" x ".join(f"{length:.4g}" for length in lengths) for lengths in (lengths_s, lengths_q)]
        problem = f"voxels of {sizes[0]} mm by the sform, of {sizes[1]} mm by the qform"
    elif same_space and not _is_sheared(sform):
        apart = _corner_distance(sform, qform, shape)
        # float32 quaternions are off by up to a tenth of a millimetre near half-turns; half a voxel is an error.
        if apart > lengths_s.min() / 2:
            problem = f"corners {apart:.3g} mm apart though both codes name the same space"
    if problem:
        raise GeometryError(
            found=f"the sform and the qform of {name} contradict each other: {problem}",
            expected="two affines that agree on handedness, voxel size and, where their codes are equal, place",
            fix="keep the right one: set the code of the other to 0, for example img.set_qform(None, 0) with nibabel",
        )


def _check_sizes(sform: Float64, header: Any, name: str) -> None:
    """Refuse a header whose voxel sizes (pixdim) are not those of its sform, where no qform says which is right.

    Sizes of 1, 0 or nothing are what a header has before any are set: they say nothing.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.abs(np.asarray(header["pixdim"], dtype=np.float64)[1:4])
    if not np.isfinite(sizes).all() or (sizes == 0).any() or (sizes == 1).all():
        return
    lengths = np.array(Geometry(sform, (1, 1, 1)).spacing_mm)
    if (np.abs(lengths - sizes) > _LENGTH_TOLERANCE * sizes).any():
        first, second = (" x ".join(f"{length:.4g}" for length in x) for x in (lengths, sizes))
        raise GeometryError(
            found=f"{name} contradicts itself: voxels of {first} mm by the sform, of {second} mm by pixdim",
            expected="one size of the voxels",
            fix="correct the wrong one: img.header.set_zooms(...) or img.set_sform(...) with nibabel",
        )


def _is_sheared(affine: Float64) -> bool:
    return not Geometry(affine, (1, 1, 1)).is_orthogonal


def _corner_distance(a: Float64, b: Float64, shape: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(Geometry(a, shape).corners_mm - Geometry(b, shape).corners_mm, axis=1).max())
