import dataclasses
import json
import re

from voxmetry import StudySettings, cohort
from voxmetry.report.cohort import CohortEntry, Roster, outliers_of, render_roster
from voxmetry.workflows.cohort.page import write_page
from voxmetry.workflows.cohort.records import RunSettings

SETTINGS = RunSettings(study=StudySettings(report="brief", device="cpu"))


def entries(n: int) -> tuple[CohortEntry, ...]:
    """Studies with volumes of 1 to 2 mL, one of 9 mL, and two that failed."""
    made = [
        CohortEntry(
            case=f"case_{k:04}", model="m", state="done", volumes_ml={"front": 1 + (k * 37 % 100) / 100}, seconds=0.5
        )
        for k in range(n - 3)
    ]
    odd = CohortEntry(case="odd<b>", model="m", state="done", review=True, flags=("volume_out_of_range",), seconds=1.0)
    failed = [
        CohortEntry(case=f"bad_{k}", model="m", state="failed", reason="</script> cannot be read") for k in range(2)
    ]
    odd = dataclasses.replace(odd, volumes_ml={"front": 9.0}, link="m/odd<b>/report.html")
    return (*made, odd, *failed)


def page(n: int = 300) -> str:
    return render_roster(Roster(title=f"Cohort of {n} studies", colours={"front": "#E69F00"}, entries=entries(n)))


def rows_of(html: str) -> dict:
    return json.loads(re.search(r'id="rows">(.*?)</script>', html, re.DOTALL).group(1))


def test_each_study_is_a_row_and_what_stands_out_is_marked():
    rows = rows_of(page())["rows"]
    assert len(rows) == 300
    assert [row[0] for row in rows if "outlier" in row[4]] == ["odd<b>"]
    assert sum(row[2] == "failed" for row in rows) == 2


def test_no_name_or_reason_can_end_its_element_or_bring_a_script():
    html = page()
    assert "<b>" not in html
    assert html.count("</script>") == 2
    assert rows_of(html)["rows"][-1][5] == "</script> cannot be read"


def test_the_page_asks_for_nothing_from_elsewhere():
    html = page()
    assert not re.search(r'(?:src|href)="(?!#|accuracy)', html)
    assert "default-src 'none'" in html
    assert "http" not in re.sub(r"<meta http-equiv", "", html)


def test_few_or_equal_values_have_no_outliers():
    assert not any(outliers_of([1.0, 2.0, 900.0]))
    assert not any(outliers_of([1.0] * 20 + [2.0]))
    assert outliers_of([1, 2, 3, 4, 5, 6, 7, 60.0]) == [False] * 7 + [True]


def test_a_run_with_references_has_a_page_of_its_accuracy(studies, tiny, tmp_path, threads):
    first = cohort(studies, tmp_path / "first", tiny, settings=SETTINGS)
    cases = {outcome.case for outcome in first if outcome.state == "done"}
    settings = SETTINGS.model_copy(update={"study": StudySettings(report="none", device="cpu")})
    found = list(cohort(studies, tmp_path / "out", tiny, references=tmp_path / "first" / "tiny-mr", settings=settings))
    assert {outcome.case for outcome in found if outcome.comparisons} == cases
    assert all(row.dice == 1 for outcome in found for row in outcome.comparisons if row.status == "both")
    pages = write_page(tmp_path / "out")
    assert {path.name for path in pages} == {"cohort.html", "accuracy-tiny-mr.html"}
    assert 'href="accuracy-tiny-mr.html"' in pages[0].read_text()
    assert rows_of(pages[0].read_text())["columns"][-1] == "lowest Dice"
