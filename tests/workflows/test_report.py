"""A run's report written again, and what it then says."""

import json
import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.errors import ConfigError, FormatError, InputError, OutputExistsError
from voxmetry.io import write_series
from voxmetry.report import write_report
from voxmetry.report.viewer import overview
from voxmetry.workflows.report import Wishes, rewrite_report


@pytest.fixture
def folder(tmp_path, make_result):
    """A folder as `voxmetry segment` leaves it, as far as the report needs it."""
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    result = make_result(volume, segmentation)
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text(result.model_dump_json(), encoding="utf-8")
    save(segmentation, out / "seg.nii.gz")
    save(volume, tmp_path / "image.nii.gz")
    write_report(result, out / "report.html", volume=volume, segmentation=segmentation)
    save(overview(volume), out / "overview.nii.gz")
    return out


def pictures_of(folder, name="report.html"):
    """The pictures of a page, in their order."""
    found = re.findall(r'<img src="(data:[^"]+)"', (folder / name).read_text(encoding="utf-8"))
    assert found
    return found


def test_the_same_wishes_write_the_same_page(folder):
    assert rewrite_report(folder, overwrite=True) == folder / "report.html"
    before = (folder / "report.html").read_bytes()
    rewrite_report(folder, overwrite=True)
    assert (folder / "report.html").read_bytes() == before


def test_an_earlier_page_stays_unless_it_may_be_replaced(folder):
    (folder / "report.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match=r"report\.html") as caught:
        rewrite_report(folder)
    # There is no other folder for it: the report is that of the run.
    assert caught.value.fix == "add --overwrite (overwrite=True) to replace it"
    assert (folder / "report.html").read_text(encoding="utf-8") == "mine"


def test_another_language_has_a_file_of_its_own_with_the_same_pictures(folder):
    before = (folder / "report.html").read_bytes()
    assert rewrite_report(folder, Wishes(language="de")) == folder / "report.de.html"
    html = (folder / "report.de.html").read_text(encoding="utf-8")
    assert '<html lang="de">' in html
    assert "Prüfung" in html
    assert pictures_of(folder, "report.de.html") == pictures_of(folder)
    assert (folder / "report.html").read_bytes() == before


def test_nothing_is_read_out_of_a_report(folder):
    before = pictures_of(folder)
    (folder / "report.html").write_text("<p>of something else", encoding="utf-8")
    rewrite_report(folder, overwrite=True)
    assert pictures_of(folder) == before


def test_pictures_are_drawn_from_the_image_as_they_were(folder):
    before = pictures_of(folder)
    rewrite_report(folder, image=folder.parent / "image.nii.gz", overwrite=True)
    assert pictures_of(folder) == before


def test_pictures_of_a_reduced_image_are_drawn_from_its_overview(folder, monkeypatch):
    volume = phantoms.volume()
    most = volume.array.size // 4
    monkeypatch.setattr("voxmetry.report.viewer.MOST_VOXELS", most)
    save(overview(volume, most), folder / "overview.nii.gz")
    before = pictures_of(folder)
    rewrite_report(folder, overwrite=True)
    assert pictures_of(folder) != before


def test_without_an_overview_and_an_image_there_is_nothing_to_show(folder):
    (folder / "overview.nii.gz").unlink()
    with pytest.raises(InputError, match=r"--image"):
        rewrite_report(folder, Wishes(language="de"))
    assert not (folder / "report.de.html").exists()


@pytest.mark.parametrize(("text", "error"), [("{", FormatError), ('{"labels": 1}', FormatError), (None, InputError)])
def test_a_folder_without_a_result_is_refused(folder, text, error):
    (folder / "result.json").unlink()
    if text is not None:
        (folder / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(error):
        rewrite_report(folder)


def test_an_unknown_page_is_refused(folder):
    with pytest.raises(ConfigError, match=r"on a5"):
        rewrite_report(folder, Wishes(pdf=True, page="a5"))


def test_the_change_since_a_prior_study(folder, make_result, tmp_path):
    segmentation = phantoms.segmentation()
    array = segmentation.array.copy()
    array[np.nonzero(segmentation.mask("a"))[0].max()] = 0
    smaller = Segmentation(np.where(array == 4, 0, array).astype(np.uint8), segmentation.geometry, segmentation.labels)
    prior = tmp_path / "prior"
    prior.mkdir()
    earlier = make_result(phantoms.volume(), smaller, model_version="0.0.9", weights_sha256="0" * 64)
    (prior / "result.json").write_text(earlier.model_dump_json(), encoding="utf-8")
    rewrite_report(folder, prior=prior, overwrite=True)
    html = (folder / "report.html").read_text(encoding="utf-8")
    now, before = (
        next(m for m in r.measurements if m.label == "a")
        for r in (make_result(phantoms.volume(), segmentation), earlier)
    )
    share = (now.volume_ml - before.volume_ml) / before.volume_ml * 100
    table = html[html.index('id="change-table"') :].partition("</table>")[0]
    assert f"+{share:.1f}" in table
    assert "not in the prior" in table
    assert "The prior was measured with hippocampus-mr 0.0.9" in html
    # Once compared, it stays so in each further face and language.
    rewrite_report(folder, Wishes(language="de"), overwrite=True)
    german = (folder / "report.de.html").read_text(encoding="utf-8")
    assert f"+{share:.1f}".replace(".", ",") in german[german.index('id="change-table"') :].partition("</table>")[0]
    (folder / "change.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FormatError, match=r"change\.json"):
        rewrite_report(folder, Wishes(language="es"))


def test_identity_is_shown_only_when_asked_for(tmp_path, make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    write_series(volume, tmp_path / "dicom", modality="MR")
    for path in (tmp_path / "dicom").iterdir():
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID = "Quirinus^Zzyzx", "ID-47-11"
        data.save_as(path)
    read = read_volume(tmp_path / "dicom")
    array = np.zeros(read.array.shape, np.uint8)
    array[2:5, 2:5, 2:5] = 1
    own = Segmentation(array, read.geometry, segmentation.labels)
    result = make_result(read, own)
    source = result.source.model_copy(update={"format": "DICOM", "series_uid": read.source.series_uid})
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text(result.model_copy(update={"source": source}).model_dump_json(), encoding="utf-8")
    save(own, out / "seg.nii.gz")
    rewrite_report(out, image=tmp_path / "dicom")
    assert "Quirinus" not in (out / "report.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="--with-identity without an image"):
        rewrite_report(out, Wishes(with_identity=True), overwrite=True)
    rewrite_report(out, Wishes(with_identity=True), image=tmp_path / "dicom", overwrite=True)
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "Quirinus Zzyzx" in html
    assert "ID-47-11" in html
    assert "Quirinus" not in (out / "result.json").read_text(encoding="utf-8")


def test_a_file_without_headers_names_nobody(folder):
    with pytest.raises(InputError, match="without DICOM headers"):
        rewrite_report(folder, Wishes(with_identity=True), image=folder.parent / "image.nii.gz", overwrite=True)


def test_the_verb_writes_a_pdf_of_selectable_text(folder, capsys):
    assert run(["report", str(folder), "--pdf", "--lang", "de", "--page", "letter", "--json"]) == 0
    path = folder / "report.de.pdf"
    assert json.loads(capsys.readouterr().out) == {"report": str(path)}
    first = path.read_bytes()
    assert first.startswith(b"%PDF-")
    assert run(["report", str(folder), "--pdf", "--lang", "de", "--page", "letter"]) == 2
    assert run(["report", str(folder), "--pdf", "--lang", "de", "--page", "letter", "--overwrite"]) == 0
    assert path.read_bytes() == first
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext")
    text = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True).stdout
    assert "2 von 2 Strukturen gefunden." in text
    assert "0,07" in text
    assert "Seite 1 von" in text
    assert "Nur für die Forschung. Kein Medizinprodukt." in text
    fonts = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts
    assert all(line.split()[-5:-3] == ["yes", "yes"] for line in fonts)
    size = subprocess.run(["pdfinfo", path], capture_output=True, text=True, check=True).stdout
    assert "612 x 792 pts (letter)" in size
