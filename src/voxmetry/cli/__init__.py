"""The command line: verbs to functions, errors to exit codes.

0 done; 1 a study failed; 2 wrong usage or configuration; 3 done, and flagged for review.
"""

from __future__ import annotations

import platform
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from voxmetry.cli.limits import is_memory, require_limits
from voxmetry.cli.streams import StandardOutputError, plain_streams, say, say_json
from voxmetry.errors import ReadingWarning, VoxmetryError

INTERRUPTED = 130
SIGNALS = ("SIGTERM", "SIGHUP")
"""Asked to stop by a scheduler, or left by the terminal."""


class UnforeseenError(VoxmetryError):
    """An error that nobody foresaw."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; an error is told in words, never as a traceback."""
    try:
        with _listening(), plain_streams(), _notes():
            return _run(arguments)
    except StandardOutputError as error:
        # A reader that closed its end, such as `head`, has what it wanted.
        if not error.is_closed:
            with suppress(OSError, AttributeError), plain_streams():
                say(f"voxmetry: {error}", err=True)
        return error.exit_code


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        require_limits(arguments)
        from voxmetry.cli.app import app

        app(arguments, prog_name="voxmetry")
    except StandardOutputError:
        raise
    except VoxmetryError as error:
        return _tell(_at_the_shell(error, arguments), as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as leaving:
        # typer leaves by SystemExit: 0, a verb's own code, 2 for wrong usage, 130 for Ctrl-C.
        return _interrupted() if leaving.code == INTERRUPTED else int(leaving.code or 0)
    except Exception as error:  # noqa: BLE001  (the one place where what nobody foresaw is caught)
        return _tell(_unforeseen(error, arguments), as_json=as_json)
    return 0


@contextmanager
def _notes() -> Iterator[None]:
    """Tell what was clipped or left out when a file was read, a line each on standard error."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, ReadingWarning):
                say(f"voxmetry: note: {message}", err=True)
            else:
                shown(message, category, *rest, **named)

        warnings.showwarning = show
        warnings.simplefilter("always", ReadingWarning)
        yield


def _interrupted() -> int:
    say("\nInterrupted. What was written is whole; nothing half-written is left.", err=True)
    return 1


def _tell(error: VoxmetryError, *, as_json: bool) -> int:
    if as_json:
        say_json(error.to_dict())
    say(f"voxmetry: {error}", err=True)
    return error.exit_code


_OF_PYTHON = (
    r"(; in Python: |,? or in Python ).*$",
    r", \w+=[^,()]* in Python(?=\))",
    r", or \w+=\S+ in Python",
    r" \(\w+=(?:[^()]|\(\))*\)",
)
"""How messages name the way in Python beside that of the shell."""


def without_python(fix: str) -> str:
    """Leave out of a message what only somebody in Python can do.

    Examples
    --------
    >>> without_python("name another folder, or add --overwrite (overwrite=True) to replace them")
    'name another folder, or add --overwrite to replace them'
    >>> without_python("name the structures that are lesions: --lesion NAME, or lesions=(...) in Python")
    'name the structures that are lesions: --lesion NAME'
    """
    for pattern in _OF_PYTHON:
        fix = re.sub(pattern, "", fix)
    return fix


def _at_the_shell(error: VoxmetryError, arguments: Sequence[str]) -> VoxmetryError:
    """Put what to do into words of the shell: no Python, and no option that the verb does not have.

    An option of reading that the verb lacks is one of `convert`, which writes a file that the verb takes; of any other
    it is said which verb has it.
    """
    fix = without_python(error.fix)
    # An option of a command that is named in full belongs to that one.
    named = {*_OPTION.findall(re.sub(r"voxmetry [a-z][^;,)]*", "", fix))}
    lacking = sorted(named - _options_of(arguments))
    if lacking and not named & _options_of(arguments) and set(lacking) <= _options_of(["convert"]) - _OF_WRITING:
        fix += f"; for this verb write a file first: voxmetry convert SOURCE TARGET, with {' or '.join(lacking)}"
    elif lacking:
        fix += f" ({'; '.join(f'{option}: {_owners(option)}' for option in lacking)})"
    if fix != error.fix:
        error.fix = fix
        error.args = (error.found, error.expected, fix)
    return error


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_OF_WRITING = frozenset({"--overwrite", "--deidentify", "--json"})


def _owners(option: str) -> str:
    """Name the verbs that have an option, a few of them."""
    import typer

    from voxmetry.cli.app import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*words, name))
        if option in _own_options(command):
            yield " ".join(words)

    verbs = list(below(typer.main.get_command(app), ()))
    return f"an option of voxmetry {', '.join(verbs[:3])}" if verbs else "an option of another verb"


def _options_of(arguments: Sequence[str]) -> set[str]:
    """Return the options of the verb that a command line names."""
    import typer

    from voxmetry.cli.app import app

    command: Any = typer.main.get_command(app)
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    return _own_options(command)


def _own_options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def _unforeseen(error: Exception, arguments: Sequence[str]) -> VoxmetryError:
    """Put an error into words, and where it arose into a file: places in the code, no value and no message.

    A message may hold a path, or what a header says of a patient.
    """
    if is_memory(error):
        return UnforeseenError(
            found="the memory of this machine does not suffice",
            expected="room for the study: a small multiple of the size of its image",
            fix="close other programs, or crop the image, and try again"
            if "--memory-gb" not in _options_of(arguments)
            else "close other programs, or give --memory-gb a lower limit, and try again",
        )
    verb = next((word for word in arguments if not word.startswith("-")), "")
    lines = [f"voxmetry {_version()}, Python {platform.python_version()}, {platform.platform()}", f"verb: {verb}"]
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{type(cause).__module__}.{type(cause).__qualname__}", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    where = "run it again with room in the folder for temporary files to have the details written, and report it"
    with suppress(OSError):
        place = Path(tempfile.mkdtemp(prefix="voxmetry-")) / "error.txt"
        place.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
        where = f"report it with {place}, which holds places in the code and nothing of the study"
    return UnforeseenError(
        found=f"an error that nobody foresaw: {type(error).__name__}",
        expected="a result, or a refusal in words",
        fix=where,
    )


def _version() -> str:
    from voxmetry._version import __version__

    return __version__


@contextmanager
def _listening() -> Iterator[None]:
    """Take signals that ask to stop for Ctrl-C; a program that runs a verb within itself has its own ones back then."""
    before: dict[int, Any] = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)
        # What `nohup` has silenced stays so; only the main thread of a process may listen.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is one that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Unwind as for Ctrl-C, so that temporary files are removed; asked twice, go on with that.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
