"""MONAI bundles with seeded weights, as the model zoo writes them, and an image for each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from monai.networks import nets

import nnunet_folders

RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1}
CHAIN = [
    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
    {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0},
]
NETWORKS = {
    # As in the model zoo's whole-body CT bundle, narrower: 105 classes, and its two grids by an expression.
    "SegResNet": {"blocks_down": [1, 2, 2], "blocks_up": [1, 1], "init_filters": 8, "dropout_prob": 0.2},
    "UNet": {"channels": [6, 8, 12], "strides": [2, 2], "num_res_units": 1, "norm": "batch"},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "use_checkpoint": True},
    "SegResNetDS": {"blocks_down": [1, 1, 2], "init_filters": 8, "norm": "INSTANCE_NVFUSER", "dsdepth": 2},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [6, 8, 8]},
    "BasicUNet": {"features": [6, 6, 8, 8, 12, 6]},
}
NETWORKS["SegResNetDS"]["norm"] = "instance"


def config(name: str, *, n_outputs: int, patch: list[int], intensities: list[dict]) -> dict:
    """An inference configuration as the model zoo writes them, with a plain loop in place of ignite's evaluator."""
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "fine": False,
        "images": "$sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": name, "spatial_dims": 3, "in_channels": 1, "out_channels": n_outputs}
        | NETWORKS[name],
        "network": "$@network_def.to('cpu').eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {
                    "_target_": "Spacingd",
                    "keys": "image",
                    "pixdim": "$[1.5, 1.5, 1.5] if @fine else [1.6, 1.7, 1.8]",
                    "mode": "bilinear",
                },
                *intensities,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": patch,
            "sw_batch_size": 1,
            "overlap": 0.25,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "separate_folder": False,
                    "resample": False,
                    "print_log": False,
                },
            ],
        },
        "load": "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', weights_only=True))",
        "cases": "$[@preprocessing({'image': path}) for path in @images]",
        "scores": "$[@inferer(case['image'][None].as_tensor(), @network)[0].detach() for case in @cases]",
        "run": [
            "$import torch",
            "$@load",
            "$[@postprocessing({'image': c['image'], 'pred': s}) for c, s in zip(@cases, @scores)]",
        ],
    }


def write_bundle(folder: Path, name: str, *, n_outputs: int = 3, patch=(32, 32, 32), intensities=(RANGE,)) -> Path:
    torch.manual_seed(3)
    content = config(name, n_outputs=n_outputs, patch=list(patch), intensities=list(intensities))
    content["bundle_root"] = str(folder)
    content["imports"].append("$import torch")
    content["run"] = content["run"][1:]
    arguments = {key: value for key, value in content["network_def"].items() if key != "_target_"}
    network = getattr(nets, name)(**arguments)
    channels = {str(index): f"part {index}" if index else "background" for index in range(n_outputs)}
    metadata = {
        "name": f"Seeded {name}",
        "version": "0.1.0",
        "monai_version": "1.6.1",
        "description": "Seeded weights.",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"num_channels": n_outputs, "channel_def": channels}},
        },
    }
    for part in ("configs", "models", "images"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    # No voxel is 0: after interpolation, rounding would decide whether `nonzero` counts it.
    case = {"shape": (30, 36, 24), "spacing": (1.9, 1.4, 2.2), "base": 2000 if intensities is CHAIN else 0}
    nnunet_folders.write_image(folder / "images" / "case.nii.gz", case, seed=0)
    return folder
