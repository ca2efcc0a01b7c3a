"""`voxmetry inspect`: the series of a folder, an archive or a file, and whether each can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxmetry.cli import show
from voxmetry.cli.progress import bar
from voxmetry.cli.streams import console, say_json
from voxmetry.core.text import clean, terminal

if TYPE_CHECKING:
    from rich.text import Text

    from voxmetry.core.records import SeriesInfo

_WIDTH_OF_FILES = 200


def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A DICOM folder, DICOMDIR or zip archive, or an image file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """List the series, and whether each can be read or why not; exit code 1 where none can."""
    from voxmetry.core.volume import Volume
    from voxmetry.workflows.inspect import inspect_path

    with bar("reading headers", quiet=as_json) as progress:
        found = inspect_path(path, progress=progress)
    if isinstance(found, Volume):
        show.image(found, as_json=as_json)
        return
    if as_json:
        say_json({"series": [{"key": info.key, **info.model_dump(mode="json")} for info in found]})
    else:
        show_studies(found)
    raise typer.Exit(0 if any(series.readable for series in found) else 1)


def show_studies(rows: Sequence[SeriesInfo]) -> None:
    """Show a tree of studies, series and volumes; the name that `--series` takes stands with each volume."""
    from rich.text import Text
    from rich.tree import Tree

    studies: dict[str | None, dict[str, list[SeriesInfo]]] = {}
    for row in rows:
        studies.setdefault(row.study_uid, {}).setdefault(row.series_uid, []).append(row)
    for uid, series in studies.items():
        tree = Tree(Text(terminal(f"study {uid}" if uid else "study without a UID")))
        for members in sorted(series.values(), key=lambda members: not any(row.readable for row in members)):
            branch = tree.add(_series_line(members))
            for row in members:
                branch.add(_volume_line(row))
        shown = console()
        if not shown.is_terminal:
            shown = console(width=_WIDTH_OF_FILES)
        shown.print(tree)


def _series_line(members: Sequence[SeriesInfo]) -> Text:
    from rich.text import Text

    row = members[0]
    number = f"series {row.number}" if row.number is not None else "series"
    facts = (row.modality or "?", row.description, row.body_part, row.phase and f"{row.phase} phase", row.kernel)
    return Text(clean("  ".join((number, *(fact for fact in facts if fact)))))


def _volume_line(row: SeriesInfo) -> Text:
    from rich.text import Text

    from voxmetry.workflows.inspect import in_words

    spacing = " x ".join(f"{value:.3g}" for value in row.spacing_mm) + " mm" if row.spacing_mm else ""
    size = f"{row.n_slices} slices" if row.n_slices else f"{row.n_files} files"
    facts = (in_words(row.differs), size, spacing, row.plane, row.axcodes)
    line = Text(row.verdict, style="green" if row.readable else "yellow")
    line.append("  " + terminal("  ".join(fact for fact in facts if fact)), style="default")
    if row.reason:
        line.append(terminal(f"\n{row.reason}"), style="default")
    for note in row.processing:
        line.append(terminal(f"\n{note}"), style="default")
    line.append(terminal(f"\n{row.key or '(no series UID)'}"), style="dim")
    return line
