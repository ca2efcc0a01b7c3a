"""What changes during a training run, and how it survives a kill."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from voxmetry.config import TrainSettings
from voxmetry.errors import ConfigError, FormatError
from voxmetry.io.atomic import write_bytes, write_text
from voxmetry.models import find_model
from voxmetry.nn.networks.build import build_network
from voxmetry.train.cases import listed
from voxmetry.train.finetune import carry_over

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from voxmetry.nn.runtime import RuntimeChoice


@dataclass
class RunState:
    """All that changes during a run, and so what a checkpoint holds, and the device that it changes on.

    Parameters
    ----------
    fabric
        The device, precision and processes.
    network
        The network that the optimiser moves; it averages its gradients over the processes.
    averaged
        The exponential moving average of its weights: what is validated and shipped.
    optimiser
        AdamW over `network`.
    epoch
        Number of epochs that are done.
    seconds
        Time that they took.
    """

    fabric: Fabric
    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    seconds: float = 0.0


def begin(settings: TrainSettings, fabric: Fabric, *, tell: Callable[[str], None] | None = None) -> RunState:
    """Build the network, its average and the optimiser.

    The first weights are what fits of the model that `start_from` names, else the seed decides them; `tell` is told
    what was carried over and what was not.

    Raises
    ------
    ModelError
        If that model is missing or damaged, or nothing of it fits.
    """
    spec = settings.model
    torch.manual_seed(settings.seed)
    network, averaged = build_network(spec), build_network(spec).to(fabric.device)
    if settings.start_from:
        taken = carry_over(network, spec, settings.start_from)
        if tell is not None:
            tell(str(taken))
    averaged.load_state_dict(network.state_dict())
    averaged.requires_grad_(requires_grad=False)
    optimiser = optimiser_of(network, settings, fabric.device)
    network, optimiser = fabric.setup(network, optimiser)
    return RunState(fabric, network, averaged, optimiser)


def optimiser_of(network: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW over the parameters of a network; on CUDA one launch moves all of them."""
    fused = True if device.type == "cuda" else None
    return torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )


def require_unseen(settings: TrainSettings, held_out: Sequence[str]) -> None:
    """See that the model to start from was not trained on a case that is held out now.

    Raises
    ------
    ConfigError
        If it was, by the names in its `split.json`: its Dice on that case would say nothing.
    """
    if settings.start_from is None:
        return
    path = find_model(settings.start_from) / "split.json"
    seen = set(json.loads(path.read_text(encoding="utf-8"))["training"]) if path.is_file() else set()
    leaked = sorted(seen & set(held_out))
    if leaked:
        raise ConfigError(
            found=f"{len(leaked)} held-out cases that {settings.start_from} was trained on: {', '.join(leaked[:5])}",
            expected="held-out cases that no earlier stage has seen",
            fix="use the seed and validation_fraction that the first stage used, or set validation_fraction to 0 "
            "and evaluate on other data",
        )


def require_same_cases(sources: Mapping[str, str], out: Path) -> None:
    """See that a run goes on with the cases that it began with; note them in `cases.json` where it begins.

    Parameters
    ----------
    sources
        SHA-256 of each case's files, by name.
    out
        The run folder.

    Raises
    ------
    ConfigError
        If cases came, went or changed since: what comes out would be neither the old run nor a new one.
    """
    path = out / "cases.json"
    if not path.exists():
        write_text(path, json.dumps(dict(sources), indent=1))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(name for name in {*before, *sources} if before.get(name) != sources.get(name))
    if changed:
        raise ConfigError(
            found=f"cases that came, went or changed since the run began: {listed(changed)}",
            expected="the cases that it began with",
            fix="put them back, or start a new run in another folder",
        )


def begun_in(out: Path) -> str | None:
    """Return the precision that the run in a folder began in; None where it is not known.

    Raises
    ------
    FormatError
        If `starts.json` is damaged.
    """
    starts = _starts(out)
    return starts[0]["precision"] if starts else None


def note_start(choice: RuntimeChoice, processes: int, out: Path) -> None:
    """Add to `starts.json` what this start of the run computes on: device, precision and why, and the processes."""
    row = {"device": choice.device, "precision": choice.precision, "why": choice.why, "processes": processes}
    write_text(out / "starts.json", json.dumps([*_starts(out), row], indent=1))


def _starts(out: Path) -> list[dict[str, str]]:
    path = out / "starts.json"
    if not path.exists():
        return []
    try:
        found: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        _ = [row["precision"] for row in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            found=f"{path} cannot be used: {type(error).__name__}",
            expected="the list of this run's starts",
            fix="delete it: the run then goes on in the precision that suits this processor",
        ) from error
    return found


def save_checkpoint(state: RunState, path: Path) -> None:
    """Write a checkpoint; the one that was there stays until the new one is whole."""
    buffer = io.BytesIO()
    content = {
        "network": state.network.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.fabric.strategy.precision.state_dict(),  # what fp16 scales gradients by; else empty
        "epoch": state.epoch,
        "seconds": state.seconds,
    }
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(state: RunState, path: Path) -> bool:
    """Fill a fresh state from a checkpoint; without one, leave it as it is. Return whether there was one.

    Raises
    ------
    FormatError
        If the file is damaged, or belongs to another network.
    """
    if not path.exists():
        return False
    try:
        content = torch.load(path, map_location=state.fabric.device, weights_only=True)
        state.network.load_state_dict(content["network"])
        state.averaged.load_state_dict(content["averaged"])
        state.optimiser.load_state_dict(content["optimiser"])
        if content.get("scaler"):
            state.fabric.strategy.precision.load_state_dict(content["scaler"])
        state.epoch = int(content["epoch"])
        state.seconds = float(content.get("seconds", 0.0))
    except (OSError, RuntimeError, KeyError, EOFError, ValueError) as error:
        raise FormatError(
            found=f"the checkpoint {path} cannot be used: {type(error).__name__}",
            expected="a checkpoint of this run",
            fix="delete it to start again, or copy it back from where it is whole",
        ) from error
    return True


def log_row(row: dict[str, float], path: Path) -> None:
    """Add one epoch to the log, a CSV whose columns are those of its first row and whose epochs are each there once."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    rows.append({name: str(value) for name, value in row.items()})
    columns = list(dict.fromkeys(name for old in rows for name in old))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
