"""What was examined, how the numbers are defined and how they came to be, as terms with their details."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from voxmetry.core.base import Record
from voxmetry.core.geometry import Geometry
from voxmetry.core.records import StudyResult
from voxmetry.report.planes import obliqueness_degrees
from voxmetry.report.text import clean, decimals, times, unit_name, without_folders

OBLIQUE_DEGREES = 1.0
"""A grid that is turned by more than this is called oblique."""

_MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PET"}

_MEASURED = {
    "n_voxels": "Voxels",
    "volume_ml": "Volume (mL)",
    "extent_rl_mm": "Extent right–left (mm)",
    "extent_ap_mm": "Extent anterior–posterior (mm)",
    "extent_si_mm": "Extent superior–inferior (mm)",
    "centroid_ras_mm": "Centroid (mm)",
    "touches_border": "At the image's edge",
    "border_sides": "Edges that are reached",
    "intensity_mean": "Mean value",
    "intensity_sd": "SD of the values",
    "intensity_min": "Minimum value",
    "intensity_p05": "5th percentile of the values",
    "intensity_median": "Median value",
    "intensity_p95": "95th percentile of the values",
    "intensity_max": "Maximum value",
}
_COMPARED = {
    "status": "Status",
    "volume_difference_ml": "Volume difference (mL)",
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "Surface Dice",
    "boundary_iou": "Boundary IoU",
    "hausdorff_mm": "Hausdorff distance (mm)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "mean_prediction_to_reference_mm": "Mean distance, prediction to reference (mm)",
    "mean_reference_to_prediction_mm": "Mean distance, reference to prediction (mm)",
    "surface": "Surface",
    "empty": "Empty masks",
    "tolerance_mm": "Tolerance (mm)",
}


class Fact(Record):
    """A term and what is to be said about it. A code is shown in a fixed-width face and may break anywhere."""

    term: str
    detail: str
    is_code: bool = False


class Group(Record):
    """Facts under a heading."""

    heading: str
    facts: tuple[Fact, ...]


def examined(result: StudyResult, geometry: Geometry) -> tuple[Fact, ...]:
    """Say what image it was, on which grid, and by which model it was segmented."""
    source, run = result.source, result.provenance
    modality = _MODALITIES.get(source.modality or "", source.modality or "modality not stated")
    image = (modality, unit_name(source.unit), source.format)
    angle = obliqueness_degrees(geometry)
    lies = f"{times(geometry.extent_mm)} mm, axes {geometry.axcodes}"
    if angle > OBLIQUE_DEGREES:
        lies += f", oblique by up to {decimals(angle, 0)}°: pictures follow the grid, letters are the nearest direction"
    return (
        Fact(term="Image", detail=", ".join(clean(part) for part in image)),
        Fact(term="Model", detail=f"{clean(run.model)} {clean(run.model_version)}"),
        Fact(term="Run", detail=_moment(run.started)),
        Fact(term="Matrix", detail=f"{times(geometry.shape)} voxels"),
        Fact(term="Voxel size", detail=f"{times(geometry.spacing_mm, 2)} mm"),
        Fact(term="Field of view", detail=lies),
    )


def _moment(started: str) -> str:
    """Shorten an ISO 8601 time to minutes where it is one; show it as it is otherwise."""
    text = clean(started)
    if len(text) >= 16 and text[10] == "T":
        return f"{text[:10]} {text[11:16]} UTC"
    return text


def definitions(result: StudyResult) -> tuple[Fact, ...]:
    """List how each number is defined, in the words that the result carries.

    The definitions of a comparison are left out where there was none.
    """
    terms = {**_MEASURED, **_COMPARED}
    return tuple(
        Fact(term=terms.get(name, clean(name).replace("_", " ")), detail=_capital(clean(text)))
        for name, text in result.definitions.items()
        if result.comparisons or name not in _COMPARED
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def provenance(result: StudyResult) -> tuple[Group, ...]:
    """List the versions, checksums, settings, device and times that a repetition needs."""
    run = result.provenance
    model = [
        Fact(term="Name", detail=clean(run.model)),
        Fact(term="Version", detail=clean(run.model_version)),
        Fact(term="Weights SHA-256", detail=clean(run.weights_sha256), is_code=True),
    ]
    software = [Fact(term="voxmetry", detail=clean(run.voxmetry_version))]
    software += [Fact(term=clean(name), detail=clean(version)) for name, version in run.packages.items()]
    software.append(Fact(term="Python", detail=clean(run.python)))
    machine = [
        Fact(term="Device", detail=clean(run.device)),
        Fact(term="Platform", detail=clean(run.platform)),
        Fact(term="Started", detail=clean(run.started)),
    ]
    if math.isfinite(run.peak_memory_mb):
        machine.append(Fact(term="Peak memory", detail=f"{decimals(run.peak_memory_mb, 0)} MB"))
    if result.source.series_uid:
        machine.append(Fact(term="Series UID", detail=clean(result.source.series_uid), is_code=True))
    groups = [
        Group(heading="Model", facts=tuple(model)),
        Group(heading="Run", facts=tuple(machine)),
        Group(heading="Seconds", facts=_seconds(run.seconds)),
        Group(heading="Settings", facts=tuple(_settings(run.settings))),
        Group(heading="Software", facts=tuple(software)),
    ]
    return tuple(group for group in groups if group.facts)


def _seconds(seconds: Mapping[str, float]) -> tuple[Fact, ...]:
    steps = [item for item in seconds.items() if item[0] != "total"]
    total = [item for item in seconds.items() if item[0] == "total"]
    return tuple(Fact(term=clean(step).replace("_", " "), detail=decimals(x, 2)) for step, x in steps + total)


def _settings(settings: Mapping[str, object], prefix: str = "") -> Iterator[Fact]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _settings(value, f"{key}.")
        else:
            yield Fact(term=clean(key), detail=_plain(value), is_code=True)


def _plain(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return clean(without_folders(str(value))) or "(empty)"
