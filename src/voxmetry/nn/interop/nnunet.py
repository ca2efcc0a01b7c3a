"""nnU-Net v2 model folders: plans.json, dataset.json and fold_*/checkpoint_final.pth, as TotalSegmentator's too."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import torch

from voxmetry.config import (
    ModelSpec,
    Range,
    TrainingDomain,
    WindowSpec,
    parse_record,
)
from voxmetry.config.networks import NnunetNetwork
from voxmetry.core.labels import LabelTable
from voxmetry.core.text_files import read_text
from voxmetry.errors import ModelError
from voxmetry.nn.interop.checkpoint import plain_names, read_checkpoint
from voxmetry.nn.interop.imported import ImportedModel, ImportOptions
from voxmetry.nn.interop.nnunet_inputs import describe_inputs, read_channels, read_orientation
from voxmetry.nn.interop.nnunet_plans import Json, read_network, read_resampling, require_keys
from voxmetry.nn.weights import sha256_of

CHECKPOINT = "checkpoint_final.pth"
OVERLAP = 0.5
"""nnU-Net's predictor moves its window by at most half a patch; the plans do not say it."""


def is_nnunet(folder: Path) -> bool:
    """Say whether a folder, or one just below it, is an nnU-Net model (of version 1 as well, to be refused)."""
    names = ("plans.json", "plans.pkl")
    return any((folder / name).is_file() for name in names) or any(
        next(folder.glob(f"*/{name}"), None) for name in names
    )


def read_nnunet(folder: Path, options: ImportOptions) -> ImportedModel:
    """Understand an nnU-Net v2 model folder.

    Parameters
    ----------
    folder
        The folder with plans.json (`nnUNetTrainer__nnUNetPlans__3d_fullres`), or the one above it if it has only one.
    options
        What the files do not say.

    Raises
    ------
    ModelError
        If a file is missing, the first stage of a cascade is not beside it, the plans are of another version, or the
        model has something that is not reproduced here; it is named.
    """
    return _read_model(_model_folder(folder), options)


def _read_model(folder: Path, options: ImportOptions, *, is_first: bool = False) -> ImportedModel:
    plans, dataset = _read_json(folder / "plans.json"), _read_json(folder / "dataset.json")
    folds = _folds(folder, options)
    checkpoints = [(path, _without_training(read_checkpoint(path))) for path in folds]
    first = checkpoints[0][1]
    require_keys(first, ("network_weights", "init_args"), folds[0].name)
    configuration = _configuration(plans, str(first["init_args"]["configuration"]))
    network = read_network(configuration)
    table, regions = read_labels(dataset)
    orientation, notes = read_orientation(plans, folder, options)
    names = [str(name) for name in read_channels(dataset).values()]
    before = _previous(folder, configuration, options, is_first=is_first)
    spec = parse_record(
        {
            "name": options.name or _model_name(plans, first),
            "version": "1.0.0",
            "summary": str(dataset.get("description") or f"{plans.get('dataset_name', 'A model')}, from nnU-Net v2"),
            "licence": options.licence or str(dataset.get("licence") or dataset.get("license") or "not stated"),
            "body_part": "not stated",
            "inputs": describe_inputs(names, configuration, plans, options),
            "previous": {"values": list(table.values)} if before else None,
            "orientation": orientation,
            "spacing_mm": _spacing(configuration, plans),
            "resampling": read_resampling(configuration),
            "window": _window(configuration, first, options),
            "network": network,
            "members": len(checkpoints),
            "labels": table,
            "regions": regions,
            "training_domain": _domain(folder, plans),
        },
        ModelSpec,
        where=folder.name,
    )
    return ImportedModel(
        spec=spec,
        members=tuple(_parameters(content, network, path) for path, content in checkpoints),
        origin=f"nnU-Net v2 ({plans.get('plans_name', 'plans')}, {first.get('trainer_name', 'unknown trainer')}, "
        f"{first['init_args']['configuration']}, {', '.join(path.parent.name for path in folds)})",
        sources={f"{path.parent.name}/{path.name}": _digest(path) for path in folds},
        notes=tuple(notes),
        previous=before,
    )


def _previous(folder: Path, configuration: Json, options: ImportOptions, *, is_first: bool) -> ImportedModel | None:
    """Read the first stage of a cascade from the folder beside it, named as nnU-Net does; None for other models."""
    stage = configuration.get("previous_stage")
    if not stage:
        return None
    if is_first:
        raise ModelError(
            found=f"{folder.name}, the first stage of a cascade, which names {stage} as a stage before it",
            expected="a cascade of two stages, as nnU-Net plans it",
            fix="use the plans.json that belongs to these weights",
        )
    beside = folder.with_name("__".join([*folder.name.split("__")[:-1], str(stage)]))
    if not is_nnunet(beside):
        raise ModelError(
            found=f"{folder.name}, the second stage of a cascade, without {beside.name} beside it",
            expected="both stages in one folder, as nnU-Net trains them",
            fix=f"copy {beside.name} there, or import the 3d_fullres or 3d_lowres model of this data set",
        )
    first = replace(options, name=f"{options.name}-first-stage" if options.name else None)
    return _read_model(beside, first, is_first=True)


def read_labels(dataset: Json) -> tuple[LabelTable, tuple[int, ...] | None]:
    """Return the label table, and for a model of regions the label value that each paints.

    Raises
    ------
    ModelError
        If labels are missing, do not start at the background, or leave out a value.

    Examples
    --------
    >>> table, regions = read_labels({"labels": {"background": 0, "liver": 1}})
    >>> table.names, regions
    (('liver',), None)
    >>> labels = {"background": 0, "tumour": [1, 2], "core": 2}
    >>> table, regions = read_labels({"labels": labels, "regions_class_order": [1, 2]})
    >>> table.names, regions
    (('tumour outside core', 'core'), (1, 2))
    """
    require_keys(dataset, ("labels",), "dataset.json")
    given: Json = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    groups = {name: {int(v) for v in (value if isinstance(value, list) else [value])} for name, value in given.items()}
    if not any(len(group) > 1 for group in groups.values()):
        by_value = {min(group): name for name, group in groups.items()}
        if sorted(by_value) != list(range(len(groups))) or len(by_value) < 2:
            raise ModelError(
                found=f"labels of the values {sorted(by_value)}",
                expected="0 for the background and then 1, 2, 3 without a gap, as nnU-Net asks for",
                fix="correct dataset.json to that of the training",
            )
        return LabelTable.from_names({value: name for value, name in by_value.items() if value}), None
    groups = {name: group for name, group in groups.items() if group != {0}}
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(groups):
        raise ModelError(
            found=f"{len(groups)} regions and regions_class_order {order}",
            expected="one label value for each region",
            fix="correct dataset.json to that of the training",
        )
    regions = tuple(int(value) for value in order)
    names = {}
    for place, (value, name) in enumerate(zip(regions, groups, strict=True)):
        # What a later region paints over is no longer part of this label: its name must not promise it.
        over = [other for other in list(groups)[place + 1 :] if groups[other] & groups[name]]
        names[value] = f"{name} outside {', '.join(over)}" if over else name
    return LabelTable.from_names(names), regions


def _without_training(checkpoint: Json) -> Json:
    """Leave out the optimiser, which is as large as the network."""
    return {key: value for key, value in checkpoint.items() if key not in ("optimizer_state", "logging")}


def _model_folder(folder: Path) -> Path:
    if (folder / "plans.json").is_file():
        return folder
    if any(folder.glob("**/plans.pkl")):
        raise ModelError(
            found=f"{folder.name} holds plans.pkl: a model of nnU-Net version 1",
            expected="a model of nnU-Net version 2, with plans.json",
            fix="convert or train it with nnU-Net version 2",
        )
    below = sorted(path.parent for path in folder.glob("*/plans.json"))
    if len(below) != 1:
        raise ModelError(
            found=f"{folder.name} holds {len(below)} models: {', '.join(path.name for path in below)}",
            expected="one",
            fix="give the folder of one of them",
        )
    return below[0]


def _folds(folder: Path, options: ImportOptions) -> list[Path]:
    name = options.checkpoint or CHECKPOINT
    there = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{name}"))
    # nnU-Net's 'all' is one model trained on all cases, not a further member of the cross-validation.
    usual = [fold for fold in there if fold != "all"] or there
    wanted = usual if options.folds is None else list(options.folds)
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        raise ModelError(
            found=f"{folder.name} has {name} in " + (", ".join(f"fold_{fold}" for fold in there) or "no fold"),
            expected=", ".join(f"fold_{fold}/{name}" for fold in (missing or ["0"])),
            fix="copy the missing folds, name those to use (--fold), or another file (--checkpoint)",
        )
    return [folder / f"fold_{fold}" / name for fold in wanted]


def _configuration(plans: Json, name: str) -> Json:
    require_keys(plans, ("configurations", "transpose_forward"), "plans.json")
    found: Json = {}
    visited: list[str] = []
    wanted: str | None = name
    while wanted is not None:
        if wanted in visited or wanted not in plans["configurations"]:
            why = "refers to itself" if wanted in visited else "is not there"
            raise ModelError(
                found=f"configuration {wanted!r} {why} in plans.json",
                expected=f"one of {', '.join(plans['configurations'])}",
                fix="use the plans.json that belongs to these weights",
            )
        visited.append(wanted)
        found = plans["configurations"][wanted] | found
        wanted = plans["configurations"][wanted].get("inherits_from")
    require_keys(found, ("patch_size", "spacing", "normalization_schemes"), f"configuration {name}")
    if len(found["patch_size"]) not in (2, 3) or len(found["spacing"]) != len(found["patch_size"]):
        raise ModelError(
            found=f"configuration {name} with patches {found['patch_size']} of voxels {found['spacing']}",
            expected="two sizes each, or three",
            fix="use the plans.json that belongs to these weights",
        )
    _require_usual(found.get("preprocessor_name", "DefaultPreprocessor"), "DefaultPreprocessor", "preprocessor_name")
    _require_usual(plans.get("label_manager", "LabelManager"), "LabelManager", "label_manager")
    return found


def _window(configuration: Json, checkpoint: Json, options: ImportOptions) -> WindowSpec:
    axes = checkpoint.get("inference_allowed_mirroring_axes") if options.mirroring else None
    # Slices of a 2-D model follow each other along the first axis.
    flat = 3 - len(configuration["patch_size"])
    i, j, k = [1] * flat + list(configuration["patch_size"])
    mirrored = tuple(int(axis) + flat for axis in axes or ())
    return WindowSpec(patch=(i, j, k), overlap=OVERLAP, placement="nnunet", mirror_axes=mirrored)


def _spacing(configuration: Json, plans: Json) -> tuple[float, ...]:
    """Return the voxel size of the network's grid; a 2-D model keeps the step of slices and has its median."""
    found = tuple(float(mm) for mm in configuration["spacing"])
    if len(found) == 3:
        return found
    median = plans.get("original_median_spacing_after_transp") or [1.0]
    return (float(median[0]), *found)


def _domain(folder: Path, plans: Json) -> TrainingDomain:
    """Take the voxel sizes of the training images, where the folder has nnU-Net's fingerprint."""
    path = folder / "dataset_fingerprint.json"
    spacings = _read_json(path).get("spacings", []) if path.is_file() else []
    if not spacings:
        return TrainingDomain()
    i, j, k = (
        Range(low=min(row[axis] for row in spacings), high=max(row[axis] for row in spacings))
        for axis in plans["transpose_forward"]
    )
    return TrainingDomain(spacing_mm=(i, j, k))


def _parameters(checkpoint: Json, network: NnunetNetwork, path: Path) -> dict[str, torch.Tensor]:
    """Rename nnU-Net's parameters; leave out its second names for the same tensors, and coarser outputs."""
    require_keys(checkpoint, ("network_weights",), f"{path.parent.name}/{path.name}")
    last = f"decoder.seg_layers.{len(network.channels) - 2}."
    found = {}
    for name, value in plain_names(checkpoint["network_weights"]).items():
        if ".all_modules." in name or name.startswith("decoder.encoder."):
            continue
        if name.startswith(last):
            found["decoder.output." + name.removeprefix(last)] = value
        elif not name.startswith("decoder.seg_layers."):
            found[name] = value
    # A 2-D convolution is a 3-D one of one voxel along the slices.
    return {name: value[:, :, None] if value.ndim == 4 else value for name, value in found.items()}


def _model_name(plans: Json, checkpoint: Json) -> str:
    text = f"{plans.get('dataset_name', 'nnunet')}-{checkpoint['init_args']['configuration']}".lower()
    return re.sub(r"[^a-z0-9._-]+", "-", text).strip("-._") or "nnunet"


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ModelError(
            found=f"{path.parent.name}/{path.name} cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a JSON file, as nnU-Net writes it",
            fix="copy the model folder again",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(found=f"{path.name} holds no mapping", expected="a JSON object", fix="copy the folder again")
    return content


def _require_usual(found: object, usual: str, key: str) -> None:
    if found != usual:
        raise ModelError(
            found=f"{key} {found}", expected=f"{usual}, nnU-Net's own", fix="use the code that this model was made with"
        )


def _digest(path: Path) -> str:
    return sha256_of(path.read_bytes())
