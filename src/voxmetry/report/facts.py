"""What was examined, how the numbers are defined and how they came to be, as terms with their details."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from voxmetry.config import StudySettings
from voxmetry.core.records import SourceInfo, StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.text import folder_name
from voxmetry.models import BUNDLED
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.pictures.plan import PicturePlan
from voxmetry.report.text import clean, unit_name, without_folders

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
    "mesh_volume_ml": "Mesh volume (mL)",
    "surface_area_mm2": "Surface area (mm²)",
    "sphericity": "Sphericity",
    "max_diameter_mm": "Largest diameter in 3-D (mm)",
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
_LESIONS = {
    "lesion": "Lesion",
    "long_axis_mm": "Long axis (mm)",
    "short_axis_mm": "Short axis (mm)",
    "plane": "Plane of measurement",
    "suv_peak": "SUVpeak",
    "total_lesion_glycolysis_suv_ml": "Total lesion glycolysis (SUV mL)",
    "location": "Location",
    "location_distance_mm": "Distance to the location (mm)",
}
_COMPARED = {
    "status": "Status",
    "volume_difference_ml": "Volume difference (mL)",
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "Surface Dice",
    "surface_dice_at_mm": "Surface Dice at further tolerances",
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
_INSTANCES = {
    "instance": "Instance",
    "score": "Score",
    "box_low_ras_mm": "Box, lowest corner (mm)",
    "box_high_ras_mm": "Box, highest corner (mm)",
    "panoptic": "Panoptic map",
}
_FOLLOWED = {
    "status": "Status of a lesion",
    "rule": "What links two lesions",
    "category": "RECIST category",
    "targets": "Target lesions",
    "sum_follow_up_mm": "Sum of diameters (mm)",
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A term and what is to be said about it. A code is shown in a fixed-width face and may break anywhere."""

    term: str
    detail: str
    is_code: bool = False
    lang: str = ""
    """Language of the detail where it is not the report's."""
    of: str = ""
    """Name of the field that is defined."""


@dataclass(frozen=True, kw_only=True)
class FactGroup:
    """Facts under a heading."""

    heading: str
    facts: tuple[Fact, ...]


def examined(result: StudyResult, plan: PicturePlan, say: Language = ENGLISH) -> tuple[Fact, ...]:
    """Say what image it was, on which grid, and by which model it was segmented."""
    source, run = result.source, result.provenance
    images = [_image(one, say) for one in (source, *(other.source for other in result.others))]
    lies = say("{size} mm, axes {axes}", size=say.times(plan.extent_mm), axes=source.axcodes)
    if plan.oblique_degrees > OBLIQUE_DEGREES:
        lies += ", " + say(
            "oblique by up to {angle}°: pictures follow the grid, letters are the nearest direction",
            angle=say.decimals(plan.oblique_degrees, 0),
        )
    return (
        Fact(term=say("Image"), detail="; ".join(images)),
        Fact(term=say("Model"), detail=f"{clean(run.model)} {clean(run.model_version)}"),
        *_corrected(result, say),
        Fact(term=say("Run"), detail=say.moment(run.started)),
        *_fast(result, say),
        Fact(term=say("Matrix"), detail=say("{size} voxels", size=say.times(source.shape))),
        Fact(term=say("Voxel size"), detail=f"{say.times(source.spacing_mm, 2)} mm"),
        Fact(term=say("Field of view"), detail=lies),
    )


def _image(source: SourceInfo, say: Language) -> str:
    modality = _MODALITIES.get(source.modality or "", source.modality or say("modality not stated"))
    return ", ".join(clean(part) for part in (modality, say(unit_name(source.unit)), source.format))


def _corrected(result: StudyResult, say: Language) -> tuple[Fact, ...]:
    if result.correction is None:
        return ()
    return (Fact(term=say("Corrected by"), detail=clean(result.correction.author)),)


def _fast(result: StudyResult, say: Language) -> tuple[Fact, ...]:
    """Say what a fast run traded for time; a full one says nothing."""
    fast = result.provenance.fast
    if fast is None:
        return ()
    parts = [say("only inside the box that {model} finds", model=clean(fast.coarse))] if fast.coarse else []
    if fast.overlap is not None and fast.full_overlap is not None:
        few, own = (say.decimals(100 * share, 0) for share in (fast.overlap, fast.full_overlap))
        parts.append(say("windows overlap by {few} % in place of {own} %", few=few, own=own))
    if fast.fewer_windows:
        parts.append(say("a quarter of the windows, and those at what these find"))
    if fast.eight_bits:
        parts.append(say("in 8 bits: {names}", names=", ".join(map(clean, fast.eight_bits))))
    detail = "; ".join(parts) or say("as a full run: windows overlap by no more")
    return (Fact(term=say("Fast run"), detail=detail),)


def definitions(
    result: StudyResult, say: Language = ENGLISH, *, prior: PriorComparison | None = None
) -> tuple[Fact, ...]:
    """List how each number is defined, in the words that the result carries.

    The definitions of a comparison are left out where there was none, and those of lesions and of instances where there
    are none. A definition that the catalogue does not hold word for word stays English, and is marked as such.
    """
    followed = prior.follow_up.definitions if prior is not None and prior.follow_up is not None else {}
    said = {**result.definitions, **{name: text for name, text in followed.items() if name in _FOLLOWED}}
    # A lesion's status and a structure's are two things of one name.
    terms = {**_MEASURED, **_LESIONS, **_INSTANCES, **_COMPARED, **(_FOLLOWED if followed else {})}
    left_out = {*(() if result.comparisons else _COMPARED), *(() if result.instances_by else _INSTANCES)}
    left_out = (left_out | {*(() if result.lesions or result.instances else _LESIONS)}) - followed.keys()
    if not any(row.surface_dice_at_mm for row in result.comparisons):
        left_out.add("surface_dice_at_mm")
    return tuple(
        Fact(
            term=say(terms[name]) if name in terms else clean(name).replace("_", " "),
            detail=_capital(clean(say(text))),
            lang="" if say.knows(text) else ENGLISH.code,
            of=name,
        )
        for name, text in said.items()
        if name not in left_out
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def provenance(result: StudyResult, say: Language = ENGLISH) -> tuple[FactGroup, ...]:
    """List the versions, checksums, settings, device and times, and the command, that a repetition needs."""
    run = result.provenance
    model = [
        Fact(term=say("Name"), detail=clean(run.model)),
        Fact(term=say("Version"), detail=clean(run.model_version)),
        Fact(term=say("Weights SHA-256"), detail=clean(run.weights_sha256), is_code=True),
    ]
    software = [Fact(term="voxmetry", detail=clean(run.voxmetry_version))]
    software += [
        Fact(term=clean(name), detail=clean(version)) for name, version in run.packages.items() if name != "voxmetry"
    ]
    software.append(Fact(term="Python", detail=clean(run.python)))
    machine = [
        Fact(term=say("Device"), detail=clean(run.device)),
        Fact(term=say("Platform"), detail=clean(run.platform)),
        Fact(term=say("Started"), detail=clean(run.started)),
    ]
    if math.isfinite(run.peak_memory_mb):
        machine.append(Fact(term=say("Peak memory"), detail=f"{say.decimals(run.peak_memory_mb, 0)} MB"))
    if result.source.series_uid:
        machine.append(Fact(term=say("Series UID"), detail=clean(result.source.series_uid), is_code=True))
    groups = [
        FactGroup(heading=say("Model"), facts=tuple(model)),
        FactGroup(heading=say("Run"), facts=tuple(machine)),
        FactGroup(heading=say("Seconds"), facts=_seconds(run.seconds, say)),
        FactGroup(heading=say("Settings"), facts=tuple(_settings(run.settings, say))),
        FactGroup(heading=say("Software"), facts=tuple(software)),
    ]
    return tuple(group for group in groups if group.facts)


def _seconds(seconds: Mapping[str, float], say: Language) -> tuple[Fact, ...]:
    steps = [item for item in seconds.items() if item[0] != "total"]
    total = [item for item in seconds.items() if item[0] == "total"]
    return tuple(Fact(term=clean(step).replace("_", " "), detail=say.decimals(x, 2)) for step, x in steps + total)


def _settings(settings: Mapping[str, object], say: Language, prefix: str = "") -> Iterator[Fact]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _settings(value, say, f"{key}.")
        else:
            yield Fact(term=clean(key), detail=_plain(value, say), is_code=True)


def _plain(value: object, say: Language) -> str:
    if value is None:
        return say("not set")
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item, say) for item in value) or say("none")
    return clean(without_folders(str(value))) or say("(empty)")


def command(result: StudyResult) -> str:
    """Return the command that repeats the run, with names in capitals in place of paths.

    STUDY is the study, or its images by the names of the model's inputs where each was a file of its own; MODEL is the
    model's folder, where it is none of the bundled ones; REFERENCE and PRIOR are what it was compared with. Settings
    that are at their default are left out.
    """
    run = result.provenance
    # A bundled model that runs in 8 bits is a copy of it in a folder of its own.
    bundled = (BUNDLED / run.model / "model.yaml").is_file() and not (run.fast and run.fast.eight_bits)
    model = run.model if bundled else "MODEL"
    words = ["voxmetry", "segment", *_images(result), "-m", model, "-o", "OUT"]
    for name, default in StudySettings().model_dump(mode="json").items():
        value = run.settings.get(name, default)
        if name == "dicom" and isinstance(value, Mapping) and isinstance(default, Mapping):
            for part, usual in default.items():
                words += _option("dicom_seg" if part == "seg" else part, value.get(part, usual), usual)
        elif name != "overwrite":
            words += _option(name, value, default)
    if result.comparisons:
        words += ["--reference", "REFERENCE"]
    if "change" in result.files:
        words += ["--prior", "PRIOR"]
    repeated = " ".join(shlex.quote(word) for word in words)
    return clean(f"{repeated} && {_renewed(result)}" if result.correction is not None else repeated)


def _renewed(result: StudyResult) -> str:
    """Return the command that renews a run from the correction CORRECTED."""
    words = ["voxmetry", "report", "OUT", "--segmentation", "CORRECTED"]
    words += [word for image in _images(result) for word in ("--image", image)]
    if result.correction is not None:
        words += ["--author", result.correction.author]
    if result.comparisons:
        words += ["--reference", "REFERENCE"]
    return " ".join(shlex.quote(word) for word in words)


def _images(result: StudyResult) -> list[str]:
    if not result.others or result.source.format == "DICOM":
        return ["STUDY"]
    return [result.source.modality or "IMAGE", *(folder_name(other.name).upper() for other in result.others)]


def _option(name: str, value: object, default: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value == default:
        return []
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in (option, without_folders(str(item)))]
    return [option] if value is True else [option, without_folders(str(value))]
