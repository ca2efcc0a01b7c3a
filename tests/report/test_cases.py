"""Reports of studies that are not ordinary: each face is written, says the truth and stays readable."""

import subprocess

import numpy as np
import pytest

from voxmetry import Flag, Geometry, Label, LabelTable, Segmentation, Volume, write_report
from voxmetry.measurement import lesions
from voxmetry.report import pdf
from voxmetry.report.lesions import MOST_ROWS
from voxmetry.report.pictures import material as material_module

FOREIGN = "海馬体ヒポカンプス・гиппокамп·الحصين·ἱππόκαμπος " * 3
MARKUP = "<script>alert(1)</script><b>T1 & T2</b>"


def case(shape, blocks, names=None, kind="organ"):
    """Blocks of labels in noise: (value, slices) each."""
    grid = Geometry(np.diag([1.0, 1.5, 2.0, 1.0]), shape)
    array = np.zeros(shape, np.uint16)
    for value, place in blocks:
        array[place] = value
    names = names or {value: f"structure_{value}" for value in sorted({value for value, _ in blocks})}
    table = LabelTable.from_names(names)
    table = LabelTable(labels=tuple(Label(**{**label.model_dump(), "kind": kind}) for label in table))
    image = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return Volume(image, grid), Segmentation(array, grid, table)


def grid_of(n, step, size):
    """Boxes in rows."""
    places = [(i, j, k) for i in range(0, 60 - size, step) for j in range(0, 60 - size, step) for k in (2, 8, 14)]
    return [tuple(slice(x, x + size) for x in place) for place in places[:n]]


CASES = {
    "no structure": lambda: case((20, 18, 16), [], {1: "a", 2: "b"}),
    "forty structures": lambda: case((60, 60, 20), [(n + 1, box) for n, box in enumerate(grid_of(40, 6, 4))]),
    "two hundred lesions": lambda: case(
        (60, 60, 20), [(1, box) for box in grid_of(200, 5, 3)], {1: "tumour"}, "lesion"
    ),
    "truncated": lambda: case((20, 18, 16), [(1, (slice(3, 9), slice(3, 9), slice(8, 16)))], {1: "liver"}),
    "one slice": lambda: case((30, 40, 1), [(1, (slice(5, 15), slice(5, 25), slice(0, 1)))], {1: "liver"}),
    "foreign names": lambda: case(
        (20, 18, 16), [(1, np.s_[3:9, 3:9, 3:9]), (2, np.s_[11:15, 3:9, 3:9])], {1: FOREIGN, 2: "x_y" * 60}
    ),
    "markup": lambda: case((20, 18, 16), [(1, np.s_[3:9, 3:9, 3:9])], {1: MARKUP}),
}
SAID = {
    "no structure": "0 of 2 structures found.",
    "forty structures": "40 of 40 structures found.",
    "two hundred lesions": f"The {MOST_ROWS} largest of 200 lesions",
    "truncated": "at the image's edge: superior",
    "one slice": "Axial, slice 1 of 1",
    "foreign names": "2 of 2 structures found.",
    "markup": "T1 & T2",
}


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    monkeypatch.setattr(material_module, "FULL_PIXELS", 40)
    monkeypatch.setattr(material_module, "SMALL_PIXELS", 40)


@pytest.mark.parametrize("name", CASES)
def test_both_faces_of_an_unusual_study(name, make_result, tmp_path):
    volume, segmentation = CASES[name]()
    flags = (Flag(code="truncated", severity="review", message="Cut.", label=segmentation.labels.names[0]),)
    result = make_result(volume, segmentation, flags=flags, description=MARKUP if name == "markup" else "")
    result = result.model_copy(update={"lesions": lesions(segmentation, volume, organs=segmentation)})
    for path in (tmp_path / "report.html", tmp_path / "report.pdf"):
        write_report(result, path, volume=volume, segmentation=segmentation)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    import html as escapes

    assert SAID[name] in escapes.unescape(html)
    assert "<script>alert" not in html
    text = paper(tmp_path / "report.pdf")
    assert "Findings" in text
    assert "Page 1 of" in text
    if name in ("no structure", "forty structures", "two hundred lesions", "truncated", "one slice"):
        assert SAID[name] in text
    if name == "markup":
        assert "<script>alert(1)</script>" in text


def paper(path):
    pytest.importorskip("fpdf")
    try:
        done = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("no pdftotext")
    return " ".join(done.stdout.split())


def test_every_lesion_is_counted_and_the_largest_have_pictures(make_result):
    from voxmetry.report import build_document

    volume, segmentation = CASES["two hundred lesions"]()
    result = make_result(volume, segmentation)
    result = result.model_copy(update={"lesions": lesions(segmentation, volume)})
    document = build_document(result, volume, segmentation)
    assert document.summary[1].startswith("200 lesions of ")
    assert len(document.lesions.rows) == MOST_ROWS
    assert sum(illustration.kind == "lesion" for illustration in document.illustrations) == 12
    assert document.not_pictured[-1] == "12 of 200 lesions have pictures of their own: the largest."


def test_axes_are_drawn_where_they_were_measured(make_result):
    from matplotlib.figure import Figure

    from voxmetry.report import build_document
    from voxmetry.report.pictures.figures import draw_panel

    volume, segmentation = case((40, 30, 12), [(1, np.s_[5:31, 10:15, 4:7])], {1: "tumour"}, "lesion")
    result = make_result(volume, segmentation)
    (lesion,) = found = lesions(segmentation, volume)
    result = result.model_copy(update={"lesions": found})
    document = build_document(result, volume, segmentation)
    (illustration,) = (x for x in document.illustrations if x.kind == "lesion")
    panels = [picture.panel for picture in illustration.pictures]
    assert [bool(panel.axes) for panel in panels] == [True, False, False]
    assert panels[0].index == lesion.slice_index
    axes = Figure().add_axes((0, 0, 1, 1))
    draw_panel(axes, panels[0], volume)
    lengths = [float(np.hypot(*np.diff(drawn.get_segments()[0], axis=0)[0])) for drawn in axes.collections]
    assert lengths == pytest.approx([lesion.long_axis_mm, lesion.short_axis_mm])


def test_asymmetry_of_pairs_by_name_and_its_sign(make_result):
    from voxmetry.report import build_document

    blocks = [(1, np.s_[2:6, 3:9, 3:9]), (2, np.s_[10:18, 3:9, 3:9]), (3, np.s_[2:4, 12:14, 3:5])]
    volume, segmentation = case((20, 18, 16), blocks, {1: "kidney_left", 2: "kidney_right", 3: "spleen"})
    table = build_document(make_result(volume, segmentation), volume, segmentation).asymmetry
    (row,) = table.rows
    assert row.label == "kidney"
    # 4 x 6 x 6 and 8 x 6 x 6 voxels: (8 - 4) / 6.
    assert row.cells[2].text == "+66.7"


def test_a_pdf_leaves_no_font_open_whatever_layouts_were_tried(make_result, tmp_path, monkeypatch):
    pytest.importorskip("fpdf")
    volume, segmentation = CASES["truncated"]()
    result = make_result(volume, segmentation)
    monkeypatch.setattr(pdf, "MOSTLY_EMPTY", 1.0)  # a smaller layout is tried
    monkeypatch.setattr(pdf, "_spelled", noted := Noted(pdf._spelled))
    write_report(result, tmp_path / "report.pdf", volume=volume, segmentation=segmentation)
    assert len(noted.papers) > 1, "the case would prove nothing"
    fonts = [font for paper in noted.papers for font in paper.fonts.values() if hasattr(font, "ttfont")]
    assert fonts
    assert all(font.ttfont.reader is None or font.ttfont.reader.file.closed for font in fonts)


def test_smaller_pictures_that_save_no_page_are_tried_once(make_result, tmp_path, monkeypatch):
    pytest.importorskip("fpdf")
    volume, segmentation = CASES["truncated"]()
    monkeypatch.setattr(pdf, "MOSTLY_EMPTY", 1.0)
    monkeypatch.setattr(pdf, "SMALLER", (0.999, 0.998, 0.997))
    monkeypatch.setattr(pdf, "_spelled", noted := Noted(pdf._spelled))
    write_report(make_result(volume, segmentation), tmp_path / "r.pdf", volume=volume, segmentation=segmentation)
    assert [paper.share for paper in noted.papers] == [1.0, 0.997]


class Noted:
    """A function that keeps what it returned."""

    def __init__(self, function):
        self.function, self.papers = function, []

    def __call__(self, *arguments):
        self.papers.append(self.function(*arguments))
        return self.papers[-1]
