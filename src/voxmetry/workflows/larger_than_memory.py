"""What a study that is larger than memory goes without, named in its result."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.core.memory import is_mapped
from voxmetry.core.records import Flag
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume


def is_larger(volumes: Sequence[Volume], segmentation: Segmentation | None = None) -> bool:
    """Whether the images or the label map of a study lie in files, as there is no memory to hold them."""
    held = [volume.array for volume in volumes] + ([] if segmentation is None else [segmentation.array])
    return any(is_mapped(array) for array in held)


def flag_left_out_of_large(words: Sequence[str]) -> tuple[Flag, ...]:
    """Say what a study that is larger than memory goes without."""
    if not words:
        return ()
    lesions = [word for word in words if not word.startswith("the ")]
    others = [word for word in words if word.startswith("the ")]
    if lesions:
        shown = ", ".join(lesions[:6]) + (f" and {len(lesions) - 6} more" if len(lesions) > 6 else "")
        others.append(f"measurements of {shown}")
    message = f"The study is larger than memory. Left out: {'; '.join(others)}."
    return (Flag(code="larger_than_memory", severity="review", message=message),)
