"""A data set: which files make a case, whose case it is, what its channels and labels are.

`open_data` reads four layouts: a folder with `dataset.json` (Medical Segmentation Decathlon or nnU-Net raw), a folder
with `imagesTr/` and `labelsTr/` or `images/` and `labels/`, a YAML manifest and a CSV manifest. None of them opens an
image: that each file is there is seen at once, what is in it by `read_case` or `voxmetry data check`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.labels import LabelTable
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError
from voxmetry.io import read_segmentation, read_volume
from voxmetry.ops.instances import require_instances
from voxmetry.train.cases import Case, DataSet, listed
from voxmetry.train.instance_labels import require_within, split_values
from voxmetry.train.partial import Unlabelled, find_unlabelled, translate

NO_INSTANCES = "if it is a label map of structures, leave instances or instances_of out: its connected parts count then"


@dataclass(frozen=True, eq=False)
class Labelled:
    """One case as it was read.

    Parameters
    ----------
    volumes
        An image a channel, each on its own grid.
    label
        The label map on the first image's grid, with the data set's table.
    unlabelled
        What the label map says nothing about.
    instances
        (I, J, K) uint16, which instance a voxel belongs to; None where the case does not say it.
    """

    volumes: list[Volume]
    label: Segmentation
    unlabelled: Unlabelled
    instances: NDArray[np.uint16] | None = None


def open_data(path: Path | str, *, root: Path | None = None) -> DataSet:
    """Find the cases of a data set, without opening an image.

    Parameters
    ----------
    path
        A folder with `dataset.json`; a folder with `imagesTr/` and `labelsTr/`, or `images/` and `labels/`; a YAML or a
        CSV manifest. See docs/how-to/training.md.
    root
        Folder that a manifest's paths start from, instead of the one that it names.

    Raises
    ------
    InputError
        If there is no data set, a file of a case is missing (all such are named), or the same name is there twice.
    ConfigError
        If a manifest or `dataset.json` cannot be understood; the key is named.
    """
    from voxmetry.train import layouts, manifests

    path = Path(path)
    if path.is_dir():
        found = layouts.read_folder(path)
    elif path.suffix.lower() in (".yaml", ".yml"):
        found = manifests.read_yaml(path, root=root)
    elif path.suffix.lower() == ".csv":
        found = manifests.read_csv(path, root=root)
    else:
        raise InputError(
            found=f"no data set at {path}",
            expected="a folder with dataset.json, imagesTr/ and labelsTr/ or images/ and labels/, or a .yaml or .csv "
            "manifest",
            fix="check the path; docs/how-to/training.md shows each layout",
        )
    _require_files(found)
    for case in found.cases:
        table = case.labelling.labels or found.labels
        if table is not None:
            case.labelling.require_names(table.names, case=case.name)
            case.labelling.require_values(table, case=case.name)
    return found


def read_case(case: Case, data: DataSet) -> tuple[list[Volume], Segmentation]:
    """Read one case: an image a channel, each on its own grid, and the label map on the first one's.

    Raises
    ------
    VoxmetryError
        If a file cannot be used, or the label map lies on another grid than the first image; the message names the
        case.
    """
    found = read_labelled(case, data)
    return found.volumes, found.label


def read_labelled(case: Case, data: DataSet) -> Labelled:
    """Read one case as `read_case` does, and say what its label map leaves open.

    Raises
    ------
    VoxmetryError
        As `read_case`; also if the mask of unknown voxels lies on another grid.
    """
    volumes = read_images(case, data)
    how = case.labelling
    with naming(case.name):
        own = how.labels or data.labels
        is_translated = how.is_translated and own is not None
        raw = is_translated or how.instances_of is not None
        label = read_segmentation(case.label, labels=None if raw else own, image=volumes[0])
        volumes[0].geometry.require_same(label.geometry, what=f"image and label of case {case.name}")
        unknown, instances = None, None
        if how.instances_of is not None and own is not None:
            label, instances = split_values(label, how.instances_of, own)
        elif own is not None and is_translated:
            label, unknown = how.translate_values(label, own)
        elif how.ignore:
            kept = tuple(item for item in label.labels if item.value not in how.ignore)
            label, unknown = replace(how, unlisted="background").translate_values(label, LabelTable(labels=kept))
        how.require_names(label.labels.names, case=case.name)
        if how.labels is not None and data.labels is not None:
            label = translate(label, data.labels)
        if how.unknown is not None:
            mask = _read_mask(how.unknown, volumes[0])
            unknown = mask if unknown is None else unknown | mask
        if case.instances is not None:
            instances = require_within(read_segmentation(case.instances, image=volumes[0]), label)
        if instances is not None:
            require_instances(instances, f"the instances of {case.name}", fix=NO_INSTANCES)
    return Labelled(volumes, label, find_unlabelled(label, how, unknown), instances)


def _read_mask(path: Path, image: Volume) -> NDArray[np.bool_]:
    """Read a mask of unknown voxels on the image's grid."""
    mask = read_segmentation(path, image=image)
    image.geometry.require_same(mask.geometry, what="the image and its mask of unknown voxels")
    found: NDArray[np.bool_] = mask.array != 0
    return found


def read_images(case: Case, data: DataSet) -> list[Volume]:
    """Read the images of one case, each on its own grid.

    Raises
    ------
    VoxmetryError
        If one cannot be used; the message names the case.
    """
    with naming(case.name):
        return [
            read_volume(path, modality=channel.modality)
            for path, channel in zip(case.images, data.channels, strict=True)
        ]


@contextlib.contextmanager
def naming(case: str) -> Iterator[None]:
    """Put the case's name before an error about its files."""
    try:
        yield
    except InputError as error:
        if case in error.found:
            raise
        raise type(error)(found=f"case {case}: {error.found}", expected=error.expected, fix=error.fix) from error


def patient_folds(cases: Sequence[Case], *, n: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Deal the cases into folds by patient, so that all cases of a patient are in one fold.

    Patients are shuffled by the seed, those with more cases first, and each goes to the fold with the fewest cases.
    Where labels are partial, patients with the rarest structure go first, to the fold where it was looked for in the
    fewest cases.

    Returns
    -------
    tuple of tuple of str
        For each fold the names of the cases that it holds out, sorted.

    Raises
    ------
    ConfigError
        If there are fewer patients than folds, or fewer than two folds.

    Examples
    --------
    >>> scans = [Case(f"{who}{n}", who, (), Path()) for who in "abc" for n in (1, 2)]
    >>> patient_folds(scans, n=3, seed=0)
    (('c1', 'c2'), ('a1', 'a2'), ('b1', 'b2'))
    """
    by_patient: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        by_patient.setdefault(case.patient, []).append(case.name)
    if n < 2 or len(by_patient) < n:
        raise ConfigError(
            found=f"{n} folds of {len(by_patient)} patients",
            expected="two folds or more, and at least one patient a fold",
            fix="ask for fewer folds, or add patients",
        )
    names = list(by_patient)
    shuffled = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    folds: list[list[str]] = [[] for _ in range(n)]
    known = {case.name: frozenset(case.labelling.known or ()) for case in cases}
    rarity = {name: sum(name in row for row in known.values()) for name in frozenset().union(*known.values())}
    looked_for = {who: frozenset().union(*(known[case] for case in rows)) for who, rows in by_patient.items()}

    def rarest(patient: str) -> int:
        return min((rarity[name] for name in looked_for[patient]), default=0)

    for patient in sorted(shuffled, key=lambda patient: (rarest(patient), -len(by_patient[patient]))):
        # Of a structure that few cases were searched for, no fold is to hold all.
        counts = [
            tuple(
                sum(name in known[case] for case in fold)
                for name in sorted(looked_for[patient], key=rarity.__getitem__)
            )
            for fold in folds
        ]
        fewest = min(range(n), key=lambda place: (counts[place][:1], len(folds[place]), counts[place]))
        folds[fewest].extend(by_patient[patient])
    return tuple(tuple(sorted(fold)) for fold in folds)


def require_structures(folds: Sequence[Sequence[str]], volumes_ml: Mapping[str, Mapping[str, float]]) -> None:
    """See that each structure is in the training cases of each fold.

    Parameters
    ----------
    folds
        For each fold the cases that it holds out.
    volumes_ml
        Volume of each structure by case.

    Raises
    ------
    InputError
        If a structure is in no training case of a fold: the network could not learn it; both are named.
    """
    for number, held_out in enumerate(folds):
        training = [row for case, row in volumes_ml.items() if case not in set(held_out)]
        names = dict.fromkeys(name for row in volumes_ml.values() for name in row)
        absent = [name for name in names if not any(row.get(name, 0) > 0 for row in training)]
        if absent:
            holders = sorted(case for case, row in volumes_ml.items() if any(row.get(name, 0) > 0 for name in absent))
            raise InputError(
                found=f"{listed(absent)} in no training case"
                + (f" of fold {number}" if len(folds) > 1 else "")
                + (f"; only in the held-out case {listed(holders)}" if holders else ""),
                expected="each structure in at least one training case of each fold",
                fix="add cases that have it, ask for fewer folds or another seed, or take it out of the labels",
            )


def _require_files(data: DataSet) -> None:
    missing, n_files = [], 0
    for case in data.cases:
        parts = [*zip([channel.name for channel in data.channels], case.images, strict=True), ("label", case.label)]
        parts += [("other label", path) for path in case.other_labels]
        parts += [("unknown", case.labelling.unknown)] if case.labelling.unknown is not None else []
        parts += [("instances", case.instances)] if case.instances is not None else []
        missing += [f"{case.name} ({what}: {path.name})" for what, path in parts if not path.exists()]
        n_files += len(parts)
    if missing or not data.cases:
        elsewhere = missing and len(missing) == n_files
        raise InputError(
            found=f"missing files: {listed(missing)}" if missing else f"no case in the data set {data.name}",
            expected="each image and label that the data set names",
            fix="say where the data set lies: the variable VOXMETRY_DATA, or --data FOLDER of voxmetry train"
            if elsewhere
            else "add the files, or take these cases out of the data set",
        )
