"""What a study that is larger than memory goes without, named in its result."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.core.memory import is_mapped
from voxmetry.core.records import Comparison, Flag
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.measurement.compare import NO_MEMORY

APART = "the comparison with the reference, whose structures are kept apart (a label map in one file is compared)"


def is_larger(volumes: Sequence[Volume], segmentation: Segmentation | None = None) -> bool:
    """Whether the images or the label map of a study lie in files, as there is no memory to hold them."""
    held = [volume.array for volume in volumes] + ([] if segmentation is None else [segmentation.array])
    return any(is_mapped(array) for array in held)


def left_out_of_comparison(rows: Sequence[Comparison], maps: Sequence[Segmentation]) -> list[str]:
    """Say which parts of a comparison with a reference a study that is larger than memory goes without."""
    if not rows:
        return []
    unmeasured = [row.label for row in rows if row.reason == NO_MEMORY]
    words = [f"the distances to the reference of {named(unmeasured)}"] if unmeasured else []
    mapped = any(is_mapped(x.array) for x in maps)
    return [*words, *(["the pictures of where it differs from the reference"] if mapped else [])]


def named(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def flag_left_out_of_large(words: Sequence[str]) -> tuple[Flag, ...]:
    """Say what a study that is larger than memory goes without."""
    if not words:
        return ()
    lesions = [word for word in words if not word.startswith("the ")]
    others = [word for word in words if word.startswith("the ")]
    if lesions:
        others.append(f"measurements of {named(lesions)}")
    message = f"The study is larger than memory. Left out: {'; '.join(others)}."
    return (Flag(code="larger_than_memory", severity="review", message=message),)
