"""The words of a verb before they are parsed: an option given twice, an empty path, options of several words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from voxmetry.cli.help import offer_all_options
from voxmetry.errors import ConfigError

_UsageError: Any = typer.BadParameter.__bases__[0]
OF_SEVERAL_WORDS = ("--structures", "--reference-structures")
"""Options that may be repeated and are also written once with several words behind."""


class StrictGroup(TyperGroup):
    """A group of verbs whose options are read once: the parser below lets the last one win without a word.

    That parser is click, or typer's own copy of it, by typer's version; hence no types of either.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each verb with the first sentence of its help, in full."""
        with formatter.section("Commands"):
            formatter.write_dl(self.rows_of(ctx, self.list_commands(ctx)))

    def rows_of(self, ctx: Any, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return verbs with what they do, however many lines that takes."""
        commands = [(name, self.get_command(ctx, name)) for name in names]
        return [(name, command.get_short_help_str(200)) for name, command in commands if command is not None]

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; where an option or argument is missing, the message says what it is."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if hasattr(error, "param_type"):
                error.message = error.message or getattr(error.param, "help", None) or ""
            error.message = error.message.removeprefix("Value error, ")
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb, and look at its options before they are parsed.

        Raises
        ------
        ConfigError
            If an option that takes one value is given several times, or a path is empty.
        """
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except _UsageError as error:
            # Where no name is near, all of them are said: `voxmetry cohort IN` lacks `run`.
            if "Did you mean" not in error.message:
                error.message += f" It is one of {', '.join(self.list_commands(ctx))}."
            raise
        if command is not None and not hasattr(command, "list_commands"):
            offer_all_options(command, name, ctx, rest)
            rest = spread(rest)
            require_words(command, name, ctx, rest)
        return name, command, rest


def spread(arguments: list[str]) -> list[str]:
    """Write an option of several words as one option a word; it ends at the next option or at a path that exists.

    Examples
    --------
    >>> spread(["ct.nii", "--structures", "liver", "spleen", "-m", "x"])
    ['ct.nii', '--structures', 'liver', '--structures', 'spleen', '-m', 'x']
    """
    found: list[str] = []
    option, first = "", False
    for word in arguments:
        if word in OF_SEVERAL_WORDS:
            option, first = word, True
            continue
        if option and (word.startswith("-") or (not first and Path(word).exists())):
            option = ""
        found += [option, word] if option else [word]
        first = False
    return found + ([option] if first else [])


def require_words(command: Any, name: str | None, parent: Any, arguments: list[str]) -> None:
    """Look at a verb's words: raise `ConfigError` where one option is given twice, or a path or name is empty."""
    # What else is wrong, the parser itself says when it is its turn.
    with type(parent)(command, info_name=name, parent=parent, resilient_parsing=True) as ctx:
        values, _, order = command.make_parser(ctx).parse_args(list(arguments))
    _require_once(order)
    for item in command.params:
        _require_text(item, values.get(item.name))


def _require_once(order: Sequence[Any]) -> None:
    options = [item for item in order if item.param_type_name == "option" and not item.multiple]
    # A switch that can only be on may be repeated; one that is on and off may not.
    single = [item for item in options if not item.is_flag or item.secondary_opts]
    for item in single:
        if single.count(item) > 1:
            spelled = item.opts[-1]
            raise ConfigError(
                found=f"{spelled} given {single.count(item)} times",
                expected="one value",
                fix=f"leave {spelled} once: only one of them could be meant",
            )


def _require_text(item: Any, value: Any) -> None:
    """Refuse an empty word: as a path it would be the folder that one happens to stand in.

    The shell leaves one where a variable is not set.
    """
    words = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(word, str) and not word.strip() for word in words):
        spelled = item.opts[-1] if item.param_type_name == "option" else (item.metavar or item.name.upper())
        raise ConfigError(
            found=f"{spelled} is given as an empty word",
            expected="a path, a name or a value; a point is the folder that you are in",
            fix="see whether the shell's variable that stands there is set, or leave the option out",
        )
