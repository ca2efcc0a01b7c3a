"""The page of a cohort in a browser: sorting, filtering, paging and links, without a request elsewhere."""

from urllib.parse import unquote

import pytest
from PIL import Image

from voxmetry.report.cohort import CohortEntry, Roster, render_roster

N = 1000


def entries() -> tuple[CohortEntry, ...]:
    """A thousand studies: every tenth flagged, every fiftieth failed, one far larger than the others."""
    made = []
    for k in range(N):
        case = f"site_{k % 3}/case {k:04}#1"
        if k % 50 == 7:
            made.append(
                CohortEntry(case=case, model="m", state="failed", reason=f"line {k}: its compression is broken")
            )
            continue
        volume = 40.0 if k == 500 else 1 + (k * 37 % 1000) / 1000
        place = f"m/{case}"
        made.append(
            CohortEntry(
                case=case,
                model="m",
                state="done",
                review=k % 10 == 3,
                flags=("truncated",) if k % 10 == 3 else (),
                seconds=0.5,
                volumes_ml={"front": volume, "back": 2 - volume / 1000},
                link=f"{place}/report.html",
                thumbnail=f"{place}/thumbnail.png",
            )
        )
    return tuple(made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    colours = {"front": "#E69F00", "back": "#0072B2"}
    (out / "cohort.html").write_text(render_roster(Roster(title="Cohort", colours=colours, entries=entries())))
    # The studies that the first page shows, so that thumbnails and links lead somewhere.
    for entry in entries()[:100]:
        if entry.link and entry.thumbnail:
            (out / entry.link).parent.mkdir(parents=True)
            (out / entry.link).write_text(f"<title>{entry.case}</title>")
            Image.new("L", (8, 8), 128).save(out / entry.thumbnail)
    return out


@pytest.fixture(scope="module")
def seen(browser):
    """A page in Chromium, and what it said and asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()


@pytest.fixture
def page(seen, folder):
    seen.goto((folder / "cohort.html").as_uri())
    return seen


def names(page) -> list[str]:
    return page.locator("#body th").all_text_contents()


def column(page, place: int) -> list[float]:
    cells = page.locator(f"#body tr > :nth-child({place})").all_text_contents()
    return [float(text) for text in cells if text]


def count(page) -> str:
    return page.locator("#count").text_content()


def test_a_hundred_rows_are_drawn_and_the_rest_is_a_click_away(page):
    assert len(names(page)) == 100
    assert count(page) == "1000 of 1000 rows, 1 to 100 shown"
    page.click("#after")
    assert count(page) == "1000 of 1000 rows, 101 to 200 shown"
    page.click("#before")
    assert page.locator("#before").is_disabled()


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(page):
    page.click("text=front mL")
    rising = column(page, 7)
    assert rising == sorted(rising)
    assert page.locator("th[aria-sort=ascending]").text_content() == "front mL"
    page.click("text=front mL")
    falling = column(page, 7)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 40.0
    page.click("thead >> text=state")
    assert all("compression" in text for text in page.locator("#body small").all_text_contents())
    assert page.locator("#body td.failed").count() == 20


def test_rows_without_a_number_stay_last_either_way(page):
    for _ in range(2):
        page.click("text=front mL")
        while page.locator("#after").is_enabled():
            page.click("#after")
        assert page.locator("#body tr").last.locator("td.failed").count() == 1


def test_words_and_states_filter(page):
    page.fill("#words", "compression 0057#1")
    assert names(page) == ["site_0/case 0057#1"]
    page.fill("#words", "")
    page.select_option("#state", "review")
    assert count(page).startswith("100 of 1000 rows")
    page.fill("#words", "SITE_1")
    assert all("site_1" in name for name in names(page))
    page.fill("#words", "")
    page.select_option("#state", "outlier")
    assert names(page) == ["site_2/case 0500#1"]
    page.select_option("#state", "bad")
    assert count(page) == "20 of 1000 rows"
    page.fill("#words", "nothing of the kind")
    assert count(page) == "0 of 1000 rows"


def test_name_and_thumbnail_lead_to_the_studys_report(page, folder):
    link = page.locator("#body th a").first
    assert link.text_content() == "site_0/case 0000#1"
    picture = page.locator("#body img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert page.locator("#body td a").first.get_attribute("href") == link.get_attribute("href")
    link.click()
    page.wait_for_url("**/report.html")
    assert page.title() == "site_0/case 0000#1"


def test_nothing_is_asked_for_but_files_of_the_cohort_and_nothing_goes_wrong(page, folder):
    page.asked.clear()
    page.reload()
    page.click("text=back mL")
    page.click("text=seconds")
    assert page.asked
    assert all(unquote(url).startswith(folder.as_uri()) for url in page.asked)
    # Thumbnails of later studies are not there in this test.
    assert [text for text in page.said if "ERR_FILE_NOT_FOUND" not in text] == []
