"""The description of a composite made from several models: structures joined, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.config import ModelSpec
from voxmetry.core.labels import Label, LabelTable
from voxmetry.errors import ConfigError
from voxmetry.models import read_any_spec
from voxmetry.models.composite import CompositeInput, CompositeSpec, Member


def merged_spec(models: Sequence[str], name: str) -> CompositeSpec:
    """Return a composite of models whose structures are numbered anew, one after the other.

    Raises
    ------
    ConfigError
        If two structures have one name, or the models take other inputs.
    """
    specs = [read_any_spec(model) for model in models]
    labels: list[Label] = []
    members = []
    for model, spec in zip(models, specs, strict=True):
        values = {}
        for label in spec.labels:
            if label.name in [had.name for had in labels]:
                raise ConfigError(
                    found=f"{label.name} in {model} and in a model before it",
                    expected="structures of different names",
                    fix="write a model.yaml of kind composite that takes it from one: docs/how-to/my-nnunet-models.md",
                )
            values[label.value] = len(labels) + 1
            labels.append(label.model_copy(update={"value": len(labels) + 1}))
        members.append(Member(model=model, values=values))
    return join_labels(specs, labels, members, name)


def join_labels(
    specs: Sequence[ModelSpec | CompositeSpec], labels: Sequence[Label], members: Sequence[Member], name: str
) -> CompositeSpec:
    """Describe the composite of these members, with the labels in their order."""
    first = specs[0]
    wanted = [item.modality for item in first.inputs]
    for spec in specs[1:]:
        have = [item.modality for item in spec.inputs]
        if have != wanted:
            raise ConfigError(
                found=f"{spec.name}, which takes {', '.join(have)}",
                expected=f"{', '.join(wanted)}, as {first.name}",
                fix="use models of the same inputs",
            )
    return CompositeSpec(
        kind="composite",
        name=name,
        version="+".join(spec.version for spec in specs),
        summary=" and ".join(spec.summary for spec in specs),
        licence=" and ".join(dict.fromkeys(spec.licence for spec in specs)),
        body_part=" and ".join(dict.fromkeys(spec.body_part for spec in specs)),
        inputs=tuple(
            CompositeInput(name=item.name, modality=item.modality, series=item.series) for item in first.inputs
        ),
        labels=LabelTable(labels=tuple(labels)),
        members=tuple(members),
    )
