"""MONAI bundles: configs/metadata.json, configs/inference.json or .yaml, models/model.pt."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from voxmetry.config import ModelSpec, WindowSpec, parse_record
from voxmetry.config.networks import MonaiName, MonaiNetwork
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ModelError
from voxmetry.nn.interop.bundle_config import Values, read_config
from voxmetry.nn.interop.bundle_transforms import BundlePreparation, Finished, read_postprocessing, read_preprocessing
from voxmetry.nn.interop.checkpoint import plain_names, read_checkpoint
from voxmetry.nn.interop.imported import ImportedModel, ImportOptions
from voxmetry.nn.networks.build import SET_BY_THE_MODEL, build_network
from voxmetry.nn.weights import sha256_of

MONAI_NETWORKS: tuple[str, ...] = get_args(MonaiName)

Json: TypeAlias = dict[str, Any]

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
WEIGHTS = ("model.pt", "model.safetensors")
INFERERS = ("SlidingWindowInferer", "SlidingWindowInfererAdapt")
IGNORED_BY_INFERER = ("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh")
PADDING = {"constant": "zeros", "replicate": "replicate"}
DROPPED_ARGUMENTS = {"SwinUNETR": ("img_size",)}
"""Arguments that MONAI no longer has, and that never changed the result."""

_MODALITY_OF: dict[str, str] = {"ct": "CT", "mr": "MR", "mri": "MR", "pt": "PT", "pet": "PT"}


def is_bundle(folder: Path) -> bool:
    """Say whether a folder is a MONAI bundle."""
    return (folder / "configs" / "metadata.json").is_file()


def read_bundle(folder: Path, options: ImportOptions) -> ImportedModel:
    """Understand a MONAI bundle, without running any of its expressions.

    Parameters
    ----------
    folder
        The bundle.
    options
        What the files do not say.

    Raises
    ------
    ModelError
        If a file is missing, or a network, a transform or an argument is not on the list of what is reproduced.
    """
    metadata = read_config(folder / "configs" / "metadata.json")
    values = Values(read_config(_one_of(folder / "configs", CONFIGS)))
    network, n_inputs, n_outputs = _network(values)
    prepared = read_preprocessing(_need(values, "preprocessing"), n_inputs=n_inputs)
    finished = read_postprocessing(_need(values, "postprocessing"), resampled=prepared.spacing_mm is not None)
    weights = _weights(folder, options)
    name = str(metadata.get("name") or folder.name)
    labels, regions = _labels(metadata, n_outputs, finished)
    orientation, notes = _axes(prepared, options, folder.name)
    spec = parse_record(
        {
            "name": options.name or re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "bundle",
            "version": str(metadata.get("version", "1.0.0")),
            "summary": str(metadata.get("description") or metadata.get("task") or name).rstrip("."),
            "licence": options.licence or "not stated: see the LICENSE of the bundle",
            "body_part": "not stated",
            "inputs": _inputs(metadata, n_inputs, prepared, options),
            "orientation": orientation,
            "spacing_mm": prepared.spacing_mm or (1.0, 1.0, 1.0),
            "resampling": {
                "rule": "monai" if prepared.spacing_mm else "native",
                "score_order": 0 if finished.on_model_grid else 1,
            },
            "window": _window(_need(values, "inferer")),
            "network": network,
            "labels": labels,
            "activation": finished.activation,
            "regions": regions,
            "clean": _clean(finished, labels),
            "training_domain": {},
        },
        ModelSpec,
        where=folder.name,
    )
    state = _parameters(weights)
    if regions:
        state = _reordered(state, spec, [output for output, _ in finished.painted])
    version = metadata.get("monai_version", "unknown version")
    return ImportedModel(
        spec=spec,
        members=(state,),
        origin=f"the MONAI bundle {name} {metadata.get('version', '')} (MONAI {version})",
        sources={f"models/{weights.name}": sha256_of(weights.read_bytes())},
        notes=(*notes, *finished.notes),
    )


def _axes(prepared: BundlePreparation, options: ImportOptions, name: str) -> tuple[str, list[str]]:
    """Return the axes of the network's grid; a bundle that does not turn images must be told them."""
    if prepared.orientation is not None:
        return prepared.orientation, []
    if options.orientation is None:
        raise ModelError(
            found=f"{name}, whose preprocessing has no Orientationd: it takes the axes of images as they are stored",
            expected="the orientation of its training images: trained on one, a network finds little in another",
            fix="add --orientation RAS (orientation='RAS'), or LPS and so on, as its training images have it, and "
            "any image is turned to it; or --orientation stored, if images are stored as those were: each study is "
            "then flagged",
        )
    notes = []
    if prepared.spacing_mm is None:
        notes.append(
            "The bundle does not say the voxel size of its training images, and images are taken at their own: give it "
            "images of the size that its authors name."
        )
    return "IJK" if options.orientation.lower() == "stored" else options.orientation.upper(), notes


def _clean(finished: Finished, labels: LabelTable) -> list[Json]:
    if finished.largest is None:
        return []
    values, together = finished.largest
    unknown = sorted(set(values) - set(labels.values))
    if unknown:
        raise ModelError(
            found=f"KeepLargestConnectedComponentd of the labels {unknown}",
            expected=f"of {list(labels.values)}",
            fix="correct the bundle's configuration",
        )
    names = [label.name for label in labels if label.value in values]
    return [{"step": "largest", "labels": names, "together": together}]


def _weights(folder: Path, options: ImportOptions) -> Path:
    """Return the file of weights: the one that is named, that the configuration loads, or of the usual name."""
    if options.checkpoint:
        return folder / "models" / options.checkpoint
    text = _one_of(folder / "configs", CONFIGS).read_text(encoding="utf-8")
    loaded = re.findall(r"/models/([\w.-]+\.(?:pt|pth|safetensors))", text)
    return _one_of(folder / "models", (*WEIGHTS, *dict.fromkeys(loaded)))


def _reordered(state: dict[str, torch.Tensor], spec: ModelSpec, outputs: list[int]) -> dict[str, torch.Tensor]:
    """Put the outputs of the last convolution in the order in which their regions paint."""
    network = build_network(spec)
    last = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv3d) and layer.out_channels == len(outputs) and set(layer.kernel_size) == {1}
    ][-1:]
    keys = [f"{name}.{kind}" for name in last for kind in ("weight", "bias") if f"{name}.{kind}" in state]
    if not keys:
        raise ModelError(
            found="a network of regions whose last layer is no 1 x 1 x 1 convolution",
            expected="one output a region",
            fix="use MONAI for this bundle",
        )
    return state | {key: state[key][outputs] for key in keys}


def _network(values: Values) -> tuple[MonaiNetwork, int, int]:
    key = "network_def" if "network_def" in values else "network"
    given = _need(values, key)
    target = str(given.get("_target_", "")) if isinstance(given, dict) else str(given)
    name = target.rsplit(".", 1)[-1]
    if name not in MONAI_NETWORKS or (target not in (name, f"monai.networks.nets.{name}") and "monai." not in target):
        raise ModelError(
            found=f"{key} {target or given}",
            expected=f"one of MONAI's {', '.join(MONAI_NETWORKS)}",
            fix="use MONAI for this bundle",
        )
    dropped = (*SET_BY_THE_MODEL, *DROPPED_ARGUMENTS.get(name, ()))
    arguments = {k: v for k, v in given.items() if not k.startswith("_") and k not in dropped}
    n_inputs, n_outputs = int(given.get("in_channels", 1)), int(given.get("out_channels", 2))
    if given.get("spatial_dims", 3) != 3:
        raise ModelError(found=f"{key} in 2-D", expected="a 3-D network", fix="use MONAI for this bundle")
    spec = parse_record(
        {"kind": "monai", "name": name, "arguments": arguments, "multiple_of": _divisor(name, arguments)},
        MonaiNetwork,
        where=key,
    )
    return spec, n_inputs, n_outputs


def _divisor(name: str, arguments: Json) -> tuple[int, int, int]:
    if name in ("SegResNet", "SegResNetDS"):
        size = 2 ** (len(arguments.get("blocks_down", (1, 2, 2, 4))) - 1)
        return (size, size, size)
    if name in ("UNet", "DynUNet"):
        strides = [stride if isinstance(stride, list) else [stride] * 3 for stride in arguments["strides"]]
        i, j, k = (math.prod(stride[axis] for stride in strides) for axis in range(3))
        return (i, j, k)
    size = 32 if name == "SwinUNETR" else 16
    return (size, size, size)


def _inputs(metadata: Json, n_inputs: int, prepared: BundlePreparation, options: ImportOptions) -> list[Json]:
    image = _format(metadata, "inputs").get("image", {})
    channels = image.get("channel_def", {})
    known = _MODALITY_OF.get(str(image.get("modality", "")).casefold())
    modalities = options.modalities or ((known,) * n_inputs if known else ())
    if len(modalities) != n_inputs:
        raise ModelError(
            found=f"{n_inputs} inputs of modality {image.get('modality', 'not stated')!r}",
            expected="CT, MR or PT for each",
            fix="add --modality, once for each input in their order (modalities=['CT', 'PT'])",
        )
    first, *rest = prepared.intensities
    names = [str(channels.get(str(index), f"image-{index}" if n_inputs > 1 else "image")) for index in range(n_inputs)]
    return [
        {"name": name, "modality": modality, "normalise": first, "then": tuple(rest)}
        for name, modality in zip(names, modalities, strict=True)
    ]


def _labels(metadata: Json, n_outputs: int, finished: Finished) -> tuple[LabelTable, tuple[int, ...] | None]:
    """Return the label table, and for a bundle of regions the label value that each output paints, in that order."""
    channels = _format(metadata, "outputs").get("pred", {}).get("channel_def", {})
    names = {int(index): str(name) for index, name in channels.items()} if isinstance(channels, dict) else {}
    complete = sorted(names) == list(range(n_outputs))
    if finished.painted:
        outputs = [output for output, _ in finished.painted]
        if not complete or sorted(outputs) != list(range(n_outputs)):
            raise ModelError(
                found=f"{n_outputs} outputs, {len(names)} names in metadata.json, {len(outputs)} that paint labels",
                expected="a name and a label for each output",
                fix="complete network_data_format.outputs.pred.channel_def in metadata.json",
            )
        table = {}
        for place, (output, value) in enumerate(finished.painted):
            over = ", ".join(names[later] for later in outputs[place + 1 :])
            table[value] = f"{names[output]} outside {over}" if over else names[output]
        return LabelTable.from_names(table), tuple(value for _, value in finished.painted)
    if not complete or "background" not in names.get(0, "").casefold():
        raise ModelError(
            found=f"{n_outputs} outputs, and metadata.json names {len(names)}, the first {names.get(0)!r}",
            expected="a name for each output, the first of them background",
            fix="complete network_data_format.outputs.pred.channel_def in metadata.json",
        )
    return LabelTable.from_names({index: name for index, name in names.items() if index}), None


def _window(inferer: Any) -> WindowSpec:
    name = str(inferer.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(inferer, dict) else str(inferer)
    if name not in INFERERS:
        raise ModelError(found=f"inferer {name}", expected=" or ".join(INFERERS), fix="use MONAI for this bundle")
    usual = {"cval": 0.0, "sigma_scale": 0.125, "with_coord": False}
    read = ("_target_", "roi_size", "overlap", "mode", "padding_mode")
    for key, value in inferer.items():
        if key not in (*read, *IGNORED_BY_INFERER) and (key not in usual or value != usual[key]):
            raise ModelError(
                found=f"inferer argument {key}: {value}",
                expected=f"{usual[key]}" if key in usual else f"none but {', '.join(read[1:])}",
                fix="use MONAI for this bundle",
            )
    padding = PADDING.get(str(inferer.get("padding_mode", "constant")))
    if "roi_size" not in inferer or padding is None:
        raise ModelError(
            found=f"an inferer of roi_size {inferer.get('roi_size')}, padding_mode {inferer.get('padding_mode')}",
            expected=f"a roi_size, and a padding_mode of {', '.join(PADDING)}",
            fix="use MONAI for this bundle",
        )
    size, overlap = inferer["roi_size"], inferer.get("overlap", 0.25)
    return parse_record(
        {
            "patch": size if isinstance(size, list) else [size] * 3,
            "overlap": overlap[0] if isinstance(overlap, list) and len(set(overlap)) == 1 else overlap,
            "blending": str(inferer.get("mode", "constant")),
            "padding": padding,
        },
        WindowSpec,
        where="inferer",
    )


def _parameters(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                found=f"{path.name} is no safetensors file: {error}",
                expected="weights in safetensors format",
                fix="get the bundle again",
            ) from error
    content = read_checkpoint(path)
    for key in ("state_dict", "model", "model_state_dict", "network"):
        if isinstance(content.get(key), dict):
            content = content[key]
    return plain_names(content)


def _format(metadata: Json, what: str) -> Json:
    found = metadata.get("network_data_format", {}).get(what, {})
    return found if isinstance(found, dict) else {}


def _need(values: Values, key: str) -> Any:
    if key not in values:
        raise ModelError(
            found=f"a bundle whose inference configuration has no {key!r}",
            expected="network_def, preprocessing, inferer and postprocessing",
            fix="use MONAI for this bundle",
        )
    if key == "postprocessing":
        # Invertd refers to the whole preprocessing, which need not be resolved a second time.
        given = values.raw(key)
        return given if isinstance(given, dict) else values.get(key)
    return values.get(key)


def _one_of(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        found=f"{folder.name} without {' or '.join(names)}",
        expected="one of these files",
        fix="get the whole bundle; weights of the model zoo are fetched apart from its configuration",
    )
