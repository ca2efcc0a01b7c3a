"""Correct a run by clicks: its network looks again, told what is where; all that is said of the run is renewed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxmetry import io
from voxmetry.config import StudySettings, parse_record
from voxmetry.core.base import Record
from voxmetry.core.records import StudyResult
from voxmetry.core.records.clicks import Click
from voxmetry.errors import ConfigError, FormatError
from voxmetry.nn import Predictor
from voxmetry.nn.clicks import latest_of_each_voxel
from voxmetry.nn.composite import chosen_labels, only
from voxmetry.nn.weights import sha256_of
from voxmetry.workflows.correct_run import correct_run, model_map, read_inputs_again
from voxmetry.workflows.correction import CorrectionOptions
from voxmetry.workflows.models import load_any
from voxmetry.workflows.run_folder import read_result

CLICKS = "clicks.json"


class KeptClicks(Record):
    """The clicks on a run so far: the content of `clicks.json`."""

    schema_version: int = 1
    weights_sha256: str
    """Of the model that they were made for."""
    map_sha256: str
    """Of the voxels of the label map that they correct."""
    clicks: tuple[Click, ...]


def refine_run(
    out: Path | str,
    images: Sequence[Path | str],
    model: str | Path,
    clicks: Sequence[Click],
    *,
    author: str = "",
    anew: bool = False,
    device: str = "auto",
) -> StudyResult:
    """Segment the study of a run again with clicks, and renew the run as from a person's correction.

    Parameters
    ----------
    out
        The folder of the run.
    images
        The study: one path, or one for each image of a model with several.
    model
        The model of the run, which was trained with clicks.
    clicks
        Those that are new; they join those that the run was made with, and those of earlier calls, which `clicks.json`
        keeps. Of two in one voxel the later one counts.
    author
        Who clicked.
    anew
        Whether earlier clicks are forgotten.
    device
        Where the network runs.

    Returns
    -------
    StudyResult
        The content of the new `result.json`, of the structures that the run was asked for. The label map that the run
        was made with stays as `model_seg.nii.gz`.

    Raises
    ------
    ConfigError
        If there is no click, the model takes none, or it is not that of the run.
    InputError
        If the folder holds no run, the image is another one, or a click lies outside of it.
    """
    out = Path(out)
    result = read_result(out)
    ready = load_any(model, parse_record({"device": device}, StudySettings, where="--device"))
    if not isinstance(ready, Predictor) or ready.weights.sha256 != result.provenance.weights_sha256:
        raise ConfigError(
            found=f"{ready.spec.name}, which is not the model that made this run",
            expected=f"{result.provenance.model} with the same weights",
            fix="name that model's folder: -m MODEL",
        )
    inputs = read_inputs_again(result, images)
    before = model_map(out, result, inputs.first)
    map_sha256 = sha256_of(before.array.tobytes(order="C"))
    earlier = () if anew else _earlier(out, result, map_sha256)
    joined = (*earlier, *clicks)
    if not joined:
        raise ConfigError(
            found="no click",
            expected="at least one, in RAS+ mm",
            fix="give one: --click x,y,z,STRUCTURE, or x,y,z,background where nothing is",
        )
    named = tuple(map(str, _items(result.provenance.settings.get("structures"))))
    found = only(ready(inputs.volumes, clicks=joined), chosen_labels(ready.spec.labels, named))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.nii.gz"
        io.save(found, path)
        # A click may take the last voxel of a structure away, and make one elsewhere.
        how = CorrectionOptions(author=author or "clicks", allow_empty=True, allow_elsewhere=True)
        in_force = latest_of_each_voxel(joined, inputs.first.geometry)
        kept = KeptClicks(weights_sha256=ready.weights.sha256, map_sha256=map_sha256, clicks=in_force)
        return correct_run(out, path, images, how, beside=(CLICKS, kept.model_dump_json(indent=1)))


def _earlier(out: Path, result: StudyResult, map_sha256: str) -> tuple[Click, ...]:
    """Return the clicks so far: those of earlier calls, or those that the run was made with.

    Those of a file on another label map, or of a run before this one, which has no correction yet, are no more.
    """
    path = out / CLICKS
    if path.is_file() and result.correction is not None:
        try:
            kept = KeptClicks.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise FormatError(
                found=f"{CLICKS}, which cannot be read",
                expected="the clicks that voxmetry refine wrote",
                fix="remove the file, or pass --anew",
            ) from error
        if (kept.weights_sha256, kept.map_sha256) == (result.provenance.weights_sha256, map_sha256):
            return kept.clicks
    made_with = _items(result.provenance.settings.get("clicks"))
    return tuple(parse_record(click, Click, where="clicks of the run") for click in made_with)


def _items(value: object) -> list[Any]:
    """Return a setting of a run that is a list; none, where a run of an earlier version does not say it."""
    return list(value) if isinstance(value, (list, tuple)) else []
