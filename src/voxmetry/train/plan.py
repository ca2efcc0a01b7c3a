"""From a fingerprint to the settings of a run, with the reason for each choice.

The rules follow nnU-Net (Isensee 2021, doi 10.1038/s41592-020-01008-z) where no other source is named: median spacing,
strides until a level is 4 voxels wide, intensities by modality. What differs is said in the reason itself.
"""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from voxmetry.config import TrainSettings, dump_yaml, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.core.volume import ONLY_CT_BELOW_HU
from voxmetry.errors import ConfigError
from voxmetry.train.cases import DataSet
from voxmetry.train.fingerprint import ChannelFacts, Fingerprint, with_labels
from voxmetry.train.plan_memory import Budget, Outputs
from voxmetry.train.plan_network import MOST_CHANNELS, choose_batch, describe_network, fit_patch, median_spacing

USUAL_BUDGET = Budget()
STEPS = {"cpu": 3000, "cuda": 25_000}


@dataclass(frozen=True)
class TrainingPlan:
    """Settings, and by dotted key why they are as they are."""

    settings: TrainSettings
    reasons: dict[str, str]

    def to_yaml(self) -> str:
        """Return the settings as YAML that `load_yaml` reads, the reasons as comments above their keys."""
        lines: list[str] = []
        path: list[tuple[int, str]] = []
        for line in dump_yaml(self.settings).splitlines():
            found = re.match(r"( *)([a-z_]+):", line)
            if found:
                depth = len(found[1])
                path = [*(part for part in path if part[0] < depth), (depth, found[2])]
                reason = self.reasons.get(".".join(key for _, key in path))
                if reason:
                    lines += textwrap.wrap(
                        reason, 110, initial_indent=f"{found[1]}# ", subsequent_indent=f"{found[1]}# "
                    )
            lines.append(line)
        return "\n".join(lines) + "\n"


def make_plan(
    fingerprint: Fingerprint, named: DataSet, *, data: str | tuple[str, ...], budget: Budget = USUAL_BUDGET
) -> TrainingPlan:
    """Choose everything that a run needs.

    Parameters
    ----------
    fingerprint
        The data set in numbers.
    named
        The data set with its label table, as `scan` returns it.
    data
        Where it lies; written into the settings.
    budget
        Memory, device, epochs.

    Raises
    ------
    ConfigError
        If no patch fits into the memory, a channel's modality neither is known nor follows from its values, or the
        network does not fit the data set.

    Notes
    -----
    The model's axes are R, A, S.
    """
    reasons: dict[str, str] = {}
    labels = with_labels(named).labels or LabelTable(labels=())
    inputs = [_input(channel, place, budget, reasons) for place, channel in enumerate(fingerprint.channels)]
    spacing = median_spacing(fingerprint, reasons)
    width = 32 if budget.memory_gb >= 8 else 16
    outputs = Outputs(len(labels) + 1, partial=any(case.labelling.is_partial for case in named.cases))
    spacing, patch, levels = fit_patch(fingerprint, spacing, width, outputs, budget, reasons)
    channels = [min(MOST_CHANNELS, width * 2**level) for level in range(len(levels))]
    batch = choose_batch(patch, levels, channels, outputs, budget, reasons)
    shape = [max(1, round(e / s)) for e, s in zip(fingerprint.extent_mm, spacing, strict=True)]
    content: dict[str, object] = {
        "data": data,
        "epochs": _epochs(fingerprint, batch, budget, reasons),
        "batch_size": batch,
        "ema_decay": 0.98,
        "precision": "auto",
        "augment": {"flip_axes": _flips(labels, reasons)},
        "model": {
            "name": fingerprint.name,
            "version": "0.1.0",
            "summary": f"{', '.join(labels.names[:4])} in {' and '.join(i['modality'] for i in inputs)}",
            "licence": "as the training data allows",
            "body_part": "not stated",
            "inputs": inputs,
            "spacing_mm": [round(value, 4) for value in spacing],
            "window": {"patch": patch, "overlap": 0.5},
            "network": describe_network(fingerprint, spacing, levels, channels, budget, reasons),
            "labels": labels.model_dump(mode="json"),
            "training_domain": {
                "spacing_mm": [{"low": low, "high": high} for low, high in fingerprint.spacing_range_mm],
                "field_of_view_mm": [{"low": low, "high": high} for low, high in fingerprint.extent_range_mm],
            },
        },
    }
    content |= _sampling(fingerprint, patch, shape, reasons)
    reasons["precision"] = "bf16 where the processor multiplies it, else float32; the memory is planned for float32"
    reasons["model.training_domain"] = "measured; measured again on the training cases when the run ends"
    return TrainingPlan(parse_record(content, TrainSettings, where="the plan"), reasons)


def _input(channel: ChannelFacts, place: int, budget: Budget, reasons: dict[str, str]) -> dict[str, Any]:
    modality, why = _modality(channel, place, budget)
    low, median, high = channel.foreground_percentiles
    spread = f"0.5th to 99.5th percentile inside the structures ({low:.4g} to {high:.4g}, median {median:.4g})"
    if modality == "CT":
        normalise: dict[str, object] = {
            "method": "window",
            "low": round(low, 2),
            "high": round(high, 2),
            "mean": round(channel.foreground_mean, 3),
            "sd": round(max(channel.foreground_sd, 1e-3), 3),
        }
        how = f"Hounsfield units mean the same in each scan: clip to the {spread}, minus their mean, by their SD"
    elif modality == "PT":
        normalise = {
            "method": "window",
            "low": 0.0,
            "high": round(high, 3),
            "mean": round(channel.foreground_mean, 4),
            "sd": round(max(channel.foreground_sd, 1e-3), 4),
        }
        how = f"uptake has a natural zero: clip to 0 and the 99.5th percentile inside the structures ({high:.4g})"
    else:
        nonzero = channel.share_zero > 0.25
        normalise = {"method": "zscore", "nonzero": nonzero}
        how = "MR values have no unit: mean 0 and SD 1 in each image" + (
            f", of the voxels that are not 0 ({channel.share_zero:.0%} are)" if nonzero else ""
        )
    reasons["model.inputs"] = "; ".join(filter(None, [reasons.get("model.inputs"), f"{channel.name}: {why}; {how}"]))
    return {"name": channel.name, "modality": modality, "normalise": normalise}


def _modality(channel: ChannelFacts, place: int, budget: Budget) -> tuple[str, str]:
    if budget.modalities:
        if place >= len(budget.modalities):
            raise ConfigError(
                found=f"{len(budget.modalities)} modalities and more channels",
                expected="one modality for each channel, in their order",
                fix="repeat --modality",
            )
        return budget.modalities[place], f"{budget.modalities[place]}, as it was given"
    if channel.modality:
        return channel.modality, f"{channel.modality}, as the data set says"
    if channel.minimum < ONLY_CT_BELOW_HU:
        return "CT", f"CT, because values go down to {channel.minimum:g}"
    if channel.unit in ("SUVbw", "Bq/mL"):
        return "PT", f"PT, because the unit is {channel.unit}"
    return "MR", f"MR, because nothing says what it is and no value is below {ONLY_CT_BELOW_HU:g} (--modality sets it)"


def _epochs(fingerprint: Fingerprint, batch: int, budget: Budget, reasons: dict[str, str]) -> int:
    if budget.epochs is not None:
        reasons["epochs"] = "as it was asked for"
        return budget.epochs
    steps = max(1, math.ceil(0.8 * fingerprint.n_cases / batch))
    epochs = min(1000, max(50, math.ceil(STEPS[budget.device] / steps)))
    reasons["epochs"] = f"about {STEPS[budget.device]} steps on {budget.device}, at {steps} an epoch; 50 to 1000 epochs"
    return epochs


def _flips(labels: LabelTable, reasons: dict[str, str]) -> list[int]:
    sided = [
        label.name
        for label in labels
        if label.laterality or re.search(r"(^|[_\W])(left|right|l|r)($|[_\W])", label.name)
    ]
    reasons["augment"] = (
        f"no mirror image, because {sided[0]} has a side"
        if sided
        else "mirror images from left to right, because no structure has a side"
    )
    return [] if sided else [0]


def _sampling(
    fingerprint: Fingerprint, patch: list[int], shape: list[int], reasons: dict[str, str]
) -> dict[str, object]:
    """How patches are placed: where they hold a whole image anywhere, else round structures, rare ones as often."""
    if all(p >= n for p, n in zip(patch, shape, strict=True)):
        reasons["foreground_fraction"] = "0, because a patch holds a whole median image"
        fraction = 0.0
    else:
        rarest = min(fingerprint.structures, key=lambda row: row.share)
        fraction = 0.5 if rarest.share < 1e-3 else 0.33
        reasons["foreground_fraction"] = (
            f"this share of the patches is centred on a structure, each structure of the case as often as the others; "
            f"the rarest ({rarest.name}) fills {rarest.share:.2%} of its images"
        )
    smallest = min(fingerprint.structures, key=lambda row: row.share)
    loss = "tversky" if smallest.share < 1e-4 else "dice_ce"
    reasons["loss"] = (
        f"Tversky, because {smallest.name} fills less than 0.01 % of its images: a missed voxel weighs more"
        if loss == "tversky"
        else "Dice and cross-entropy"
    )
    return {"foreground_fraction": fraction, "loss": loss}
