"""Corrections come back: each to its study, compared with the model's label map, and kept with who made it and when."""

from __future__ import annotations

import csv
import dataclasses
import io as text_io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from voxmetry import io
from voxmetry.config import dump_yaml
from voxmetry.core.base import Record
from voxmetry.core.json_files import read_record
from voxmetry.core.labels import LabelTable
from voxmetry.core.progress import Progress
from voxmetry.core.records.correction import Correction, StructureCorrection
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import csv_cells, word
from voxmetry.errors import FormatError, InputError, VoxmetryError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.measurement.correction import digest_of_labels
from voxmetry.train.manifests import CaseEntry, ChannelEntry, Manifest
from voxmetry.workflows.annotate.returned import Refused, Returned, find_returned, slice_keys
from voxmetry.workflows.annotate.worklist import FINAL, WorkItem, read_worklist
from voxmetry.workflows.correction import Corrected, CorrectionOptions, read_correction

FOLDER = "corrections"
NAME, TABLE, CASES = "corrections.json", "corrections.csv", "cases.yaml"
EARLIER = ".earlier"
"""Corrections that a later one replaced."""


class CollectedCase(Record):
    """A correction as it is kept."""

    case: str
    file: str
    """What its label map is called in the folder of corrections, without suffix."""
    patient: str
    images: dict[str, str]
    """Paths of its images, below the work list's folder."""
    modalities: dict[str, str] = Field(default_factory=dict)
    correction: Correction
    round: int = 1
    """1 for the first correction of this case, 2 for the second."""


class CollectedCorrections(Record):
    """The content of `corrections.json`."""

    schema_version: Literal[1] = 1
    labels: LabelTable
    cases: tuple[CollectedCase, ...]


def collect(
    folder: Path | str,
    sources: Sequence[Path | str] = (),
    how: CorrectionOptions = CorrectionOptions(),  # noqa: B008  (frozen)
    *,
    progress: Progress | None = None,
) -> tuple[CollectedCorrections, tuple[Refused, ...]]:
    """Take corrections in.

    Parameters
    ----------
    folder
        The folder of a work list. Corrections are kept in its `corrections/`: `CASE.nii.gz`, `corrections.csv` with
        Dice and mL before and after for each structure, `corrections.json`, and `cases.yaml`, a data set to train on.
    sources
        Files, folders of files called after the cases, or MONAI Label's folder; `labels/final` if not given. Slice
        annotations of several studies may lie in one file.
    how
        Author, names, what is taken though it is odd.
    progress
        Called after each file.

    Returns
    -------
    CollectedCorrections, tuple of Refused
        All corrections that are kept by now, and the files that were not taken. One that cannot be used costs none of
        the others. A correction of a case that was corrected before replaces that, which is kept in `.earlier`.

    Raises
    ------
    InputError
        If there is no work list, or nothing came back.
    VoxmetryError
        If nothing can be written.
    """
    folder = Path(folder)
    worklist = read_worklist(folder)
    given = [Path(source) for source in sources] or [folder / FINAL]
    back, refused = find_returned(given, worklist)
    if not back and not refused:
        raise InputError(
            found=f"no correction in {', '.join(path.name for path in given)}",
            expected=f"files called after the cases, such as {worklist.items[0].file}.seg.nrrd",
            fix="save corrections there, or name the files or folders that hold them",
        )
    store = make_folder(folder / FOLDER)
    kept = read_corrections(folder) if (store / NAME).is_file() else None
    known = {case.case: case for case in kept.cases} if kept is not None else {}
    table = kept.labels if kept is not None else None
    names = [f"{one.item.file}.nii.gz" for one in back]
    with output_folder(store, [*names, TABLE, CASES, NAME], overwrite=True) as stage:
        for place, one in enumerate(back, start=1):
            try:
                after, entry = _take(folder, one, how, known.get(one.item.case))
            except VoxmetryError as error:
                refused.append(Refused(one.path.name, error))
                _keep_earlier_file(store, stage, one.item.file)
            else:
                table = table or after.labels
                _set_aside(store, one.item.file)
                io.save(after, stage / f"{one.item.file}.nii.gz")
                known[one.item.case] = entry
            if progress is not None:
                progress(place, len(back))
        if table is None:
            raise _first(refused)
        found = CollectedCorrections(labels=table, cases=tuple(known[case] for case in sorted(known)))
        write_text(stage / TABLE, corrections_csv(found.cases))
        if any(case.images for case in found.cases):
            write_text(stage / CASES, dump_yaml(data_set_of(found)))
        write_text(stage / NAME, found.model_dump_json(indent=1))
    return found, tuple(refused)


def _first(refused: Sequence[Refused]) -> VoxmetryError:
    error = refused[0].error
    more = f" (and {len(refused) - 1} more files were refused)" if len(refused) > 1 else ""
    return type(error)(found=f"{error.found}{more}", expected=error.expected, fix=error.fix)


def read_corrections(folder: Path | str) -> CollectedCorrections:
    """Read the corrections that are kept in a work list's folder.

    Raises
    ------
    InputError
        If there are none.
    FormatError
        If the list of them is damaged.
    """
    return read_record(
        Path(folder) / FOLDER / NAME,
        CollectedCorrections,
        missing=InputError(
            found=f"no corrections in {Path(folder).name}",
            expected="the folder of a work list whose corrections were collected",
            fix=f"voxmetry annotate collect {word(folder)}",
        ),
        damaged=lambda _: FormatError(
            found=f"{NAME} is not as this version writes it",
            expected="corrections that this version of voxmetry collected",
            fix="move it away, and collect them again",
        ),
    )


def _take(
    folder: Path, one: Returned, how: CorrectionOptions, earlier: CollectedCase | None
) -> tuple[Segmentation, CollectedCase]:
    item = one.item
    require_same_images(folder, item)
    before = io.read_segmentation(folder / item.segmentation)
    if digest_of_labels(before) != item.segmentation_sha256:
        raise InputError(
            found=f"the model's label map of {item.case} has changed since the list was made",
            expected=f"{item.segmentation} as it was laid out: corrections are saved beside it, in {FINAL}",
            fix="make the list again in another folder, and move the corrections there",
        )
    grid = dataclasses.replace(before.geometry, frame_uid=item.frame_uid)
    target = Corrected(
        replace(before, geometry=grid),
        slice_keys(item),
        item.series_uid,
        item.model,
        item.model_version,
        item.weights_sha256,
    )
    after, correction = read_correction(one.path, target, how, said=one.said)
    return after, CollectedCase(
        case=item.case,
        file=item.file,
        patient=item.patient,
        images=item.images,
        modalities=item.modalities,
        correction=correction,
        round=1 if earlier is None else earlier.round + (earlier.correction != correction),
    )


def require_same_images(folder: Path, item: WorkItem) -> None:
    """See that the images of a study are those that it was laid out with.

    Raises
    ------
    InputError
        If one is gone or has changed.
    """
    for name, place in item.images.items():
        try:
            state = (folder / place).stat()
        except OSError as error:
            raise InputError(
                found=f"the image of {item.case} is gone: {place}",
                expected="the file or link that the list was made with",
                fix="put it back, or make the list again",
            ) from error
        if (state.st_size, state.st_mtime_ns) != item.image_marks.get(name):
            raise InputError(
                found=f"the image of {item.case} has changed since the list was made: {place}",
                expected="the image that the model saw",
                fix="segment it again, and make the list again",
            )


def _set_aside(store: Path, name: str) -> None:
    """Keep the earlier correction of a case before a later one takes its place."""
    path = store / f"{name}.nii.gz"
    if path.is_file():
        aside = make_folder(store / EARLIER)
        number = 1 + sum(1 for entry in aside.glob(f"{name}-*.nii.gz"))
        shutil.copyfile(path, aside / f"{name}-{number}.nii.gz")


def _keep_earlier_file(store: Path, stage: Path, name: str) -> None:
    path = store / f"{name}.nii.gz"
    if path.is_file():
        shutil.copyfile(path, stage / path.name)


_COLUMNS = ("case", "patient", "author", "made", "format", "model", "model_version", "round")


def corrections_csv(cases: Sequence[CollectedCase]) -> str:
    """Spell corrections as CSV: one row a case and structure, with Dice and mL before and after."""
    structure = [name for name in StructureCorrection.model_fields if name != "reason"]
    text = text_io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *structure])
    for case in cases:
        done = case.correction
        head = (
            case.case,
            case.patient,
            done.author,
            done.made,
            done.format,
            done.model,
            done.model_version,
            case.round,
        )
        for row in done.structures:
            cells = row.model_dump()
            values = [cells[name] for name in structure]
            writer.writerow(csv_cells([*head, *("" if x != x else x for x in values)]))
    return text.getvalue()


def data_set_of(found: CollectedCorrections) -> Manifest:
    """Describe the corrections as a data set to train on, beside the images of the work list."""
    cases = [case for case in found.cases if case.images]
    channels = list(cases[0].images)
    return Manifest(
        name="corrections",
        root="..",
        channels=tuple(
            ChannelEntry.model_validate({"name": name, "modality": cases[0].modalities.get(name)}) for name in channels
        ),
        labels=found.labels,
        cases=tuple(
            CaseEntry(
                case=case.file,
                patient=case.patient,
                images={name: case.images[name] for name in channels},
                label=f"{FOLDER}/{case.file}.nii.gz",
            )
            for case in cases
        ),
    )
