"""The command line: verbs to functions, errors to exit codes.

0 done; 1 a study failed; 2 wrong usage or configuration; 3 done, and flagged for review.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType

from voxmetry.errors import VoxmetryError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; an expected error is told in words, never as a traceback."""
    from voxmetry.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    if arguments[:2] == ["train", "plan"]:
        # A verb with an argument of its own cannot have verbs below it.
        arguments = ["train-plan", *arguments[2:]]
    try:
        app(arguments, prog_name="voxmetry")
    except VoxmetryError as error:
        _tell(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as leaving:
        # typer leaves by SystemExit: 0, a verb's own code, 2 for wrong usage, 130 for Ctrl-C.
        return _interrupted() if leaving.code == INTERRUPTED else int(leaving.code or 0)
    return 0


def _interrupted() -> int:
    sys.stderr.write("\nInterrupted. What was written is whole; nothing half-written is left.\n")
    return 1


def _tell(error: VoxmetryError, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(error.to_dict(), indent=1) + "\n")
    sys.stderr.write(f"voxmetry: {error}\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Asked to stop by a scheduler, unwind as for Ctrl-C, so that temporary files are removed.
    raise KeyboardInterrupt
