"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
