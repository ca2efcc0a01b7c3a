"""What a model has seen in training, and how its quality is predicted."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.config.inputs import Range
from voxmetry.core.base import Record

Side: TypeAlias = Literal["L", "R", "P", "A", "I", "S"]
"""A face of the grid, by the nearest patient direction."""


class Landmarks(Record):
    """Ranges of three percentiles of the values of the training images, as `flags.image.landmarks` finds them."""

    p05: Range
    p50: Range
    p95: Range


class TrainingDomain(Record):
    """What the model has seen. An input outside is segmented all the same, and flagged."""

    spacing_mm: tuple[Range, Range, Range] | None = None
    """None where it is not known, as for a model of another framework: then nothing is flagged."""
    field_of_view_mm: tuple[Range, Range, Range] | None = None
    """Extent of the image along the model's axes (its orientation), voxel edges included."""
    obliqueness_degrees: Range | None = None
    """Angle between the image's axes and the patient's; a network sees a turned grid as a turned patient."""
    volume_ml: dict[str, Range] = Field(default_factory=dict)
    """Volume seen per structure, widened by the margin that the model card states."""
    continues: dict[str, tuple[Side, ...]] = Field(default_factory=dict)
    """Sides on which the body continues a structure beyond what is drawn, such as the spinal cord: an image that ends
    there cuts it as those of the training do, which is noted and asks for no look."""
    intensity: dict[str, Landmarks] = Field(default_factory=dict)
    """Values seen per input; written by `voxmetry calibrate`."""

    @property
    def structures(self) -> set[str]:
        """The structures of which something is said."""
        return set(self.volume_ml) | set(self.continues)


def predicted_dice(intercept: float, slope: float, expected_dice: float) -> float:
    """Return intercept + slope x expected Dice, kept within 0 and 1.

    Examples
    --------
    >>> predicted_dice(-1.0, 2.0, 0.95), predicted_dice(0.5, 1.0, 0.9)
    (0.9, 1.0)
    """
    return min(1.0, max(0.0, round(intercept + slope * expected_dice, 6)))


class Quality(Record):
    """How the Dice of one structure is predicted, fitted on cases that the network had not seen.

    From the expected Dice of `nn.confidence` by `predicted_dice`.
    """

    intercept: float
    slope: float
    review_below: float
    """A predicted Dice below is flagged for review."""
    error: float
    """Mean absolute error of the prediction on cases that it was not fitted on."""
    n_cases: Annotated[int, Field(ge=1)]

    def predict(self, expected_dice: float) -> float:
        """Return the predicted Dice.

        Examples
        --------
        >>> Quality(intercept=-1.0, slope=2.0, review_below=0.8, error=0.02, n_cases=40).predict(0.95)
        0.9
        """
        return predicted_dice(self.intercept, self.slope, expected_dice)
