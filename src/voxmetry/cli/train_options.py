"""Options that `voxmetry train` and `voxmetry train-plan` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer


@dataclass(frozen=True)
class Planning:
    """What a plan is made for, where a data set is given."""

    start: Annotated[
        str | None, typer.Option("--from", help="Model to start from: a bundled one's name or a model folder.")
    ] = None
    epochs: Annotated[
        int | None, typer.Option(help="Epochs, instead of what the plan or configuration says.", min=1)
    ] = None
    memory_gb: Annotated[
        float, typer.Option("--memory-gb", help="Memory that training may take, in 10^9 bytes.", min=0.7)
    ] = 4.0
    modality: Annotated[
        list[str] | None,
        typer.Option(help="CT, MR or PT: what a channel is, where the data set does not say; repeat in its order."),
    ] = None
    network: Annotated[
        Literal["auto", "dynunet", "fcn", "maskrcnn"],
        typer.Option(help="Network to plan; auto: maskrcnn where label maps tell instances apart, else dynunet."),
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto"
