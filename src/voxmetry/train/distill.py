"""One student of several teachers: the folds of a cross-validation in a network of the size of one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.errors import ConfigError, ModelError
from voxmetry.models import find_model, read_spec
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import load_into

SAME = ("orientation", "spacing_mm", "resampling", "labels")
"""What student and teacher must agree on, beside how the inputs are normalised, to be shown the same patches."""


def load_teacher(name: str | Path, student: ModelSpec) -> nn.Module:
    """Return a teacher's network with its weights, which no step changes.

    Parameters
    ----------
    name
        A model folder, such as `voxmetry ensemble` writes it, or a bundled model.
    student
        The model that is to learn from it; its network may be another, and smaller.

    Raises
    ------
    ConfigError
        If the two take other inputs, grids, labels, or patches that the teacher's strides do not divide.
    ModelError
        If the teacher is missing, damaged or has no weights.
    """
    folder = find_model(name)
    spec = read_spec(folder)
    if spec.weights is None:
        raise ModelError(found=f"{spec.name} has no weights", expected="a trained model", fix="train it first")
    other = [key for key in SAME if getattr(spec, key) != getattr(student, key)]
    if [item.normalise for item in spec.inputs] != [item.normalise for item in student.inputs]:
        other.append("inputs")
    if spec.regions:
        other.append("regions")
    if any(size % part for size, part in zip(student.window.patch, spec.network.divisor, strict=True)):
        other.append("window.patch")
    if other:
        raise ConfigError(
            found=f"the teacher {spec.name} and the student differ in {', '.join(other)}",
            expected="the same inputs, grid and labels, and patches that both networks can take",
            fix="take model.yaml of the teacher for the student, and change its network alone",
        )
    network = build_network(spec)
    load_into(network, folder / spec.weights.file, sha256=spec.weights.sha256)
    return network.eval().requires_grad_(requires_grad=False)
