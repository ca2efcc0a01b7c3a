"""The page of a cohort: how volumes are spread, which studies stand out, and a table of all of them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from voxmetry.report.comparison.charts import Tick
from voxmetry.report.document import NOTICE
from voxmetry.report.html import environment
from voxmetry.report.text import clean, count, millilitres

OUTLIER_SCORE = 3.5
"""Modified z-score from which a volume stands out: 0.6745 |x - median| / MAD (Iglewicz and Hoaglin, 1993)."""

FEW = 8
"""Fewer volumes than this say too little about what stands out."""

BINS = 40
MOST_COLUMNS = 12
"""Structures with a column of their own in the table."""


@dataclass(frozen=True, kw_only=True)
class CohortEntry:
    """One study with one model."""

    case: str
    model: str
    state: str
    review: bool = False
    flags: tuple[str, ...] = ()
    """Codes, each once."""
    reason: str = ""
    """Why it was not done."""
    seconds: float | None = None
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """By structure."""
    dice: dict[str, float] = field(default_factory=dict)
    """By structure, where there is a reference and the number is defined."""
    link: str | None = None
    """Report, or else the result, from the page's own folder."""
    thumbnail: str | None = None


@dataclass(frozen=True, kw_only=True)
class Roster:
    """What the page shows."""

    title: str
    colours: dict[str, str]
    """Of the structures, in their order."""
    entries: tuple[CohortEntry, ...]
    accuracy: tuple[tuple[str, str], ...] = ()
    """Name of a model and address of the page of its accuracy."""
    ended: str = ""
    """How the last run ended."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of a histogram, in percent of the chart."""

    x: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One structure: a histogram, its quartiles, and the studies that stand out."""

    label: str
    colour: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    words: str
    outliers: tuple[tuple[float, str], ...]
    """Place in percent, and what it is."""


def outliers_of(values: Sequence[float]) -> list[bool]:
    """Say which values stand out by their modified z-score; none of fewer than `FEW`, nor where most are equal.

    Parameters
    ----------
    values
        Finite numbers.

    Examples
    --------
    >>> outliers_of([1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.05, 9.0]).index(True)
    7
    """
    if len(values) < FEW:
        return [False] * len(values)
    middle = statistics.median(values)
    mad = statistics.median(abs(x - middle) for x in values)
    if mad == 0:
        return [False] * len(values)
    return [0.6745 * abs(x - middle) / mad > OUTLIER_SCORE for x in values]


def spread_of(label: str, colour: str, volumes: Sequence[tuple[str, float]]) -> Spread:
    """Arrange the volumes of one structure as a chart; `volumes` are cases and millilitres."""
    values = [x for _, x in volumes]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = [float(x) for x in MaxNLocator(5).tick_values(low, high) if low <= x <= high]

    def place(x: float) -> float:
        return round(100 * (x - low) / (high - low), 3)

    counts = [0] * BINS
    for x in values:
        counts[min(BINS - 1, int((x - low) / (high - low) * BINS))] += 1
    step = (high - low) / BINS
    bars = tuple(
        Bar(
            x=round(100 * index / BINS, 3),
            width=100 / BINS,
            height=round(100 * n / max(counts), 2),
            title=f"{count(n, 'study', 'studies')} of {millilitres(low + index * step)} to "
            f"{millilitres(low + (index + 1) * step)} mL",
        )
        for index, n in enumerate(counts)
        if n
    )
    q1, median, q3 = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    out = tuple(
        (place(x), f"{case}: {millilitres(x)} mL")
        for (case, x), odd in zip(volumes, outliers_of(values), strict=True)
        if odd
    )
    studies = count(len(values), "study", "studies")
    words = f"median {millilitres(median)} mL, quartiles {millilitres(q1)} to {millilitres(q3)} mL, {studies}"
    return Spread(
        label=label,
        colour=colour,
        bars=bars,
        ticks=tuple(Tick(at=place(x), text=f"{x:g}") for x in ticks),
        words=words + (f", {count(len(out), 'stands', 'stand')} out" if out else ""),
        outliers=out,
    )


def render_roster(roster: Roster) -> str:
    """Write the page as HTML: its own script, of which the page's policy knows the hash, and no request elsewhere."""
    labels = [label for label in roster.colours if any(label in entry.volumes_ml for entry in roster.entries)]
    odd: set[int] = set()
    spreads = []
    models = list(dict.fromkeys(entry.model for entry in roster.entries if entry.volumes_ml))
    for model in models:
        for label in labels:
            found = [
                (index, entry)
                for index, entry in enumerate(roster.entries)
                if entry.model == model and math.isfinite(entry.volumes_ml.get(label, math.nan))
            ]
            if not found:
                continue
            volumes = [(entry.case, entry.volumes_ml[label]) for _, entry in found]
            name = label if len(models) == 1 else f"{label} ({model})"
            spreads.append(spread_of(name, roster.colours[label], volumes))
            flags = outliers_of([x for _, x in volumes])
            odd |= {index for (index, _), is_odd in zip(found, flags, strict=True) if is_odd}
    script = _text("roster.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        environment()
        .get_template("roster.html.j2")
        .render(
            roster=roster,
            notice=NOTICE,
            headline=_headline(roster),
            state="ok" if all(e.state in ("done", "duplicate") and not e.review for e in roster.entries) else "review",
            facts=_counts(roster, len(odd)),
            spreads=spreads,
            score=OUTLIER_SCORE,
            script=Markup(script),
            digest=digest,
            data=Markup(_json(roster, labels[:MOST_COLUMNS], odd)),
            left_out=labels[MOST_COLUMNS:],
        )
    )


def _headline(roster: Roster) -> str:
    n = {state: sum(e.state == state for e in roster.entries) for state in {e.state for e in roster.entries}}
    bad = sum(n.get(state, 0) for state in ("failed", "set aside", "refused"))
    review = sum(entry.review for entry in roster.entries)
    parts = [f"{n.get('done', 0)} of {count(len(roster.entries) - n.get('duplicate', 0), 'study', 'studies')} done"]
    parts += [f"{bad} not done, each with its reason"] if bad else []
    parts += [f"{review} to look at before use"] if review else []
    return "; ".join(parts)


def _counts(roster: Roster, n_odd: int) -> list[tuple[str, str]]:
    n: dict[str, int] = {}
    for entry in roster.entries:
        n[entry.state] = n.get(entry.state, 0) + 1
    rows = [(state.capitalize(), str(k)) for state, k in n.items()]
    rows.append(("Flagged for review", str(sum(entry.review for entry in roster.entries))))
    rows.append(("With a volume that stands out", str(n_odd)))
    return rows


def _json(roster: Roster, labels: Sequence[str], odd: set[int]) -> str:
    """Spell the rows for the script. No `<` stays: nothing in a name can end the element."""
    rows = [
        [
            clean(e.case),
            clean(e.model),
            e.state,
            int(e.review),
            " ".join(e.flags) + (" outlier" if index in odd else ""),
            clean(e.reason),
            e.seconds,
            e.link,
            e.thumbnail,
            *(_round(e.volumes_ml.get(label)) for label in labels),
            *([min(e.dice.values(), default=None)] if roster.accuracy else []),
        ]
        for index, e in enumerate(roster.entries)
    ]
    columns = [f"{clean(label)} mL" for label in labels] + (["lowest Dice"] if roster.accuracy else [])
    text = json.dumps({"columns": columns, "rows": rows}, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _round(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else round(x, 4)


def _text(name: str) -> str:
    return (resources.files("voxmetry.report") / "templates" / name).read_text(encoding="utf-8")
