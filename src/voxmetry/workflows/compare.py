"""Compare what lies at two paths, and write all that is known about it: the straight path of `voxmetry compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxmetry._version import __version__
from voxmetry.core.progress import Progress
from voxmetry.core.records import CohortComparison, CohortSettings
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError, MissingExtraError
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.io.read import read_volume
from voxmetry.io.suffixes import ITK, NIFTI
from voxmetry.measurement import tables
from voxmetry.measurement.compare_cases import compare_cohort, compare_files, named_alike, read_pair
from voxmetry.measurement.instances import label_map
from voxmetry.measurement.match_files import FilePair, MatchedFiles, case_name, match_files
from voxmetry.measurement.patients import read_patients
from voxmetry.measurement.summarise_cases import summarise_cohort

if TYPE_CHECKING:
    from voxmetry.report.comparison import Masks

OUTPUTS = {
    "comparison": "comparison.csv",
    "parquet": "comparison.parquet",
    "instances": "instances.csv",
    "result": "comparison.json",
    "page": "comparison.html",
}
"""The page is written last: it is there only if everything else is."""


@dataclass(frozen=True)
class ComparisonInputs:
    """Where the label maps lie.

    Parameters
    ----------
    prediction, reference
        Two files or two folders.
    other
        A folder of another model's predictions.
    images
        A folder of images of the same names, for the pictures.
    patients
        A CSV file with the columns `case` and `patient`.
    """

    prediction: Path
    reference: Path
    other: Path | None = None
    images: Path | None = None
    patients: Path | None = None


def compare_paths(
    inputs: ComparisonInputs,
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    *,
    out: Path | None = None,
    parquet: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[CohortComparison, tuple[Path, ...]]:
    """Compare two files, or the files of two folders that have the same name.

    Parameters
    ----------
    inputs
        Where the label maps lie.
    settings
        How they are compared.
    out
        Folder for `comparison.csv`, `.parquet`, `.json` and `.html` (and `instances.csv` where instances were
        matched); None writes nothing.
    parquet
        Whether Parquet is written; None writes it where pyarrow is installed.
    overwrite
        Whether earlier results in `out` are replaced.
    progress
        Called after each case of a folder with the number that is done and of all.

    Returns
    -------
    CohortComparison, tuple of Path
        What was found, and the files that were written.

    Raises
    ------
    VoxmetryError
        If nothing can be compared or written. Of two folders a case that fails is a row with its reason.
    """
    if out is None:
        return _compare(inputs, settings, progress)[0], ()
    if parquet:
        tables.require_parquet()
    read = (inputs.prediction, inputs.reference, inputs.other, inputs.images, inputs.patients)
    with output_folder(out, OUTPUTS.values(), overwrite=overwrite, apart_from=read) as stage:
        cohort, matched = _compare(inputs, settings, progress)
        if parquet is None and not can_write_parquet():
            left_out = f"{OUTPUTS['parquet']} was left out: pyarrow is not installed (pip install 'voxmetry[parquet]')"
            cohort = cohort.model_copy(update={"notes": (*cohort.notes, left_out)})
        names = _write(cohort, matched, inputs, stage, parquet)
    return cohort, tuple(out / name for name in names)


def _compare(
    inputs: ComparisonInputs, settings: CohortSettings, progress: Progress | None
) -> tuple[CohortComparison, MatchedFiles]:
    folders = (inputs.prediction.is_dir(), inputs.reference.is_dir())
    if all(folders):
        matched = match_files(inputs.prediction, inputs.reference)
        cohort = _folders(inputs, matched, settings, progress)
    elif any(folders):
        raise InputError(
            found=f"a folder and a file: {inputs.prediction.name} and {inputs.reference.name}",
            expected="two files or two folders",
            fix="name the file inside the folder, or the folder of the file",
        )
    else:
        if inputs.other is not None or inputs.patients is not None:
            raise ConfigError(
                found="two files with the option of another model or of patients",
                expected="folders of several cases",
                fix="pass folders, or leave the option out",
            )
        pair = FilePair(case_name(Path(inputs.prediction.name)), inputs.prediction, inputs.reference)
        matched = MatchedFiles((pair,), (), ())
        cohort = summarise_cohort([compare_files(pair, settings)], settings)
    return cohort.model_copy(update={"voxmetry_version": __version__, "notes": _notes(cohort)}), matched


def _notes(cohort: CohortComparison) -> tuple[str, ...]:
    """Say once what was not compared, and in how many cases."""
    found = Counter(note for case in cohort.cases for note in case.notes)
    several = len(cohort.cases) > 1
    return tuple(f"{note} ({n} of {len(cohort.cases)} cases)" if several else note for note, n in found.items())


def _folders(
    inputs: ComparisonInputs, matched: MatchedFiles, settings: CohortSettings, progress: Progress | None
) -> CohortComparison:
    patients = read_patients(inputs.patients) if inputs.patients else None
    unmatched = [set(matched.unmatched_predictions), set(matched.unmatched_references)]
    other: tuple[FilePair, ...] = ()
    if inputs.other is not None:
        second = match_files(inputs.other, inputs.reference)
        names = {pair.case for pair in matched.pairs}
        other = tuple(pair for pair in second.pairs if pair.case in names)
        # What only one of the two models has cannot be paired; it is listed, with the side that it is missing on.
        missing = names - {pair.case for pair in other}
        extra = {pair.case for pair in second.pairs} - names
        unmatched[0] |= {f"{name} (other model)" for name in second.unmatched_predictions}
        unmatched[1] |= {f"{name} (other model)" for name in missing} | {f"{name} (first model)" for name in extra}
        if not other:
            raise InputError(
                found="no case that both models have",
                expected="predictions of the same names in both folders",
                fix="rename the files of one folder",
            )
    return compare_cohort(
        matched.pairs,
        settings,
        patients=patients,
        other=other,
        unmatched=(sorted(unmatched[0]), sorted(unmatched[1])),
        progress=progress,
    )


def _write(
    cohort: CohortComparison, matched: MatchedFiles, inputs: ComparisonInputs, out: Path, parquet: bool | None
) -> tuple[str, ...]:
    """Write all files and return their names; without Parquet where pyarrow is missing and was not asked for."""
    from voxmetry.report.comparison import write_cohort_page

    chosen = {"comparison", "result", "page"}
    rows = tables.comparison_rows(cohort.cases)
    tables.write_csv(rows, tables.comparison_columns(rows), out / OUTPUTS["comparison"])
    if parquet is not False and can_write_parquet():
        tables.write_parquet(rows, out / OUTPUTS["parquet"])
        chosen.add("parquet")
    if cohort.panoptic is not None:
        tables.write_csv(tables.instance_rows(cohort.cases), tables.INSTANCE_COLUMNS, out / OUTPUTS["instances"])
        chosen.add("instances")
    write_text(out / OUTPUTS["result"], cohort.model_dump_json(indent=1))
    write_cohort_page(cohort, out / OUTPUTS["page"], read=_reader(matched, inputs.images, cohort.settings))
    return tuple(name for what, name in OUTPUTS.items() if what in chosen)


def can_write_parquet() -> bool:
    """Whether pyarrow is there."""
    try:
        tables.require_parquet()
    except MissingExtraError:
        return False
    return True


def _reader(matched: MatchedFiles, images: Path | None, settings: CohortSettings) -> Callable[[str], Masks]:
    pairs = {pair.case: pair for pair in matched.pairs}

    def read(case: str) -> Masks:
        pair = pairs[case]
        # Pictures show structures: where two instances touch, the cut between them is not drawn.
        sides = named_alike(*read_pair(pair, instances=settings.apart == "maps"))
        prediction, reference = (label_map(side) for side in sides)
        image = _image(images, case)
        if image is not None:
            image.geometry.require_same(prediction.geometry, what=f"the image and the label map of {case}")
        return prediction, reference, image

    return read


def _image(images: Path | None, case: str) -> Volume | None:
    """Read a case's image: of its own name, or with nnU-Net's number of the first channel behind it."""
    if images is None:
        return None
    found = [
        path
        for stem in (case, f"{case}_0000")
        for path in (images / f"{stem}{suffix}" for suffix in (*NIFTI, *ITK))
        if path.is_file()
    ]
    if not found:
        raise InputError(
            found=f"no image of the case {case}",
            expected=f"a file of this name in the folder of images that ends in {', '.join((*NIFTI, *ITK))}",
            fix="add the image, or leave --images out: the pictures then show the masks alone",
        )
    return read_volume(found[0])
