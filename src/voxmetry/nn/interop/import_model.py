"""Import a model of another framework as an ordinary model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from voxmetry.config import ModelSpec, Weights, dump_yaml
from voxmetry.errors import ConfigError, ModelError, OutputExistsError
from voxmetry.io.atomic import make_folder, write_bytes, write_text
from voxmetry.models.composite import CompositeInput, CompositeSpec, Member
from voxmetry.models.structures import with_codes
from voxmetry.nn.interop.imported import MODALITIES, ImportedModel, ImportOptions
from voxmetry.nn.networks.build import build_network, require_size
from voxmetry.nn.weights import distinct_tensors, require_fit, sha256_of

STAGES = ("first-stage", "second-stage")
"""Folders of the two networks of a cascade."""


def import_model(path: Path | str, out: Path | str, options: ImportOptions | None = None) -> ImportedModel:
    """Turn an nnU-Net v2 model folder or a MONAI bundle into a model folder that `load_model` and `segment` take.

    Parameters
    ----------
    path
        A folder with plans.json and dataset.json (nnU-Net v2), or one with configs/metadata.json (a MONAI bundle).
    out
        The new model folder.
    options
        What the files do not say.

    Returns
    -------
    ImportedModel
        What was understood, with notes.

    Raises
    ------
    ConfigError
        If a modality is unknown.
    ModelError
        If the source is of neither kind, is incomplete, or holds what cannot be reproduced; it is named.
    LabelError
        If a left and a right structure would have one code without a side.
    OutputExistsError
        If there is a model at `out` already.
    OutputError
        If `out` cannot be written.
    """
    options = options or ImportOptions()
    source, target = Path(path), Path(out)
    for modality in options.modalities:
        if modality not in MODALITIES:
            raise ConfigError(
                found=f"modality {modality!r}", expected=f"one of {', '.join(MODALITIES)}", fix="name one of these"
            )
    if (target / "model.yaml").exists() and not options.overwrite:
        raise OutputExistsError(
            found=f"{target} holds a model already",
            expected="a folder without model.yaml",
            fix="name another folder, or add --overwrite (overwrite=True) to replace it",
        )
    arrival = _understand(source, options)
    arrival = _coded(arrival, options)
    if arrival.previous is None:
        _write(arrival, target)
    else:
        _write_cascade(arrival, _coded(arrival.previous, options), target)
    return arrival


def _coded(arrival: ImportedModel, options: ImportOptions) -> ImportedModel:
    labels = with_codes(arrival.spec.labels, options.codes)
    return replace(arrival, spec=arrival.spec.model_copy(update={"labels": labels}))


def _understand(source: Path, options: ImportOptions) -> ImportedModel:
    from voxmetry.nn.interop.bundle import is_bundle, read_bundle
    from voxmetry.nn.interop.nnunet import is_nnunet, read_nnunet

    try:
        if is_bundle(source):
            return read_bundle(source, options)
        if is_nnunet(source):
            return read_nnunet(source, options)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        # What is not as its format has it: `in_channels: x`, strides without three numbers, a list for a mapping.
        raise ModelError(
            found=f"{source.name} is not as its format has it: {type(error).__name__}: {str(error)[:200]}",
            expected="the files of an nnU-Net v2 model or a MONAI bundle, as their programs write them",
            fix="get the model again, or correct the value in its configuration",
        ) from error
    if not source.is_dir():
        found = f"{source} is no folder"
    else:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:8]) or "nothing"
        found = f"{source} holds {names}"
    raise ModelError(
        found=found,
        expected="an nnU-Net v2 model folder (plans.json, dataset.json, fold_0/...) or a MONAI bundle "
        "(configs/metadata.json, models/...)",
        fix=f"it is a model folder already: voxmetry segment STUDY -m {source} -o OUT"
        if (source / "model.yaml").is_file()
        else "give the folder that holds these; unpack an archive first",
    )


def _write(arrival: ImportedModel, out: Path) -> None:
    """Write weights and card, and model.yaml last: a model is there when it is whole."""
    data = pack(arrival.spec, arrival.members)
    finished = arrival.spec.model_copy(update={"weights": Weights(sha256=sha256_of(data))})
    make_folder(out)
    (out / "model.yaml").unlink(missing_ok=True)
    write_bytes(out / "weights.safetensors", data)
    write_text(out / "MODEL_CARD.md", _card(arrival))
    write_text(out / "model.yaml", dump_yaml(finished))


def _write_cascade(second: ImportedModel, first: ImportedModel, out: Path) -> None:
    """Write both stages as folders of a composite model, whose model.yaml comes last."""
    make_folder(out)
    (out / "model.yaml").unlink(missing_ok=True)
    _write(first, out / STAGES[0])
    _write(second, out / STAGES[1])
    of_both = zip(STAGES, (first, second), strict=True)
    sources = {f"{stage}: {name}": digest for stage, one in of_both for name, digest in one.sources.items()}
    write_text(out / "MODEL_CARD.md", _card(replace(second, sources=sources)))
    write_text(out / "model.yaml", dump_yaml(cascade_spec(second.spec, first.spec)))


def cascade_spec(second: ModelSpec, first: ModelSpec) -> CompositeSpec:
    """Return the composite that runs a cascade's two networks, in the folders `STAGES` beside its model.yaml."""
    return CompositeSpec(
        kind="composite",
        name=second.name,
        version=second.version,
        summary=second.summary,
        licence=second.licence,
        body_part=second.body_part,
        inputs=tuple(
            CompositeInput(name=item.name, modality=item.modality, series=item.series) for item in second.inputs
        ),
        labels=second.labels,
        how="cascade",
        members=tuple(
            Member(model=stage, values={value: value for value in spec.labels.values})
            for stage, spec in zip(STAGES, (first, second), strict=True)
        ),
        training_domain=second.training_domain,
    )


def pack(spec: ModelSpec, members: Sequence[dict[str, torch.Tensor]]) -> bytes:
    """Return the parameters of all members as float32 safetensors, after a look whether the network takes them.

    Raises
    ------
    ModelError
        If they are those of another network.
    """
    values = sum(value.numel() for member in members for value in member.values())
    require_size(spec, 4 * values, "the checkpoint")
    network = build_network(spec)
    want = distinct_tensors(network)
    if len(members) == 1:
        have = dict(members[0])
    else:
        have = {f"members.{n}.{name}": value for n, member in enumerate(members) for name, value in member.items()}
    # A network may register a block twice, under two names for one tensor; the file holds each once.
    twice = set(network.state_dict()) - set(want)
    have = {name: value for name, value in have.items() if name not in twice}
    require_fit(have, want, "the checkpoint")
    return save({name: have[name].detach().to(want[name].dtype).contiguous().clone() for name in want})


def _card(arrival: ImportedModel) -> str:
    spec = arrival.spec
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        f"{spec.summary}. Research use only; not a medical device.",
        "",
        f"Licence of these weights: {spec.licence}.",
        "",
        f"Imported from {arrival.origin}. Its accuracy was not measured here; see its authors' publication.",
        "",
        "## Where the weights come from",
        "",
        "| file | SHA-256 |",
        "| --- | --- |",
        *(f"| {name} | {digest} |" for name, digest in arrival.sources.items()),
        "",
        "## What it takes and returns",
        "",
        "Inputs: " + ", ".join(f"{item.name} ({item.modality})" for item in spec.inputs) + ".",
        "",
        "Structures: " + ", ".join(f"{label.value} {label.name}" for label in spec.labels) + ".",
        "",
        "Axes of the network's grid: " + ", ".join(spec.orientation) + "; voxels of "
        f"{' x '.join(f'{mm:g}' for mm in spec.spacing_mm)} mm; patches of "
        f"{' x '.join(str(n) for n in spec.window.patch)} voxels.",
        "",
    ]
    if arrival.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in arrival.notes), ""]
    return "\n".join(lines)
