"""A model of another framework, understood: what is asked for, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from voxmetry.config import ModelSpec
from voxmetry.models.structures import Structure

MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True)
class ImportOptions:
    """What the files of a model do not say, or what should be otherwise.

    Parameters
    ----------
    name
        Of the new model; None makes one from the source's.
    modalities
        One an input; needed where the names of the channels do not tell.
    orientation
        The axes of the images that the model was trained on, such as "RAS", or "stored"; None takes what the source
        says.
    folds
        Folds of an nnU-Net folder to average, such as ("0", "1") or ("all",); None takes all that are there.
    checkpoint
        File name of the weights; None takes the framework's usual one.
    mirroring
        False leaves out mirroring at inference, which costs up to eight times the time.
    licence
        Of the weights; None takes what the source says.
    overwrite
        Whether to replace a model that is there already.
    codes
        Codes, sides and colours of structures by name, which win over the package's own table; see
        `models.structures`.
    """

    name: str | None = None
    modalities: tuple[str, ...] = ()
    orientation: str | None = None
    folds: tuple[str, ...] | None = None
    checkpoint: str | None = None
    mirroring: bool = True
    licence: str | None = None
    overwrite: bool = False
    codes: tuple[Structure, ...] = ()


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A model of another framework, understood but not yet written.

    Parameters
    ----------
    spec
        Without weights.
    members
        The parameters of each network of the ensemble, under the names of `build_network(spec)`.
    origin
        Framework and version, as the card says it.
    sources
        SHA-256 by file name of what the weights came from.
    notes
        What a user should know, each a sentence.
    previous
        The first stage of a cascade, of which this is the second; None for other models.
    """

    spec: ModelSpec
    members: tuple[dict[str, torch.Tensor], ...]
    origin: str
    sources: dict[str, str]
    notes: tuple[str, ...] = ()
    previous: ImportedModel | None = None
