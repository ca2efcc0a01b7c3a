"""The images of a study: which path belongs to which input of a model, read and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from voxmetry import io
from voxmetry.classical import BaselineSpec
from voxmetry.classical.spec import BaselineInput
from voxmetry.config import InputSpec, ModelSpec, StudySettings
from voxmetry.core.records import SourceInfo
from voxmetry.core.volume import ONLY_CT_BELOW_HU, Volume
from voxmetry.errors import ConfigError, InputError, SeriesError
from voxmetry.models import list_models
from voxmetry.models.composite import CompositeInput, CompositeSpec

AnySpec: TypeAlias = ModelSpec | CompositeSpec | BaselineSpec
Input: TypeAlias = InputSpec | CompositeInput | BaselineInput


@dataclass(frozen=True)
class StudyInputs:
    """The images that a model takes, in its order; the first one's grid is that of the result.

    Parameters
    ----------
    volumes
        The images, each on its own grid.
    sources
        What is said about each.
    names
        What the model calls each.
    paths
        Where each was read from.
    """

    volumes: tuple[Volume, ...]
    sources: tuple[SourceInfo, ...]
    names: tuple[str, ...]
    paths: tuple[Path, ...] = ()

    @property
    def first(self) -> Volume:
        """The image on whose grid everything is segmented."""
        return self.volumes[0]


def read_inputs(study: Path | str | Sequence[Path | str], spec: AnySpec, settings: StudySettings) -> StudyInputs:
    """Read the image of each input of a model.

    Raises
    ------
    VoxmetryError
        If there is not one image for each input, or one is not what the model takes.
    """
    items, paths = inputs_of(spec), input_paths(study, spec, settings)
    volumes = tuple(read_input(path, item, spec, settings) for path, item in zip(paths, items, strict=True))
    sources = tuple(describe(*each) for each in zip(volumes, paths, items, strict=True))
    return StudyInputs(volumes, sources, tuple(item.name for item in items), tuple(paths))


def inputs_of(spec: AnySpec) -> tuple[Input, ...]:
    """Return what a model or a baseline takes."""
    return tuple(spec.inputs)


def input_paths(study: Path | str | Sequence[Path | str], spec: AnySpec, settings: StudySettings) -> list[Path]:
    """Return where the image of each input of the model is.

    Raises
    ------
    InputError
        If there is not one path for each input.
    ConfigError
        If one series or modality is named for several inputs.
    """
    paths = [Path(study)] if isinstance(study, (str, Path)) else [Path(path) for path in study]
    named = ", ".join(f"{item.name} ({item.modality})" for item in spec.inputs)
    if len(paths) == 1 and (len(spec.inputs) == 1 or paths[0].is_dir()):
        # A folder holds a series of each modality.
        paths *= len(spec.inputs)
    if len(paths) != len(spec.inputs):
        raise InputError(
            found=f"{len(paths)} {'image' if len(paths) == 1 else 'images'} for {spec.name}",
            expected=f"one for each input, in this order: {named}; or one DICOM folder with a series of each modality",
            fix=f"voxmetry segment {' '.join(item.name.upper() for item in spec.inputs)} -m {spec.name} -o OUT",
        )
    if len(paths) > 1 and (settings.series or settings.modality):
        raise ConfigError(
            found=f"one series or modality for {len(paths)} inputs",
            expected="neither with a model of several inputs",
            fix="pass the folder or file of each input instead",
        )
    return paths


def read_input(path: Path, item: Input, spec: AnySpec, settings: StudySettings) -> Volume:
    """Read the one series or file that an input of the model takes.

    Raises
    ------
    InputError
        If the image is of another modality, or a file's values cannot be of the modality that the model takes.
    """
    declared = settings.modality or item.modality
    if declared != item.modality:
        raise InputError(
            found=f"an image of modality {declared}",
            expected=f"{item.modality}, which {spec.name} was trained on",
            fix=f"use {models_for([declared])}",
        )
    try:
        volume = _read(path, item, settings)
    except SeriesError:
        require_modality(path, item, spec)
        raise
    darkest = float(volume.array.min())
    if volume.source is None and settings.modality is None and item.modality != "CT" and darkest < ONLY_CT_BELOW_HU:
        several = len(spec.inputs) > 1
        order = " ".join(each.name.upper() for each in spec.inputs)
        raise InputError(
            found=f"values down to {darkest:g}, as Hounsfield units of a CT have"
            + (f", in the image that is given as {item.name}" if several else ""),
            expected=f"{item.modality} intensities, which {spec.name} was trained on",
            fix=f"give the images in the order of the model: {order}"
            if several
            else f"use {models_for(['CT'])}; or pass --modality {item.modality} (modality='{item.modality}') "
            f"if it is {item.modality} after all",
        )
    return volume


def _read(path: Path, item: Input, settings: StudySettings) -> Volume:
    return io.read_volume(
        path,
        modality=item.modality,
        series=settings.series,
        unit=settings.unit if item.modality == "PT" else None,
        rules=None if isinstance(item, BaselineInput) else item.series,
        suv=settings.suv,
        allow_uneven=settings.allow_uneven,
        resample_tilt=settings.resample_tilt,
        mapped=True,
    )


def require_modality(path: Path, item: Input, spec: AnySpec) -> None:
    """Say that a study is of another modality, where no series of it is of the one that the model takes.

    Raises
    ------
    InputError
        If that is so; it names the models that take what is there.
    """
    kinds = sorted({info.modality for info in io.list_series(path) if info.modality and info.n_slices})
    if not kinds or item.modality in kinds:
        return
    raise InputError(
        found=f"wrong modality: {' and '.join(kinds)}, and no {item.modality} series",
        expected=f"{item.modality}, which {spec.name} was trained on",
        fix=f"use {models_for(kinds)}",
    )


def models_for(modalities: Sequence[str]) -> str:
    """Name the bundled models all of whose inputs are of these modalities, in words.

    Examples
    --------
    >>> models_for(["MR"])
    'a model for MR, such as brain-mr or hippocampus-mr (-m brain-mr); voxmetry models list shows all'
    """
    kinds = "/".join(modalities)
    fit = [spec.name for spec in list_models() if {item.modality for item in spec.inputs} <= set(modalities)]
    if not fit:
        return f"a model for {kinds}: none of the bundled ones is, see voxmetry models list"
    return f"a model for {kinds}, such as {' or '.join(fit)} (-m {fit[0]}); voxmetry models list shows all"


def describe(volume: Volume, path: Path, item: Input) -> SourceInfo:
    """Say what was segmented, without its path or its patient."""
    series = volume.source
    name = path.name.lower()
    formats = {".nii.gz": "NIfTI", ".nii": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MHA", ".mhd": "MHA"}
    return SourceInfo(
        format="DICOM" if series else next((kind for end, kind in formats.items() if name.endswith(end)), "file"),
        modality=series.modality if series else item.modality,
        unit=volume.unit,
        shape=volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        axcodes=volume.geometry.axcodes,
        series_uid=series.series_uid if series else None,
        frame_uid=volume.geometry.frame_uid,
        description=series.description if series else "",
        processing=series.processing if series else (),
        suv=series.suv if series else None,
    )
