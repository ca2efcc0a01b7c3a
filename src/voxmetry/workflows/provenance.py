"""How a result came to be: versions, settings, device, times, memory."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voxmetry import nn
from voxmetry._version import __version__
from voxmetry.classical import Baseline
from voxmetry.config import StudySettings
from voxmetry.core.memory import peak_bytes
from voxmetry.core.records import Provenance

PACKAGES = ("voxmetry", "torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "connected-components-3d", "edt")
"""Whose versions are kept: they have a hand in the numbers."""


class Clock:
    """Wall-clock seconds of named steps, each told as it begins; those of a step that goes on are added up."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self.started = datetime.datetime.now(datetime.UTC)
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block under a name."""
        if self._tell and name not in self.seconds:
            self._tell(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 4)

    def total(self) -> dict[str, float]:
        """Return the steps and the time since the clock was made."""
        return self.seconds | {"total": round(time.perf_counter() - self._begin, 4)}


def provenance(model: nn.Predictor | nn.Composite | Baseline, settings: StudySettings, clock: Clock) -> Provenance:
    """Write down how the result came to be."""
    return Provenance(
        voxmetry_version=__version__,
        packages=package_versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        model=model.spec.name,
        model_version=model.spec.version,
        weights_sha256=model.weights.sha256,
        settings=settings.model_dump(mode="json"),
        device=model.device,
        precision="float32" if isinstance(model, Baseline) else model.precision,
        plan="" if isinstance(model, Baseline) else str(model.last_plan or ""),
        fast=None if isinstance(model, Baseline) else model.fast,
        started=clock.started.isoformat(timespec="seconds"),
        seconds=clock.total(),
        peak_memory_mb=peak_memory_mb(),
    )


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that have a hand in the numbers."""
    versions = {"voxmetry": __version__}
    for name in PACKAGES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far in 10^6 bytes; nan where the system does not tell."""
    peak = peak_bytes()
    return float("nan") if peak is None else round(peak / 1e6, 1)
