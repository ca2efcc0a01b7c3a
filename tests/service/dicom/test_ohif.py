"""OHIF shows what this package writes of a CT: names, colours and places. Half a minute a page, so only if asked for.

VOXMETRY_OHIF names the folder `dist` of the package @ohif/app of npm.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthanc import free_port
from voxmetry import Label, LabelTable, Segmentation, Volume, lesions, measure, read_volume
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Code
from voxmetry.core.records import Lesion
from voxmetry.io import write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg
from voxmetry.workflows.dicom_objects import lesions_apart

TABLE = LabelTable(
    labels=(
        Label(value=5, name="liver", colour="#009E73", code=Code(value="10200004", meaning="Liver")),
        Label(value=52, name="spleen", colour="#D55E00", code=Code(value="78961009", meaning="Spleen")),
        Label(value=70, name="tumour", colour="#0072B2", kind="lesion"),
    )
)
"""Values with gaps, as those of a few structures among many."""
BODY = ((10, 118), (10, 102))
"""Columns and rows of the bright part of the CT."""
DIST = os.environ.get("VOXMETRY_OHIF")
LINES = """() => [...document.querySelectorAll("svg.svg-layer line")].map(line => {
    const layer = line.ownerSVGElement.getBoundingClientRect();
    return [layer.x + +line.getAttribute("x1"), layer.y + +line.getAttribute("y1"),
            layer.x + +line.getAttribute("x2"), layer.y + +line.getAttribute("y2")];
})"""
"""The ends of each line that is drawn over the image, on the screen."""


@pytest.fixture
def page(orthanc, browser, tmp_path):
    """A CT by code with two boxes, shown by OHIF; yields a function that opens a series, and the axes."""
    if DIST is None or not (Path(DIST) / "index.html").is_file():
        pytest.skip("VOXMETRY_OHIF does not name the built OHIF of npm (@ohif/app, folder dist)")
    sys.path.insert(0, str(Path(__file__).parents[3] / "deploy"))
    import viewer

    grid = Geometry(np.diag([-1.5, -1.5, 3.0, 1.0]), (128, 112, 16))
    values = np.full(grid.shape, -900, np.int16)
    values[slice(*BODY[0]), slice(*BODY[1])] = 40
    masks = np.zeros(grid.shape, np.uint8)
    masks[20:50, 30:60, 2:14], masks[80:104, 64:80, 2:14] = 5, 52
    masks[60:76, 30:40, 4:6] = masks[70:76, 40:46, 4:6] = 70
    write_series(Volume(values, grid, "HU"), tmp_path / "ct", modality="CT", description="CT")
    volume = read_volume(tmp_path / "ct")
    back = np.zeros(volume.geometry.shape, np.uint8)
    places = np.argwhere(masks)
    index = np.rint(np.linalg.inv(volume.geometry.affine) @ grid.affine @ np.c_[places, np.ones(len(places))].T).astype(
        int
    )
    back[tuple(index[:3])] = masks[tuple(places.T)]
    truth, source = Segmentation(back, volume.geometry, TABLE), read_source(volume)
    found = lesions(truth, volume)
    apart = lesions_apart(truth, found)
    origin = Origin("automatic", "phantom", "1.0", serial="f" * 64, software="1.0")
    seg = write_seg(apart, source, tmp_path / "seg.dcm", origin=origin, description="the boxes")
    write_rtstruct(apart, source, tmp_path / "rt.dcm", origin=origin, description="the contours")
    rows = [*(row for row in measure(truth, volume) if row.kind == "organ"), *found]
    write_report_sr(rows, TABLE, seg, source, tmp_path / "sr.dcm", origin=origin, description="the numbers")
    orthanc.clear()
    orthanc.upload(*(tmp_path / "ct").iterdir(), *(tmp_path / name for name in ("seg.dcm", "rt.dcm", "sr.dcm")))
    study = orthanc.get(f"studies/{orthanc.get('studies')[0]}")["MainDicomTags"]["StudyInstanceUID"]
    port = free_port()
    server = viewer.serve(Path(DIST), orthanc.url, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(series: str, mode: str, until: str) -> tuple[str, np.ndarray, list[list[float]]]:
        opened = browser.new_page(viewport={"width": 1400, "height": 850})
        opened.set_default_timeout(120_000)
        opened.goto(f"http://127.0.0.1:{port}/{mode}?StudyInstanceUIDs={study}", timeout=120_000)
        label = opened.locator("[data-cy=series-description-label]", has_text=series)
        label.wait_for(timeout=120_000)
        opened.wait_for_timeout(6000)
        # The basic viewer begins with a tour.
        if opened.locator("text=Skip all").count():
            opened.locator("text=Skip all").click()
        label.dblclick(force=True)
        opened.wait_for_timeout(8000)
        if opened.locator("button:has-text('Yes')").count():
            opened.locator("button:has-text('Yes')").click()
        opened.locator(until).first.wait_for(state="attached", timeout=120_000)
        opened.wait_for_timeout(4000)
        opened.screenshot(path=tmp_path / "page.png")
        words, lines = opened.inner_text("body"), opened.evaluate(LINES)
        opened.close()
        return words, np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int), lines

    yield show, [(row, [source.slice_of(np.array(ends))[1] for ends in _axes(row)]) for row in found]
    server.shutdown()
    server.server_close()


def _axes(row: Lesion):
    return row.long_axis_ends_ras_mm, row.short_axis_ends_ras_mm


def like(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the viewport has a colour's hue, mixed with grey or not."""
    inside = pixels[60:830, 295:1100]
    flat = inside - inside.min(axis=2, keepdims=True)
    wanted = np.array(colour) - min(colour)
    size = np.linalg.norm(flat, axis=2) * np.linalg.norm(wanted)
    return (flat @ wanted > 0.985 * size) & (np.linalg.norm(flat, axis=2) > 40)


@pytest.mark.slow
@pytest.mark.parametrize("series", ["the boxes", "the contours"])
def test_a_segmentation_is_shown_with_its_names_colours_and_places(page, series) -> None:
    words, pixels, _ = page[0](series, "segmentation", "text=spleen")
    assert "liver" in words
    assert "spleen" in words
    liver, spleen = like(pixels, (0, 158, 115)), like(pixels, (213, 94, 0))
    assert liver.sum() > 300
    assert spleen.sum() > 200
    # The first index runs to the patient's left, which is on the right of the picture.
    assert np.argwhere(liver).mean(axis=0)[1] < np.argwhere(spleen).mean(axis=0)[1]


@pytest.mark.slow
def test_the_axes_of_a_lesion_are_drawn_where_they_were_measured(page) -> None:
    show, ((row, axes),) = page
    words, pixels, lines = show("the numbers", "viewer", "svg.svg-layer line")
    assert f"Long axis: {row.long_axis_mm:.2f} mm" in words
    assert f"Short axis: {row.short_axis_mm:.2f} mm" in words
    # The edges of the bright body say where a pixel of the image lies on the screen.
    bright = pixels[:, 300:1340].min(axis=2) > 100
    across, down = (np.flatnonzero(bright.mean(axis=axis) > 0.5) for axis in (0, 1))
    low, high = np.array([across[0] + 300, down[0]]), np.array([across[-1] + 301, down[-1] + 1])
    (left, right), (top, bottom) = BODY
    scale = (high - low) / [right - left, bottom - top]
    for axis in axes:
        expected = low + (axis - [left, top]) * scale
        drawn = [np.reshape(line, (2, 2)) for line in lines]
        nearest = min(min(np.abs(line - expected).max(), np.abs(line[::-1] - expected).max()) for line in drawn)
        assert nearest < 0.5 * scale.min()
