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
from voxmetry import Label, LabelTable, Segmentation, Volume, read_volume
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Code
from voxmetry.io import write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg

TABLE = LabelTable(
    labels=(
        Label(value=1, name="liver", colour="#009E73", code=Code(value="10200004", meaning="Liver")),
        Label(value=2, name="spleen", colour="#D55E00", code=Code(value="78961009", meaning="Spleen")),
    )
)
DIST = os.environ.get("VOXMETRY_OHIF")


@pytest.fixture
def page(orthanc, browser, tmp_path):
    """A CT by code with two boxes, shown by OHIF; yields a function that opens a series of it."""
    if DIST is None or not (Path(DIST) / "index.html").is_file():
        pytest.skip("VOXMETRY_OHIF does not name the built OHIF of npm (@ohif/app, folder dist)")
    sys.path.insert(0, str(Path(__file__).parents[3] / "deploy"))
    import viewer

    grid = Geometry(np.diag([-1.5, -1.5, 3.0, 1.0]), (128, 112, 16))
    values = np.full(grid.shape, -900, np.int16)
    values[10:118, 10:102] = 40
    masks = np.zeros(grid.shape, np.uint8)
    masks[20:50, 30:60, 2:14], masks[80:104, 64:80, 2:14] = 1, 2
    write_series(Volume(values, grid, "HU"), tmp_path / "ct", modality="CT", description="CT")
    volume = read_volume(tmp_path / "ct")
    back = np.zeros(volume.geometry.shape, np.uint8)
    places = np.argwhere(masks)
    index = np.rint(np.linalg.inv(volume.geometry.affine) @ grid.affine @ np.c_[places, np.ones(len(places))].T).astype(
        int
    )
    back[tuple(index[:3])] = masks[tuple(places.T)]
    truth, source = Segmentation(back, volume.geometry, TABLE), read_source(volume)
    origin = Origin("automatic", "phantom", "1.0", serial="f" * 64, software="1.0")
    write_seg(truth, source, tmp_path / "seg.dcm", origin=origin, description="two boxes")
    write_rtstruct(truth, source, tmp_path / "rt.dcm", origin=origin, description="two contours")
    orthanc.clear()
    orthanc.upload(*(tmp_path / "ct").iterdir(), tmp_path / "seg.dcm", tmp_path / "rt.dcm")
    study = orthanc.get(f"studies/{orthanc.get('studies')[0]}")["MainDicomTags"]["StudyInstanceUID"]
    port = free_port()
    server = viewer.serve(Path(DIST), orthanc.url, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(series: str) -> tuple[str, np.ndarray]:
        opened = browser.new_page(viewport={"width": 1400, "height": 850})
        opened.goto(f"http://127.0.0.1:{port}/segmentation?StudyInstanceUIDs={study}", timeout=120_000)
        label = opened.locator("[data-cy=series-description-label]", has_text=series)
        label.wait_for(timeout=120_000)
        opened.wait_for_timeout(6000)
        label.dblclick(force=True)
        opened.wait_for_timeout(8000)
        if opened.locator("button:has-text('Yes')").count():
            opened.locator("button:has-text('Yes')").click()
        opened.get_by_text("spleen").first.wait_for(timeout=60_000)
        opened.wait_for_timeout(4000)
        opened.screenshot(path=tmp_path / "page.png")
        words = opened.inner_text("body")
        opened.close()
        return words, np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)

    yield show
    server.shutdown()
    server.server_close()


def like(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the viewport has a colour's hue, mixed with grey or not."""
    inside = pixels[60:830, 295:1100]
    flat = inside - inside.min(axis=2, keepdims=True)
    wanted = np.array(colour) - min(colour)
    size = np.linalg.norm(flat, axis=2) * np.linalg.norm(wanted)
    return (flat @ wanted > 0.985 * size) & (np.linalg.norm(flat, axis=2) > 40)


@pytest.mark.slow
@pytest.mark.parametrize("series", ["two boxes", "two contours"])
def test_a_segmentation_is_shown_with_its_names_colours_and_places(page, series) -> None:
    words, pixels = page(series)
    assert "liver" in words
    assert "spleen" in words
    liver, spleen = like(pixels, (0, 158, 115)), like(pixels, (213, 94, 0))
    assert liver.sum() > 300
    assert spleen.sum() > 200
    # The first index runs to the patient's left, which is on the right of the picture.
    assert np.argwhere(liver).mean(axis=0)[1] < np.argwhere(spleen).mean(axis=0)[1]
