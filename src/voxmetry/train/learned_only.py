"""Structures that a network learns and its model does not give: their outputs are taken off when the run ends."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.core.labels import LabelTable
from voxmetry.nn.networks.intensity_model import IntensityModel
from voxmetry.train.initial_bias import output_layers


def without_structures(network: nn.Module, spec: ModelSpec, names: Sequence[str]) -> tuple[nn.Module, ModelSpec]:
    """Return a network and its specification without some structures; the others keep their values.

    A voxel whose largest score was of one that is left out goes to the class with the next largest.

    Parameters
    ----------
    network
        With an output for the background and one for each label of `spec`, several in a row where it turns depth to
        space. It is not changed.
    spec
        Its model, without quality: that is measured on what is left.
    names
        Labels of `spec`, not all of them.
    """
    if not names:
        return network, spec
    places = [0, *(1 + place for place, label in enumerate(spec.labels) if label.name not in names)]
    made = deepcopy(network)
    with torch.no_grad():
        for layer in output_layers(made):
            repeats = layer.out_channels // spec.n_classes
            rows = [place * repeats + step for place in places for step in range(repeats)]
            layer.weight = nn.Parameter(layer.weight[rows])
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[rows])
            layer.out_channels = len(rows)
        if isinstance(made, IntensityModel):
            made = made.of_structures(places)
    steps = []
    for step in spec.clean:
        left = tuple(name for name in step.labels if name not in names)
        if left or not step.labels:
            steps.append(step.model_copy(update={"labels": left}))
    pairs = tuple(pair for pair in spec.window.swap_on_mirror if not set(pair) & set(names))
    domain = spec.training_domain
    kept = {
        "volume_ml": {name: seen for name, seen in domain.volume_ml.items() if name not in names},
        "continues": {name: sides for name, sides in domain.continues.items() if name not in names},
    }
    return made, spec.model_copy(
        update={
            "labels": LabelTable(labels=tuple(label for label in spec.labels if label.name not in names)),
            "clean": tuple(steps),
            "window": spec.window.model_copy(update={"swap_on_mirror": pairs}),
            "training_domain": domain.model_copy(update=kept),
        }
    )
