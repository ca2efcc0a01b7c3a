"""The command line: verbs to functions, errors to exit codes.

0 done; 1 a study failed; 2 wrong usage or configuration; 3 done, and flagged for review.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType

import click

from voxmetry.errors import VoxmetryError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; an expected error is told in words, never as a traceback."""
    from voxmetry.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(arguments, standalone_mode=False, prog_name="voxmetry")
    except VoxmetryError as error:
        _tell(error, as_json="--json" in arguments)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\nInterrupted. What was written is whole; nothing half-written is left.\n")
        return 1
    return int(code or 0)


def _tell(error: VoxmetryError, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(error.to_dict(), indent=1) + "\n")
    sys.stderr.write(f"voxmetry: {error}\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Asked to stop by a scheduler, unwind as for Ctrl-C, so that temporary files are removed.
    raise KeyboardInterrupt
