"""Models from and for others: what stands behind `voxmetry models pull`, `import`, `merge` and `export`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from voxmetry.models import AnySpec
from voxmetry.models.catalogue import CatalogueEntry as CatalogueEntry
from voxmetry.models.catalogue import read_catalogue
from voxmetry.models.structures import read_structures
from voxmetry.nn.interop import ImportOptions as ImportOptions
from voxmetry.nn.interop import export_model as export_model
from voxmetry.nn.interop.imported import ImportedModel
from voxmetry.workflows.pull_model import PullOptions as PullOptions
from voxmetry.workflows.pull_model import import_to_folder, import_to_store, pull_model
from voxmetry.workflows.pull_model import merge_models as merge_models


def pull(
    name: str,
    options: PullOptions,
    *,
    catalogue: Path | None = None,
    codes: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> AnySpec:
    """Fetch a model and install it; see `pull_model`. `codes` is a table of structures that wins over the package's.

    Raises
    ------
    VoxmetryError
        As `pull_model`; also if a table cannot be read.
    """
    if codes is not None:
        options = replace(options, codes=read_structures(codes))
    known = None if catalogue is None else read_catalogue(catalogue)
    return pull_model(name, options, catalogue=known, tell=tell)


def import_any(
    path: Path, options: ImportOptions, *, out: Path | None = None, codes: Path | None = None
) -> ImportedModel:
    """Import a model of another framework into a folder, or where none is named into the user's folder of models.

    Raises
    ------
    VoxmetryError
        As `nn.interop.import_model`; also if the table `codes` cannot be read.
    """
    if codes is not None:
        options = replace(options, codes=read_structures(codes))
    return import_to_store(path, options) if out is None else import_to_folder(path, out, options)
