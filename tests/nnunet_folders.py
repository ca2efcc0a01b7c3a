"""nnU-Net v2 model folders with seeded weights, and images for them. Needs neither nnU-Net nor this package.

The weights are random but smooth in their effect: kernels lean towards a mean, so that the labels are blobs, not noise
whose ties any rounding turns over. Each parameter has all the names that nnU-Net's own networks give it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

CONV, NORM = "torch.nn.modules.conv.Conv3d", "torch.nn.modules.instancenorm.InstanceNorm3d"
UNET = "dynamic_network_architectures.architectures.unet."
SPLINES = "resample_data_or_seg_to_shape"


def architecture(kind: str, **change: Any) -> dict[str, Any]:
    plain = kind == "plain"
    arguments = {
        "n_stages": 3,
        "features_per_stage": [6, 10, 12],
        "conv_op": CONV,
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage" if plain else "n_blocks_per_stage": [2, 2, 2] if plain else [1, 2, 2],
        "n_conv_per_stage_decoder": [2, 2] if plain else [1, 1],
        "conv_bias": True,
        "norm_op": NORM,
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": UNET + ("PlainConvUNet" if plain else "ResidualEncoderUNet"),
        "arch_kwargs": arguments | change,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(**change: Any) -> dict[str, Any]:
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 24, 24],
        "median_image_size_in_voxels": [24.0, 32.0, 32.0],
        "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": SPLINES,
        "resampling_fn_seg": SPLINES,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": SPLINES,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "batch_dice": False,
        "architecture": architecture("plain"),
    } | change


OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 6,
    "unet_max_num_features": 12,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
"""Plans before 2.3, as TotalSegmentator's models have them."""

CT = {"mean": 60.0, "std": 110.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0, "min": -1000.0, "max": 1800.0}
LABELS = {"background": 0, "liver": 1, "spleen": 2}
ANISOTROPIC = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}

CASES: dict[str, dict[str, Any]] = {
    "isotropic": {"spacing": (1.2, 1.3, 1.9), "shape": (38, 36, 24)},
    "anisotropic": {
        "spacing": (0.8, 0.9, 5.0),
        "shape": (48, 44, 12),
        "configuration": {
            "spacing": [4.0, 1.0, 1.0],
            "patch_size": [8, 24, 32],
            "architecture": architecture("plain", **ANISOTROPIC),
        },
    },
    "ct": {
        "spacing": (1.4, 1.4, 2.0),
        "shape": (36, 34, 26),
        "channels": ["CT"],
        "configuration": {"normalization_schemes": ["CTNormalization"]},
    },
    "channels": {
        "spacing": (1.5, 1.5, 1.5),
        "shape": (40, 34, 30),
        "channels": ["T1", "FLAIR"],
        "border": 4,
        "folds": ("0", "1"),
        "configuration": {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [True, True]},
    },
    "regions": {
        "spacing": (1.2, 1.3, 1.9),
        "shape": (38, 36, 24),
        "labels": {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3},
        "regions_class_order": [1, 2, 3],
    },
    "residual": {
        "spacing": (1.2, 1.3, 1.9),
        "shape": (30, 36, 20),
        "mirror": (0, 1, 2),
        "configuration": {"architecture": architecture("residual")},
    },
    "old-plans": {
        "spacing": (0.9, 3.2, 0.9),
        "shape": (40, 14, 40),
        "transpose": [1, 0, 2],
        "reader": "NibabelIOWithReorient",
        "configuration": {"spacing": [3.4, 1.0, 1.0], "patch_size": [8, 24, 24], "architecture": None},
    },
    "dropout": {
        "spacing": (1.2, 1.3, 1.9),
        "shape": (38, 36, 24),
        "configuration": {
            "architecture": architecture("plain", dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.3})
        },
    },
    "nearest-scores": {
        "spacing": (1.2, 1.3, 1.9),
        "shape": (38, 36, 24),
        "configuration": {
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 0, "order_z": 0, "force_separate_z": None}
        },
    },
    "slices": {
        "spacing": (1.3, 1.2, 4.0),
        "shape": (44, 40, 14),
        "mirror": (0, 1),
        "configuration": {
            "spacing": [1.0, 1.0],
            "patch_size": [32, 24],
            "architecture": architecture(
                "plain",
                conv_op=CONV.replace("3d", "2d"),
                norm_op=NORM.replace("3d", "2d"),
                kernel_sizes=[[3, 3]] * 3,
                strides=[[1, 1], [2, 2], [2, 2]],
            ),
        },
    },
    "cascade": {
        "spacing": (1.2, 1.3, 1.9),
        "shape": (38, 36, 24),
        "lowres": {"spacing": [2.4, 2.6, 2.5], "patch_size": [8, 16, 16]},
    },
    "cascade-of-thick-slices": {
        "spacing": (0.8, 0.9, 4.6),
        "shape": (48, 44, 14),
        "border": 3,
        "folds": ("0", "1"),
        "transpose": [0, 2, 1],
        "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney": 3},
        "configuration": {
            "spacing": [4.0, 1.0, 1.0],
            "patch_size": [8, 24, 32],
            "use_mask_for_norm": [True],
            "architecture": architecture("plain", **ANISOTROPIC),
        },
        "lowres": {"spacing": [4.0, 1.9, 1.9], "patch_size": [8, 16, 16]},
    },
    # Voxel sizes of which the rounding of an oblique affine must decide nothing.
    "three-to-one": {"spacing": (1.0, 1.0, 3.0), "shape": (42, 38, 16)},
    "three-to-one-in-float32": {"spacing": (0.8, 0.8, 2.4), "shape": (46, 40, 18)},
    "two-thick-axes": {"spacing": (0.4, 1.3, 1.3), "shape": (80, 30, 26)},
    "half-a-voxel": {
        "spacing": (1.5, 1.5, 1.5),
        "shape": (25, 27, 23),
        "configuration": {"spacing": [1.0, 1.0, 1.0]},
    },
    "rounded-affine": {"spacing": (1.0, 3.0, 1.0), "shape": (40, 14, 36), "order": (0, 2, 1), "decimals": 3},
    "reoriented": {
        "spacing": (3.0, 1.0, 1.0),
        "shape": (14, 40, 36),
        "order": (2, 1, 0),
        "turn": (7, -11, 8),
        "reader": "NibabelIOWithReorient",
    },
}


def write(folder: Path, name: str) -> Path:
    """Write the model folder of a case and its images as image_0000.nii.gz and so on beside it.

    Of a cascade the second stage is returned; the first lies beside it.
    """
    case = CASES[name]
    if "lowres" in case:
        _write_model(folder, case, "3d_lowres", seed=107)
        model = _write_model(folder, case, "3d_cascade_fullres", seed=7)
    else:
        model = _write_model(folder, case, "3d_fullres", seed=7)
    for index in range(len(case.get("channels", ["T1"]))):
        write_image(folder / f"image_{index:04}.nii.gz", case, seed=index)
    return model


def _write_model(folder: Path, case: dict[str, Any], name: str, *, seed: int) -> Path:
    model = folder / f"nnUNetTrainer__nnUNetPlans__{name}"
    channels, labels = case.get("channels", ["T1"]), case.get("labels", LABELS)
    chosen = configuration(**case.get("configuration", {}))
    if chosen["architecture"] is None:
        chosen = {key: value for key, value in chosen.items() if key != "architecture"} | OLD
    transpose = case.get("transpose", [0, 1, 2])
    plans = {
        "dataset_name": "Dataset777_Seeded",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": case.get("reader", "SimpleITKIO"),
        "transpose_forward": transpose,
        "transpose_backward": [int(place) for place in np.argsort(transpose)],
        "configurations": {
            "3d_fullres": chosen,
            "3d_lowres": {"inherits_from": "3d_fullres"} | case.get("lowres", {}),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(index): CT for index in range(len(channels))},
    }
    dataset = {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    if "regions_class_order" in case:
        dataset["regions_class_order"] = case["regions_class_order"]
    model.mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(plans, indent=1))
    (model / "dataset.json").write_text(json.dumps(dataset, indent=1))
    n_inputs = len(channels) + (len(labels) - 1 if "cascade" in name else 0)
    for index, fold in enumerate(case.get("folds", ("0",))):
        state = parameters(chosen, n_inputs, len(labels) - bool("regions_class_order" in case), seed=seed + index)
        path = model / f"fold_{fold}" / "checkpoint_final.pth"
        write_checkpoint(path, state, mirror=case.get("mirror"), configuration=name)
    return model


def write_checkpoint(
    path: Path,
    state: dict[str, torch.Tensor],
    *,
    mirror: tuple[int, ...] | None = None,
    configuration: str = "3d_fullres",
) -> None:
    """Write what nnU-Net's trainer writes, with numpy scalars among the losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": state,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "momentum": 0.99}]},
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float32(0.5), np.float64(0.25)], "epoch_start_timestamps": [1.5]},
        "_best_ema": np.float64(0.8),
        "current_epoch": 2,
        "init_args": {"configuration": configuration, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror,
    }
    torch.save(content, path)


def write_image(path: Path, case: dict[str, Any], *, seed: int) -> None:
    """Write a smooth image with noise on an oblique grid, whose axes run to L, P and S."""
    shape, rng = case["shape"], np.random.default_rng(seed)
    ijk = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"), axis=-1)
    image = rng.normal(case.get("base", 0), 6, shape)
    for _ in range(12):
        centre, width = rng.uniform(-0.8, 0.8, 3), rng.uniform(0.15, 0.5)
        image += rng.uniform(-150, 250) * np.exp(-((ijk - centre) ** 2).sum(-1) / (2 * width**2))
    border = case.get("border", 0)
    if border:
        kept = np.zeros(shape, bool)
        kept[border:-border, border + 1 : -border, border : -border - 2] = True
        image = np.where(kept, image + 300, 0)
    affine = np.eye(4)
    directions = _rotation(case.get("turn", (0, 0, 8))) @ np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = directions[:, case.get("order", (0, 1, 2))] * np.array(case["spacing"])
    affine[:3, 3] = (31.5, 22.0, -14.0)
    if "decimals" in case:
        affine = affine.round(case["decimals"])
    file = nibabel.Nifti1Image(image.round().astype(np.int16), affine)
    file.header.set_xyzt_units("mm")
    file.header["pixdim"][1:4] = case["spacing"]
    nibabel.save(file, path)


def _rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Return the rotation about x, then y, then z; exact zeros where an angle is 0."""
    found = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        if angle:
            turn = np.eye(3)
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn[[a, b, a, b], [a, b, b, a]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
            found = turn @ found
    return found


def parameters(chosen: dict[str, Any], n_inputs: int, n_outputs: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Make the state dictionary of a configuration's network, under nnU-Net's names."""
    residual = False
    if "architecture" in chosen:
        arguments = chosen["architecture"]["arch_kwargs"]
        channels, kernels, strides = (arguments[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
        residual = "n_blocks_per_stage" in arguments
        blocks = arguments["n_blocks_per_stage" if residual else "n_conv_per_stage"]
        above = arguments["n_conv_per_stage_decoder"]
    else:
        strides, kernels = chosen["pool_op_kernel_sizes"], chosen["conv_kernel_sizes"]
        channels, blocks, above = [6, 12, 12], chosen["n_conv_per_stage_encoder"], chosen["n_conv_per_stage_decoder"]
    made = _Maker(seed)
    if chosen.get("architecture", {}).get("arch_kwargs", {}).get("dropout_op"):
        made.norm_place = 2
    before = n_inputs
    if residual:
        made.unit("encoder.stem.convs.0", before, channels[0], kernels[0])
        before = channels[0]
    for level, width in enumerate(channels):
        for block in range(blocks[level]):
            if residual:
                stride = strides[level] if block == 0 else [1, 1, 1]
                made.residual(f"encoder.stages.{level}.blocks.{block}", before, width, kernels[level], stride)
            else:
                made.unit(f"encoder.stages.{level}.0.convs.{block}", before, width, kernels[level])
            before = width
    for step, level in enumerate(reversed(range(len(channels) - 1))):
        width = channels[level]
        made.convolution(f"decoder.transpconvs.{step}", channels[level + 1], width, strides[level + 1], turned=True)
        for index in range(above[step]):
            made.unit(f"decoder.stages.{step}.convs.{index}", width if index else 2 * width, width, kernels[level])
        made.convolution(f"decoder.seg_layers.{step}", width, n_outputs, [1] * len(strides[0]), level=True)
    state = made.state
    return state | {f"decoder.{name}": value for name, value in state.items() if name.startswith("encoder.")}


class _Maker:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.state: dict[str, torch.Tensor] = {}
        self.norm_place = 1
        """Of the normalisation among a unit's modules: behind the convolution, and the dropout where there is one."""

    def convolution(
        self, name: str, inputs: int, outputs: int, kernel: list[int], *, turned: bool = False, level: bool = False
    ) -> None:
        shape = (inputs, outputs) if turned else (outputs, inputs)
        lean = self.rng.normal(0, 1, (*shape, *[1] * len(kernel)))
        rough = self.rng.normal(0, 0.35, (*shape, *kernel))
        if level:
            # Outputs that sum to about 0 over features, none of which wins everywhere.
            lean, rough = 3 * (lean - lean.mean(1, keepdims=True)), 0 * rough
        self._put(f"{name}.weight", (lean + rough) / np.sqrt(inputs * np.prod(kernel)))
        self._put(f"{name}.bias", self.rng.normal(0, 0.05, outputs))

    def unit(self, name: str, inputs: int, outputs: int, kernel: list[int], *, bias: bool = True) -> None:
        self.convolution(f"{name}.conv", inputs, outputs, kernel)
        if not bias:
            del self.state[f"{name}.conv.bias"]
        self._put(f"{name}.norm.weight", self.rng.uniform(0.7, 1.3, outputs))
        self._put(f"{name}.norm.bias", self.rng.normal(0, 0.2, outputs))
        for part, place in (("conv", 0), ("norm", self.norm_place)):
            for kind in ("weight", "bias"):
                if f"{name}.{part}.{kind}" in self.state:
                    self.state[f"{name}.all_modules.{place}.{kind}"] = self.state[f"{name}.{part}.{kind}"]

    def residual(self, name: str, inputs: int, outputs: int, kernel: list[int], stride: list[int]) -> None:
        self.unit(f"{name}.conv1", inputs, outputs, kernel)
        self.unit(f"{name}.conv2", outputs, outputs, kernel)
        if inputs != outputs:
            place = 1 if max(stride) > 1 else 0
            self.unit(f"{name}.skip.{place}", inputs, outputs, [1, 1, 1], bias=False)

    def _put(self, name: str, value: np.ndarray) -> None:
        self.state[name] = torch.from_numpy(value.astype(np.float32))
