"""`voxmetry follow-up`: two time points of a patient, lesion by lesion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli import show
from voxmetry.cli.options import NamesMap, grouped, names_of
from voxmetry.cli.progress import steps

if TYPE_CHECKING:
    from voxmetry.core.records.follow_up import FollowUpSettings


@dataclass(frozen=True)
class Following:
    """What is followed, and how two time points are brought together."""

    lesion: Annotated[
        list[str] | None, typer.Option("--lesion", help="A structure whose parts are lesions; repeat for more.")
    ] = None
    node: Annotated[
        list[str] | None, typer.Option("--node", help="A lesion structure of lymph nodes: short axis; repeat for more.")
    ] = None
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Id of a target lesion at baseline; repeat for more.")
    ] = None
    names_map: NamesMap = None
    nadir_mm: Annotated[
        float | None, typer.Option(help="Smallest sum of target diameters so far, from earlier scans.", min=0)
    ] = None
    registration: Annotated[
        Literal["auto", "none", "rigid", "affine"],
        typer.Option(help="auto: none where both images share a frame of reference, else rigid."),
    ] = "auto"
    min_overlap: Annotated[
        float, typer.Option(help="Share of a lesion that must lie in another for a link.", min=0.001, max=1)
    ] = 0.1
    max_distance_mm: Annotated[
        float, typer.Option(help="Lesions without overlap are paired up to this distance.", min=0)
    ] = 10.0
    connectivity: Annotated[
        Literal["6", "18", "26"], typer.Option(help="Voxels of one lesion share a face, an edge, or a corner.")
    ] = "26"
    min_volume_ml: Annotated[float, typer.Option(help="Smaller lesions are left out.", min=0)] = 0.0


@grouped
def follow_up(
    baseline: Annotated[
        Path, typer.Argument(metavar="BASELINE", help="The earlier label map, or a folder that segment wrote.")
    ],
    current: Annotated[Path, typer.Argument(metavar="FOLLOW_UP", help="The later one.")],
    baseline_image: Annotated[Path | None, typer.Option(help="The earlier image: a file or a DICOM folder.")] = None,
    image: Annotated[Path | None, typer.Option(help="The later image.")] = None,
    modality: Annotated[
        Literal["CT", "MR", "PT"] | None, typer.Option(help="What image files without DICOM headers are.")
    ] = None,
    unit: Annotated[
        Literal["HU", "SUVbw", "Bq/mL", "1"] | None, typer.Option(help="What the values of image files are.")
    ] = None,
    *,
    following: Following,
    transform: Annotated[
        Path | None, typer.Option(help="transform.tfm of an earlier run, in place of a registration.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the JSON file, the table, the transform, the picture."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Follow lesions from one scan to the next: matched, new, gone, merged, split, and the RECIST 1.1 category."""
    from voxmetry.workflows.follow_up import TimePaths, follow_up_paths

    settings = _settings(following)
    with steps() as tell:
        tell("following lesions")
        found, files = follow_up_paths(
            TimePaths(baseline, baseline_image),
            TimePaths(current, image),
            settings,
            modality=modality,
            unit=unit,
            transform=transform,
            out=out,
            overwrite=overwrite,
        )
    show.follow_up(found, files, as_json=as_json)
    raise typer.Exit(3 if found.needs_review else 0)


def _settings(following: Following) -> FollowUpSettings:
    from voxmetry.config import parse_record
    from voxmetry.core.records.follow_up import FollowUpSettings

    return parse_record(
        {
            "lesions": following.lesion,
            "names": names_of(following.names_map),
            "nodes": following.node or (),
            "targets": following.target,
            "nadir_mm": following.nadir_mm,
            "registration": following.registration,
            "min_overlap": following.min_overlap,
            "max_distance_mm": following.max_distance_mm,
            "connectivity": int(following.connectivity),
            "min_volume_ml": following.min_volume_ml,
        },
        FollowUpSettings,
        where="options",
    )
