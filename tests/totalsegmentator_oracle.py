"""TotalSegmentator's published steps round nnU-Net's own predictor, on the archives of totalsegmentator_folders.py.

    PYTHON_WITH_NNUNET tests/totalsegmentator_oracle.py OUT.npz [--float32] [CASE ...]

`tests/nn/totalsegmentator-float32.npz` was made so with `--float32`, by nnunetv2 2.8.1. The steps are those of
TotalSegmentator's version 2, written here from its description: crop to the mask with a margin in whole voxels, closest
canonical axes, cubic `ndimage.zoom` to the task's voxel size and int32, nnU-Net part after part without mirroring, part
maps in their order, nearest `ndimage.zoom` back, axes and crop undone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import zoom

import totalsegmentator_cases
from nnunet_oracle import add_in_float32


def canonical(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values and affine with axes closest to RAS, and the orientation that they had."""
    had = io_orientation(affine)
    moved = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, affine))
    return np.asarray(moved.dataobj), moved.affine, had


def uncanonical(values: np.ndarray, had: np.ndarray) -> np.ndarray:
    """Undo `canonical` on values."""
    return apply_orientation(values, ornt_transform(axcodes2ornt("RAS"), had))


def run(case: dict, folder: Path) -> np.ndarray:
    """Return the label map (I, J, K) of a case on its image's own grid."""
    image = nibabel.load(folder / "image.nii.gz")
    values, affine = np.asarray(image.dataobj, dtype=np.float64), image.affine
    box = None
    if case.get("crop"):
        rough = run(totalsegmentator_cases.CASES[case["crop"]["case"]], folder)
        mask = np.isin(rough, case["crop"]["values"])
        more = (np.array([case["crop"]["margin_mm"]] * 3) / image.header.get_zooms()).astype(int)
        there = np.argwhere(mask)
        low = np.maximum(0, there.min(0) - more)
        high = np.minimum(mask.shape, there.max(0) + 1 + more)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        affine = affine.copy()
        affine[:3, 3] = (image.affine @ np.array([*low, 1]))[:3]
        values = values[box].astype(np.int32).astype(np.float64)
    turned, affine, had = canonical(values, affine)
    shape, sizes = turned.shape, nibabel.Nifti1Image(turned, affine).header.get_zooms()
    factors = np.array(sizes) / np.array(case["resample_mm"])
    affine = affine.copy()
    affine[:3, :3] /= factors
    small = zoom(turned, factors, order=3).astype(np.int32)
    file = folder / "s01_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(small, affine), file)
    merged = np.zeros(small.shape, np.uint8)
    for part in case["parts"]:
        found = predict(folder / part["folder"], file, folder / "s01", case.get("step", 0.5))
        for value, painted in part["values"].items():
            merged[found == value] = painted
    back = zoom(merged, np.array(shape) / np.array(merged.shape), order=0)
    back = uncanonical(back, had)
    if box is None:
        return back
    whole = np.zeros(image.shape, np.uint8)
    whole[box] = back
    return whole


def predict(model: Path, file: Path, out: Path, step: float) -> np.ndarray:
    """Run nnU-Net's predictor on one file."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=step,
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
        perform_everything_on_device=False,
    )
    predictor.initialize_from_trained_model_folder(str(model), ("0",))
    predictor.predict_from_files_sequential([[str(file)]], [str(out)])
    return np.asarray(nibabel.load(f"{out}.nii.gz").dataobj)


def main(target: Path, names: list[str]) -> None:
    """Write one compressed array a case."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    for name in names or totalsegmentator_cases.CASES:
        with tempfile.TemporaryDirectory() as folder:
            totalsegmentator_cases.write(Path(folder), name)
            found[name] = run(totalsegmentator_cases.CASES[name], Path(folder)).astype(np.uint8)
            print(name, found[name].shape, len(np.unique(found[name])), (found[name] > 0).mean())
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(key, tempfile.gettempdir())
    if "--float32" in sys.argv:
        sys.argv.remove("--float32")
        add_in_float32()
    main(Path(sys.argv[1]), sys.argv[2:])
