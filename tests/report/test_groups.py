"""A report of many structures: in groups, searchable, and its page still runs no script but its own."""

from __future__ import annotations

import re

import numpy as np
import pytest

from voxmetry import Geometry, LabelTable, Segmentation, Volume
from voxmetry.models.structures import with_codes
from voxmetry.report import write_report
from voxmetry.report.tables import GROUPED_FROM, findings_table

NAMES = (
    *(f"rib_left_{number}" for number in range(1, 13)),
    "aorta",
    "iliac_vena_left",
    "liver_lesions",
    "spleen",
    "liver",
    "gluteus_medius_left",
    "widget",
    "brain",
    "autochthon_right",
)


def study(names=NAMES):
    """One block a structure."""
    grid = Geometry(np.diag([2.0, 2.0, 2.0, 1.0]), (len(names) * 4 + 4, 8, 8))
    array = np.zeros(grid.shape, np.uint8)
    for value in range(1, len(names) + 1):
        array[value * 4 : value * 4 + 2, 3:6, 3:6] = value
    labels = with_codes(LabelTable.from_names(dict(enumerate(names, start=1))))
    image = np.random.default_rng(0).integers(-100, 200, grid.shape).astype(np.int16)
    return Volume(image, grid, "HU"), Segmentation(array, grid, labels)


def test_lesions_come_first_then_organs_vessels_bones_muscles_and_what_is_not_known(make_result):
    table = findings_table(make_result(*study(), modality="CT"))
    assert [(name, len(rows)) for name, rows in table.groups] == [
        ("Lesions", 1),
        ("Organs", 2),
        ("Vessels", 2),
        ("Brain", 1),
        ("Bones", 12),
        ("Muscles", 2),
        ("Other structures", 1),
    ]
    assert table.columns[0].head == "Volume"
    assert sorted(row.label for row in table.rows) == sorted(NAMES)
    assert [row.label for row in table.groups[1][1]] == ["spleen", "liver"], "the order of the label table"


def test_a_few_structures_stay_in_the_order_of_their_table(make_result):
    names = NAMES[: GROUPED_FROM - 1]
    table = findings_table(make_result(*study(names), modality="CT"))
    assert not table.is_grouped
    assert [row.label for row in table.rows] == list(names)


def page(make_result, path, names=NAMES):
    volume, segmentation = study(names)
    write_report(make_result(volume, segmentation, modality="CT"), path, volume=volume, segmentation=segmentation)
    return path


def test_only_a_page_with_groups_has_the_script_that_searches(make_result, tmp_path):
    many = page(make_result, tmp_path / "many.html").read_text()
    few = page(make_result, tmp_path / "few.html", NAMES[:3]).read_text()
    assert many.count('class="grouped"') == 2
    assert "table.grouped" in many.split("</style>")[1]
    assert 'querySelectorAll("table.grouped")' not in few


def test_the_search_hides_what_has_another_name(make_result, tmp_path, browser):
    opened = browser.new_page(viewport={"width": 1100, "height": 900})
    opened.set_default_timeout(120_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    try:
        opened.goto(page(make_result, tmp_path / "many.html").as_uri())
        rows = opened.locator("#findings-table tbody tr:not(.group):visible")
        groups = opened.locator("#findings-table tr.group:visible")
        field = opened.get_by_label("Search structures").first
        assert (rows.count(), groups.count()) == (len(NAMES), 7)
        field.fill("Rib left 1")
        assert rows.all_inner_texts()[0].startswith("rib_left_1")
        assert (rows.count(), groups.count()) == (4, 1)
        field.fill("vessels")
        assert rows.count() == 2, "a group's name finds its rows"
        field.fill("nothing of this name")
        assert (rows.count(), groups.count()) == (0, 0)
        assert opened.get_by_role("status").first.inner_text() == "No structure of this name."
        field.fill("")
        assert rows.count() == len(NAMES)
        assert errors == []
    finally:
        opened.close()


@pytest.mark.parametrize("width", [390, 1100])
def test_the_field_stays_inside_of_the_page(make_result, tmp_path, browser, width):
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.set_default_timeout(120_000)
    try:
        opened.goto(page(make_result, tmp_path / "many.html").as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        opened.close()


def test_thirty_structures_are_two_pages_on_paper(make_result, tmp_path):
    pytest.importorskip("fpdf")
    names = tuple(f"rib_{side}_{number}" for number in range(1, 13) for side in ("left", "right"))
    volume, segmentation = study((*names, *NAMES[-8:]))
    path = tmp_path / "report.pdf"
    write_report(make_result(volume, segmentation, modality="CT"), path, volume=volume, segmentation=segmentation)
    assert len(re.findall(rb"/Type /Page\b", path.read_bytes())) == 2
