"""From a cohort to a work list: the worst first, in a folder that 3D Slicer and ITK-SNAP open."""

from __future__ import annotations

import csv
import dataclasses
import io as text_io
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxmetry import io
from voxmetry.core.progress import Progress
from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import csv_cells, file_names, folder_name
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError, VoxmetryError
from voxmetry.io.annotations.itk_snap import write_itk_snap
from voxmetry.io.annotations.series import keys_of
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.io.seg_nrrd import write_seg_nrrd
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of
from voxmetry.measurement.correction import digest_of_labels
from voxmetry.measurement.overlap import overlaps
from voxmetry.workflows.annotate.worklist import (
    FINAL,
    IMAGES,
    NAME,
    ORIGINAL,
    TABLE,
    Strategy,
    WorkItem,
    WorkList,
    mean_pairwise_dice,
    rank,
)
from voxmetry.workflows.cohort.bids import is_bids
from voxmetry.workflows.cohort.database import NAME as RECORD
from voxmetry.workflows.cohort.database import reading
from voxmetry.workflows.cohort.records import Candidate
from voxmetry.workflows.report import read_image_again
from voxmetry.workflows.run_folder import MODEL_SEGMENTATION, RESULT, SEGMENTATION, read_result

LABELS = "labels.txt"
"""The label table as ITK-SNAP loads it."""
README = "README.txt"
_FOLDERS = (IMAGES, "labels", LABELS, README, TABLE, NAME)


@dataclass(frozen=True)
class Run:
    """A finished run of a cohort.

    Parameters
    ----------
    case
        Its name.
    folder
        Where it lies.
    result
        What is known of it.
    """

    case: str
    folder: Path
    result: StudyResult

    @property
    def key(self) -> tuple[str, str, str]:
        """The model that made it."""
        made = self.result.provenance
        return (made.model, made.model_version, made.weights_sha256)


def plan_annotation(
    cohort: Path | str,
    out: Path | str,
    *,
    images: Path | str | None = None,
    strategy: Strategy = "quality",
    others: Sequence[Path | str] = (),
    model: str | None = None,
    most: int | None = None,
    copy: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WorkList:
    """Rank the studies of a cohort, and lay out what is needed to correct them.

    Parameters
    ----------
    cohort
        The folder of `voxmetry cohort run`, or any folder of runs.
    out
        Folder for `worklist.csv` and `.json`, `images/CASE.nii.gz`, `labels/original/CASE.seg.nrrd` (the model's), the
        empty `labels/final/` for corrections of the same names, and `labels.txt` for ITK-SNAP.
    images
        What the cohort was run on: a folder, a CSV manifest, a BIDS data set. Without it the list has no images.
    strategy
        In which order, see `worklist.STRATEGIES`.
    others
        Cohorts of other models on the same cases, for 'disagreement'.
    model
        The model whose label maps are corrected, where the cohort has several.
    most
        How many of the worst; all if not given.
    copy
        Whether image files are copied; else they are linked. DICOM series are written as NIfTI either way.
    overwrite
        Whether an earlier work list is replaced; corrections that lie in it are never removed.
    progress
        Called after each case that is laid out.

    Raises
    ------
    InputError
        If there is no finished run, or several models and none is named.
    VoxmetryError
        If an image or a label map cannot be read, or the folder cannot be written.
    """
    cohort, out = Path(cohort), Path(out)
    _require_no_corrections(out)
    # Its images would be studies of the next run; what a BIDS data set has beside its subjects is none.
    below = () if images is None or is_bids(Path(images)) else (images,)
    with output_folder(out, _FOLDERS, overwrite=overwrite, apart_from=(cohort, images), outside=below) as stage:
        runs, notes = find_runs(cohort)
        chosen = _of_model(runs, model)
        between = _agreement(chosen, runs, others) if strategy == "disagreement" else None
        order = rank({case: run.result for case, run in chosen.items()}, strategy, agreement=between)[:most]
        found = _images(images, cohort, [row.case for row in order]) if images is not None else {}
        names = _names([row.case for row in order])
        for folder in (IMAGES, ORIGINAL, FINAL):
            make_folder(stage / folder)
        items = []
        for place, row in enumerate(order, start=1):
            run, candidate = chosen[row.case], found.get(row.case)
            item = _item(run, cohort, names[row.case], place, row.score, row.why, candidate)
            items.append(_lay_out(item, run, candidate, stage, copy=copy))
            if progress is not None:
                progress(place, len(order))
        if strategy == "quality" and not any(run.result.predicted_dice for run in chosen.values()):
            notes.append(
                "no predicted Dice: the model is not calibrated (voxmetry calibrate), so that failed checks alone rank "
                "the studies, and chance the others"
            )
        if images is not None:
            notes += [
                f"{row.case}: no image of this name in {Path(images).name}" for row in order if row.case not in found
            ]
        worklist = WorkList(strategy=strategy, cohort=str(cohort.absolute()), items=tuple(items), notes=tuple(notes))
        write_itk_snap(chosen[order[0].case].result.labels, stage / LABELS)
        write_text(stage / README, _README)
        write_text(stage / TABLE, table_of(worklist))
        write_text(stage / NAME, worklist.model_dump_json(indent=1))
    return worklist


_README = """A work list, the study to look at first on top of worklist.csv.

3D Slicer: load images/CASE and labels/original/CASE.seg.nrrd, correct, save as labels/final/CASE.seg.nrrd.
ITK-SNAP: open the image and the segmentation, load labels.txt, save as labels/final/CASE.nii.gz.
Then: voxmetry annotate collect FOLDER --author NAME
"""


def find_runs(cohort: Path) -> tuple[list[Run], list[str]]:
    """Find the finished runs of a folder, and say what is not finished.

    Raises
    ------
    InputError
        If there is none.
    """
    runs: list[Run] = []
    notes: list[str] = []
    if (cohort / RECORD).is_file():
        with reading(cohort) as db:
            rows = db.execute('SELECT "case", state, place FROM studies ORDER BY position, "case"').fetchall()
        undone: dict[str, int] = {}
        for row in rows:
            if row["state"] != "done":
                undone[row["state"]] = undone.get(row["state"], 0) + 1
            elif (cohort / row["place"] / RESULT).is_file():
                runs.append(Run(row["case"], cohort / row["place"], read_result(cohort / row["place"])))
            else:
                notes.append(f"{row['case']}: its {RESULT} is gone, or named as in BIDS")
        notes += [f"{n} studies are {state}" for state, n in undone.items()]
    else:
        for path in sorted(cohort.rglob(RESULT)):
            name = path.parent.relative_to(cohort).as_posix()
            runs.append(Run(cohort.name if name == "." else name, path.parent, read_result(path.parent)))
    if not runs:
        raise InputError(
            found=f"no finished run in {cohort.name}",
            expected="the folder of voxmetry cohort run, or folders of voxmetry segment",
            fix="run the cohort first; a BIDS derivative is not taken",
        )
    return runs, notes


def _of_model(runs: Sequence[Run], model: str | None) -> dict[str, Run]:
    names = sorted({run.result.provenance.model for run in runs})
    if model is None and len(names) > 1:
        raise InputError(
            found=f"runs of {len(names)} models: {', '.join(names)}",
            expected="the model whose label maps are corrected",
            fix="name it: --model NAME; the others count for --strategy disagreement",
        )
    wanted = model or names[0]
    if wanted not in names:
        raise InputError(found=f"no run of {wanted}", expected=f"one of {', '.join(names)}", fix="choose one of these")
    chosen = [run for run in runs if run.result.provenance.model == wanted]
    cases = [run.case for run in chosen]
    twice = sorted({case for case in cases if cases.count(case) > 1})
    if twice:
        raise InputError(
            found=f"several runs of {', '.join(twice[:5])}", expected="one a case", fix="name a folder with one of them"
        )
    return {run.case: run for run in chosen}


def _agreement(
    chosen: Mapping[str, Run], runs: Sequence[Run], others: Sequence[Path | str]
) -> dict[str, dict[str, float]]:
    """Return the mean Dice between the label maps of all models, by case and structure."""
    every: dict[str, list[Run]] = {case: [run] for case, run in chosen.items()}
    for run in [*runs, *(run for other in others for run in find_runs(Path(other))[0])]:
        if run.case in every and run.folder != chosen[run.case].folder:
            every[run.case].append(run)
    found = {}
    for case, group in every.items():
        if len(group) < 2:
            continue
        maps = [own_map(run) for run in group]
        pairs = [(a, b) for place, a in enumerate(maps) for b in maps[place + 1 :]]
        found[case] = mean_pairwise_dice([_dice(a, b) for a, b in pairs])
    return found


def _dice(a: Segmentation, b: Segmentation) -> dict[str, float]:
    names = [name for name in a.labels.names if name in b.labels.names]
    pairs = [(a.labels[name].value, b.labels[name].value) for name in names]
    counts = overlaps(prediction=a, reference=b, pairs=pairs)
    return {name: count.dice for name, count in zip(names, counts, strict=True)}


def own_map(run: Run) -> Segmentation:
    """Read the model's own label map of a run, also where a person corrected it."""
    own = run.folder / MODEL_SEGMENTATION
    path = own if run.result.correction is not None and own.is_file() else run.folder / SEGMENTATION
    return io.read_segmentation(path, labels=run.result.labels)


def _images(images: Path | str, cohort: Path, cases: Sequence[str]) -> dict[str, Candidate]:
    from voxmetry.workflows.cohort.bids import is_bids
    from voxmetry.workflows.cohort.plan import find

    source = Path(images)
    bids = source.is_dir() and is_bids(source)
    found = find(source, cohort.absolute(), bids=bids, known={}, tell=None)
    wanted = set(cases)
    return {one.case: one for one in found.candidates if one.case in wanted and one.fault is None}


def _names(cases: Sequence[str]) -> dict[str, str]:
    """Return what the files of each case are called: its name, with `__` where it has a slash, apart on every disk."""
    spelled = [case.replace("/", "__").replace(" ", "_") for case in cases]
    return dict(zip(cases, file_names(spelled), strict=True))


def _item(
    run: Run, cohort: Path, name: str, place: int, score: float, why: str, candidate: Candidate | None
) -> WorkItem:
    result, made = run.result, run.result.provenance
    return WorkItem(
        rank=place,
        case=run.case,
        file=name,
        patient=(candidate.patient if candidate is not None else None) or run.case,
        score=score,
        why=why,
        flags=tuple(dict.fromkeys(flag.code for flag in result.flags if flag.severity != "note")),
        predicted_dice={row.label: row.predicted_dice for row in result.predicted_dice},
        volumes_ml={row.label: row.volume_ml for row in result.measurements},
        model=made.model,
        model_version=made.model_version,
        weights_sha256=made.weights_sha256,
        run=run.folder.relative_to(cohort).as_posix(),
        series_uid=result.source.series_uid,
        frame_uid=result.source.frame_uid,
    )


def _lay_out(item: WorkItem, run: Run, candidate: Candidate | None, stage: Path, *, copy: bool) -> WorkItem:
    """Write the model's label map, and link, copy or write the images."""
    own = own_map(run)
    target = f"{ORIGINAL}/{item.file}.seg.nrrd"
    write_seg_nrrd([own], stage / target)
    update: dict[str, object] = {"segmentation": target, "segmentation_sha256": digest_of_labels(own)}
    if candidate is None:
        return item.model_copy(update=update)
    paths: dict[str, str] = {}
    marks: dict[str, tuple[int, int]] = {}
    sources = {"image": run.result.source, **{other.name: other.source for other in run.result.others}}
    kinds = {name: source.modality for name, source in sources.items() if source.modality in ("CT", "MR", "PT")}
    first = None
    for name, volume, path in _volumes(run, candidate):
        first = first or volume
        own_name = item.file if not paths else f"{item.file}_{folder_name(name)}"
        is_file = path.is_file() and suffix_of(path) in (*NIFTI, *ITK) and suffix_of(path) != ".nhdr"
        target = f"{IMAGES}/{own_name}{suffix_of(path) if is_file else '.nii.gz'}"
        if not is_file:
            io.save(volume, stage / target)
        elif copy:
            shutil.copyfile(path, stage / target)
        else:
            (stage / target).symlink_to(path.absolute())
        state = (stage / target).stat()
        paths[name], marks[name] = target, (state.st_size, state.st_mtime_ns)
    if first is not None:
        first.geometry.require_same(
            dataclasses.replace(own.geometry, frame_uid=first.geometry.frame_uid),
            what=f"image and label map of {item.case}",
        )
        keys = keys_of(item.file, first)
        update |= {"sop_uids": keys.sop_uids, "instance_numbers": keys.instance_numbers}
    return item.model_copy(update=update | {"images": paths, "image_marks": marks, "modalities": kinds})


def _volumes(run: Run, candidate: Candidate) -> Iterator[tuple[str, Volume, Path]]:
    """Read the images of a run again."""
    sources = [("image", run.result.source), *((other.name, other.source) for other in run.result.others)]
    parts = candidate.images
    if len(parts) == 1:
        parts = parts * len(sources)
    for (name, source), part in zip(sources, parts, strict=False):
        try:
            volume = read_image_again(run.result.model_copy(update={"source": source}), part.path)
        except VoxmetryError as error:
            raise type(error)(found=f"{run.case}: {error.found}", expected=error.expected, fix=error.fix) from error
        yield name, volume, Path(part.path)


def _require_no_corrections(out: Path) -> None:
    """See that no correction would be removed with an earlier list."""
    there = [entry.name for entry in (out / FINAL).iterdir()] if (out / FINAL).is_dir() else []
    if there:
        raise FormatError(
            found=f"{len(there)} corrections in {out.name}/{FINAL}",
            expected="a new folder: they would be lost with the list that they belong to",
            fix="write the new list to another folder, or move the corrections away once they are collected",
        )


COLUMNS = (
    *("rank", "case", "file", "score", "why", "flags", "lowest_predicted_dice", "model", "model_version"),
    *("image", "segmentation", "save_as"),
)


def table_of(worklist: WorkList) -> str:
    """Spell a work list as CSV, one row a study, the worst first."""
    text = text_io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in worklist.items:
        dice = min(item.predicted_dice.values(), default=math.nan)
        numbers = ["" if math.isnan(x) else f"{x:.4f}" for x in (item.score, dice)]
        row = (item.rank, item.case, item.file, numbers[0], item.why, " ".join(item.flags), numbers[1], item.model)
        more = (item.model_version, next(iter(item.images.values()), ""), item.segmentation)
        writer.writerow(csv_cells((*row, *more, f"{FINAL}/{item.file}.seg.nrrd")))
    return text.getvalue()
