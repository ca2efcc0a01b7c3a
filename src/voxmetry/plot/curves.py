"""Curves and clouds of points: how a training run went, how far two measurements agree."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from voxmetry.core.labels import PALETTE
from voxmetry.core.text import figure as plain
from voxmetry.errors import InputError
from voxmetry.measurement.agreement import bland_altman as agreement
from voxmetry.plot.base import new_figure

MOST_IN_LEGEND = 8
"""More structures than these have a small legend of several columns."""
_INK, _FAINT = "#333333", "#8A8F98"


def training_curve(run: Path | str) -> Figure:
    """Draw the loss and, below it, how well each structure is met, in training and on held-out cases, epoch by epoch.

    Parameters
    ----------
    run
        The folder of a training run, or its log.csv.

    Raises
    ------
    InputError
        If there is no log, or no epoch in it.
    """
    path = Path(run)
    path = path / "log.csv" if path.is_dir() else path
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    if not rows or "loss" not in rows[0]:
        raise InputError(
            found=f"no finished epoch in {path.name}",
            expected="the log.csv of a training run, with a column loss",
            fix="pass the run folder of `voxmetry train`, after its first epoch",
        )
    shown = [
        (prefix, title, [column for column in rows[0] if column.startswith(prefix)])
        for prefix, title in (("overlap_", "overlap, training"), ("dice_", "Dice, held out"))
    ]
    shown = [part for part in shown if part[2]]
    figure = new_figure(6.4, 2.6 + 2.0 * len(shown))
    panels = figure.subplots(1 + len(shown), 1, sharex=True, squeeze=False)[:, 0]
    epochs = [int(row["epoch"]) for row in rows]
    panels[0].plot(epochs, [float(row["loss"]) for row in rows], color=PALETTE[4])
    panels[0].set_ylabel("loss")
    for axes, (prefix, title, names) in zip(panels[1:], shown, strict=True):
        for place, name in enumerate(names):
            seen = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
            x, y = zip(*seen, strict=True) if seen else ((), ())
            colour = PALETTE[(0, 1, 2, 5, 6)[place % 5]]
            style = ("-", "--", ":", "-.")[place // 5 % 4]
            size = 3.5 if prefix == "dice_" else 0
            label = plain(name.removeprefix(prefix))
            axes.plot(x, y, marker="o", markersize=size, color=colour, linestyle=style, label=label)
        axes.set_ylabel(title)
    if shown:
        many = len(shown[-1][2]) > MOST_IN_LEGEND
        panels[-1].legend(
            frameon=False,
            fontsize=5 if many else 8,
            ncols=3 if many else 1,
            loc="lower right" if many else "best",
        )
    panels[-1].set_xlabel("epoch")
    for axes in panels:
        _plain(axes)
    figure.tight_layout()
    return figure


def bland_altman(first: ArrayLike, second: ArrayLike, *, unit: str = "mL", name: str = "volume") -> Figure:
    """Draw the difference of two measurements over their mean, with the bias and the limits of agreement.

    Parameters
    ----------
    first, second
        (N,), the same things measured twice, in the same order and unit; differences are first minus second.
    unit, name
        For the axes.

    Raises
    ------
    ConfigError
        If the two are not of the same length.

    References
    ----------
    Bland and Altman, 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> bland_altman([10.0, 12.0, 14.0], [9.0, 12.0, 15.0]).axes[0].get_xlabel()
    'mean volume (mL)'
    """
    found = agreement(first, second)
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    figure = new_figure(6.4, 3.9)
    axes = figure.subplots()
    axes.scatter((a + b) / 2, a - b, s=18, color=PALETTE[4], alpha=0.75, linewidths=0)
    lines = (
        (found.upper, found.upper_low, found.upper_high, "+1.96 SD"),
        (found.bias, found.bias_low, found.bias_high, "bias"),
        (found.lower, found.lower_low, found.lower_high, "\N{MINUS SIGN}1.96 SD"),
    )
    for at, low, high, what in lines:
        if not math.isfinite(at):
            continue
        axes.axhline(at, color=_INK, linewidth=1.0, linestyle="solid" if what == "bias" else (0, (4, 3)))
        if math.isfinite(low):
            axes.axhspan(low, high, color=_FAINT, alpha=0.16, linewidth=0)
        axes.annotate(
            f"{what} {at:+.3g}".replace("-", "\N{MINUS SIGN}"),
            (1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            fontsize=8,
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    axes.set_xlabel(plain(f"mean {name} ({unit})"))
    axes.set_ylabel(plain(f"difference ({unit})"))
    axes.set_title(f"n = {found.n}" + (f"; {found.reason}" if found.reason else ""), fontsize=9, loc="left")
    _plain(axes)
    figure.tight_layout()
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)


def calibration(rows: Sequence[tuple[str, float, float]]) -> Figure:
    """Draw the true Dice of cases over the Dice that was predicted for them.

    Parameters
    ----------
    rows
        Structure, predicted Dice and true Dice of each case; rows that hold nan are left out.

    Examples
    --------
    >>> calibration([("liver", 0.95, 0.96), ("liver", 0.90, 0.88)]).axes[0].get_xlabel()
    'predicted Dice'
    """
    known = [row for row in rows if math.isfinite(row[1]) and math.isfinite(row[2])]
    figure = new_figure(4.4, 4.2)
    axes = figure.subplots()
    low = min([0.9, *(min(x, y) for _, x, y in known)])
    low = math.floor(low * 20 - 1) / 20
    axes.plot([low, 1], [low, 1], color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for place, label in enumerate(dict.fromkeys(row[0] for row in known)):
        x, y = zip(*[(x, y) for name, x, y in known if name == label], strict=True)
        axes.scatter(x, y, s=16, color=PALETTE[(0, 1, 2, 5, 6)[place % 5]], alpha=0.8, linewidths=0, label=plain(label))
    if known:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set(xlim=(low, 1), ylim=(low, 1), xlabel="predicted Dice", ylabel="true Dice", aspect="equal")
    _plain(axes)
    figure.tight_layout()
    return figure
