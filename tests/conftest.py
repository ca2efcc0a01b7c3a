"""What all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# The same examples in every run, and no verdict on how long they take: both would hang on the day and the machine.
hypothesis.settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")

DATA = Path(os.environ.get("VOXMETRY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data that data/README.md describes; the test is skipped, with the reason, without it."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}: see data/README.md, or set VOXMETRY_TEST_DATA")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled networks of the tests stay out of the user's cache."""
    os.environ["VOXMETRY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of the system, or the one that Playwright has; the test is skipped where there is neither.

    One for all tests: Playwright does not start twice in one process. WebGL is rendered by software, so that the viewer
    runs on a machine without a graphics card.
    """
    api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium on this machine")
        arguments = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
        started = playwright.chromium.launch(executable_path=path, args=arguments, timeout=300_000)
        yield started
        started.close()
