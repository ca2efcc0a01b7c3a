"""What `voxmetry cohort` prints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from voxmetry.cli.streams import console, say, say_json
from voxmetry.core.text import terminal

if TYPE_CHECKING:
    from voxmetry.workflows.cohort.records import CohortPlan
    from voxmetry.workflows.cohort.run import Tally

_SHOWN = 20
"""Lines of one kind that a person is shown; --json and --save have all."""


def plan(made: CohortPlan, *, as_json: bool) -> None:
    """Show what a run would do."""
    if as_json:
        content = made.model_dump(mode="json")
        content["counts"] = made.counts()
        say_json(content)
        return
    counts = made.counts()
    say(f"{counts.get('waiting', 0)} would run")
    for state, words in (
        ("done", "done, and their files are whole"),
        ("failed", "failed before with the same input (--only-failed runs them again)"),
        ("set aside", "set aside before (--only-failed runs them again)"),
        ("running", "not done yet, left out by --only-failed"),
    ):
        if state in counts:
            say(f"{counts[state]} {words}")
    for note in made.notes:
        say(f"note: {note}", fg="yellow")
    _again(made)
    for state, words in (("duplicate", "found twice"), ("refused", "refused")):
        rows = made.of(state)  # type: ignore[arg-type]
        if rows:
            say(f"{len(rows)} {words}:", fg="yellow")
        for study in rows[:_SHOWN]:
            say(f"  {study.case}: {study.fault.found if study.fault else ''}")
        _more(len(rows))
    foreseen = made.forecast
    if foreseen.n:
        memory = "" if math.isnan(foreseen.memory_mb) else f", up to {foreseen.memory_mb / 1000:.1f} GB a process"
        say(f"foreseen: {_duration(foreseen.seconds)}{memory}")
        say(f"  from {foreseen.basis}")


def _again(made: CohortPlan) -> None:
    rows = [study for study in made.of("waiting") if study.why]
    for study in rows[:_SHOWN]:
        say(f"  again: {study.case}: {study.why}")
    _more(len(rows))


def _more(n: int) -> None:
    if n > _SHOWN:
        say(f"  and {n - _SHOWN} more (--json shows all)")


def status(out: Path, *, as_json: bool) -> dict[str, int]:
    """Show how many studies are in each state, and why some are not done; return the numbers."""
    from voxmetry.workflows.cohort.database import read_faults, read_summary

    summary = read_summary(out)
    faults = read_faults(out)
    if as_json:
        rows = [
            {"case": case, "model": model, "state": state, "fault": fault.model_dump() if fault else None}
            for case, model, state, fault in faults
        ]
        say_json({**summary.model_dump(mode="json"), "not_done": rows})
        return summary.counts
    counts = summary.counts
    parts = [f"{n} {name}" for name, n in counts.items() if n and name != "flagged"]
    say(", ".join(parts) + (f"; {counts['flagged']} flagged for review" if counts["flagged"] else ""))
    if summary.last_run:
        say(f"last run: {summary.last_run}")
    if summary.median_seconds:
        say(f"median {summary.median_seconds:.2f} s a study")
    bad = [row for row in faults if row[2] != "duplicate"]
    for case, _, state, fault in bad[:_SHOWN]:
        say(f"  {state}: {case}: {fault.found.splitlines()[0] if fault else ''}", fg="red")
    _more(len(bad))
    return counts


def files(written: Sequence[Path], *, as_json: bool) -> None:
    """Say where the files are."""
    if as_json:
        say_json({"files": [str(path) for path in written]})
        return
    for path in written:
        say(f"  {path}")


@contextmanager
def progress(tally: Tally, *, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Show done, failed, rate and remaining time on standard error, and sentences above the bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    begin = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console(err=True), disable=quiet) as bar:
        task = bar.add_task("", total=None, words="planning")

        def update() -> None:
            words = progress_words(tally, time.monotonic() - begin)
            bar.update(task, completed=tally.finished, total=tally.total, words=words)

        yield (lambda text: bar.console.print(terminal(text))), update


def progress_words(tally: Tally, seconds: float) -> str:
    """Say rate, remaining time and failures.

    Examples
    --------
    >>> from voxmetry.workflows.cohort.run import Tally
    >>> progress_words(Tally(total=100, done=48, failed=2, flagged=3), 25.0)
    '2.0 a second, 25 s remaining, 2 failed, 3 flagged'
    """
    rate = tally.finished / seconds if seconds > 0 else 0.0
    if rate <= 0:
        return "starting"
    speed = f"{rate:.1f} a second" if rate >= 0.1 else f"{rate * 60:.1f} a minute"
    parts = [speed, f"{_duration((tally.total - tally.finished) / rate)} remaining"]
    for n, word in ((tally.failed, "failed"), (tally.flagged, "flagged"), (tally.lost_workers, "workers lost")):
        if n:
            parts.append(f"{n} {word}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
