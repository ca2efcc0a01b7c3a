"""`--help-all`: the options that are needed seldom, beside those that `-h` shows."""

from __future__ import annotations

from typing import Any

from voxmetry.cli.streams import say

HELP_ALL = "--help-all"


def offer_all_options(command: Any, name: str | None, parent: Any, arguments: list[str]) -> None:
    """Say below a verb's help how to see its further options; show them all, and leave, where that is asked for."""
    hidden = [parameter for parameter in command.params if getattr(parameter, "hidden", False)]
    if not hidden:
        return
    context = type(parent)(command, info_name=name, parent=parent, resilient_parsing=True)
    command.epilog = f"{len(hidden)} further options: {context.command_path} {HELP_ALL}"
    if HELP_ALL not in arguments:
        return
    command.epilog = None
    for parameter in hidden:
        parameter.hidden = False
    try:
        say(command.get_help(context))
    finally:
        for parameter in hidden:
            parameter.hidden = True
    parent.exit()
