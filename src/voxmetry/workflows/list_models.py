"""The models that there are: what stands behind `voxmetry models list` and `show`. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxmetry.errors import ModelError
from voxmetry.models import AnySpec, find_model, read_any_spec
from voxmetry.models.catalogue import CatalogueEntry, known_models, read_catalogue
from voxmetry.models.listing import ListedModel, list_entries


@dataclass(frozen=True)
class InstalledModel:
    """A model that is here: its specification and its folder."""

    spec: AnySpec
    folder: Path


@dataclass(frozen=True)
class AvailableModel:
    """A model that can be pulled: its entry in the catalogue, and where the facts in it come from."""

    entry: CatalogueEntry
    source: str


def list_models(catalogue: Path | None = None) -> tuple[ListedModel, ...]:
    """Return the models that are bundled, imported, and available to pull; `catalogue` stands for the package's own."""
    return list_entries(known_models() if catalogue is None else read_catalogue(catalogue))


def describe_model(name: str) -> InstalledModel | AvailableModel:
    """Find a model by its name or folder, or by its name in the catalogue.

    Raises
    ------
    ModelError
        If there is none of this name.
    """
    known = known_models()
    try:
        folder = find_model(name)
    except ModelError:
        if name not in known:
            raise
        return AvailableModel(known[name], known.sources_of(known[name]))
    return InstalledModel(read_any_spec(name), folder)
