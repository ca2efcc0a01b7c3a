"""Prepared cases on disk, so that folds, resumed and repeated runs read them instead of preparing them again.

An entry is a folder that is called after its content: SHA-256 of the files of the images and of the label, of what the
model asks of them, and of the code that prepares them. A changed file has another entry, so an old one is never served
for it. The arrays are mapped into memory: a run touches the voxels of its patches alone, and any number of cases fits.
Entries hold no name and no path of a case. Any of them may be deleted while no run uses it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxmetry import io
from voxmetry.config import MaskRcnnNetwork, ModelSpec, TrainSettings
from voxmetry.core.geometry import Geometry
from voxmetry.errors import LockedError
from voxmetry.io.atomic import write_text
from voxmetry.io.digest import digest_of, files_of
from voxmetry.io.output_folder import output_folder
from voxmetry.nn import grids
from voxmetry.nn import preprocess as preparation
from voxmetry.train import instance_labels, partial
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.labelled_cases import LabelledCase, load_case

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ARRAYS = ("image.npy", "label.npy", "places.npy", "instances.npy")
ENTRY = "entry.json"
"""Written last: an entry that has it is whole."""


def default_cache(settings: TrainSettings, out: Path) -> Path:
    """Return where a run keeps its prepared cases: beside the folders of the folds, or in that of a single run."""
    return (out.parent if out.name == f"fold-{settings.fold}" else out) / "cache"


def cached_cases(
    data: DataSet,
    spec: ModelSpec,
    folder: Path,
    *,
    fabric: Fabric,
    track: Callable[[Sequence[Case]], Iterable[Case]],
) -> dict[str, LabelledCase]:
    """Return all prepared cases by name; several processes share out what is to be prepared.

    `track` goes through cases and shows how far it is.
    """
    if fabric.world_size > 1:
        for case in data.cases[fabric.global_rank :: fabric.world_size]:
            cached_case(case, data, spec, folder)
        fabric.barrier()
    return {case.name: cached_case(case, data, spec, folder) for case in track(data.cases)}


def cached_case(case: Case, data: DataSet, spec: ModelSpec, folder: Path) -> LabelledCase:
    """Return a prepared case from its entry; one that is missing or damaged is made first.

    Raises
    ------
    VoxmetryError
        If the case cannot be used, as in `load_case`, or the entry cannot be written.
    """
    source = source_digest(case)
    entry = folder / content_key(source, spec, labelling_text(case, data))
    found = read_entry(entry, case.name)
    if found is None:
        write_entry(load_case(case, data, spec), entry)
        found = read_entry(entry, case.name)
    return replace(found if found is not None else load_case(case, data, spec), source=source)


def labelling_text(case: Case, data: DataSet) -> str:
    """Return what a case's labels mean and leave open, for `content_key`."""
    how = case.labelling
    table = how.labels or data.labels
    values = None if table is None else [(label.value, label.name) for label in table]
    meant = [values, how.known, how.absent, how.unknown_below, how.ignore, dict(how.merge), how.unlisted]
    return json.dumps([*meant, how.instances_of])


def content_key(source: str, spec: ModelSpec, labelling: str = "") -> str:
    """Return the name of an entry, from the digest of a case's files and all that is done to them."""
    wanted = spec.model_dump_json(include={"inputs", "orientation", "spacing_mm", "resampling", "labels"})
    things = isinstance(spec.network, MaskRcnnNetwork) and (spec.network.things or spec.labels.names)
    wanted += f"instances of {', '.join(things)}" if things else ""
    return hashlib.sha256(source.encode() + code_digest() + wanted.encode() + labelling.encode()).hexdigest()


def source_digest(case: Case) -> str:
    """Return the SHA-256 of a case's images and label: of their contents, whatever the files are called."""
    unknown = (case.labelling.unknown,) if case.labelling.unknown is not None else ()
    beside = (case.instances,) if case.instances is not None else ()
    return digest_of((*case.images, case.label, *unknown, *beside))


@functools.cache
def code_digest() -> bytes:
    """Return the SHA-256 of the code that reads and prepares cases: what an older one made is not served to a newer."""
    digest = hashlib.sha256()
    code = (grids.__file__, preparation.__file__, partial.__file__, instance_labels.__file__)
    for file in (*(Path(str(name)) for name in code), *files_of(Path(io.__file__).parent)):
        if file.suffix == ".py":
            digest.update(file.read_bytes())
    return digest.digest()


def read_entry(entry: Path, name: str) -> LabelledCase | None:
    """Return the case of an entry, its arrays mapped into memory; None if it is missing, unfinished or damaged."""
    try:
        content = json.loads((entry / ENTRY).read_text(encoding="utf-8"))
        if any(_sha256(entry / file) != content["sha256"][file] for file in ARRAYS):
            return None
        # Copy on write: torch takes no array that cannot be written to, and nothing reaches the file.
        image, label, places, instances = (np.load(entry / file, mmap_mode="c") for file in ARRAYS)
        return LabelledCase(
            name=name,
            image=image,
            label=label,
            geometry=Geometry(np.array(content["affine"]), tuple(content["shape"])),
            volume_ml=content["volume_ml"],
            places=places,
            absent=np.array(content["absent"], bool).reshape(content["absent_shape"]),
            instances=instances,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def write_entry(case: LabelledCase, entry: Path) -> None:
    """Write an entry, `entry.json` last.

    Raises
    ------
    OutputError
        If it cannot be written, such as on a full disk; nothing half-written is left.
    """
    with suppress(LockedError), output_folder(entry, (*ARRAYS, ENTRY), overwrite=True) as stage:
        # Another run that writes the same entry is as good.
        for file, array in zip(ARRAYS, (case.image, case.label, case.places, case.instances), strict=True):
            np.save(stage / file, array)
        content = {
            "sha256": {file: _sha256(stage / file) for file in ARRAYS},
            "affine": case.geometry.affine.tolist(),
            "shape": case.geometry.shape,
            "volume_ml": case.volume_ml,
            "absent": case.absent.ravel().tolist(),
            "absent_shape": case.absent.shape,
        }
        write_text(stage / ENTRY, json.dumps(content))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
