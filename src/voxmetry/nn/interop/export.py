"""Export a model: its network as ONNX or TorchScript, or the whole of it as a MONAI bundle."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from voxmetry.config import MaskRcnnNetwork, ModelSpec, dump_yaml
from voxmetry.errors import MissingExtraError, ModelError, OutputExistsError
from voxmetry.io.atomic import atomic_path, make_folder, write_bytes, write_text
from voxmetry.models import find_model, read_spec
from voxmetry.nn.interop.bundle_export import inference_config, metadata
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import load_into

INPUT, OUTPUT = "image", "scores"
OPSET = 18
SPEC_KEY = "voxmetry.model"
"""Under this name an ONNX file holds model.yaml, which says how to prepare the image and what the scores mean."""

Form = Literal["onnx", "torchscript", "monai-bundle"]


def export_model(name: str | Path, out: Path | str, *, form: Form, overwrite: bool = False) -> tuple[Path, ...]:
    """Write a model for other programs.

    Parameters
    ----------
    name
        A bundled model's name or a model folder.
    out
        The file to write, or for a MONAI bundle the folder.
    form
        'onnx' and 'torchscript' hold the network alone: patches (B, C, I, J, K) float32 that were prepared as
        model.yaml says, to logits (B, n_classes, I, J, K). 'monai-bundle' holds the preparation and the way back too.
    overwrite
        Whether to replace what is there.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    ModelError
        If there is no such model, or a bundle cannot say what it does; it is named.
    OutputExistsError
        If `out` is there already.
    OutputError
        If it cannot be written.
    MissingExtraError
        If a package of the extra 'interop' is needed and not installed.
    """
    folder, target = find_model(name), Path(out)
    spec = read_spec(folder)
    if spec.weights is None:
        raise ModelError(
            found=f"{folder.name}/model.yaml names no weights",
            expected="a model with weights",
            fix="train it first: voxmetry train",
        )
    if target.exists() and not overwrite:
        raise OutputExistsError(
            found=f"{target.name} is there already",
            expected="a new name",
            fix="name another one, or add --overwrite (overwrite=True) to replace it",
        )
    if isinstance(spec.network, MaskRcnnNetwork):
        raise ModelError(
            found=f"{spec.name}, a network of kind 'maskrcnn', to write as {form}",
            expected="a network of a fixed graph: here the number of boxes follows from the image, and boxes are "
            "suppressed and sampled one by one",
            fix="run it by voxmetry segment or voxmetry.Predictor; export a U-Net or an FCN of the same data instead",
        )
    if spec.clicks is not None and form == "monai-bundle":
        raise ModelError(
            found=f"{spec.name}, a network that takes clicks, to write as {form}",
            expected="a network that MONAI builds by its own name",
            fix="export it to ONNX or TorchScript, which hold the network without clicks",
        )
    network = build_network(spec)
    load_into(network, folder / spec.weights.file, sha256=spec.weights.sha256)
    network.eval()
    if form == "monai-bundle":
        return _write_bundle(network, spec, folder, target)
    example = torch.zeros(1, spec.n_channels, *spec.window.patch)
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns of its deprecation, and of sizes that it takes as fixed: here they are.
        warnings.simplefilter("ignore")
        if form == "onnx":
            _write_onnx(network, example, spec, target)
        else:
            with atomic_path(target) as temporary:
                torch.jit.save(torch.jit.trace(network, example, check_trace=False), temporary)
    return (target,)


def _write_onnx(network: nn.Module, example: torch.Tensor, spec: ModelSpec, target: Path) -> None:
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError(
            found="export to ONNX without the package onnx",
            expected="the packages of the extra 'interop'",
            fix='pip install "voxmetry[interop]"',
        )
    import onnx

    batch = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    with atomic_path(target) as temporary:
        torch.onnx.export(
            network,
            (example,),
            str(temporary),
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_axes=batch,
        )
        model = onnx.load(temporary)
        model.producer_name = "voxmetry"
        onnx.helper.set_model_props(model, {SPEC_KEY: dump_yaml(spec)})
        onnx.checker.check_model(model)
        onnx.save(model, temporary)


def _write_bundle(network: nn.Module, spec: ModelSpec, source: Path, out: Path) -> tuple[Path, ...]:
    config, notes = inference_config(spec)
    for part in ("configs", "models", "docs"):
        make_folder(out / part)
    files = tuple(
        out / name for name in ("models/model.pt", "docs/README.md", "configs/metadata.json", "configs/inference.json")
    )
    data = io.BytesIO()
    torch.save(network.state_dict(), data)
    card = source / "MODEL_CARD.md"
    readme = card.read_text(encoding="utf-8") if card.is_file() else f"# {spec.name}\n"
    if notes:
        readme += "\n## Notes on this bundle\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    write_bytes(files[0], data.getvalue())
    write_text(files[1], readme)
    write_text(files[2], json.dumps(metadata(spec), indent=1) + "\n")
    write_text(files[3], json.dumps(config, indent=1) + "\n")
    return files
