"""What the verbs about models print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxmetry.cli.streams import console, print_table, say, say_json, table
from voxmetry.core.text import terminal

if TYPE_CHECKING:
    from voxmetry.config import ModelSpec
    from voxmetry.models.catalogue import CatalogueEntry
    from voxmetry.models.composite import CompositeSpec
    from voxmetry.models.eight_bits import EightBits
    from voxmetry.models.listing import ListedModel


def trained(model: Path, *, as_json: bool) -> None:
    """Say where the model folder is, and how to run it."""
    if as_json:
        say_json({"model": str(model)})
        return
    say(f"The model is in {model}. Run it: voxmetry segment STUDY -m {model} -o OUT")


def model_list(entries: Sequence[ListedModel], *, as_json: bool) -> None:
    """Show one line a model: those that are here, then those that can be pulled."""
    if as_json:
        say_json({"models": [entry.model_dump(mode="json", exclude_none=True) for entry in entries]})
        return
    made = table(["model", "", "input", "structures", "licence", "MB"])
    for entry in entries:
        shown = f"{len(entry.structures) or ''}"
        size = "" if entry.size_mb is None else f"{entry.size_mb:.0f}"
        made.add_row(entry.name, entry.where, ", ".join(entry.modalities), shown, entry.licence, size)
    print_table(made)
    for entry in entries:
        if entry.problem:
            say(f"{entry.name} cannot be used: {entry.problem}")
    say("voxmetry models pull NAME fetches what is available; voxmetry models show NAME names its structures.")


def available(entry: CatalogueEntry, source: str, *, as_json: bool) -> None:
    """Show what the catalogue says of a model that is not here."""
    if as_json:
        say_json({"available": entry.model_dump(mode="json", exclude_none=True)})
        return
    say(f"{entry.name}: {entry.summary}. Not installed: voxmetry models pull {entry.name}")
    say(f"input: {entry.modality}, {entry.body_part}; licence {entry.licence}; facts: {source}")
    if entry.crop:
        say(f"runs inside the box of {', '.join(entry.crop.structures)}, which {entry.crop.model} finds")
    if entry.labels:
        say(f"structures: {', '.join(entry.labels)}")
    for part in entry.parts:
        say(f"archive: {part.url}")


def model(spec: ModelSpec | CompositeSpec, folder: Path, *, as_json: bool) -> None:
    """Show one model: its card, or its specification as JSON."""
    if as_json:
        say_json({"model": spec.model_dump(mode="json", exclude_none=True)})
        return
    card = folder / "MODEL_CARD.md"
    if card.is_file():
        from rich.markdown import Markdown

        console().print(Markdown(terminal(card.read_text(encoding="utf-8", errors="replace"))))
    else:
        say(f"{spec.name} {spec.version}: {spec.summary}. Licence {spec.licence}.")
        say(f"structures: {', '.join(spec.labels.names)}")


def eight_bits(made: EightBits, folder: Path, *, as_json: bool) -> None:
    """Show how well a network in 8 bits keeps the labels of float32, and how to run it."""
    if as_json:
        say_json({"model": str(folder), "int8": made.model_dump(mode="json")})
        return
    made_of = table(["structure", "mL", "images", "Dice, 8 bits", "lowest", "Dice, --fast", "lowest "])
    for row in made.structures:
        dice = (row.dice, row.lowest_dice, row.fast_dice, row.lowest_fast_dice)
        made_of.add_row(row.label, f"{row.volume_ml:.2f}", str(row.n), *(f"{value:.4f}" for value in dice))
    print_table(made_of)
    say(f"Against the model's own run in float32, on the images it was calibrated on ({made.windows} windows).")
    say(f"use it: voxmetry segment STUDY -m {folder} -o OUT --fast")
