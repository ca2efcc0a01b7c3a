"""Run nnU-Net's own predictor on the folders of nnunet_folders.py and keep its label maps.

    PYTHON_WITH_NNUNET tests/nnunet_oracle.py OUT.npz [--float32] [CASE ...]

`tests/nn/nnunet-2.8.1.npz` was made so, with nnunetv2 2.8.1, dynamic-network-architectures 0.4.4 and torch 2.13.0, and
`tests/nn/nnunet-2.8.1-float32.npz` with `--float32`: nnU-Net's code as it is, but for the type in which it weighs and
adds the scores of overlapping windows, which is half precision otherwise.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import torch

import nnunet_folders


def predict(model: Path, images: list[Path], out: Path, *, mirroring: bool) -> np.ndarray:
    """Return the label map (I, J, K) that nnU-Net writes for one case."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False
    )
    predictor.initialize_from_trained_model_folder(str(model), None)
    before = None
    if "cascade" in model.name:
        first = model.with_name(model.name.replace("3d_cascade_fullres", "3d_lowres"))
        before = out.parent / "first"
        before.mkdir()
        # nnU-Net looks for the first stage's labels under the name of the case.
        predict(first, images, before / images[0].name.removesuffix("_0000.nii.gz"), mirroring=mirroring)
    predictor.predict_from_files_sequential(
        [[str(path) for path in images]], [str(out)], folder_with_segs_from_prev_stage=before and str(before)
    )
    return np.asarray(nibabel.load(f"{out}.nii.gz").dataobj)


def add_in_float32() -> None:
    """Let nnU-Net's predictor make its sums and its weights in float32; it names `torch.half` for both."""
    from nnunetv2.inference import predict_from_raw_data

    original = predict_from_raw_data.compute_gaussian
    wide = functools.partial(original, dtype=torch.float32)
    wide.cache_clear = original.cache_clear
    predict_from_raw_data.compute_gaussian = wide
    torch.half = torch.float32


def main(target: Path, names: list[str]) -> None:
    """Write one compressed array a case."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    for name in names or nnunet_folders.CASES:
        with tempfile.TemporaryDirectory() as folder:
            model = nnunet_folders.write(Path(folder), name)
            images = sorted(Path(folder).glob("image_*.nii.gz"))
            found[name] = predict(model, images, Path(folder) / "seg", mirroring=True).astype(np.uint8)
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(key, tempfile.gettempdir())
    if "--float32" in sys.argv:
        sys.argv.remove("--float32")
        add_in_float32()
    main(Path(sys.argv[1]), sys.argv[2:])
