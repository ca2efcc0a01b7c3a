"""From a data set to a training configuration with its reasons: what stands behind `voxmetry train-plan`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxmetry.config import TrainSettings, dump_yaml
from voxmetry.core.progress import Progress
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import require_no_file
from voxmetry.nn.runtime import choose_device
from voxmetry.train.devices import n_processes
from voxmetry.train.finetune import settings_from
from voxmetry.train.fingerprint import scan
from voxmetry.train.join import open_joined
from voxmetry.train.plan import TrainingPlan, make_plan
from voxmetry.train.plan_memory import Budget, NetworkChoice


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made for.

    Parameters
    ----------
    data
        Data sets, one or several.
    start
        The model to start from: a bundled one's name or a model folder; None for random weights.
    epochs
        Instead of what the plan says.
    memory_gb
        Memory that training may take, in 10^9 bytes.
    modality
        CT, MR or PT: what each channel is, where the data set does not say.
    network
        "dynunet", "fcn" or "maskrcnn"; "auto": the last where label maps tell instances apart, else the first.
    device
        "auto", "cpu" or "cuda".
    """

    data: Sequence[Path]
    start: str | None = None
    epochs: int | None = None
    memory_gb: float = 4.0
    modality: Sequence[str] = ()
    network: NetworkChoice = "auto"
    device: str = "auto"


def plan_training(inputs: PlanInputs, *, progress: Progress | None = None) -> TrainingPlan:
    """Measure a data set and plan a run on it; the model to start from is not looked at.

    Raises
    ------
    VoxmetryError
        If the data set cannot be read, or nothing fits into the memory.
    """
    device = choose_device(inputs.device)  # before the data set is measured, which may take an hour
    named, _, fingerprint = scan(open_joined(inputs.data), progress=progress)
    budget = Budget(
        inputs.memory_gb,
        device,
        inputs.epochs,
        tuple(inputs.modality) or None,
        n_processes(),
        inputs.network,
    )
    paths = [str(path) for path in inputs.data]
    return make_plan(fingerprint, named, data=paths[0] if len(paths) == 1 else tuple(paths), budget=budget)


def write_training_plan(
    inputs: PlanInputs, out: Path | None = None, *, overwrite: bool = False, progress: Progress | None = None
) -> tuple[TrainingPlan, str]:
    """Plan a run, and write the configuration where a file is named.

    Returns
    -------
    TrainingPlan, str
        The plan, and the text of the configuration: that of the model to start from, where one is named.

    Raises
    ------
    OutputExistsError
        If the file is there and `overwrite` is off; before the data set is read.
    VoxmetryError
        As `plan_training`.
    """
    if out is not None:
        require_no_file(out, overwrite=overwrite)
    plan = plan_training(inputs, progress=progress)
    if out is not None:
        plan = replace(plan, settings=_beside(out, plan.settings))
    text = dump_yaml(settings_from(plan.settings, inputs.start)) if inputs.start else plan.to_yaml()
    if out is not None:
        write_text(out, text)
    return plan, text


def _beside(plan: Path, settings: TrainSettings) -> TrainSettings:
    """Return settings whose data sets are found from the file of the plan, from wherever that is used."""
    named = (settings.data,) if isinstance(settings.data, str) else settings.data
    places = tuple(
        name if Path(name).is_absolute() else os.path.relpath(name, plan.absolute().parent) for name in named
    )
    return settings.model_copy(update={"data": places[0] if isinstance(settings.data, str) else places})
