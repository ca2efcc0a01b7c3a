"""Folders of cases: Medical Segmentation Decathlon, nnU-Net raw, and plain `images/` and `labels/`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.core.text_files import read_text, why_unreadable
from voxmetry.errors import ConfigError, InputError
from voxmetry.io.read import Modality
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.measurement.patients import patient_table
from voxmetry.train.cases import Case, Channel, DataSet, listed
from voxmetry.train.partial import Labelling

_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))
_CHANNEL = re.compile(r"_(\d{4})$")
_MODALITIES: dict[str, Modality] = {
    "ct": "CT",
    "cta": "CT",
    "mr": "MR",
    "mri": "MR",
    "t1": "MR",
    "t1w": "MR",
    "t1c": "MR",
    "t1gd": "MR",
    "t1ce": "MR",
    "t2": "MR",
    "t2w": "MR",
    "flair": "MR",
    "adc": "MR",
    "dwi": "MR",
    "pet": "PT",
    "pt": "PT",
    "suv": "PT",
}


def read_folder(folder: Path) -> DataSet:
    """Read a data set's folder; `dataset.json`, where there is one, names channels and labels.

    Its label `ignore`, as nnU-Net has it, marks voxels about which nothing is known.

    `patients.csv` with the columns `case` and `patient` says whose case each one is; without it each is its own.

    Raises
    ------
    InputError
        If there are no cases, or an image has no label or the other way round; all such are named.
    ConfigError
        If `dataset.json` or `patients.csv` cannot be understood.
    """
    described = _read_json(folder / "dataset.json")
    labels, ignore = _labels(described.get("labels"))
    pairs = _listed_pairs(folder, described) or _found_pairs(folder)
    count = {len(images) for images, _ in pairs.values()}
    if len(count) != 1:
        raise InputError(
            found=f"cases with different numbers of channels: {sorted(count)}",
            expected="the same channels for each case, as files that end in _0000, _0001 and so on",
            fix="add the missing channels, or move these cases out of the folder",
        )
    channels = _channels(described.get("channel_names") or described.get("modality"), count.pop(), folder.name)
    patients = _patients(folder / "patients.csv", list(pairs))
    how = Labelling(ignore=() if ignore is None else (ignore,))
    cases = [
        Case(name, patients.get(name, name), images, label, labelling=how)
        for name, (images, label) in sorted(pairs.items())
    ]
    return DataSet(plain_name(str(described.get("name") or folder.resolve().name)), channels, labels, tuple(cases))


def plain_name(text: str) -> str:
    """Return a text as a name of a data set or model.

    Examples
    --------
    >>> plain_name("Dataset004_Hippocampus")
    'dataset004_hippocampus'
    """
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "data"


def modality_of(text: str) -> Modality | None:
    """Return the modality that a channel's or folder's name states, or None.

    Examples
    --------
    >>> modality_of("hippocampus-mr"), modality_of("T1-weighted"), modality_of("Task09_Spleen")
    ('MR', 'MR', None)
    """
    found = {_MODALITIES[word] for word in re.split(r"[^a-z0-9]+", text.lower()) if word in _MODALITIES}
    return found.pop() if len(found) == 1 else None


def table_of(names: dict[int, str]) -> LabelTable:
    """Return a label table; a structure that is called a tumour or a lesion is one."""
    lesion = re.compile(r"tumou?r|lesion|metasta|cancer|nodule|gtv", re.IGNORECASE)
    return LabelTable(
        labels=tuple(
            Label(
                value=value,
                name=name,
                colour=PALETTE[place % len(PALETTE)],
                kind="lesion" if lesion.search(name) else "organ",
            )
            for place, (value, name) in enumerate(sorted(names.items()))
        )
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ConfigError(
            found=f"{path.name} cannot be read: {why_unreadable(error)}",
            expected="a JSON object as the Decathlon and nnU-Net describe their data sets",
            fix="mend the file, or remove it: channels and labels then have no names",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(found=f"{path.name} holds no JSON object", expected="an object with 'labels'", fix="mend it")
    return content


def _labels(found: object) -> tuple[LabelTable | None, int | None]:
    """Both spellings: {"1": "liver"} of the Decathlon and {"liver": 1} of nnU-Net; its value `ignore` apart."""
    if found is None:
        return None, None
    ignore: int | None = None
    names: dict[int, str] = {}
    entries: dict[Any, Any] = found if isinstance(found, dict) else {"labels": found}
    for key, value in entries.items():
        number, name = (key, value) if str(key).isdigit() else (value, key)
        try:
            number, name = int(number), str(name)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                found=f"the label {key!r}: {value!r} in dataset.json",
                expected="one whole number for each structure; overlapping regions are not supported",
                fix="give each structure a value of its own",
            ) from error
        if name.lower() == "ignore":
            ignore = number
        elif number > 0:
            names[number] = name
    return table_of(names), ignore


def _channels(names: object, count: int, folder: str) -> tuple[Channel, ...]:
    if names is None:
        words = [folder] if count == 1 else [f"channel_{place}" for place in range(count)]
        return tuple(Channel("image" if count == 1 else word, modality_of(word)) for word in words)
    ordered = [str(name) for _, name in sorted(names.items())] if isinstance(names, dict) else []
    if len(ordered) != count:
        raise ConfigError(
            found=f"{len(ordered)} channels in dataset.json and {count} files a case",
            expected="one file for each channel, ending in _0000, _0001 and so on",
            fix="correct the channels in dataset.json, or split images of several channels into one file each",
        )
    used = [plain_name(name) for name in ordered]
    unique = [f"{name}-{place}" if used.count(name) > 1 else name for place, name in enumerate(used)]
    return tuple(Channel(name, modality_of(word)) for name, word in zip(unique, ordered, strict=True))


def _listed_pairs(folder: Path, described: dict[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Take the cases that `dataset.json` lists itself: 'training' of the Decathlon, 'dataset' of nnU-Net."""
    pairs: dict[str, tuple[tuple[Path, ...], Path]] = {}
    listing = described.get("dataset")
    if isinstance(listing, dict):
        for name, entry in listing.items():
            pairs[str(name)] = (tuple(folder / image for image in entry["images"]), folder / entry["label"])
    training = described.get("training")
    for entry in training if isinstance(training, list) and not pairs else []:
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(image, str) or not isinstance(label, str):
            raise ConfigError(
                found="an entry of 'training' in dataset.json without 'image' and 'label'",
                expected="a path of each",
                fix="complete it",
            )
        name = _stem(Path(label))
        split = _with_channels(folder / image, name)
        if name in pairs:
            raise InputError(
                found=f"the case {name} twice in dataset.json", expected="one entry a case", fix="remove one"
            )
        pairs[name] = (split, folder / label)
    return pairs


def _with_channels(image: Path, name: str) -> tuple[Path, ...]:
    """One image, or nnU-Net's files of it where `dataset.json` (version 1) leaves their numbers out."""
    if image.exists():
        return (image,)
    found = sorted(path for path in _image_files(image.parent) if _CHANNEL.sub("", _stem(path)) == name)
    return tuple(found) or (image,)


def _found_pairs(folder: Path) -> dict[str, tuple[tuple[Path, ...], Path]]:
    for images, labels in _FOLDERS:
        if (folder / images).is_dir():
            return _match(_image_files(folder / images), _image_files(folder / labels), folder / images)
    raise InputError(
        found=f"no images in {folder}",
        expected="folders imagesTr/ and labelsTr/, or images/ and labels/, with files that end in "
        + ", ".join((*NIFTI, *ITK)),
        fix="point at a folder with images and labels; see docs/how-to/training.md",
    )


def _match(images: Sequence[Path], labels: Sequence[Path], folder: Path) -> dict[str, tuple[tuple[Path, ...], Path]]:
    if not images or not labels:
        raise InputError(
            found=f"no images in {folder}" if not images else f"no labels beside {folder}",
            expected=f"files that end in {', '.join((*NIFTI, *ITK))}",
            fix="point at a folder with images and labels; see docs/how-to/training.md",
        )
    label_of = {_stem(path): path for path in labels}
    images_of: dict[str, list[Path]] = {}
    for path in images:
        stem = _stem(path)
        # An image is a channel only if the label is called without the number: case_0001 may be a case of its own.
        name = stem if stem in label_of else _CHANNEL.sub("", stem)
        images_of.setdefault(name, []).append(path)
    unmatched = sorted(set(images_of) ^ set(label_of))
    if unmatched:
        raise InputError(
            found=f"{len(unmatched)} cases with only an image or only a label: {listed(unmatched)}",
            expected="one label, and an image for each channel, of the same name for each case",
            fix="add the missing files or move these cases out of the folder",
        )
    return {name: (tuple(sorted(images_of[name])), label_of[name]) for name in images_of}


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if suffix_of(path) in (*NIFTI, *ITK) and not path.name.startswith(".")
    )


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(suffix_of(path))]


def _patients(path: Path, cases: Sequence[str]) -> dict[str, str]:
    if not path.is_file():
        return {}
    rows = patient_table(path).rows
    if not rows or not {"case", "patient"} <= rows[0].keys():
        raise ConfigError(
            found=f"{path.name} without the columns case and patient", expected="both", fix="write them at its head"
        )
    found = {row["case"]: row["patient"] for row in rows}
    unknown = sorted(set(found) - set(cases))
    if unknown:
        raise ConfigError(
            found=f"{path.name} names cases that are not there: {listed(unknown)}",
            expected="names of cases, without suffix",
            fix="correct the names, or leave these lines out",
        )
    return found
