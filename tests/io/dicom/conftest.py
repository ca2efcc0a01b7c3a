"""A phantom as a DICOM series, and what is needed to spoil it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

import phantoms
from voxmetry import Volume
from voxmetry.io import write_series

FRAME_UID = "1.2.826.0.1.3680043.8.498.7"


@pytest.fixture
def volume() -> Volume:
    return phantoms.volume(phantoms.geometry(frame_uid=FRAME_UID))


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "series"
    grid = phantoms.geometry(frame_uid=FRAME_UID)
    write_series(phantoms.volume(grid), folder, modality="MR", description="phantom", series_uid="1.2.3")
    return folder


@pytest.fixture
def files(tmp_path: Path, _written: Path) -> list[Path]:
    """Eleven axial MR slices 2.6 mm apart, in slice order, in a folder of their own."""
    return sorted(shutil.copytree(_written, tmp_path / "series").iterdir())


@pytest.fixture
def edit() -> Callable[..., None]:
    """Set elements of a file; None removes one; a callable gets the whole data set."""

    def change(path: Path, function: Callable[[Any], None] | None = None, **elements: Any) -> None:
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if function:
            function(dataset)
        dataset.save_as(path)

    return change
