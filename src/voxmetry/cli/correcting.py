"""Options of what reads a person's correction: one set for every verb that does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli.options import NamesMap, names_of

if TYPE_CHECKING:
    from voxmetry.workflows.correction import CorrectionOptions


@dataclass(frozen=True)
class Correcting:
    """How a correction is read."""

    author: Annotated[str | None, typer.Option(help="Who made the correction; what its file says if not given.")] = None
    when: Annotated[
        str | None, typer.Option(help="When, such as 2026-11-30T14:05; what its file says, or its time, if not given.")
    ] = None
    names_map: NamesMap = None
    structures: Annotated[
        list[str] | None,
        typer.Option(
            help="A structure of the correction to take, by its name, with * and ?; all if not given; repeat."
        ),
    ] = None
    overlap: Annotated[
        Literal["refuse", "first", "last"] | None,
        typer.Option(help="Which of two structures a shared voxel goes to; refused if not given."),
    ] = None
    labels: Annotated[
        Path | None, typer.Option(help="ITK-SNAP's file of labels; the one beside the label map if not given.")
    ] = None
    slice_numbers: Annotated[
        Literal["index", "index-from-1", "instance"] | None,
        typer.Option(help="What a number in a picture's name counts: slices from 0 or 1, or Instance Number."),
    ] = None
    rest: Annotated[
        Literal["model", "empty"] | None,
        typer.Option(help="What slices hold that nobody drew on: the model's labels, or none."),
    ] = None
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Take a correction without a voxel: there is none of it.")
    ] = False
    allow_elsewhere: Annotated[
        bool, typer.Option("--allow-elsewhere", help="Take a correction that shares no voxel with what it corrects.")
    ] = False

    def options(self) -> CorrectionOptions:
        """Return what the workflows take.

        Raises
        ------
        ConfigError
            If a name or the time cannot be understood.
        """
        from voxmetry.workflows.correction import CorrectionOptions, require_moment

        return CorrectionOptions(
            author=self.author or "",
            made=require_moment(self.when or ""),
            names=names_of(self.names_map),
            structures=tuple(self.structures or ()),
            overlap=self.overlap or "refuse",
            labels=self.labels,
            slice_numbers=self.slice_numbers or "index",
            rest=self.rest or "model",
            allow_empty=self.allow_empty,
            allow_elsewhere=self.allow_elsewhere,
        )
