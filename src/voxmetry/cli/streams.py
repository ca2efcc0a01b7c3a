"""Standard output and standard error: the one place through which the verbs write to them.

Whatever a verb prints may hold text from a file. It is made harmless here, and what a stream's character set does not
have is written in signs that it has, so that a terminal in the C locale shows a result like any other.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from voxmetry.core.text import ERRORS, terminal
from voxmetry.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class StandardOutputError(OutputError):
    """What was found could not be printed."""

    def __init__(self, error: OSError) -> None:
        self.is_closed = isinstance(error, BrokenPipeError)
        super().__init__(
            found=f"standard output cannot be written: {error.strerror or type(error).__name__}",
            expected="a terminal, a pipe or a file with room",
            fix="what was to be written to files is there: look into OUT, or print to another place",
        )


class _Output(io.TextIOWrapper):
    """A text stream that says in words why it cannot be written to."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise StandardOutputError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise StandardOutputError(error) from error


class _Words(io.TextIOWrapper):
    """Standard error: where it cannot be written to, nobody listens, and that stops nothing."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            _give_up(sys.__stderr__, 2)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _give_up(sys.__stderr__, 2)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Let both streams write any text, whatever their character set, and say what stops standard output.

    Raises
    ------
    StandardOutputError
        If what was printed does not arrive.
    """
    before: tuple[TextIO | None, TextIO | None] = (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = _able(before[0], _Output), _able(before[1], _Words)
    try:
        yield
        sys.stdout.flush()
    except StandardOutputError:
        _give_up(sys.__stdout__, 1)
        raise
    finally:
        for now, old in zip((sys.stdout, sys.stderr), before, strict=True):
            if old is None:
                now.close()
            elif now is not old:
                with suppress(OSError, ValueError, StandardOutputError):
                    now.flush()
                with suppress(OSError, ValueError, StandardOutputError):
                    now.detach()  # type: ignore[attr-defined]
        sys.stdout, sys.stderr = before


def _able(stream: TextIO | None, kind: type[io.TextIOWrapper]) -> TextIO:
    """Return a stream on the same bytes that never stops at a character; one without bytes, as a notebook's, as is."""
    if stream is None:
        # Closed by who started us (`>&-`), or a window without a console.
        return Path(os.devnull).open("w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return kind(
        buffer, encoding=stream.encoding or "utf-8", errors=ERRORS, line_buffering=True, newline=stream.newlines
    )


def _give_up(stream: TextIO | None, number: int) -> None:
    """Send what is still in the buffer nowhere, or the interpreter would try once more as it ends, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        if stream is not None and stream.fileno() == number:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def say(text: object = "", *, fg: str | None = None, bold: bool = False, err: bool = False) -> None:
    """Print a line, coloured on a terminal only."""
    import typer

    stream = sys.stderr if err else sys.stdout
    line = terminal(str(text))
    if (fg or bold) and stream.isatty() and "NO_COLOR" not in os.environ:
        line = typer.style(line, fg=fg, bold=bold)
    stream.write(line + "\n")


def say_json(content: Any) -> None:
    """Print a record or a mapping as JSON in ASCII, which every stream and every terminal takes."""
    if hasattr(content, "model_dump_json"):
        text = content.model_dump_json(indent=1)
    else:
        text = json.dumps(content, indent=1, allow_nan=False)
    sys.stdout.write(re.sub(r"[^\n\x20-\x7e]+", lambda found: json.dumps(found[0])[1:-1], text) + "\n")


def console(*, err: bool = False, **options: Any) -> Console:
    """Return a rich console in which text is text: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    return Console(stderr=err, markup=False, emoji=False, highlight=False, **options)


def table(heads: list[str]) -> Table:
    """Return a table whose cells are text and nothing else: the first column on the left, numbers on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    class Plain(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(Text(terminal(x)) if isinstance(x, str) else x for x in cells), **options)

    made = Plain(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        # What one would copy, a name or an id, is never broken.
        made.add_column(
            Text(terminal(head)), justify="left" if place == 0 else "right", overflow="fold", no_wrap=place == 0
        )
    return made


def print_table(made: Table) -> None:
    """Print a table, wider than the terminal where a name would break else: a name is there to be copied."""
    from rich.measure import Measurement

    shown = console()
    least = Measurement.get(shown, shown.options.update(max_width=10_000), made).minimum
    (console(width=least) if least > shown.width else shown).print(made)
