"""A service that really listens, on loopback, with a model that runs in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import models
import phantoms
from service_clients import SHAPE, start
from voxmetry import save
from voxmetry.config.service import ServiceLimits

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return models.write(tmp_path_factory.mktemp("tiny") / "tiny-mr")


@dataclass
class Live:
    """A running service."""

    address: str
    data: Path
    root: Path
    limits: ServiceLimits

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")


@pytest.fixture(scope="session")
def live(tmp_path_factory, tiny_model):
    """One service for all tests that leave nothing behind that others would stumble over."""
    from voxmetry.config import StudySettings
    from voxmetry.config.service import ServiceSettings

    folder = tmp_path_factory.mktemp("service")
    root = folder / "research"
    (root / "group").mkdir(parents=True)
    save(phantoms.volume(phantoms.geometry(shape=SHAPE)), root / "group" / "a.nii.gz")
    save(phantoms.volume(phantoms.geometry(shape=SHAPE), seed=1), root / "b.nii.gz")
    settings = ServiceSettings(
        data=str(folder / "data"),
        port=0,
        models=(str(tiny_model),),
        roots={"research": str(root)},
        settings=StudySettings(report="brief", device="cpu"),
        limits={"free_mb": 1, "upload_mb": 3, "upload_files": 50},
    )
    address, end = start(settings)
    yield Live(address, folder / "data", root, settings.limits)
    end()
