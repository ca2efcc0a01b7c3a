"""What a person should know about a study before its numbers are used."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.classical.spec import BaselineSpec
from voxmetry.config import ModelSpec
from voxmetry.core.geometry import Geometry
from voxmetry.core.records import Flag, Measurement, SeriesInfo

SPACING_MARGIN = 0.05
"""A spacing within a twentieth of what was seen in training counts as seen."""

FIELD_MARGIN = 0.15
"""A field of view within this share of what was seen in training counts as seen."""


def flag_source(source: SeriesInfo | None) -> tuple[Flag, ...]:
    """Flag an image that was resampled when it was read: its voxels are not those of the scanner."""
    resampled = [step for step in (source.processing if source else ()) if step.startswith("resampled")]
    return tuple(
        Flag(
            code="resampled_source",
            severity="review",
            message=f"The image was {step}, by choice, before anything else.",
        )
        for step in resampled
    )


def flag_input(oriented: Geometry, spec: ModelSpec) -> tuple[Flag, ...]:
    """Hold an image's grid against what the model was trained on.

    Parameters
    ----------
    oriented
        The image's grid with its axes in the model's order, as `nn.grids.reorientation` gives it.
    spec
        The model, whose `training_domain` says what it has seen.
    """
    flags = []
    domain = spec.training_domain
    for code, have, seen, margin, what in (
        ("spacing_out_of_domain", oriented.spacing_mm, domain.spacing_mm, SPACING_MARGIN, "voxel size"),
        ("field_of_view_out_of_domain", oriented.extent_mm, domain.field_of_view_mm, FIELD_MARGIN, "field of view"),
    ):
        if seen is None:
            continue
        outside = [
            f"{value:.3g} mm along {axis} (seen: {span.low:g} to {span.high:g})"
            for value, span, axis in zip(have, seen, spec.orientation, strict=True)
            if not span.low * (1 - margin) <= value <= span.high * (1 + margin)
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
    return tuple(flags)


def flag_measurements(measurements: Sequence[Measurement], spec: ModelSpec | BaselineSpec) -> tuple[Flag, ...]:
    """Flag each structure that is empty, cut off at the border, or of a volume outside the model's expected range."""
    flags = []
    for row in measurements:
        span = spec.training_domain.volume_ml.get(row.label)
        if row.n_voxels == 0:
            flags.append(_review("empty", row, f"No {row.label} was found."))
            continue
        if row.touches_border:
            sides = ", ".join(row.border_sides)
            flags.append(
                _review(
                    "truncated",
                    row,
                    f"{row.label} touches the edge of the image ({sides}): its volume of {row.volume_ml:.2f} mL counts "
                    "only what lies inside.",
                )
            )
        if span and row.volume_ml not in span:
            flags.append(
                _review(
                    "volume_out_of_range",
                    row,
                    f"{row.label} has {row.volume_ml:.2f} mL; {spec.name} expects {span.low:g} to {span.high:g} mL.",
                )
            )
    return tuple(flags)


def _review(code: str, row: Measurement, message: str) -> Flag:
    return Flag(code=code, severity="review", message=message, label=row.label)
