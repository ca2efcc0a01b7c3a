"""The page: complete, closed in itself, and safe whatever the text in it."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import Flag, Geometry, LabelTable, Segmentation, Volume, write_report
from voxmetry.report.html import niivue
from voxmetry.report.pictures import material as material_module

MEGABYTE = 1_000_000
VOID = {"meta", "img", "br", "wbr", "path", "circle", "input"}
FOREIGN = "ヒポカンプス " * 6 + "гиппокамп " * 6 + "الحصين"
PICTURED = r"(Axial|Coronal|Sagittal) slice \d+ of \d+ (.*mL|.*outlined structure|with the error of b)"
HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"'&{{ 7*7 }}\u202e\x00"


class Page(HTMLParser):
    """Elements with their attributes, in order, and the visible text; unbalanced tags are an error."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(autouse=True)
def quick_pictures(request, monkeypatch):
    """Draw small pictures, unless the real size is what is tested."""
    if "real_data" not in request.keywords:
        monkeypatch.setattr(material_module, "FULL_PIXELS", 64)
        monkeypatch.setattr(material_module, "SMALL_PIXELS", 64)


@pytest.fixture
def render(tmp_path):
    def render(result, volume, segmentation, reference=None):
        path = tmp_path / "report.html"
        write_report(result, path, volume=volume, segmentation=segmentation, reference=reference)
        return path.read_text(encoding="utf-8")

    return render


@pytest.fixture
def page(make_result, render):
    """A page with everything on it: flags, a missed structure, notes."""
    volume, reference = phantoms.volume(), phantoms.segmentation()
    array = np.where(reference.mask("b"), 0, reference.array).astype(np.uint8)
    segmentation = Segmentation(array, reference.geometry, reference.labels)
    flags = (
        Flag(code="empty", severity="review", message="No voxel was assigned to it.", label="b"),
        Flag(code="spacing_out_of_domain", severity="note", message="Spacing is new to the model."),
    )
    result = make_result(volume, segmentation, reference, flags=flags, description="T1 sag")
    return render(result, volume, segmentation, reference)


def test_the_page_says_it_all(page):
    text = " ".join(Page(page).text.split())
    for words in (
        "Segmentation of an MR image with hippocampus-mr",
        "T1 sag",
        "Review recommended: 1 automatic check failed",
        "No voxel was assigned to it.",
        "1 of 2 structures found.",
        "Missed: only in the reference",
        "The larger of the two directed 95th percentiles",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "Research use only. Not a medical device.",
    ):
        assert words in text


def test_nothing_is_loaded_from_anywhere(page):
    elements = Page(page).elements
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in elements}
    for tag, attributes in elements:
        assert tag != "script" or "src" not in attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "xlink:href", "poster", "action"):
                assert value.startswith("#" if tag == "a" else "data:image/png;base64,")
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    # The licence of the viewer names its authors' pages, as text.
    rest = re.sub(r'<script type="text/plain" id="niivue-licence">.*?</script>', "", page, flags=re.S)
    assert "http:" not in rest
    assert "https:" not in rest


def sha256(source):
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def test_the_policy_forbids_what_the_page_does_not_need(page):
    # The one script that the page runs by itself, and the library that this one starts.
    (viewer,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    (policy,) = [meta["content"] for meta in Page(page).all("meta") if "http-equiv" in meta]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "script-src": f"'{sha256(viewer)}' '{sha256(niivue())}'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_each_picture_is_inside_and_described(page):
    images = Page(page).all("img")
    assert len(images) == 12
    for image in images:
        assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
        assert re.match(PICTURED, image["alt"])
    assert any("through b (0.00 mL, missed, Dice 0.000)" in image["alt"] for image in images)


def test_the_page_can_be_read_without_seeing_it(page):
    parsed = Page(page)
    assert parsed.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert len(parsed.all(landmark)) == 1
    assert parsed.all("a")[0]["href"] == "#main"
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 3
    assert all(th.get("scope") in ("col", "row") for th in parsed.all("th"))
    headings = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_ids_are_unique_and_every_reference_finds_its_own(page):
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for a in parsed.all("a")}
    wanted |= {attributes["aria-labelledby"] for _, attributes in parsed.elements if "aria-labelledby" in attributes}
    assert wanted <= set(ids)


def contrast(one, other):
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour):
        colour = colour * 2 if len(colour) == 3 else colour
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_of_level_aa_in_each_scheme():
    css = (files("voxmetry.report") / "templates" / "report.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): #([0-9a-f]+);", block)) for block in re.findall(r":root \{.*?\}", css, re.S)
    ]
    assert len(schemes) == 3
    for colours in schemes:
        for text in ("ink", "muted", "accent", "look", "stop"):
            assert contrast(colours[text], colours["paper"]) >= 4.5
            assert contrast(colours[text], colours["raised"]) >= 4.5
        for state in ("ok", "look", "stop"):
            assert contrast(colours[state], colours[f"{state}-paper"]) >= 4.5
            assert contrast(colours["ink"], colours[f"{state}-paper"]) >= 4.5


def test_hostile_text_stays_text(make_result, render):
    volume = phantoms.volume()
    table = LabelTable.from_names({1: HOSTILE + "1", 4: HOSTILE + "4"})
    segmentation = Segmentation(phantoms.segmentation().array, volume.geometry, table)
    flags = (Flag(code=HOSTILE, severity="review", message=HOSTILE, label=table.names[0]),)
    result = make_result(
        volume,
        segmentation,
        segmentation,
        flags=flags,
        description=HOSTILE,
        model=HOSTILE,
        packages={HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
        started=HOSTILE,
    ).model_copy(update={"definitions": {HOSTILE: HOSTILE}})
    html = render(result, volume, segmentation, segmentation)
    parsed = Page(html)
    assert "<script>alert" not in html
    assert "<img src=http" not in html
    assert "\x00" not in html
    assert len(parsed.all("img")) == 9
    assert all("onerror" not in attributes for _, attributes in parsed.elements)
    assert parsed.text.count("<script>alert(1)</script>") > 10
    assert "{{ 7*7 }}" in parsed.text


def test_long_and_foreign_names_are_kept_whole(make_result, render):
    volume = phantoms.volume()
    table = LabelTable.from_names({1: FOREIGN, 4: "x" * 400})
    segmentation = Segmentation(phantoms.segmentation().array, volume.geometry, table)
    html = render(make_result(volume, segmentation), volume, segmentation)
    text = Page(html).text
    assert FOREIGN in text
    assert "x" * 400 in text


def test_half_a_surrogate_does_not_stop_the_report(make_result, render):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    html = render(make_result(volume, segmentation, description="T1 \udcff"), volume, segmentation)
    assert "T1 \ufffd" in html


def test_underscores_may_break_a_name_without_changing_it(make_result, render):
    volume = phantoms.volume()
    table = LabelTable.from_names({1: "portal_vein", 4: "b"})
    segmentation = Segmentation(phantoms.segmentation().array, volume.geometry, table)
    html = render(make_result(volume, segmentation), volume, segmentation)
    assert "portal_<wbr>vein" in html
    assert "portal_vein" in Page(html).text


def test_an_existing_report_is_replaced(make_result, tmp_path):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(make_result(volume, segmentation), path, volume=volume, segmentation=segmentation)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.real_data
def test_a_real_hippocampus_stays_within_its_budget(real_data, make_result, render):
    name = "hippocampus_001.nii.gz"
    image = nib.load(real_data / "hippocampus-mr" / "images" / name)
    labels = nib.load(real_data / "hippocampus-mr" / "labels" / name)
    grid = Geometry(image.affine, image.shape)
    volume = Volume(np.asarray(image.dataobj), grid)
    table = LabelTable.from_names({1: "anterior", 2: "posterior"})
    segmentation = Segmentation(np.asarray(labels.dataobj).astype(np.uint8), grid, table)
    html = render(make_result(volume, segmentation, segmentation), volume, segmentation, segmentation)
    assert len(Page(html).all("img")) == 9
    # Of which the viewer's library is 0.45 MB.
    assert len(html) < 1.7 * MEGABYTE


@pytest.mark.real_data
def test_a_real_ct_of_forty_structures_stays_within_its_budget(real_data, make_result, render):
    image = nib.load(real_data / "ct-multiorgan" / "example_ct_sm.nii.gz")
    labels = nib.load(real_data / "ct-multiorgan" / "example_seg.nii.gz")
    grid = Geometry(image.affine, image.shape)
    volume = Volume(np.asarray(image.dataobj), grid, "HU")
    array = np.asarray(labels.dataobj).astype(np.uint8)
    table = LabelTable.from_names({int(value): f"structure {value}" for value in np.unique(array) if value})
    segmentation = Segmentation(array, grid, table)
    html = render(make_result(volume, segmentation, modality="CT"), volume, segmentation)
    assert "41 of 41 structures found." in Page(html).text
    assert len(Page(html).all("img")) == 39
    assert len(html) < 5 * MEGABYTE
