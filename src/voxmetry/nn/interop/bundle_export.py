"""A model as the configuration of a MONAI bundle, which `monai.bundle run` runs without this package."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import monai
import torch

from voxmetry.config import ModelSpec, NetworkSpec, Normalise
from voxmetry.config.networks import MonaiNetwork
from voxmetry.errors import ModelError
from voxmetry.nn.networks.build import SET_BY_THE_MODEL
from voxmetry.nn.networks.dynunet import dynunet_arguments

Json: TypeAlias = dict[str, Any]


def inference_config(spec: ModelSpec) -> tuple[Json, list[str]]:
    """Return the content of configs/inference.json, and what a user of the bundle should know.

    Raises
    ------
    ModelError
        If MONAI's own networks and transforms cannot say what this model does; it is named.
    """
    _require_expressible(spec)
    notes = []
    if spec.resampling.rule == "centred":
        notes.append(
            "MONAI's Spacing starts its grid at the first voxel; voxmetry centres it. Where the image has the model's "
            "voxel size the two are one grid, else scores differ a little."
        )
    if spec.window.mirror_axes:
        notes.append("MONAI's sliding window does not average over mirror images, as voxmetry does for this model.")
    if spec.clean:
        notes.append("The post-processing after the network is voxmetry's and is not part of this bundle.")
    config = {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "image_files": "$sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "cpu",
        "network_def": _network(spec),
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(spec)},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(spec.window.patch),
            "sw_batch_size": 1,
            "overlap": spec.window.overlap,
            "mode": spec.window.blending,
            "padding_mode": "constant" if spec.window.padding == "zeros" else "replicate",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(spec)},
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        "initialize": "$@network.load_state_dict(@weights)",
        "cases": "$[@preprocessing({'image': path}) for path in @image_files]",
        "scores": "$[@inferer(c['image'].as_tensor()[None].to(@device), @network)[0].detach() for c in @cases]",
        "run": ["$@initialize", "$[@postprocessing({**c, 'pred': s}) for c, s in zip(@cases, @scores)]"],
    }
    return config, notes


def metadata(spec: ModelSpec) -> Json:
    """Return the content of configs/metadata.json."""
    patch = list(spec.window.patch)
    channels = {"0": "background"}
    channels |= {str(index): label.name for index, label in enumerate(spec.labels, start=1)}
    values = {"0": 0} | {str(index): label.value for index, label in enumerate(spec.labels, start=1)}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": spec.version,
        "changelog": {spec.version: "exported from voxmetry"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "required_packages_version": {"nibabel": "5.3"},
        "name": spec.name,
        "task": spec.summary,
        "description": spec.summary,
        "authors": "see docs/README.md",
        "copyright": spec.licence,
        "intended_use": "Research use only; not a medical device.",
        "label_values": values,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if spec.inputs[0].modality == "CT" else "magnitude",
                    "modality": spec.inputs[0].modality,
                    "num_channels": len(spec.inputs),
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(index): item.name for index, item in enumerate(spec.inputs)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": spec.n_classes,
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": channels,
                }
            },
        },
    }


def _require_expressible(spec: ModelSpec) -> None:
    reasons = {
        f"the network of kind {spec.network.kind}": isinstance(spec.network, (NetworkSpec, MonaiNetwork)),
        "space_to_depth": not isinstance(spec.network, NetworkSpec) or math.prod(spec.network.space_to_depth) == 1,
        "an ensemble": spec.members == 1,
        "intensity_model": not spec.intensity_model,
        "several inputs": len(spec.inputs) == 1,
        "inputs of a previous stage": spec.previous is None,
        "regions": spec.regions is None,
        f"resampling by the rule {spec.resampling.rule!r}": spec.resampling.rule in ("centred", "monai"),
        "labels that are chosen before they are resampled": spec.resampling.score_order == 1,
        f"windows placed by the rule {spec.window.placement!r}": spec.window.placement == "monai",
    }
    refused = [what for what, fine in reasons.items() if not fine]
    if refused:
        raise ModelError(
            found=f"{spec.name} has {', '.join(refused)}",
            expected="what MONAI's own networks and transforms can say",
            fix="export the network alone, as onnx or torchscript",
        )


def _network(spec: ModelSpec) -> Json:
    fixed = {"spatial_dims": 3, "in_channels": len(spec.inputs), "out_channels": spec.n_classes}
    if isinstance(spec.network, NetworkSpec):
        return {"_target_": "DynUNet", **fixed, **dynunet_arguments(spec.network)}
    name = spec.network.name if isinstance(spec.network, MonaiNetwork) else ""
    arguments = spec.network.arguments if isinstance(spec.network, MonaiNetwork) else {}
    if name == "SwinUNETR":
        fixed = {key: value for key, value in fixed.items() if key in SET_BY_THE_MODEL}
    return {"_target_": name, **fixed, **arguments}


def _preprocessing(spec: ModelSpec) -> list[Json]:
    on_image: Json = {"keys": "image"}
    transforms: list[Json] = [
        {"_target_": "LoadImaged", **on_image},
        {"_target_": "EnsureChannelFirstd", **on_image},
        {"_target_": "Orientationd", **on_image, "axcodes": spec.orientation, "labels": None},
        {"_target_": "Spacingd", **on_image, "pixdim": list(spec.spacing_mm), "mode": "bilinear"},
    ]
    for how in (spec.inputs[0].normalise, *spec.inputs[0].then):
        transforms.append({**_intensity(how), **on_image})
    transforms.append({"_target_": "EnsureTyped", **on_image})
    return transforms


def _intensity(how: Normalise) -> Json:
    if how.method == "window" and how.low is not None and how.high is not None:
        bottom, top = ((edge - how.mean) / how.sd for edge in (how.low, how.high))
        edges = {"a_min": how.low, "a_max": how.high, "b_min": bottom, "b_max": top}
        return {"_target_": "ScaleIntensityRanged", **edges, "clip": True}
    if how.method == "shift":
        edges = {"a_min": how.mean, "a_max": how.mean + how.sd, "b_min": 0.0, "b_max": 1.0}
        return {"_target_": "ScaleIntensityRanged", **edges, "clip": False}
    if how.method == "minmax":
        high = 1.0 if how.high is None else how.high
        return {"_target_": "ScaleIntensityd", "minv": how.low or 0.0, "maxv": high, "channel_wise": True}
    if how.percentiles == (0.0, 100.0) and how.keep_zeros == how.nonzero:
        return {"_target_": "NormalizeIntensityd", "nonzero": how.nonzero, "channel_wise": True}
    return {"_target_": "Lambdad", "func": _zscore_expression(how)}


def _zscore_expression(how: Normalise) -> str:
    """Spell the z-score of `nn.preprocess` as an expression for MONAI, which runs it.

    MONAI has no transform that clips to the percentiles of some voxels and then shifts all of them.
    """
    low, high = how.percentiles
    counted = "x[x != 0]" if how.nonzero else "x.flatten()"
    shifted = "(y - z.mean()) / z.std(correction=0)"
    kept = f"torch.where(x != 0, {shifted}, x.double())" if how.nonzero and how.keep_zeros else shifted
    # numpy's percentiles: torch's quantile refuses large images.
    limits = f"__import__('numpy').percentile({counted}.numpy(), [{low}, {high}])"
    return (
        f"$lambda x: (lambda q: (lambda y: (lambda z: ({kept}).float())"
        f"({'y[x != 0]' if how.nonzero else 'y.flatten()'}))(x.double().clamp(float(q[0]), float(q[1]))))({limits})"
    )


def _postprocessing(spec: ModelSpec) -> list[Json]:
    softmax = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}] if spec.activation == "softmax" else []
    values = [0, *spec.labels.values]
    plain = list(range(len(values)))
    renumber = [{"_target_": "MapLabelValued", "keys": "pred", "orig_labels": plain, "target_labels": values}]
    return [
        *softmax,
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        *(renumber if values != plain else []),
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_dtype": "uint16",
            "separate_folder": False,
            "resample": False,
        },
    ]
