"""What nnU-Net's plans say of network and resampling, in either of their two forms."""

from __future__ import annotations

from typing import Any, TypeAlias

from voxmetry.config import Resampling, parse_record
from voxmetry.config.networks import NnunetNetwork
from voxmetry.errors import ModelError

Json: TypeAlias = dict[str, Any]

ENCODERS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
IGNORED_ARGUMENTS = ("n_stages", "deep_supervision", "dropout_op_kwargs", "nonlin_kwargs", "norm_op_kwargs")
READ_ARGUMENTS = (
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "conv_bias",
    "conv_op",
    "norm_op",
    "nonlin",
    "dropout_op",
    "stem_channels",
)
USUAL = {
    "conv_op": ("Conv3d", "Conv2d"),
    "norm_op": ("InstanceNorm3d", "InstanceNorm2d"),
    "nonlin": ("LeakyReLU", "ReLU"),
    # Dropout has no parameters and does nothing at inference.
    "dropout_op": (None, "Dropout", "Dropout2d", "Dropout3d", "AlphaDropout"),
}
SPLINES, TORCH = "resample_data_or_seg_to_shape", "resample_torch_fornnunet"


def require_keys(content: Json, keys: tuple[str, ...], where: str) -> None:
    """Refuse a file without the keys that nnU-Net writes; `where` names it."""
    missing = [key for key in keys if key not in content]
    if missing:
        raise ModelError(
            found=f"{where} without {', '.join(missing)}",
            expected="what nnU-Net v2 writes, versions 2.0 to 2.8",
            fix="use the file of this model as it was trained; nnU-Net of another version may have written it",
        )


def read_network(configuration: Json) -> NnunetNetwork:
    """Describe the network of a configuration.

    Raises
    ------
    ModelError
        If it is none of nnU-Net's two U-Nets, or has a layer that is not reproduced here; it is named.
    """
    name, arguments = _architecture(configuration)
    if name not in ENCODERS:
        raise ModelError(
            found=f"network {name}", expected=" or ".join(ENCODERS), fix="use the code that this model was made with"
        )
    for key, usual in USUAL.items():
        given = arguments.get(key)
        if (given.rsplit(".", 1)[-1] if isinstance(given, str) else given) not in usual:
            raise _refusal(f"{key} {given}", " or ".join(str(one) for one in usual))
    unknown = sorted(set(arguments) - set(READ_ARGUMENTS) - set(IGNORED_ARGUMENTS))
    for key in unknown:
        if arguments[key] not in (None, False):
            raise _refusal(f"network argument {key}: {arguments[key]}", "nnU-Net's own U-Nets")
    levels = len(arguments["strides"])
    flat = str(arguments["conv_op"]).endswith("Conv2d")
    blocks = arguments["n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"]
    norm = arguments.get("norm_op_kwargs") or {}
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    return parse_record(
        {
            "kind": "nnunet",
            "encoder": ENCODERS[name],
            "channels": _each(arguments["features_per_stage"], levels),
            "strides": [_three(item, flat=flat) for item in arguments["strides"]],
            "kernels": [_three(item, flat=flat) for item in _each(arguments["kernel_sizes"], levels)],
            "encoder_blocks": _each(blocks, levels),
            "decoder_convolutions": _each(arguments["n_conv_per_stage_decoder"], levels - 1),
            "convolution_bias": arguments.get("conv_bias", False),
            "norm_epsilon": norm.get("eps", 1e-5),
            "norm_affine": norm.get("affine", False),
            "negative_slope": slope if str(arguments["nonlin"]).endswith("LeakyReLU") else 0.0,
            "stem_channels": arguments.get("stem_channels"),
        },
        NnunetNetwork,
        where="plans.json",
    )


def read_resampling(configuration: Json) -> Resampling:
    """Describe how a configuration resamples images and scores.

    Raises
    ------
    ModelError
        If it does so in a way that is not reproduced here; it is named.
    """
    order, apart = _resampling(configuration, "data", orders=(1, 3), usual=3)
    score_order, of_scores = _resampling(configuration, "probabilities", orders=(0, 1), usual=1)
    if of_scores != apart:
        raise _refusal(
            f"force_separate_z {apart} for images and {of_scores} for probabilities", "the same for both of them"
        )
    return parse_record(
        {
            "rule": "nnunet",
            "order": order,
            "score_order": score_order,
            "slices_apart": apart,
            "keep_first": len(configuration["spacing"]) == 2,
        },
        Resampling,
        where="resampling in plans.json",
    )


def _resampling(configuration: Json, what: str, *, orders: tuple[int, ...], usual: int) -> tuple[int, bool | None]:
    function = configuration.get(f"resampling_fn_{what}", SPLINES)
    arguments = configuration.get(f"resampling_fn_{what}_kwargs", {})
    apart = arguments.get("force_separate_z")
    if arguments.get("separate_z_anisotropy_threshold", 3) != 3:
        raise _refusal(f"an anisotropy threshold of {arguments['separate_z_anisotropy_threshold']}", "3")
    if function == TORCH:
        if arguments.get("mode", "linear") != "linear" or arguments.get("aniso_axis_mode", "nearest-exact") not in (
            "nearest-exact",
            "nearest",
        ):
            raise _refusal(f"{TORCH} with {arguments}", "mode linear")
        return 1, apart
    if function != SPLINES:
        raise _refusal(f"resampling by {function}", f"{SPLINES} or {TORCH}")
    order, across = arguments.get("order", usual), arguments.get("order_z", 0)
    if order not in orders or across != 0:
        raise _refusal(f"{function} of order {order}, {across} across slices", f"order {usual}, 0 across slices")
    return order, apart


def _architecture(configuration: Json) -> tuple[str, Json]:
    """Return the network's name and arguments, from plans since 2.3 or from older ones."""
    if "architecture" in configuration:
        given = configuration["architecture"]
        return str(given["network_class_name"]).rsplit(".", 1)[-1], dict(given["arch_kwargs"])
    if "UNet_class_name" not in configuration:
        raise ModelError(
            found="a configuration with neither architecture nor UNet_class_name",
            expected="plans of nnU-Net 2.0 to 2.8",
            fix="import a model whose plans one of these versions made",
        )
    strides = configuration["pool_op_kernel_sizes"]
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    name = str(configuration["UNet_class_name"])
    return name, {
        "features_per_stage": [min(base * 2**level, most) for level in range(len(strides))],
        "strides": strides,
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": configuration[
            "n_conv_per_stage_encoder"
        ],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "conv_op": f"Conv{len(configuration['patch_size'])}d",
        "norm_op": f"InstanceNorm{len(configuration['patch_size'])}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def _each(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] * levels


def _three(value: Any, *, flat: bool = False) -> list[int]:
    """Return three sizes; those of a 2-D network are 1 along the axis that its slices follow each other along."""
    if isinstance(value, list):
        return [1, *value] if len(value) == 2 else list(value)
    return [1, value, value] if flat else [value] * 3


def _refusal(found: str, expected: str) -> ModelError:
    return ModelError(found=found, expected=expected, fix="use nnU-Net, or the code that this model was made with")
