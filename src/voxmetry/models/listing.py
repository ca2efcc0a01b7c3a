"""What `voxmetry models list` shows: bundled, imported and available models."""

from __future__ import annotations

from typing import Literal

from voxmetry.core.base import Record
from voxmetry.errors import VoxmetryError
from voxmetry.models import BUNDLED, AnySpec, read_any_spec
from voxmetry.models.catalogue import Catalogue
from voxmetry.models.store import folder_bytes, installed_folders


class ListedModel(Record):
    """One line of the list."""

    name: str
    where: Literal["bundled", "imported", "available"]
    modalities: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    licence: str = ""
    size_mb: float | None = None
    """On this disk, in 10^6 bytes; None for what is not here."""
    summary: str = ""
    problem: str = ""
    """Why it cannot be used; empty where it can."""


def list_entries(catalogue: Catalogue) -> tuple[ListedModel, ...]:
    """Return all models, those that are here first, by name. One that is damaged is listed with what is wrong."""
    found = []
    bundled = {path.parent.name: path.parent for path in sorted(BUNDLED.glob("*/model.yaml"))}
    for where, folders in (("bundled", bundled), ("imported", installed_folders())):
        for name, folder in folders.items():
            size_mb = round(folder_bytes(folder) / 1e6, 1)
            common = {"name": name, "where": where, "size_mb": size_mb}
            try:
                found.append(ListedModel.model_validate(common | _facts(read_any_spec(folder))))
            except VoxmetryError as error:
                found.append(ListedModel.model_validate(common | {"problem": error.found}))
    here = {entry.name for entry in found}
    found += [
        ListedModel(
            name=entry.name,
            where="available",
            modalities=(entry.modality,),
            structures=entry.labels,
            licence=entry.licence,
            summary=entry.summary,
        )
        for entry in catalogue.models
        if entry.name not in here
    ]
    return tuple(found)


def _facts(spec: AnySpec) -> dict[str, object]:
    return {
        "modalities": tuple(item.modality for item in spec.inputs),
        "structures": spec.labels.names,
        "licence": spec.licence,
        "summary": spec.summary,
    }
