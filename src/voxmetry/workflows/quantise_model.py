"""`voxmetry models quantise`: a model's networks in 8 bits, calibrated on images, compared with float32 on the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from voxmetry import nn
from voxmetry._version import __version__
from voxmetry.config import ModelSpec, StudySettings, Weights, fast_spec
from voxmetry.core.quantising import LEAST_DICE, LEAST_ML, WINDOWS
from voxmetry.core.records import FastRun
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError, ModelError
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement.overlap import overlaps
from voxmetry.models import BUNDLED, find_model, read_spec
from voxmetry.models.eight_bits import RECORD, EightBits, StructureDice, file_names, graph_sha256
from voxmetry.nn.eight_bits import in_eight_bits, stored_members, why_never_eight_bits
from voxmetry.nn.fewer_windows import takes_fewer_windows
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.quantise import import_nncf, quantise_network, some_windows
from voxmetry.nn.weights import sha256_of
from voxmetry.workflows.inputs import read_inputs

_OF_8_BITS = re.compile(r"int8(-\d+)?\.(json|xml|bin)")


@dataclass(frozen=True)
class QuantiseOptions:
    """How a model is quantised.

    Parameters
    ----------
    windows
        Windows to calibrate on, over all images.
    least_dice
        What each structure of `LEAST_ML` and more keeps on the mean of the images; below, nothing is written.
    overwrite
        Whether networks in 8 bits, or a model in another folder, may be replaced.
    """

    windows: int = WINDOWS
    least_dice: float = LEAST_DICE
    overwrite: bool = False


def quantise_model(
    model: str | Path,
    studies: Sequence[Path],
    *,
    out: Path | None = None,
    options: QuantiseOptions = QuantiseOptions(),
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[EightBits, Path]:
    """Write a model's networks in 8 bits, for `--fast` on a processor, into its folder or a copy of it.

    Parameters
    ----------
    model
        A model's name or folder.
    studies
        Images to calibrate on, as different as those that the model is to run on. For a model of several inputs DICOM
        folders that have all of them, or a file for each input in the model's order, study after study.
    out
        Folder for a copy of the model. None: the model's own, unless it comes with the package.
    options
        Windows, the Dice that must be kept, whether earlier files are replaced.
    tell
        Called with the name of each step as it begins.

    Returns
    -------
    EightBits, Path
        The content of `int8.json`, and the model's folder.

    Raises
    ------
    ModelError
        If the model cannot run in 8 bits, or a structure is not kept; nothing is written then.
    MissingExtraError
        If NNCF is not installed.
    VoxmetryError
        If an image cannot be read or is not what the model takes, or the folder cannot be written.
    """
    source = find_model(model)
    spec = read_spec(source)
    weights = _require_fit(spec, source, out)
    import_nncf()
    target = out or source
    copied = [] if target.resolve() == source.resolve() else _parts_of(source)
    names = [*file_names(spec), *copied, RECORD]
    with output_folder(target, names, overwrite=options.overwrite, apart_from=studies) as stage:
        for name in copied:
            _copy(source / name, stage / name)
        # In float32 on the same runtime, so that nothing but the 8 bits makes a difference.
        full = nn.load_model(source, device="openvino", precision="float32")
        images = _read(studies, spec, tell)
        windows = _windows(images, spec, options.windows)
        for place, name in enumerate(file_names(spec)[1::2]):
            tell(f"quantise network {place + 1} of {spec.members}")
            if full.torch_member is not None:
                quantise_network(full.torch_member(place), spec, windows, stage / name)
        made = _record(spec, weights, stage, images, len(windows))
        rows = _held_against(full, made, stage, images, tell)
        _require_kept(spec, rows, options.least_dice)
        made = made.model_copy(update={"structures": rows})
        write_text(stage / RECORD, made.model_dump_json(indent=1))
    return made, target


def _require_fit(spec: ModelSpec, source: Path, out: Path | None) -> Weights:
    """Return the model's weights; refuse one that cannot be quantised, or not in this place."""
    never = why_never_eight_bits(spec)
    if never:
        raise ModelError(
            found=f"{spec.name}: {never}",
            expected="a network that OpenVINO runs",
            fix="run it without 8 bits: --fast (fast=True) takes fewer windows all the same",
        )
    if spec.weights is None:
        raise ModelError(
            found=f"{source.name}/model.yaml names no weights",
            expected="a model with weights",
            fix="train it first: voxmetry train",
        )
    if out is None and source.parent == BUNDLED:
        raise ConfigError(
            found=f"{spec.name}, which comes with the package and stays as it is",
            expected="a folder for a copy of it",
            fix="name one: -o FOLDER; then voxmetry segment STUDY -m FOLDER -o OUT --fast",
        )
    return spec.weights


def _parts_of(folder: Path) -> list[str]:
    """Return what a model folder holds beside networks in 8 bits, its model.yaml last."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__pycache__")))
    return [name for name in names if name != "model.yaml" and not _OF_8_BITS.fullmatch(name)] + ["model.yaml"]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _read(studies: Sequence[Path], spec: ModelSpec, tell: Callable[[str], None]) -> list[tuple[Volume, ...]]:
    """Return the images of each study; several files of a model of several inputs are one."""
    groups: list[list[Path]] = []
    n = len(spec.inputs)
    for path in studies:
        if path.is_dir() or n == 1 or not groups or groups[-1][0].is_dir() or len(groups[-1]) == n:
            groups.append([path])
        else:
            groups[-1].append(path)
    if not groups:
        raise InputError(
            found="no image to calibrate on",
            expected="one or more, as different as those that the model is to run on",
            fix="name them: voxmetry models quantise MODEL STUDY...",
        )
    images = []
    for number, group in enumerate(groups, start=1):
        tell(f"read image {number} of {len(groups)}")
        images.append(read_inputs(group, spec, StudySettings()).volumes)
    return images


def _windows(images: Sequence[Sequence[Volume]], spec: ModelSpec, n: int) -> list[np.ndarray]:
    each = math.ceil(n / len(images))
    found = [
        window for volumes in images for window in some_windows(preprocess(volumes, spec).tensor, spec.window, each)
    ][:n]
    if found:
        return found
    raise InputError(
        found="images that hold one value alone",
        expected="images with something in them, to find the range of values in the network",
        fix="name images of patients",
    )


def _record(
    spec: ModelSpec, weights: Weights, stage: Path, images: Sequence[Sequence[Volume]], n_windows: int
) -> EightBits:
    versions = {name: importlib.metadata.version(name) for name in ("nncf", "openvino", "torch", "monai")}
    return EightBits(
        model=spec.name,
        weights_sha256=weights.sha256,
        graph_sha256=graph_sha256(spec),
        files={name: sha256_of((stage / name).read_bytes()) for name in file_names(spec)},
        windows=n_windows,
        images=tuple(_image_sha256(volumes) for volumes in images),
        versions={"voxmetry": __version__, **versions},
        structures=(),
    )


def _image_sha256(volumes: Sequence[Volume]) -> str:
    """Return a checksum of the voxels and the grids of a study's images."""
    found = hashlib.sha256()
    for volume in volumes:
        found.update(repr((volume.geometry.affine.tolist(), volume.geometry.shape, volume.array.dtype.str)).encode())
        found.update(volume.array.tobytes(order="C"))
    return found.hexdigest()


def _held_against(
    full: nn.Model, made: EightBits, stage: Path, images: Sequence[Sequence[Volume]], tell: Callable[[str], None]
) -> tuple[StructureDice, ...]:
    """Run the images in full, in 8 bits, and in 8 bits with the windows of a fast run; return what is kept."""
    short = replace(full, members=stored_members(full.spec, stage, made), choice=in_eight_bits(full.choice), fast=None)
    few = takes_fewer_windows(full.spec)
    quick = replace(short, spec=full.spec if few else fast_spec(full.spec), fast=FastRun(fewer_windows=few))
    ways = [nn.Predictor(model) for model in (full, short, quick)]
    maps: list[list[Segmentation]] = []
    for number, volumes in enumerate(images, start=1):
        tell(f"compare image {number} of {len(images)} with its run in float32")
        maps.append([way(volumes) for way in ways])
    return tuple(_row(label.name, label.value, maps) for label in full.spec.labels)


def _row(name: str, value: int, maps: Sequence[Sequence[Segmentation]]) -> StructureDice:
    dice: list[tuple[float, float]] = []
    sizes = []
    for full, short, fast in maps:
        both, quick = (overlaps(prediction=other, reference=full, pairs=[(value, value)])[0] for other in (short, fast))
        if both.n_reference or both.n_prediction or quick.n_prediction:
            # What both runs lack is kept as it was.
            dice.append((both.dice if both.n_reference or both.n_prediction else 1.0, quick.dice))
            sizes.append(both.n_reference * full.geometry.voxel_ml)
    if not dice:
        nothing = math.nan
        return StructureDice(
            label=name, volume_ml=nothing, n=0, dice=nothing, lowest_dice=nothing,
            fast_dice=nothing, lowest_fast_dice=nothing,
        )  # fmt: skip
    plain, quick_ones = ([round(pair[place], 6) for pair in dice] for place in (0, 1))
    return StructureDice(
        label=name,
        volume_ml=round(sum(sizes) / len(sizes), 4),
        n=len(dice),
        dice=round(sum(plain) / len(plain), 6),
        lowest_dice=min(plain),
        fast_dice=round(sum(quick_ones) / len(quick_ones), 6),
        lowest_fast_dice=min(quick_ones),
    )


def _require_kept(spec: ModelSpec, rows: Sequence[StructureDice], least: float) -> None:
    there = [row for row in rows if row.volume_ml > 0]
    if not there:
        raise InputError(
            found=f"images in which {spec.name} finds nothing",
            expected="images that have what the model is for, to hold its 8 bits against float32",
            fix="name images of patients that it was made for",
        )
    # Of a model whose structures are all small, each counts.
    counted = [row for row in there if row.volume_ml >= LEAST_ML] or there
    lost = [row for row in counted if row.dice < least]
    if lost:
        told = ", ".join(f"{row.label} {row.dice:.4f}" for row in lost)
        raise ModelError(
            found=f"8 bits that do not keep the labels of {spec.name}: Dice with its own run in float32 {told}",
            expected=f"at least {least:g} for each structure of {LEAST_ML:g} mL and more",
            fix="calibrate on more and other images, or with more --windows; or accept less: --least-dice",
        )
