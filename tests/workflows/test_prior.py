"""A study compared with an earlier run: structures, lesions, RECIST, in the page, the PDF and the JSON."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import follow_ups
from voxmetry import Geometry, LabelTable, Segmentation, Volume, save
from voxmetry.cli import run
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.measurement import lesions, measure
from voxmetry.report import load_language, write_report
from voxmetry.report.change import change_summary, change_tables
from voxmetry.report.viewer import overview
from voxmetry.workflows.prior import compare_with_prior
from voxmetry.workflows.report import Wishes, rewrite_report

TUMOUR, NODE = (10, 30, 10, 20, 10, 20), (40, 46, 30, 36, 30, 34)
SMALLER = (10, 22, 10, 20, 10, 20)


def scene(array: np.ndarray, geometry: Geometry | None = None) -> tuple[Volume, Segmentation]:
    """Smooth clouds, the same each time, so that two images of one place can be brought together."""
    geometry = geometry or follow_ups.grid()
    clouds = gaussian_filter(np.random.default_rng(5).normal(size=geometry.shape), 3)
    image = 100 * clouds / clouds.std() + 60 * (array > 0)
    return Volume(image.astype(np.int16), geometry, "HU"), follow_ups.seg(array, geometry)


@pytest.fixture
def make_run(make_result, tmp_path):
    def make(name: str, array: np.ndarray, geometry: Geometry | None = None, **source: object) -> Path:
        volume, segmentation = scene(array, geometry)
        result = make_result(volume, segmentation, modality="CT")
        result = result.model_copy(
            update={
                "measurements": measure(segmentation, volume),
                "lesions": lesions(segmentation, volume, organs=segmentation),
                "source": result.source.model_copy(update=source),
            }
        )
        out = tmp_path / name
        out.mkdir()
        (out / "result.json").write_text(result.model_dump_json(), encoding="utf-8")
        save(segmentation, out / "seg.nii.gz")
        write_report(result, out / "report.html", volume=volume, segmentation=segmentation)
        save(overview(volume), out / "overview.nii.gz")
        return out

    return make


@pytest.fixture
def before(make_run):
    return make_run("before", follow_ups.boxes(TUMOUR), frame_uid="1.2.3", series_uid="1.2.3.1")


@pytest.fixture
def after(make_run):
    array = follow_ups.boxes(NODE, value=2, array=follow_ups.boxes(SMALLER))
    return make_run("after", array, frame_uid="1.2.3", series_uid="1.2.3.2")


def change_of(out: Path) -> PriorComparison:
    return PriorComparison.model_validate_json((out / "change.json").read_text(encoding="utf-8"))


def cells(html: str, table: str) -> list[list[str]]:
    body = html[html.index(f'id="{table}"') :].partition("</table>")[0].partition("<tbody>")[2]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>")]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in rows if row]


def test_the_page_and_the_json_say_what_changed(before, after):
    rewrite_report(after, prior=before, overwrite=True)
    found, html = change_of(after), (after / "report.html").read_text(encoding="utf-8")
    tumour = found.structures[0]
    # 20 x 10 x 10 voxels of 1.0 x 1.5 x 2.5 mm became 12 x 10 x 10.
    assert (tumour.volume_prior_ml, tumour.volume_ml) == pytest.approx((7.5, 4.5))
    assert tumour.volume_change_percent == pytest.approx(-40)
    assert tumour.max_diameter_change_mm < 0
    rows = cells(html, "change-table")
    assert rows[0][:5] == ["tumour", "7.50", "4.50", "−3.00", "−40.0"]
    assert rows[1][0] == "node"
    assert rows[1][-1] == "not in the prior"


def test_lesions_are_matched_and_the_category_is_on_the_first_screen(before, after):
    rewrite_report(after, prior=before, overwrite=True)
    found, html = change_of(after), (after / "report.html").read_text(encoding="utf-8")
    response = found.follow_up.response
    assert [row.status for row in found.follow_up.changes] == ["matched", "new"]
    assert response.category == "PD"
    first_screen = html[html.index('id="findings"') :].partition("<table")[0]
    assert "RECIST 1.1 against the prior: PD (progressive disease)." in first_screen
    rows = cells(html, "lesion-change-table")
    assert rows[0][:3] == ["tumour-1", "tumour-1", "matched"]
    assert rows[0][-1] == "target"
    assert rows[1][:3] == ["node-1", "n/a", "new"]
    assert 'data-go="lesion-2"' in html[html.index('id="lesion-change-table"') :]
    assert "same frame of reference" in html


def test_the_pdf_says_it_too(before, after):
    path = rewrite_report(after, Wishes(pdf=True), prior=before)
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext")
    text = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True).stdout
    assert "RECIST 1.1 against the prior: PD (progressive disease)." in text
    assert "−40.0" in text


def test_without_a_common_frame_the_two_are_brought_together_by_the_overview(make_run):
    """The follow-up's image lies 12 mm off in its own coordinates: without a registration nothing would overlap."""
    grid = follow_ups.grid()
    affine = grid.affine.copy()
    affine[:3, 3] += (12.0, -12.0, 12.0)
    small = (24, 34, 20, 27, 18, 23)
    before = make_run("before", follow_ups.boxes(small))
    after = make_run("after", follow_ups.boxes(small), dataclasses.replace(grid, affine=affine))
    for folder in (before, after):
        # A report is a view: nothing is read out of it.
        (folder / "report.html").write_text("<p>of something else", encoding="utf-8")
    rewrite_report(after, prior=before, overwrite=True)
    found = change_of(after).follow_up
    assert found.registration.kind == "rigid"
    assert found.registration.shift_mm == pytest.approx(np.sqrt(3) * 12, abs=1.5)
    assert [(row.status, row.rule) for row in found.changes] == [("matched", "overlap")]


def test_where_they_cannot_be_brought_together_volumes_remain_and_a_note_says_why(make_run):
    before = make_run("before", follow_ups.boxes(TUMOUR), frame_uid="1.2.3")
    after = make_run("after", follow_ups.boxes(SMALLER), frame_uid="1.2.4")
    (before / "overview.nii.gz").unlink()
    rewrite_report(after, prior=before, overwrite=True)
    found, html = change_of(after), (after / "report.html").read_text(encoding="utf-8")
    assert found.follow_up is None
    assert "no image of one of the time points" in found.reason
    assert [flag.code for flag in found.flags] == ["lesions_not_matched"]
    assert cells(html, "change-table")[0][4] == "−40.0"
    assert "Lesions were not matched with those of the prior" in html


def test_a_run_on_the_same_series_is_flagged(make_run):
    before = make_run("before", follow_ups.boxes(TUMOUR), frame_uid="1.2.3", series_uid="1.2.3.1")
    after = make_run("after", follow_ups.boxes(SMALLER), frame_uid="1.2.3", series_uid="1.2.3.1")
    rewrite_report(after, prior=before, overwrite=True)
    assert "same_series" in {flag.code for flag in change_of(after).flags}
    assert "Review recommended:" in (after / "report.html").read_text(encoding="utf-8")


def test_without_lesions_there_is_no_category(make_run, make_result):
    table = LabelTable.from_names({1: "liver"})
    volume, segmentation = scene(follow_ups.boxes(TUMOUR))
    organ = Segmentation(segmentation.array, segmentation.geometry, table)
    out = make_run("out", follow_ups.boxes(TUMOUR))
    (out / "result.json").write_text(make_result(volume, organ).model_dump_json(), encoding="utf-8")
    result = make_result(volume, organ)
    found = compare_with_prior(result, out, segmentation=organ, image=None)
    assert found.follow_up is None
    assert found.reason == "no structure is a lesion"
    assert found.flags == ()
    assert len(change_tables(result, found)) == 1
    assert not any("RECIST" in line for line in change_summary(result, found))


def test_the_verb_writes_the_page_and_the_json(before, after, capsys):
    assert run(["report", str(after), "--prior", str(before), "--lang", "de", "--json"]) == 0
    assert "change.json" in capsys.readouterr().out
    html = (after / "report.de.html").read_text(encoding="utf-8")
    assert load_language("de")("progressive disease") in html
    assert "−40,0" in html
