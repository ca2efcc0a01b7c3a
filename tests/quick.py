"""Reports with small pictures, for tests that read a report's words and look at none of its pictures."""

from __future__ import annotations

import pytest

from voxmetry.report.pictures import material


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each picture at 48 x 48 pixels: most of the time of a small study goes into its report's pictures."""
    monkeypatch.setattr(material, "FULL_PIXELS", 48)
    monkeypatch.setattr(material, "SMALL_PIXELS", 48)
