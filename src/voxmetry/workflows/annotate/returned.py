"""Corrections that came back, and the study of a work list that each belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from voxmetry.errors import InputError, VoxmetryError
from voxmetry.io.annotations.formats import is_drawings, read_drawings
from voxmetry.io.annotations.itk_snap import is_itk_snap
from voxmetry.io.annotations.monai_label import is_monai_label, read_monai_label
from voxmetry.io.annotations.series import by_case
from voxmetry.io.annotations.shapes import SliceKeys
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.workflows.annotate.worklist import WorkItem, WorkList
from voxmetry.workflows.correction import Said, series_of


class Refused(NamedTuple):
    """A file that was not taken, and why."""

    name: str
    error: VoxmetryError


@dataclass(frozen=True)
class Returned:
    """A file that came back, with the study that it belongs to."""

    path: Path
    item: WorkItem
    said: Said = Said()  # noqa: RUF009  (frozen)


def find_returned(sources: Iterable[Path], worklist: WorkList) -> tuple[list[Returned], list[Refused]]:
    """Find what came back, and the study that each file belongs to."""
    back: list[Returned] = []
    refused: list[Refused] = []
    for source in sources:
        try:
            back += _returned(source, worklist)
        except VoxmetryError as error:
            refused.append(Refused(source.name, error))
            continue
        for entry in _entries(source):
            try:
                back += _returned(entry, worklist)
            except VoxmetryError as error:
                refused.append(Refused(entry.name, error))
    found: dict[str, Returned] = {}
    for one in back:
        if one.item.case in found:
            refused.append(Refused(one.path.name, _twice(found[one.item.case], one)))
        else:
            found[one.item.case] = one
    return list(found.values()), refused


def _twice(first: Returned, second: Returned) -> InputError:
    return InputError(
        found=f"two corrections of {second.item.case}: {first.path.name}, and this one",
        expected="one a study",
        fix="name the one that holds, or move the other away; the first was taken",
    )


def _entries(source: Path) -> list[Path]:
    """Return what lies in a plain folder of corrections."""
    if not source.is_dir() or is_monai_label(source):
        return []
    return [
        entry
        for entry in sorted(source.iterdir())
        if not entry.name.startswith(".") and not is_itk_snap(entry) and entry.suffix.lower() != ".md"
    ]


def _returned(path: Path, worklist: WorkList) -> list[Returned]:
    """Return the corrections of a file; none for a plain folder, whose entries are looked at one by one."""
    if not path.exists():
        raise InputError(found=f"nothing at {path.name}", expected="corrections", fix="check the path")
    if path.is_dir() and is_monai_label(path):
        return [
            Returned(x.path, _item_of(x.image, worklist), Said(x.author, x.made, x.labels))
            for x in read_monai_label(path)
        ]
    if is_drawings(path):
        keys = {item.case: slice_keys(item) for item in worklist.items}
        drawings = read_drawings(path)
        by_file = {item.file: item for item in worklist.items}
        parts = by_case(drawings, list(keys.values()))
        return [
            Returned(path, by_file[name], Said(drawings=part))
            for name, part in parts.items()
            if any(picture.shapes for picture in part.pictures)
        ]
    if path.is_dir():
        item = _named(path.name, worklist)
        return [Returned(path, item)] if item is not None else []
    uids = series_of(path)
    if uids:
        items = [item for item in worklist.items if (item.series_uid or "").partition("#")[0] in uids]
        if len(items) == 1:
            return [Returned(path, items[0])]
        raise InputError(
            found=f"{path.name} refers to a series of {len(items)} studies of the list",
            expected="a segmentation of one of its studies",
            fix="pass the correction of a study of this list, or name it after its case in a format without UIDs",
        )
    return [Returned(path, _item_of(_stem(path), worklist))]


def _stem(path: Path) -> str:
    name = path.name.removesuffix(path.name[len(path.name) - len(suffix_of(path)) :])
    is_image = suffix_of(path) in (*NIFTI, *ITK)
    return name.removesuffix(".seg") if is_image else path.stem


def _named(name: str, worklist: WorkList) -> WorkItem | None:
    found = [item for item in worklist.items if name in (item.file, item.case, item.series_uid)]
    return found[0] if len(found) == 1 else None


def _item_of(name: str, worklist: WorkList) -> WorkItem:
    item = _named(name, worklist)
    if item is None:
        raise InputError(
            found=f"a correction called {name}, which is no study of the list",
            expected=f"one of its {len(worklist.items)} studies, such as {worklist.items[0].file}",
            fix="name the file after the study that it corrects, as labels/original does",
        )
    return item


def slice_keys(item: WorkItem) -> SliceKeys:
    """Return what the slices of a study's image are known by."""
    return SliceKeys(item.file, item.sop_uids, item.instance_numbers)
