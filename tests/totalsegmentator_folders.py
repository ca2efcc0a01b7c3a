"""Archives of TotalSegmentator's models under their true names and layouts, with seeded weights. Needs no nnU-Net."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

import nnunet_folders

CT = nnunet_folders.CT
PATCH = [16, 24, 24]


def write_part(
    folder: Path,
    inside: str,
    labels: Sequence[str],
    spacing: Sequence[float],
    *,
    seed: int,
    channel: str = "CT",
    lifted: Sequence[str] = (),
    network: dict[str, Any] | None = None,
) -> Path:
    """Write the model folder `inside` (Dataset.../trainer__plans__configuration) below a folder.

    Parameters
    ----------
    labels
        Names of the values 1, 2, 3.
    spacing
        In nnU-Net's order, k, j, i.
    lifted
        Structures whose score is raised, so that the seeded network finds them.
    network
        Settings of nnU-Net's configuration, such as `patch_size` and `architecture`, other than the tests' tiny ones.
    """
    model = folder / inside
    name = model.name.rsplit("__", 1)[-1]
    settings = {
        "spacing": list(spacing),
        "patch_size": PATCH,
        "normalization_schemes": ["CTNormalization" if channel == "CT" else "ZScoreNormalization"],
    }
    chosen = nnunet_folders.configuration(**(settings | (network or {})))
    plans: dict[str, Any] = {
        "dataset_name": model.parent.name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: chosen},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": CT},
    }
    dataset = {
        "channel_names": {"0": channel},
        "labels": {"background": 0} | {label: value for value, label in enumerate(labels, start=1)},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    model.mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(plans, indent=1))
    (model / "dataset.json").write_text(json.dumps(dataset, indent=1))
    state = nnunet_folders.parameters(chosen, 1, len(labels) + 1, seed=seed)
    for label in lifted:
        for key in [key for key in state if key.startswith("decoder.seg_layers.") and key.endswith(".bias")]:
            state[key][labels.index(label) + 1] += 1.5
    path = model / "fold_0" / "checkpoint_final.pth"
    nnunet_folders.write_checkpoint(path, state)
    content = torch.load(path, weights_only=False)
    content["init_args"]["configuration"] = name
    torch.save(content, path)
    return model


def zipped(folder: Path, target: Path) -> Path:
    """Put all files of a folder into an archive."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def image(shape: Sequence[int], spacing: Sequence[float], *, seed: int = 0) -> nibabel.Nifti1Image:
    """Make a CT of smooth blobs with noise, in HU, whose axes run to L, P and S, a little oblique."""
    rng = np.random.default_rng(seed)
    ijk = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"), axis=-1)
    values = rng.normal(-40, 6, shape)
    for _ in range(14):
        centre, width = rng.uniform(-0.8, 0.8, 3), rng.uniform(0.15, 0.5)
        values += rng.uniform(-150, 250) * np.exp(-((ijk - centre) ** 2).sum(-1) / (2 * width**2))
    turn = np.deg2rad(3)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, -1.0, 1.0]) * np.array(spacing)
    affine[:3, 3] = (31.5, 22.0, -14.0)
    made = nibabel.Nifti1Image(values.round().astype(np.int16), affine)
    made.header.set_xyzt_units("mm")
    return made
