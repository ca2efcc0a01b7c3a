"""The step that is running, and a bar over cases, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from voxmetry.cli.streams import console, say
from voxmetry.core.text import terminal

if TYPE_CHECKING:
    from voxmetry.core.progress import Progress


WARNING = "warning: "
"""Begins what is worth knowing before minutes are spent; it stays on the screen."""
SELDOM_SECONDS = 15.0
"""Between two lines about the step that is running where there is no terminal, as in a log file."""


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the step that is running, on stderr, so that results can be piped: in place on a terminal, else seldom."""
    from rich.text import Text

    shown = console(err=True)
    if not shown.is_terminal:
        yield _seldom()
        return
    with shown.status("start") as status:

        def tell(text: str) -> None:
            if text.startswith(WARNING):
                shown.print(Text(terminal(text), style="yellow"))
            else:
                status.update(Text(terminal(text)))

        yield tell


def _seldom() -> Callable[[str], None]:
    begin = said = time.monotonic()

    def tell(text: str) -> None:
        nonlocal said
        now = time.monotonic()
        if text.startswith(WARNING) or now - said >= SELDOM_SECONDS:
            said = now
            say(text if text.startswith(WARNING) else f"{now - begin:.0f} s: {text}", err=True)

    return tell


@contextmanager
def bar(what: str, *, quiet: bool) -> Iterator[Progress]:
    """Show a bar on standard error while cases are worked through."""
    from rich.progress import Progress as Bar

    with Bar(console=console(err=True), transient=True, disable=quiet) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
