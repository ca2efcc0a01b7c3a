"""What dcm2niix makes of a folder, to compare with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from voxmetry import list_series
from voxmetry.io import read_series

DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")


def canonical(array, affine):
    """Turn to the closest RAS axes by nibabel, which shares no code with the reader."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.array(array), affine))
    return np.asanyarray(image.dataobj), image.affine


def converted(folder, out):
    """Every volume that dcm2niix makes of a folder, as (array, affine)."""
    out.mkdir()
    command = [DCM2NIIX, "-z", "n", "-b", "n", "-f", "%s_%r_%e", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    volumes = []
    for path in sorted(out.glob("*.nii")):
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
        stack = values[..., None] if values.ndim == 3 else values
        volumes += [canonical(stack[..., index], image.affine) for index in range(stack.shape[3])]
    return volumes


def assert_same_volumes(folder, out, count):
    infos = [info for info in list_series(folder) if info.readable]
    theirs = converted(folder, out)
    assert len(infos) == len(theirs) == count
    for info in infos:
        volume = read_series(info)
        array, affine = canonical(volume.array, volume.geometry.affine)
        # dcm2niix keeps its affine in float32, and takes the step from the first two slices.
        twins = [
            values
            for values, other in theirs
            if values.shape == array.shape
            and np.allclose(affine, other, atol=5e-4)
            and np.allclose(values, array, rtol=3e-7)
        ]
        assert twins, info.differs
