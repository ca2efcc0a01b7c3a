"""What a client may ask of a job, and where its images come from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from voxmetry.config import DicomOutput, MapName, ModelSpec, StudySettings, parse_record
from voxmetry.core.base import Record
from voxmetry.core.records.clicks import BACKGROUND, Click
from voxmetry.errors import ConfigError, FormatError
from voxmetry.service.errors import DeniedError, not_found

Word = Annotated[str, Field(max_length=200)]


class JobOptions(Record):
    """The settings of a study that a client may choose; what is not given is as the service's settings say."""

    series: Word | None = None
    """Series Instance UID, where there are several."""
    modality: Annotated[str, Field(pattern="^(CT|MR|PT)$")] | None = None
    unit: Annotated[str, Field(pattern="^SUVbw$")] | None = None
    suv: Annotated[str, Field(pattern="^(bw|lbm|bsa|none)$")] | None = None
    structures: Annotated[tuple[Word, ...], Field(max_length=1000)] | None = None
    fast: bool | None = None
    any_region: bool | None = None
    allow_uneven: bool | None = None
    resample_tilt: bool | None = None
    maps: Annotated[tuple[MapName, ...], Field(max_length=10)] | None = None
    dicom: DicomOutput | None = None
    report: Annotated[str, Field(pattern="^(full|brief|none)$")] | None = None
    clicks: Annotated[tuple[Click, ...], Field(max_length=1000)] | None = None

    def over(self, settings: StudySettings) -> StudySettings:
        """Return settings with these in their place."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return parse_record(settings.model_dump() | given, StudySettings, where="options")


OF_MONAI = ("structures", "fast", "any_region", "modality", "series")
"""Parameters of the protocol of MONAI Label that are options here; its clients send others, which are passed over."""


def options_of_params(params: dict[str, Any], labels: Sequence[str] = ()) -> JobOptions:
    """Take the options out of a client's parameters.

    Parameters
    ----------
    params
        As they were sent.
    labels
        The structures of a model with clicks; empty for others, whose clients send points all the same.

    Raises
    ------
    ConfigError
        If one is unusable, or a voxel has points under two names: which one was meant is not told.
    """
    given = {name: params[name] for name in OF_MONAI if name in params}
    clicks = clicks_of_params(params, labels)
    options = parse_record(given | ({"clicks": clicks} if clicks else {}), JobOptions, where="params")
    _require_one_name_a_voxel(options.clicks or ())
    return options


def clicks_of_params(params: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the clicks among a client's parameters, as fields of `Click`.

    Points are voxels of the image: of `foreground`, on the structure that `label` names or the only one; of a list
    under a structure's name; of `background`.
    """
    if not labels:
        return []
    active = params.get("label")
    named = active if isinstance(active, str) and active in labels else ""
    found = []
    for key, label in (("foreground", named), (BACKGROUND, BACKGROUND), *((name, name) for name in labels)):
        points = params.get(key)
        if isinstance(points, list):
            found += [{"at": point, "label": label, "space": "voxel"} for point in points]
    return found


def _require_one_name_a_voxel(clicks: Sequence[Click]) -> None:
    said: dict[tuple[int, ...], str] = {}
    for click in clicks:
        voxel = tuple(math.floor(x + 0.5) for x in click.at)
        other = said.setdefault(voxel, click.label)
        if other != click.label:
            names = " and ".join(name or "foreground" for name in (other, click.label))
            raise ConfigError(
                found=f"points of {names} in one voxel, {', '.join(map(str, voxel))}",
                expected="each voxel under one name: lists of points do not tell which one is the later",
                fix="remove one of the two points",
            )


def path_below(roots: dict[str, Path], name: str) -> Path:
    """Return the path that a client names by a root and what is below it, such as `research/case_7`.

    Raises
    ------
    NotFoundError
        If there is no such root, or nothing of that name.
    DeniedError
        If it leads out of the root.
    """
    root_name, _, rest = name.partition("/")
    root = roots.get(root_name)
    if root is None or "\0" in name:
        raise not_found("root", f"name one of {', '.join(roots) or 'none: the settings have no roots'}")
    try:
        place, real = root.resolve(), (root / rest).resolve()
    except (OSError, RuntimeError) as error:
        raise not_found("image", "check the path") from error
    # Links are followed first, so that one inside a root cannot lead out of it.
    if real != place and place not in real.parents:
        raise DeniedError(
            found="a path that leads out of its root",
            expected="a path below one of the service's roots",
            fix="name the root, a slash, and the path inside of it",
        )
    # A named pipe or a device would hold up whoever reads it; a name may be too long, a folder not to be looked into.
    with contextlib.suppress(OSError):
        if real.is_file() or real.is_dir():
            return real
    raise not_found("image", "check the path below the root")


def source_of_upload(files: Sequence[tuple[Path, str]], n_inputs: int) -> tuple[Path, ...]:
    """Return what a model reads of the files of an upload: path and suffix of each.

    Image files are the inputs of the model in their order; everything else is DICOM, and the folder is read.

    Raises
    ------
    FormatError
        If both are mixed, or there is nothing.
    ConfigError
        If there are more or fewer image files than inputs.
    """
    if not files:
        raise FormatError(found="no file", expected="an image", fix="send at least one file")
    if any(suffix in (".json", ".bin") for _, suffix in files):
        raise FormatError(
            found="a file of no image format", expected="DICOM, NIfTI, NRRD, MHA or a zip", fix="leave it out"
        )
    images = [path for path, suffix in files if suffix not in ("", ".dcm")]
    if not images:
        return (files[0][0].parent,)
    if len(images) < len(files):
        raise FormatError(
            found=f"{len(images)} image files and {len(files) - len(images)} others",
            expected="image files alone, or DICOM files alone",
            fix="send them as two jobs",
        )
    is_archive = len(images) == 1 and files[0][1] == ".zip"
    if len(images) != n_inputs and not is_archive:
        raise ConfigError(
            found=f"{len(images)} image {'file' if len(images) == 1 else 'files'}",
            expected=f"{n_inputs}, one for each input of the model, or DICOM files, or a zip of them",
            fix="send all of one study, and nothing else, as one job",
        )
    return tuple(images)


def takes_clicks(spec: object) -> bool:
    """Whether a model was trained with clicks."""
    return isinstance(spec, ModelSpec) and spec.clicks is not None
