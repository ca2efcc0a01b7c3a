"""The page in a browser: quiet, closed in itself, usable by pointer, by keyboard and by who cannot see it."""

import shutil
import subprocess

import numpy as np
import pytest

from voxmetry import Geometry, Volume
from voxmetry.core.records import OtherInput

BUDGET_BYTES = 2_000_000


def place(seen):
    return seen.page.inner_text("#viewer-where")


def mm(seen, axis):
    return float(seen.page.get_attribute(f"#viewer-{axis}", "aria-valuetext").split()[0])


def test_the_page_is_quiet_asks_for_nothing_and_stays_small(look, report):
    seen = look(report)
    assert seen.start_viewer() == "ready"
    assert seen.errors == []
    assert seen.requests == [report.as_uri()]
    assert report.stat().st_size < BUDGET_BYTES


def test_a_row_moves_the_viewer(look, report):
    seen = look(report)
    seen.start_viewer()
    seen.page.click("#findings-table a[data-go=structure-1]")
    seen.page.wait_for_selector("#viewer[data-at=structure-1]")
    assert place(seen).startswith("kidney_left: ")
    # Voxel (9 or 10, 12 or 13, 7): 30 - 1.5 * 9.5 mm, and so on, to within a voxel.
    assert mm(seen, "x") == pytest.approx(15.75, abs=1.6)
    assert mm(seen, "y") == pytest.approx(-21.25, abs=1.6)
    assert mm(seen, "z") == pytest.approx(24.0, abs=2.1)
    seen.page.click("#lesion-table a[data-go=lesion-1]")
    seen.page.wait_for_selector("#viewer[data-at=lesion-1]")
    assert place(seen).startswith("tumour-1: ")
    assert mm(seen, "x") == pytest.approx(-14.25, abs=1.6)
    assert mm(seen, "y") == pytest.approx(13.25, abs=1.6)


def test_the_whole_way_by_keyboard(look, report):
    seen = look(report)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    seen.start_viewer()
    seen.page.focus("#findings-table a[data-go=structure-1]")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#viewer[data-at=structure-1]")
    seen.page.wait_for_function("document.activeElement.id === 'viewer-canvas'")
    before = [mm(seen, axis) for axis in "xyz"]
    # On the screen the patient's left is on the right.
    for key in ("ArrowRight", "ArrowUp", "PageUp"):
        seen.page.keyboard.press(key)
    after = [mm(seen, axis) for axis in "xyz"]
    assert after[0] == pytest.approx(before[0] - 1.5, abs=0.11)
    assert after[1] == pytest.approx(before[1] + 1.5, abs=0.11)
    assert after[2] == pytest.approx(before[2] + 2.0, abs=0.11)
    seen.page.focus("#viewer-z")
    seen.page.keyboard.press("Home")
    assert mm(seen, "z") <= 10.1
    seen.page.focus("[name=viewer-layout][value=all]")
    seen.page.keyboard.press("ArrowRight")
    assert seen.page.is_checked("[name=viewer-layout][value=axial]")
    assert seen.errors == []


def test_window_opacity_and_structures_change_what_is_seen(look, report):
    seen = look(report)
    seen.start_viewer()
    canvas = seen.page.locator("#viewer-canvas")
    shots = [canvas.screenshot()]
    seen.page.select_option("#viewer-window", label="Bone")
    assert seen.page.input_value("#viewer-level") != seen.page.get_attribute("#viewer-level", "value")
    shots.append(canvas.screenshot())
    seen.page.locator("#viewer-opacity").fill("1")
    shots.append(canvas.screenshot())
    seen.page.uncheck("[name=viewer-shown][value='1']")
    shots.append(canvas.screenshot())
    assert len(set(shots)) == len(shots)
    assert seen.errors == []


def test_surfaces_come_after_the_slices(look, report):
    seen = look(report)
    seen.start_viewer()
    seen.page.wait_for_selector("#viewer[data-surfaces=ready]")
    at = seen.page.evaluate(
        "['viewer-ready', 'viewer-complete'].map((name) => performance.getEntriesByName(name)[0].startTime)"
    )
    assert at[0] < at[1]
    assert seen.errors == []


@pytest.fixture
def pet_report(make_page, make_result, two_blocks):
    """A hot block of SUV 8 in the second image, on a coarser grid, where the first one's tumour is."""
    volume, segmentation = two_blocks
    result = make_result(volume, segmentation, modality="CT")
    grid = Geometry(np.array([[-4.0, 0, 0, 30], [0, 4.0, 0, -40], [0, 0, 4.0, 10], [0, 0, 0, 1]]), (16, 19, 13))
    array = np.full(grid.shape, 0.5, np.float32)
    array[10:13, 11:16, 6:10] = 8.0
    pet = OtherInput(name="pet", source=result.source.model_copy(update={"modality": "PT"}), measurements=())
    result = result.model_copy(update={"others": (pet,)})
    return make_page(result, volume, segmentation, others=(Volume(array, grid, "SUVbw"),))


def test_the_second_image_is_shown_from_the_beginning_and_turned_by_button_and_by_key(look, pet_report):
    seen = look(pet_report)
    seen.start_viewer()
    seen.page.click("a[data-go=structure-2]")
    seen.page.wait_for_selector("#viewer[data-at=structure-2]")
    canvas = seen.page.locator("#viewer-canvas")
    where = seen.page.locator("#viewer-where")
    assert seen.page.get_attribute("#viewer-overlay", "aria-pressed") == "true"
    over = canvas.screenshot()
    seen.page.locator("#viewer-overlay-top").fill("2")
    assert seen.page.inner_text("#viewer-overlay-end") == "2.0"
    assert canvas.screenshot() != over
    seen.page.focus("#viewer-canvas")
    seen.page.keyboard.press("p")
    seen.page.wait_for_selector("#viewer-overlay[aria-pressed=false]")
    where.filter(has_not_text="SUV").wait_for()
    alone = canvas.screenshot()
    assert alone != over
    seen.page.click("#viewer-overlay")
    where.filter(has_text="SUV 8.0").wait_for()
    assert canvas.screenshot() != alone
    assert seen.errors == []
    assert seen.requests == [pet_report.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(look, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # The page's own policy would keep the checker out.
    seen = look(report, color_scheme=scheme, bypass_csp=True)
    seen.start_viewer()
    found = axe.Axe().run(seen.page).response["violations"]
    serious = [
        (fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_without_webgl_the_slices_remain(look, report):
    seen = look(report)
    # As a browser without WebGL answers, before the viewer has started.
    seen.page.evaluate("HTMLCanvasElement.prototype.getContext = () => null")
    assert seen.start_viewer() == "absent"
    assert "no WebGL 2" in place(seen)
    assert not seen.page.is_visible("#viewer-canvas")
    assert seen.page.locator(".panel img").first.is_visible()
    assert seen.errors == []


def test_without_script_the_page_is_whole(look, report):
    seen = look(report, java_script_enabled=False)
    assert not seen.page.is_visible("#viewer-section")
    assert seen.page.is_visible("#findings-table")
    assert seen.page.locator("figure img").count() >= 9


def test_a_phone_needs_no_sideways_scrolling_of_the_page(look, report):
    seen = look(report)
    seen.page.set_viewport_size({"width": 390, "height": 800})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_paper_the_viewer_is_left_out(look, report, tmp_path):
    seen = look(report)
    seen.page.emulate_media(media="print")
    assert not seen.page.is_visible("#viewer-section")
    assert seen.page.is_visible("#findings-table")
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext")
    path = tmp_path / "printed.pdf"
    seen.page.pdf(path=path)
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    pages = text.strip("\f").split("\f")
    assert all("Research use only. Not a medical device." in page for page in pages)


def test_two_hundred_structures_of_any_value_leave_the_rest_of_the_image_grey(look, make_page, make_result, tmp_path):
    """The first structure's colour lay over the whole image where the table of colours was long."""
    from PIL import Image

    from voxmetry import LabelTable, Segmentation

    grid = Geometry(np.diag([1.5, 1.5, 3.0, 1.0]), (64, 64, 6))
    array = np.zeros(grid.shape, np.uint16)
    for n in range(220):
        i, j = 2 * (n % 15), 2 * (n // 15)
        array[1 + i : 3 + i, 1 + j : 3 + j, 1:5] = 290 * (n + 1)
    table = LabelTable.from_names({290 * (n + 1): f"s{n}" for n in range(220)})
    labels = tuple(x.model_copy(update={"colour": "#00FF00" if n == 0 else "#FF0000"}) for n, x in enumerate(table))
    image = np.random.default_rng(0).integers(60, 200, grid.shape).astype(np.int16)
    volume, segmentation = Volume(image, grid), Segmentation(array, grid, LabelTable(labels=labels))
    seen = look(make_page(make_result(volume, segmentation), volume, segmentation))
    assert seen.start_viewer() == "ready"
    seen.page.check("[name=viewer-layout][value=axial]", force=True)
    seen.page.locator("#viewer-canvas").screenshot(path=tmp_path / "canvas.png")
    red, green, blue = np.moveaxis(np.asarray(Image.open(tmp_path / "canvas.png").convert("RGB")).astype(int), -1, 0)
    lit = blue > 40
    # All but a fifth of the image is free of structures; the first of them is one of 220.
    assert ((np.abs(red - green) < 12) & lit).sum() > 0.75 * (blue > 55).sum()
    assert 0 < ((green > red + 30) & (green > blue + 30)).sum() < ((red > green + 30) & (red > blue + 30)).sum() / 50
    assert seen.errors == []
