"""What a person changed in a model's label map."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from voxmetry.core.base import Number, Record


class StructureCorrection(Record):
    """One structure before and after a correction, on the same grid."""

    label: str
    value: int
    status: Literal["unchanged", "changed", "added", "removed", "absent"]
    """'added': only after it; 'removed': only before it; 'absent': in neither."""
    volume_before_ml: float
    volume_after_ml: float
    volume_difference_ml: float
    """After minus before."""
    dice: Number
    """Of both, 2 n(before and after) / (n(before) + n(after)); nan where the structure is in neither."""
    added_ml: float
    """In the structure after the correction and not before it."""
    removed_ml: float
    """In the structure before the correction and not after it."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class Correction(Record):
    """Who corrected what a model found, when, and what changed."""

    author: Annotated[str, Field(min_length=1)]
    made: str
    """When the correction was saved, ISO 8601."""
    format: str
    """Of the file that it came in."""
    source_sha256: str
    """Of the contents of that file."""
    model: str
    model_version: str
    weights_sha256: str
    """The model whose label map was corrected."""
    before_sha256: str
    """Of the voxels of the label map that was corrected, see `measurement.correction.digest_of_labels`."""
    drawn_slices: tuple[int, ...] = ()
    """Slices that were drawn on, where the correction is of single slices; empty where it is of the whole map."""
    rest: Literal["", "model", "empty"] = ""
    """What the other slices hold then: the model's labels, or none."""
    structures: tuple[StructureCorrection, ...]

    @property
    def is_unchanged(self) -> bool:
        """Whether the label map was found right as it was."""
        return all(row.status in ("unchanged", "absent") for row in self.structures)
