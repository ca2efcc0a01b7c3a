"""A real browser: Chromium of the system, or the one that Playwright has; skipped where there is neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxmetry import Flag, Geometry, Label, LabelTable, Segmentation, Volume, write_report


class Seen:
    """A page, and all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1100, "height": 800}, **context)
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def start_viewer(self) -> str:
        self.page.locator("#viewer-section").scroll_into_view_if_needed()
        self.page.wait_for_selector("#viewer[data-state]")
        return self.page.get_attribute("#viewer", "data-state")


@pytest.fixture
def look(browser: Any) -> Iterator[Any]:
    opened = []

    def look(path: Path, **context: Any) -> Seen:
        opened.append(Seen(browser, path, **context))
        return opened[-1]

    yield look
    for seen in opened:
        seen.context.close()


def blocks() -> tuple[Volume, Segmentation]:
    """Two blocks in noise, one of them a lesion, far enough apart to tell where the viewer is."""
    grid = Geometry(np.array([[-1.5, 0, 0, 30], [0, 1.5, 0, -40], [0, 0, 2.0, 10], [0, 0, 0, 1]]), (40, 48, 24))
    array = np.zeros(grid.shape, np.uint8)
    array[6:14, 8:18, 5:10] = 1
    array[26:34, 30:42, 12:20] = 2
    labels = LabelTable(
        labels=(
            Label(value=1, name="kidney_left", colour="#E69F00"),
            Label(value=2, name="tumour", colour="#56B4E9", kind="lesion"),
        )
    )
    image = np.random.default_rng(0).normal(40, 12, grid.shape) + 40 * (array > 0)
    return Volume(image.astype(np.int16), grid, "HU"), Segmentation(array, grid, labels)


@pytest.fixture
def two_blocks() -> tuple[Volume, Segmentation]:
    return blocks()


@pytest.fixture(scope="session")
def make_page(tmp_path_factory: Any) -> Any:
    def make_page(result: Any, volume: Volume, segmentation: Segmentation, **options: Any) -> Path:
        path = tmp_path_factory.mktemp("page") / "report.html"
        write_report(result, path, volume=volume, segmentation=segmentation, **options)
        return path

    return make_page


@pytest.fixture
def report(make_page: Any, make_result: Any) -> Path:
    from voxmetry.measurement import lesions

    volume, segmentation = blocks()
    flags = (
        Flag(code="volume_out_of_range", severity="review", message="2.3 mL is below 10 mL.", label="kidney_left"),
    )
    result = make_result(volume, segmentation, segmentation, flags=flags, modality="CT", description="Abdomen")
    result = result.model_copy(update={"lesions": lesions(segmentation, volume, organs=segmentation)})
    return make_page(result, volume, segmentation, reference=segmentation)
