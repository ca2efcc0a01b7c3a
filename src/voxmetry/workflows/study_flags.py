"""What a person should know of a study: before the network runs, and of its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from voxmetry.classical import BaselineSpec
from voxmetry.config import ModelSpec, StudySettings, TrainingDomain
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.records import Flag
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.flags.image import flag_image
from voxmetry.flags.study import (
    flag_agreement,
    flag_asymmetry,
    flag_axes,
    flag_input,
    flag_islands,
    flag_measurements,
    flag_quality,
    flag_source,
    flag_uncertain,
    flag_units,
)
from voxmetry.models.composite import CompositeSpec
from voxmetry.nn import Composite, Predictor
from voxmetry.workflows.body_region import flag_region
from voxmetry.workflows.inputs import AnySpec, StudyInputs, inputs_of
from voxmetry.workflows.models import Answer, Ready
from voxmetry.workflows.study_measurements import StudyMeasurements
from voxmetry.workflows.training_cases import flag_training_case


def flag_before(
    ready: Ready, inputs: StudyInputs, reference: Path | str | None, settings: StudySettings
) -> tuple[Flag, ...]:
    """Flag what is known before the network runs; refuse a study of another part of the body than the model is for.

    Raises
    ------
    InputError
        If the study's header names another part of the body, and the settings do not take any.
    """
    spec, source = ready.spec, inputs.first.source
    region = flag_region(source, spec.name, spec.body_part, any_region=settings.any_region)
    return (*flag_training_case(ready, inputs.paths, reference), *region)


FAR_OUTSIDE = 2.0
"""A field of view this many times what was seen in training: the network would search for minutes where it should not.
"""


def warn_early(inputs: StudyInputs, spec: AnySpec, tell: Callable[[str], None] | None) -> None:
    """Tell, before the network runs, of an image that is far larger than any that the model was trained on."""
    if tell is None or not isinstance(spec, ModelSpec) or spec.training_domain.field_of_view_mm is None:
        return
    _, oriented = reorientation(inputs.first.geometry, spec.orientation)
    spans = zip(oriented.extent_mm, spec.training_domain.field_of_view_mm, strict=True)
    times = max(have / seen.high for have, seen in spans)
    if times < FAR_OUTSIDE:
        return
    size = " x ".join(f"{x:.0f}" for x in oriented.extent_mm)
    seen = " x ".join(f"{span.high:.0f}" for span in spec.training_domain.field_of_view_mm)
    tell(
        f"warning: this image of {size} mm is {times:.1f} times as large as any that {spec.name} was trained on (up to "
        f"{seen} mm along {', '.join(spec.orientation)}): what it finds may be wrong, and it takes longer. Crop the "
        "image to the region that the model is for; Ctrl-C stops here."
    )


def flag_left_out(words: Sequence[str]) -> tuple[Flag, ...]:
    """Say which structures were not compared, as the reference or the model does not know them."""
    return tuple(Flag(code="not_compared", severity="note", message=f"{x[0].upper()}{x[1:]}.") for x in words)


def flag_networks(geometry: Geometry, ready: Ready) -> tuple[Flag, ...]:
    """Flag what the networks of a model take for granted of a grid, or have not seen; of the same kind once.

    A composite's members that see the study on a common grid or in a box of it are not asked about its size.
    """
    specs = [ready.spec] if isinstance(ready, Predictor) else []
    whole = True
    if isinstance(ready, Composite):
        specs = [spec for spec, _ in ready.networks]
        whole = ready.spec.grid is None and ready.spec.crop is None
    flags: dict[str, Flag] = {}
    for spec in specs:
        _, oriented = reorientation(geometry, spec.orientation)
        for flag in (*flag_axes(spec), *(flag_input(oriented, spec) if whole else ())):
            flags.setdefault(flag.code, flag)
    return tuple(flags.values())


def flag_study(
    inputs: StudyInputs, measured: StudyMeasurements, answer: Answer, change: PriorComparison | None, ready: Ready
) -> tuple[Flag, ...]:
    """Collect what a person should know: about the images first, then about each structure, then about the change."""
    spec: AnySpec = ready.spec
    domain = TrainingDomain() if isinstance(spec, BaselineSpec) else spec.training_domain
    items = inputs_of(spec)
    named = zip(inputs.volumes, items, strict=True)
    images = [flag for volume, item in named for flag in flag_image(volume, item.name, item.modality, domain)]
    units = flag_units([volume.unit for volume in inputs.volumes], [(item.name, item.modality) for item in items])
    sources = [flag for volume in inputs.volumes for flag in flag_source(volume.source)]
    structures = (*flag_measurements(measured.measurements, spec), *flag_asymmetry(measured.measurements, spec.labels))
    if isinstance(spec, CompositeSpec):
        structures = flags_of_many(structures)
    units = (*units, *flag_networks(inputs.first.geometry, ready))
    return (
        *sources,
        *images,
        *units,
        *(Flag(code="not_run", severity="review", message=note) for note in answer.notes),
        *structures,
        *flag_islands(answer.segmentation, many={row.label for row in measured.instances}),
        *flag_uncertain(measured.instances),
        *flag_quality(answer.predicted_dice),
        *flag_agreement(answer.members_agreement),
        *(change.flags if change is not None else ()),
    )


def flags_of_many(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """Note in one line what a model of many structures did not find: a study seldom shows the whole body.

    What is cut off at the border is noted with its structure; it asks for no look, as the spine always is.
    """
    absent = [flag.label or "" for flag in flags if flag.code == "empty"]
    found = [
        flag.model_copy(update={"severity": "note"}) if flag.code == "truncated" else flag
        for flag in flags
        if flag.code != "empty"
    ]
    if absent:
        message = f"{len(absent)} structures were not found: {', '.join(absent)}."
        found.insert(0, Flag(code="not_found", severity="note", message=message))
    return tuple(found)
