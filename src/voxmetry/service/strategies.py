"""Which image is annotated next: the order of a work list, over what the service has segmented so far."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from voxmetry.core.records import StudyResult
from voxmetry.errors import InputError
from voxmetry.service.datastore import Image
from voxmetry.workflows.annotate import worklist

Choose = Callable[[Sequence[Image], Mapping[str, StudyResult]], Image | None]
"""Chooses one of the images that have no final label; the results of those that were segmented come by their ids."""


@dataclass(frozen=True)
class Strategy:
    """A way to choose.

    Parameters
    ----------
    description
        What it does, in a sentence.
    choose
        What does it.
    """

    description: str
    choose: Choose


def _next(images: Sequence[Image], results: Mapping[str, StudyResult], *, strategy: worklist.Strategy) -> Image | None:
    """Return the first image of the work list; of images that were not segmented yet, the first by name."""
    known = {image.id: image for image in images if image.id in results}
    if strategy == "first" or not known:
        return images[0] if images else None
    try:
        return known[worklist.rank({name: results[name] for name in known}, strategy)[0].case]
    except InputError:
        # Nothing tells how far models agree.
        return images[0]


STRATEGIES: dict[str, Strategy] = {
    name: Strategy(words, functools.partial(_next, strategy=name)) for name, words in worklist.STRATEGIES.items()
}
