from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

import phantoms
from voxmetry import Geometry, Volume, resample
from voxmetry.errors import ConfigError, FormatError, InputError, OutputError
from voxmetry.ops.registration import check, inverse, read_transform, register, rotation_degrees, write_transform

GRID = phantoms.geometry(shape=(44, 40, 26), spacing_mm=(2.0, 2.2, 3.1), degrees=(7, -11, 19))


def anatomy(seed: int = 0) -> Volume:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=GRID.shape), 3)
    i, j, k = np.indices(GRID.shape)
    body = ((i - 22) / 18) ** 2 + ((j - 19) / 15) ** 2 + ((k - 13) / 10) ** 2 < 1
    texture = 60 * smooth / smooth.std()
    return Volume((np.where(body, 200 + texture, 0)).astype(np.float32), GRID)


def turn(degrees=(5, -3, 8), shift=(9, -7, 6), stretch=1.0) -> np.ndarray:
    middle = GRID.to_mm((np.array(GRID.shape) - 1) / 2)
    matrix = np.eye(4)
    matrix[:3, :3] = stretch * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + shift
    return matrix


def off_mm(found: np.ndarray, true: np.ndarray) -> float:
    wrong = GRID.corners_mm @ (found - true)[:3, :3].T + (found - true)[:3, 3]
    return float(np.linalg.norm(wrong, axis=1).max())


def elsewhere(volume: Volume, matrix: np.ndarray) -> Volume:
    """The same anatomy, moved by the matrix, on an upright grid of other voxels."""
    there = Geometry(matrix @ volume.geometry.affine, volume.geometry.shape)
    affine = np.diag([2.5, 2.1, 2.4, 1.0])
    affine[:3, 3] = there.corners_mm.min(axis=0)
    size = tuple(int(n) for n in np.ptp(there.corners_mm, axis=0) / [2.5, 2.1, 2.4])
    return resample(Volume(volume.array, there), to=Geometry(affine, size))


@pytest.fixture(scope="module")
def pair():
    fixed = anatomy()
    moving = elsewhere(fixed, turn())
    # Another contrast, as at another scanner: mutual information does not mind.
    return fixed, Volume(300 - 0.5 * moving.array, moving.geometry)


def test_a_known_turn_is_found_again_and_twice_the_same(pair):
    fixed, moving = pair
    found = register(moving=moving, fixed=fixed)
    assert off_mm(found.matrix, turn()) < 1.0
    assert off_mm(np.eye(4), turn()) > 10
    assert found.after > found.before
    again = register(moving=moving, fixed=fixed)
    assert np.array_equal(found.matrix, again.matrix)
    linear = found.matrix[:3, :3]
    assert np.allclose(linear @ linear.T, np.eye(3), atol=1e-6)
    assert rotation_degrees(found.matrix) == pytest.approx(rotation_degrees(turn()), abs=0.3)


def test_affine_finds_a_scale_that_rigid_cannot(pair):
    true = turn(stretch=1.06)
    moving = elsewhere(pair[0], true)
    rigid, affine = (register(moving=moving, fixed=pair[0], kind=kind).matrix for kind in ("rigid", "affine"))
    assert off_mm(affine, true) < 1.5 < off_mm(rigid, true)


def test_the_check_measures_how_far_there_and_back_miss():
    there, slip = turn(), np.eye(4)
    slip[0, 3] = 4.0
    found = check(there=there, back=inverse(there), fixed=GRID, moving=Geometry(there @ GRID.affine, GRID.shape))
    assert (found.covered, found.max_mm) == (1.0, pytest.approx(0, abs=1e-9))
    found = check(there=there, back=slip @ inverse(there), fixed=GRID, moving=Geometry(there @ GRID.affine, GRID.shape))
    assert (found.mean_mm, found.max_mm) == (pytest.approx(4), pytest.approx(4))
    far = phantoms.geometry(origin_mm=(900, 900, 900))
    assert check(there=np.eye(4), back=np.eye(4), fixed=GRID, moving=far).covered == 0


def test_a_transform_is_the_same_after_a_file(tmp_path):
    write_transform(turn(), tmp_path / "transform.tfm")
    assert np.allclose(read_transform(tmp_path / "transform.tfm"), turn(), atol=1e-9)
    import SimpleITK

    # In the file's own space, LPS, as other tools read it.
    theirs = SimpleITK.ReadTransform(str(tmp_path / "transform.tfm"))
    place = np.array([12.0, -7.0, 33.0])
    flip = np.array([-1, -1, 1])
    assert np.allclose(theirs.TransformPoint((place * flip).tolist()), (turn() @ [*place, 1])[:3] * flip)


def test_wrong_files_and_images_are_refused(tmp_path):
    (tmp_path / "a.tfm").write_text("nothing")
    with pytest.raises(FormatError, match=r"a\.tfm cannot be read"):
        read_transform(tmp_path / "a.tfm")
    import SimpleITK

    bent = SimpleITK.BSplineTransformInitializer(SimpleITK.Image(8, 8, 8, SimpleITK.sitkUInt8), [2, 2, 2])
    bent.SetParameters([0.5 * (n % 7) for n in range(len(bent.GetParameters()))])
    SimpleITK.WriteTransform(bent, str(tmp_path / "b.tfm"))
    with pytest.raises(FormatError, match="not linear"):
        read_transform(tmp_path / "b.tfm")
    with pytest.raises(OutputError):
        write_transform(turn(), tmp_path / "no" / "a.tfm")
    flat = Volume(np.zeros(GRID.shape, np.float32), GRID)
    with pytest.raises(InputError, match="the moving image has the same value"):
        register(moving=flat, fixed=anatomy())
    with pytest.raises(ConfigError, match="kind='bent'"):
        register(moving=anatomy(), fixed=anatomy(), kind="bent")
