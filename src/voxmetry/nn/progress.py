"""How far the network is, in words: per cent, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from voxmetry.nn.slabs import Slab

EVERY_SECONDS = 1.0
"""Between two words about it."""


def followed(slabs: Iterator[Slab], shape: tuple[int, ...], tell: Callable[[str], None]) -> Iterator[Slab]:
    """Hand on slabs as they are finished, and tell how far it is.

    Parameters
    ----------
    slabs
        From the first slice to the last.
    shape
        Size of the image in which they lie, (I, J, K).
    tell
        Called with words such as "network: 40 %, about 2 min left", at most once a second.
    """
    begin = said = time.monotonic()
    for slab in slabs:
        yield slab
        done = (slab.start + slab.sums.shape[slab.axis + 1]) / shape[slab.axis]
        now = time.monotonic()
        if now - said >= EVERY_SECONDS and 0 < done < 1:
            said = now
            tell(f"network: {done:.0%}, about {in_words((now - begin) / done * (1 - done))} left")


def in_words(seconds: float) -> str:
    """Say a length of time shortly.

    Examples
    --------
    >>> in_words(12.3), in_words(150), in_words(7200)
    ('12 s', '2 min', '2.0 h')
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
