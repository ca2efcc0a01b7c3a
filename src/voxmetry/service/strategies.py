"""Which image is annotated next."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voxmetry.service.datastore import Image
from voxmetry.service.records import Job

Choose = Callable[[Sequence[Image], Sequence[Job]], Image | None]
"""Chooses one of the images that have no final label; the jobs that are done say what is known about them."""


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


def _first(images: Sequence[Image], _: Sequence[Job]) -> Image | None:
    return images[0] if images else None


def _random(images: Sequence[Image], _: Sequence[Job]) -> Image | None:
    return secrets.choice(images) if images else None


def _flagged(images: Sequence[Image], jobs: Sequence[Job]) -> Image | None:
    """Choose what has most flags for review; of equals, the first."""
    flags: dict[str, int] = {}
    for job in jobs:
        if job.image is not None and job.image not in flags:
            # The newest job of an image comes first.
            flags[job.image] = sum(flag.severity == "review" for flag in job.flags)
    return max(images, key=lambda image: flags.get(image.id, -1), default=None)


STRATEGIES = {
    "first": Strategy("The first image without a final label, by its name", _first),
    "random": Strategy("Any image without a final label", _random),
    "flagged": Strategy("The image whose segmentation has most flags for review", _flagged),
}
