from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import cohorts
import phantoms
from voxmetry import LabelTable, Segmentation, Volume, save
from voxmetry.core.records import CohortSettings
from voxmetry.io import read_segmentation
from voxmetry.measurement.compare_cases import compare_cohort
from voxmetry.measurement.match_files import match_files
from voxmetry.report.comparison import build_cohort_document, render_cohort_html, write_cohort_page
from voxmetry.report.comparison.pictures import EXTRA, MISSED, error_panels, render_error

QUICK = CohortSettings(resamples=200, instances="iou")


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    return match_files(*cohorts.write_cohort(tmp_path_factory.mktemp("cohort")))


@pytest.fixture(scope="module")
def cohort(matched):
    return compare_cohort(matched.pairs, QUICK, other=matched.pairs, unmatched=(["<b>stray</b>"], ["left"]))


@pytest.fixture(scope="module")
def document(cohort):
    return build_cohort_document(cohort)


def test_it_says_what_is_missing_before_any_mean(document):
    assert document.verdict.state == "review"
    assert "2 files have no partner" in document.verdict.detail
    assert "organ: 1 missed, 0 invented" in document.lines


def test_a_structure_keeps_the_colour_of_its_label_map_on_the_page(tmp_path):
    """The second structure of a table has not the first colour because the first one is not compared."""
    folders = cohorts.write_cohort(tmp_path)
    (pair, *_) = match_files(*folders).pairs
    for path in (pair.prediction, pair.reference):
        read = read_segmentation(path)
        colours = ("#123456", "#654321")
        table = LabelTable(
            labels=tuple(
                x.model_copy(update={"colour": colour}) for x, colour in zip(read.labels, colours, strict=True)
            )
        )
        save(Segmentation(read.array, read.geometry, table), path)
    name = table.labels[1].name
    found = compare_cohort([pair], CohortSettings(resamples=200, labels=(name,)))
    assert found.colours == {name: "#654321"}
    page = render_cohort_html(build_cohort_document(found), {})
    assert set(re.findall(r"--c:(#\w+)", page)) == {"#654321"}


def test_a_cohort_without_a_flaw_is_told_so(matched):
    whole = compare_cohort(matched.pairs[:1], QUICK)
    document = build_cohort_document(whole)
    assert document.verdict.state == "ok"
    assert document.title == "Comparison of 1 case with its reference"
    # One case has no spread: no plot of agreement, and no interval.
    assert document.agreement == ()


def test_tables_hold_the_numbers_of_the_records(document, cohort):
    organ = document.summary.rows[0]
    assert [cell.text for cell in organ.cells[:3]] == ["4", "1", "0"]
    assert organ.cells[3].text.startswith("0.675 (")
    assert organ.cells[6].text == "0.000 (d)"
    distances = document.boundary.rows[0]
    assert distances.cells[1].text == "n/a"
    assert "undefined" in document.boundary.notes[distances.cells[1].note - 1]
    assert document.paired.rows
    assert document.instances[0].rows[1].cells[0].text == "parts"


def test_boxes_lie_where_the_axis_says(document):
    dice, hd95 = document.charts
    first, last = dice.ticks[0], dice.ticks[-1]
    assert (first.text, last.text) == ("0.0", "1.0")
    organ = dice.boxes[0]
    assert organ.median == pytest.approx(85)
    assert sorted(point.x for point in organ.points) == pytest.approx([0, 80, 90, 100])
    # The missed case has no distance, so three dots, and no third quartile.
    assert len(hd95.boxes[0].points) == 3
    assert hd95.boxes[0].q3 is None
    assert "1 case in one mask only" in hd95.boxes[0].words


def test_agreement_plots_have_their_lines_within(document):
    chart = document.agreement[0]
    assert [line.text.split()[0] for line in chart.lines] == ["+1.96", "bias", "−1.96"]
    tops = [line.at for line in chart.lines]
    assert tops == sorted(tops)
    assert all(0 <= line.low <= line.at <= line.high <= 100 for line in chart.lines)
    assert all(0 <= point.x <= 100 and 0 <= point.y <= 100 for point in chart.points)


def test_worst_come_first(document):
    assert [(row.case, row.label) for row in document.worst[:2]] == [("d", "organ"), ("c", "lesion")]
    assert document.worst[0].comparison.status == "missed"


class Page(HTMLParser):
    """Collect addresses and ids, and see that tags are closed."""

    VOID = frozenset({"meta", "img", "br", "wbr", "circle", "path", "line", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(cohort, matched, tmp_path):
    pairs = {pair.case: pair for pair in matched.pairs}

    def read(case):
        return read_segmentation(pairs[case].prediction), read_segmentation(pairs[case].reference), None

    write_cohort_page(cohort, tmp_path / "page.html", read=read)
    text = (tmp_path / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:image/png")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "script" not in page.tags
    assert "<b>stray</b>" not in text
    assert "&lt;b&gt;stray" in text
    assert str(tmp_path) not in text
    assert text.count("data:image/png") == 3 * min(6, len(build_cohort_document(cohort).worst))
    assert not re.search(r"\bnan\b|None", re.sub(r"base64,[^\"]*", "", text.split('id="definitions"')[0]))


def test_without_files_it_has_no_pictures(document):
    assert "data:image" not in render_cohort_html(document, {})


@pytest.mark.parametrize("with_image", [False, True])
def test_error_colours_lie_where_the_masks_differ(with_image):
    grid = phantoms.geometry(shape=(20, 22, 9), spacing_mm=(1.0, 1.2, 2.0), degrees=(0, 0, 0))
    ours, theirs = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    ours[4:14, 4:14, 3:6] = True
    theirs[8:18, 4:14, 3:6] = True
    image = Volume(np.full(grid.shape, 50, np.int16), grid) if with_image else None
    axial = error_panels(ours, theirs, grid, image)[0]
    assert axial.plane == "axial"
    assert 3 <= axial.index < 6
    import io

    picture = np.asarray(Image.open(io.BytesIO(render_error(axial, ours, theirs, grid, image))).convert("RGB"))
    blue, red = (np.array([int(c[n : n + 2], 16) for n in (1, 3, 5)]) for c in (MISSED, EXTRA))

    def columns(wanted):
        # Hue, so that the blend with the ground does not matter.
        scaled = picture / np.maximum(picture.max(axis=2, keepdims=True), 1)
        near = (np.abs(scaled - wanted / wanted.max()).max(axis=2) < 0.25) & (picture.max(axis=2) > 60)
        return np.flatnonzero(near.sum(axis=0) > 20)

    # The patient's right, where i grows, is on the left of the picture: missed voxels lie left of invented ones.
    if not with_image:
        assert columns(blue).max() < columns(red).min()
    assert axial.window == ((0.0, 1.0) if image is None else axial.window)


def test_equal_masks_are_shown_at_their_largest_slice():
    grid = phantoms.geometry(shape=(10, 12, 9))
    mask = np.zeros(grid.shape, bool)
    mask[2:5, 3:6, 4:7] = True
    assert error_panels(mask, mask, grid)[0].index == 5
