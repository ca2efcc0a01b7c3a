"""The page in Chromium: what it shows, by keyboard, on a phone, in the dark, and with nothing from elsewhere."""

from __future__ import annotations

import pytest

import phantoms
from service_clients import SHAPE, call_json, start
from voxmetry import save
from voxmetry.config import StudySettings
from voxmetry.config.service import ServiceSettings
from voxmetry.service.tokens import add_token

KINDS = {
    "desktop": {"viewport": {"width": 1200, "height": 900}},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_model):
    """A service with a token, a job that is flagged and one that failed."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "root").mkdir()
    save(phantoms.volume(phantoms.geometry(shape=SHAPE)), folder / "root" / "a.nii.gz")
    (folder / "root" / "bad.nii.gz").write_bytes(b"nonsense")
    token = add_token(folder / "tokens.yaml", "reader")
    settings = ServiceSettings(
        data=str(folder / "data"),
        port=0,
        models=(str(tiny_model),),
        roots={"root": str(folder / "root")},
        settings=StudySettings(device="cpu"),
        tokens=str(folder / "tokens.yaml"),
        limits={"free_mb": 1},
    )
    address, end = start(settings)
    asked = {"Authorization": f"Bearer {token}"}
    for name, label in (("a", "<b>first</b> & flagged"), ("bad", "broken")):
        content = {"model": "tiny-mr", "path": f"root/{name}.nii.gz", "label": label}
        assert call_json(address[7:], "POST", "/v1/jobs", content, headers=asked)[0] == 201
    yield address, token, folder
    end()


@pytest.fixture
def opened(browser, served, request):
    """A page that is logged in, and what it asked for and complained of."""
    address, token, _ = served
    context = browser.new_context(**KINDS[getattr(request, "param", "desktop")])
    context.set_default_timeout(120_000)
    page = context.new_page()
    seen = {"requests": [], "errors": []}
    page.on("request", lambda asked: seen["requests"].append(asked.url))
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("console", lambda said: seen["errors"].append(said.text) if "Content Security" in said.text else None)
    page.goto(address)
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    page.locator(".job").nth(1).wait_for()
    page.locator(".job.look").first.wait_for(timeout=300_000)
    page.locator(".job.bad").first.wait_for()
    yield page, seen
    context.close()
    assert seen["errors"] == []
    assert [url for url in seen["requests"] if not url.startswith(address)] == []


@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_it_fits_has_no_barrier_and_asks_nobody_else(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = opened
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = page.locator(".job .report:visible").first.bounding_box()
    assert box["height"] >= 24


def test_verdicts_pictures_and_words_that_are_no_markup(opened):
    page, _ = opened
    flagged, broken = page.locator(".job.look"), page.locator(".job.bad")
    assert flagged.locator("h3").inner_text() == "<b>first</b> & flagged"
    assert "review recommended" in flagged.locator(".verdict").inner_text()
    assert flagged.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 20
    assert "cannot be read as NIfTI" in broken.locator(".verdict").inner_text()
    page.locator("#state").select_option("failed")
    page.locator(".job.look").wait_for(state="detached")
    assert page.locator(".job").count() == 1
    page.locator("#state").select_option("")
    page.locator("#words").fill("FLAGGED")
    page.locator(".job.bad").wait_for(state="detached")
    assert page.locator(".job").count() == 1


def test_the_report_opens_with_its_viewer_apart_from_the_page(opened):
    page, _ = opened
    with page.context.expect_page() as opening:
        page.locator(".job.look .report").click()
    report = opening.value
    problems = []
    report.on("pageerror", lambda error: problems.append(str(error)))
    report.locator("h1").wait_for()
    report.locator("canvas").first.wait_for()
    # What runs in a report reaches neither the cookie nor the service.
    assert report.evaluate("window.origin") == "null"
    assert report.evaluate("fetch('/v1/jobs').then(() => 'reached', () => 'refused')") == "refused"
    assert problems == []


def test_a_job_is_begun_and_ended_by_keyboard_and_by_upload(opened, served):
    page, _ = opened
    page.locator("#label").fill("sent here")
    page.locator("#files").set_input_files(str(served[2] / "root" / "a.nii.gz"))
    mine = page.locator(".job", has_text="sent here")
    mine.locator(".verdict", has_text="review recommended").wait_for(timeout=300_000)
    page.on("dialog", lambda dialog: dialog.accept())
    mine.locator(".remove").focus()
    page.keyboard.press("Enter")
    mine.wait_for(state="detached")
    page.locator("body").press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_what_is_dropped_is_sent(opened, served):
    page, _ = opened
    content = list((served[2] / "root" / "bad.nii.gz").read_bytes())
    page.locator("#label").fill("dropped")
    data = page.evaluate_handle(
        "bytes => { const data = new DataTransfer();"
        "data.items.add(new File([new Uint8Array(bytes)], 'x.nii.gz')); return data; }",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.locator(".job.bad", has_text="dropped").wait_for(timeout=300_000)


def test_without_its_cookie_the_page_asks_for_a_token(opened):
    page, _ = opened
    page.locator("#logout").click()
    page.locator("#token").wait_for()
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("This token is not known.").wait_for()
    assert not page.locator("#inside").is_visible()
