"""What a person should know about a study before its numbers are used."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from voxmetry.classical.spec import BaselineSpec
from voxmetry.config import ModelSpec, Range, TrainingDomain
from voxmetry.core.axes import is_as_stored
from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import UNCERTAIN
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Flag, InstanceMeasurement, Measurement, MembersAgreement, PredictedDice, SeriesInfo
from voxmetry.core.segmentation import Segmentation
from voxmetry.measurement.sides import pairs
from voxmetry.models.composite import CompositeSpec
from voxmetry.nn.grids import is_turned
from voxmetry.ops.components import component_sizes

SPACING_MARGIN = 0.05
"""A spacing within a twentieth of what was seen in training counts as seen."""

ASYMMETRY_SHARE = 0.5
"""A structure below this share of its partner on the other side is flagged."""

ISLANDS_SHARE = 0.1
"""Share of an organ that may lie apart from its largest part."""

TURN_MARGIN_DEGREES = 5.0
"""A grid turned by this much more than was seen in training counts as seen: augmentation turns images as far. It
matters only to models whose input is not brought onto the patient's axes, see `nn.grids.is_turned`."""

AGREEMENT = 0.7
"""Mean Dice between the networks of an ensemble below which they disagree: overlap above is commonly called good, after
Zijdenbos et al. 1994, doi 10.1109/42.363096. It is not calibrated, unlike the predicted Dice."""

MANY_STRUCTURES = 6
"""Structures of which most must be as in training, else the image shows something else."""

FIELD_MARGIN = 0.15
"""A field of view within this share of what was seen in training counts as seen."""


def flag_source(source: SeriesInfo | None) -> tuple[Flag, ...]:
    """Flag an image that was resampled when it was read, and an SUV for which something was taken for granted."""
    if source is None:
        return ()
    resampled = [
        Flag(
            code="resampled_source",
            severity="review",
            message=f"The image was {step}, by choice, before anything else.",
        )
        for step in source.processing
        if step.startswith("resampled")
    ]
    passed = [
        Flag(
            code="files_passed_over",
            severity="review",
            message=f"Beside the slices, {step}. If that was a first or last slice, no gap shows it.",
        )
        for step in source.processing
        if step.startswith("passed over")
    ]
    assumed = [
        Flag(code="suv_assumption", severity="review", message=f"SUV was worked out with {words}.")
        for words in (source.suv.assumptions if source.suv else ())
    ]
    return (*resampled, *passed, *assumed)


def flag_axes(spec: ModelSpec) -> tuple[Flag, ...]:
    """Flag a model that takes the axes of an image as they are stored: that it knows them so is an assumption.

    Turned against its training images, a network finds less, and swaps left and right.
    """
    if not is_as_stored(spec.orientation):
        return ()
    return (
        Flag(
            code="axes_assumed",
            severity="review",
            message=f"{spec.name} takes the image's axes as they are stored, whatever their direction. Whether its "
            "training images were stored so is not known: look at the pictures, left and right above all.",
        ),
    )


def flag_input(oriented: Geometry, spec: ModelSpec) -> tuple[Flag, ...]:
    """Hold an image's grid against what the model was trained on.

    Parameters
    ----------
    oriented
        The image's grid with its axes in the model's order, as `core.axes.reorientation` gives it.
    spec
        The model, whose `training_domain` says what it has seen.
    """
    flags = []
    domain = spec.training_domain
    for code, have, seen, margin, what in (
        ("spacing_out_of_domain", oriented.nominal_spacing_mm, domain.spacing_mm, SPACING_MARGIN, "voxel size"),
        ("field_of_view_out_of_domain", oriented.extent_mm, domain.field_of_view_mm, FIELD_MARGIN, "field of view"),
    ):
        if seen is None:
            continue
        outside = [
            f"{value:.3g} mm along {axis} (seen: {span.low:g} to {span.high:g})"
            for value, span, axis in zip(have, seen, spec.orientation, strict=True)
            # A size at the very margin counts as seen, whatever the last digit of its affine.
            if not span.low * (1 - margin) - 1e-6 <= value <= span.high * (1 + margin) + 1e-6
        ]
        if outside:
            flags.append(
                Flag(
                    code=code,
                    severity="review",
                    message=f"The {what} is outside what {spec.name} was trained on: {', '.join(outside)}. "
                    "Its accuracy here is unknown.",
                )
            )
    turned = domain.obliqueness_degrees
    if turned is not None:
        angle = oriented.obliqueness_degrees
        stands = (
            f"The image's axes stand at {angle:.0f} degrees to the patient's; "
            f"{spec.name} was trained on {turned.low:g} to {turned.high:g}"
        )
        if is_turned(oriented, spec):
            message = f"{stands}, so it was given the image along the patient's axes."
            flags.append(Flag(code="turned_upright", severity="note", message=message))
        elif angle > turned.high + TURN_MARGIN_DEGREES + 1e-3:
            message = f"{stands}. Its accuracy here is unknown."
            flags.append(Flag(code="turn_out_of_domain", severity="review", message=message))
    return tuple(flags)


def flag_measurements(
    measurements: Sequence[Measurement], spec: ModelSpec | BaselineSpec | CompositeSpec
) -> tuple[Flag, ...]:
    """Flag each structure that is empty, cut off at the border, or of a volume outside the model's expected range.

    Where that is most of many structures, another flag comes first: it is no image of what the model is for.
    """
    domain = spec.training_domain
    continues = domain.continues if isinstance(domain, TrainingDomain) else {}
    return flag_volumes(measurements, domain.volume_ml, spec.name, continues=continues)


def flag_volumes(
    measurements: Sequence[Measurement],
    expected_ml: Mapping[str, Range],
    name: str,
    *,
    continues: Mapping[str, Collection[str]] | None = None,
) -> tuple[Flag, ...]:
    """Flag as `flag_measurements` does, against ranges of volume in mL that the model of this name expects.

    What is cut only on sides on which the body continues it is noted, and asks for no look.
    """
    flags = [*_flag_another_region(measurements, expected_ml, name)]
    for row in measurements:
        span = expected_ml.get(row.label)
        if row.n_voxels == 0:
            flags.append(_review("empty", row.label, f"No {row.label} was found."))
            continue
        if row.touches_border:
            sides = ", ".join(row.border_sides)
            message = (
                f"{row.label} touches the edge of the image ({sides}): its volume of {row.volume_ml:.2f} mL counts "
                "only what lies inside."
            )
            expected = bool(row.border_sides) and set(row.border_sides) <= set((continues or {}).get(row.label, ()))
            severity: Literal["note", "review"] = "note" if expected else "review"
            flags.append(Flag(code="truncated", label=row.label, severity=severity, message=message))
        if span and row.volume_ml not in span:
            flags.append(
                _review(
                    "volume_out_of_range",
                    row.label,
                    f"{row.label} has {row.volume_ml:.2f} mL; {name} expects {span.low:g} to {span.high:g} mL.",
                )
            )
    return tuple(flags)


def _flag_another_region(
    measurements: Sequence[Measurement], expected_ml: Mapping[str, Range], name: str
) -> tuple[Flag, ...]:
    known = [(row.volume_ml, span) for row in measurements if (span := expected_ml.get(row.label))]
    unseen = sum(volume not in span for volume, span in known)
    if len(known) < MANY_STRUCTURES or unseen <= len(known) / 2:
        return ()
    message = (
        f"{unseen} of {len(known)} structures are missing or of a volume that {name} has never seen: the image shows "
        "another region, or too little of the one that the model is for."
    )
    return (Flag(code="unlike_training", severity="reject", message=message),)


def flag_asymmetry(measurements: Sequence[Measurement], labels: LabelTable) -> tuple[Flag, ...]:
    """Flag the smaller one of each pair of a left and a right structure of which one is less than half of the other.

    A pair that is cut off at the border is flagged for that alone.
    """
    flags = []
    for _, left, right in pairs(measurements, labels):
        small, large = sorted((left, right), key=lambda row: row.volume_ml)
        cut = small.touches_border or large.touches_border
        if not cut and small.volume_ml < ASYMMETRY_SHARE * large.volume_ml:
            message = (
                f"{small.label} has {small.volume_ml:.2f} mL, {large.label} {large.volume_ml:.2f} mL: less than half. "
                "One of them may be wrong."
            )
            flags.append(_review("asymmetry", small.label, message))
    return tuple(flags)


def flag_islands(segmentation: Segmentation, *, many: Collection[str] = ()) -> tuple[Flag, ...]:
    """Note each organ of which more than a tenth lies apart from its largest part.

    Lesions may be many, and so may those structures named by `many` whose instances were told apart.
    """
    parts = component_sizes(segmentation, 26)
    flags = []
    for label in segmentation.labels:
        if label.kind == "lesion" or label.value not in parts or label.name in many:
            continue
        sizes = parts[label.value]
        apart = 1 - float(sizes.max()) / float(sizes.sum())
        if apart > ISLANDS_SHARE:
            message = f"{label.name} is in {len(sizes)} parts: {apart:.0%} of it lies apart from the largest."
            flags.append(Flag(code="islands", severity="note", message=message, label=label.name))
    return tuple(flags)


def flag_uncertain(instances: Sequence[InstanceMeasurement]) -> tuple[Flag, ...]:
    """Ask for a look at structures with instances whose score is below `UNCERTAIN`: they are counted all the same."""
    flags = []
    for name in dict.fromkeys(row.label for row in instances):
        own = [row for row in instances if row.label == name]
        low = [f"{row.id} ({row.score:.2f})" for row in own if row.score < UNCERTAIN]
        if low:
            shown = ", ".join(low[:6]) + (f" and {len(low) - 6} more" if len(low) > 6 else "")
            message = f"{len(low)} of {len(own)} instances of {name} have a score below {UNCERTAIN:g}: {shown}."
            flags.append(_review("uncertain_instances", name, message))
    return tuple(flags)


def flag_units(units: Sequence[str], inputs: Sequence[tuple[str, str]]) -> tuple[Flag, ...]:
    """Note each PET whose file does not say that its values are SUV; the model takes them to be.

    Parameters
    ----------
    units
        Unit of each input's image.
    inputs
        Name and modality of each input of the model.
    """
    return tuple(
        Flag(
            code="unit_assumed",
            severity="note",
            message=f"The file of {name} does not say what its values are; the model takes them as SUVbw. If they are, "
            "say so with --unit SUVbw, and SUV is measured.",
        )
        for unit, (name, modality) in zip(units, inputs, strict=True)
        if modality == "PT" and unit == "1"
    )


def predict_dice(expected: Mapping[str, float], spec: ModelSpec) -> tuple[PredictedDice, ...]:
    """Predict the Dice of each structure that the model is calibrated for and that was found.

    Parameters
    ----------
    expected
        Expected Dice by structure, from `nn.confidence`; nan where a structure was not found.
    spec
        The model, whose `quality` says how the true Dice goes with it.
    """
    return tuple(
        PredictedDice(
            label=name,
            expected_dice=expected[name],
            predicted_dice=how.predict(expected[name]),
            error=how.error,
            review_below=how.review_below,
        )
        for name, how in spec.quality.items()
        if math.isfinite(expected.get(name, math.nan))
    )


def flag_quality(predicted: Sequence[PredictedDice]) -> tuple[Flag, ...]:
    """Flag each structure whose predicted Dice is below what the model's calibration asks a look for."""
    return tuple(
        _review(
            "low_predicted_dice",
            row.label,
            f"{row.label}: predicted Dice {row.predicted_dice:.2f} (mean error {row.error:.2f}), below "
            f"{row.review_below:.2f}; the network is less sure here than on most cases that it was tested on.",
        )
        for row in predicted
        if row.predicted_dice < row.review_below
    )


def flag_agreement(agreed: Sequence[MembersAgreement]) -> tuple[Flag, ...]:
    """Flag each structure on which the networks of an ensemble do not agree; see `AGREEMENT`."""
    return tuple(
        _review(
            "members_disagree",
            row.label,
            f"{row.label}: the model's {row.members} networks agree with a mean Dice of {row.mean_dice:.2f}, "
            f"below {AGREEMENT:g}. What is written is their mean.",
        )
        for row in agreed
        if row.mean_dice < AGREEMENT
    )


def _review(code: str, label: str, message: str) -> Flag:
    return Flag(code=code, severity="review", message=message, label=label)
