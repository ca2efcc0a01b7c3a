"""`voxmetry compare`: label maps against a reference, one case or many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.instance_options import Instances
from voxmetry.cli.options import FLAGGED, NamesMap, grouped, names_of
from voxmetry.cli.progress import bar
from voxmetry.errors import ConfigError

if TYPE_CHECKING:
    from voxmetry.core.records import CohortSettings


@dataclass(frozen=True)
class Judging:
    """How two label maps are compared."""

    tolerance_mm: Annotated[
        list[float] | None,
        typer.Option("--tolerance-mm", help="Tolerance of the surface Dice, 1 mm if not given; repeat for more."),
    ] = None
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A structure to compare; all if not given; repeat for more.")
    ] = None
    names_map: NamesMap = None
    match: Annotated[
        Literal["auto", "name", "value"],
        typer.Option(help="How structures are paired; auto: by name where both label maps have real names."),
    ] = "auto"
    surface: Annotated[
        Literal["elements", "border-voxels"],
        typer.Option(help="Surface elements weighted by area (as surface-distance), or border voxels (as MONAI)."),
    ] = "elements"
    percentile: Annotated[
        Literal["directed-max", "pooled"],
        typer.Option(help="HD95: the larger of the two directions (as MONAI), or of both together (as MedPy)."),
    ] = "directed-max"
    empty: Annotated[
        Literal["nan", "diagonal"],
        typer.Option(help="Distance of a structure that one mask lacks: undefined, or the grid's diagonal."),
    ] = "nan"


@dataclass(frozen=True)
class Beside:
    """What else a comparison of folders takes."""

    other_prediction: Annotated[
        Path | None, typer.Option(help="Folder of another model's label maps, for a paired comparison.")
    ] = None
    images: Annotated[Path | None, typer.Option(help="Folder of images, for the pictures of the page.")] = None
    patients: Annotated[
        Path | None, typer.Option(help="CSV file with the columns case and patient, where patients have several.")
    ] = None


@grouped
def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PREDICTION REFERENCE",
            help="The label map to judge and the one to judge it by, or two folders of label maps, matched by name.",
        ),
    ] = None,
    prediction: Annotated[Path | None, typer.Option(help="The first of both, by its name.")] = None,
    reference: Annotated[Path | None, typer.Option(help="The second of both, by its name.")] = None,
    *,
    judging: Judging,
    counted: Instances,
    beside: Beside,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the tables, the JSON file and the page.")
    ] = None,
    parquet: Annotated[
        bool | None, typer.Option("--parquet/--no-parquet", help="Write Parquet too; by default where it can be.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Compare two label maps, or the label maps of two folders: Dice, Hausdorff distances, surface Dice, in mm."""
    from voxmetry.workflows.compare import ComparisonInputs, compare_paths

    prediction, reference = _both(files or [], prediction, reference)
    inputs = ComparisonInputs(
        prediction, reference, other=beside.other_prediction, images=beside.images, patients=beside.patients
    )
    settings = _settings(judging, counted)
    with bar("comparing", quiet=as_json or not prediction.is_dir()) as progress:
        cohort, written = compare_paths(
            inputs, settings, out=out, parquet=parquet, overwrite=overwrite, progress=progress
        )
    if prediction.is_dir():
        show.cohort(cohort, written, as_json=as_json)
        raise typer.Exit(1 if cohort.failed else 0 if cohort.complete else FLAGGED)
    show.comparisons(
        cohort.cases[0].comparisons,
        as_json=as_json,
        matchings=cohort.cases[0].matchings,
        definitions=cohort.definitions,
    )
    if not as_json:
        show.notes(cohort.notes)
        show.files(written)


def _both(files: list[Path], prediction: Path | None, reference: Path | None) -> tuple[Path, Path]:
    """Return the two paths, given by place or by name."""
    given = [*files, *(path for path in (prediction, reference) if path is not None)]
    by_name = prediction is not None and reference is not None
    if len(given) != 2 or (files and (prediction or reference)) or not (files or by_name):
        raise ConfigError(
            found=f"{len(given)} label maps or folders",
            expected="two: the one to judge, then the one to judge it by",
            fix="voxmetry compare PREDICTION REFERENCE",
        )
    return given[0], given[1]


def _settings(judging: Judging, counted: Instances) -> CohortSettings:
    from voxmetry.config import parse_record
    from voxmetry.core.records import CohortSettings

    tolerances = judging.tolerance_mm or [1.0]
    return parse_record(
        {
            "tolerance_mm": tolerances[0],
            "more_tolerances_mm": tolerances[1:],
            "labels": judging.label,
            "match": judging.match,
            "names": names_of(judging.names_map),
            "surface": judging.surface.replace("-", " "),
            "percentile": judging.percentile.replace("-", " "),
            "empty": judging.empty,
            **counted.settings("components"),
        },
        CohortSettings,
        where="options",
    )
