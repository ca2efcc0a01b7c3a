"""The sum of several structures, such as the intracranial volume, of which each is a share."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.core.records import Measurement, Total


def total_of(measurements: Sequence[Measurement], name: str, labels: Sequence[str] = ()) -> Total:
    """Add up structures.

    Parameters
    ----------
    measurements
        The structures of a study.
    name
        What the sum is called.
    labels
        Which structures it is of; none named means all.

    Returns
    -------
    Total
        In mL, with each structure's share in per cent. A sum of nothing has no shares.

    Examples
    --------
    >>> total_of((), "intracranial_volume").volume_ml
    0.0
    """
    parts = [m for m in measurements if not labels or m.label in labels]
    volume = sum((m.volume_ml for m in parts), 0.0)
    return Total(
        name=name,
        labels=tuple(m.label for m in parts),
        volume_ml=volume,
        touches_border=any(m.touches_border for m in parts),
        share_percent={m.label: 100 * m.volume_ml / volume for m in parts} if volume else {},
    )
