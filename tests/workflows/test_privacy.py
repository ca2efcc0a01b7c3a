"""No file that a verb writes repeats what the source's headers say of the patient.

Each attribute that can hold free text, a date or an identifier gets a value of its own; every output of every verb
that writes is searched for all of them, compressed and embedded parts included.
"""

from __future__ import annotations

import base64
import gzip
import io
import re
import shutil
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

import phantoms
from voxmetry import Segmentation, StudySettings, Volume, read_segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.errors import ConfigError, InputError, MissingExtraError
from voxmetry.io import write_series
from voxmetry.io.dicom.objects import deidentify
from voxmetry.workflows.run_folder import read_result
from workflows.cohort.conftest import Threads
from workflows.test_not_written import BLOB

GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040)
TEXT = ("LO", "SH", "PN", "ST", "LT", "UT", "UC", "AE", "AS")
READ = {
    # What places the slices and says what they are; the rest means nothing to the reader.
    *("SOPClassUID", "SOPInstanceUID", "RescaleType", "PixelSpacingCalibrationDescription", "SpecificCharacterSet"),
    *("TransferSyntaxUID", "ReferencedSOPClassUIDInFile", "Units", "DecayCorrection"),
}


def plant(dataset: Dataset, taken: dict[str, str], number: int) -> None:
    """Give every attribute of text, date, time or UID a value that is found nowhere else; the same in each slice."""
    place = 0
    for tag, (vr, _, _, retired, keyword) in sorted(DicomDictionary.items()):
        if tag >> 16 not in GROUPS or retired or not keyword or keyword in READ:
            continue
        place += 1
        if vr in TEXT:
            value = "133Y" if vr == "AS" else f"TK{place:04d}Q"
        elif vr == "DA":
            value = f"19{31 + place % 40:02d}{1 + place % 12:02d}{1 + place % 28:02d}"
        elif vr == "DT":
            value = f"18{31 + place % 40:02d}{1 + place % 12:02d}{1 + place % 28:02d}101112"
        elif vr == "UI":
            value = f"1.2.826.0.1.3680043.8.498.77{place:04d}"
        else:
            continue
        setattr(dataset, keyword, value)
        taken[keyword] = value
    own = f"1.2.826.0.1.3680043.8.498.99{number:04d}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = own
    taken[f"SOPInstanceUID {number}"] = own
    request = Dataset()
    request.ScheduledProcedureStepDescription = taken["in a sequence"] = "TK9001Q"
    dataset.RequestAttributesSequence = [request]
    block = dataset.private_block(0x0019, "TK9002Q", create=True)
    block.add_new(1, "LO", "TK9003Q")
    taken["private"], taken["private creator"] = "TK9003Q", "TK9002Q"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A series in a folder and with file names that name the patient, and all that must not come out."""
    folder = tmp_path_factory.mktemp("TK9004Q")
    series = folder / "TK9005Q"
    grid = phantoms.geometry(shape=(24, 27, 11), frame_uid="1.2.3")
    taken: dict[str, str] = {"folder": "TK9004Q", "subfolder": "TK9005Q", "file": "TK9006Q"}
    volume = phantoms.volume(grid)
    array = volume.array.copy()
    array[8:14, 9:13, 4:7] = 900
    for number, path in enumerate(write_series(Volume(array, grid), series, modality="MR")):
        dataset = pydicom.dcmread(path)
        plant(dataset, taken, number)
        dataset.save_as(series / f"TK9006Q-{number:02d}.dcm")
        path.unlink()
    return series, taken


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "blob.yaml"
    path.write_text(BLOB, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(study, model, tmp_path_factory):
    """What a plain run writes."""
    out = tmp_path_factory.mktemp("run")
    assert run(["segment", str(study[0]), "-m", str(model), "-o", str(out)]) in (0, 3)
    return out


def contents(path) -> bytes:
    """All that a file holds: itself, and what is compressed, archived or embedded in it."""
    found, waiting = [], [path.read_bytes()]
    while waiting:
        data = waiting.pop()
        found.append(data)
        if data[:2] == b"\x1f\x8b":
            waiting.append(gzip.decompress(data))
        elif data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                waiting += [name.encode() for name in archive.namelist()]
                waiting += [archive.read(name) for name in archive.namelist()]
        else:
            for blob in re.findall(rb"[A-Za-z0-9+/]{200,}={0,2}", data):
                try:
                    waiting.append(base64.b64decode(blob, validate=True))
                except ValueError:
                    continue
            for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
                try:
                    waiting.append(zlib.decompress(stream))
                except zlib.error:
                    continue
    return b"\n".join(found)


def leaks(folder, taken, *, but=()) -> list[str]:
    """Which attribute is found in which file, by its value."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix in but:
            continue
        data = contents(path)
        for keyword, value in taken.items():
            forms = {value.encode()}
            if re.fullmatch(r"1[89]\d{6}(101112)?", value):
                # The dates that programs write in other forms.
                forms.add(f"{value[:4]}-{value[4:6]}-{value[6:8]}".encode())
            if any(form in data or form in str(path.relative_to(folder)).encode() for form in forms):
                found.append(f"{path.name}: {keyword}")
    return found


@pytest.fixture
def printed(monkeypatch):
    """Every word that goes into a PDF; its fonts hold parts of letters, so that a search would not find it."""
    fpdf = pytest.importorskip("fpdf")
    words: list[str] = []
    whole = fpdf.FPDF.normalize_text

    def note(self, text):
        words.append(str(text))
        return whole(self, text)

    monkeypatch.setattr(fpdf.FPDF, "normalize_text", note)
    return words


def identifying(taken):
    """Leave out what says how an image was made, and of nobody: a copy of the series keeps it."""
    return {keyword: value for keyword, value in taken.items() if keyword not in deidentify._TECHNICAL}


def without_uids(taken):
    return {keyword: value for keyword, value in taken.items() if not value.startswith("1.2.826")}


OBJECTS = ("--dicom-seg", "--rtstruct", "--sr", "--pdf", "--key-images")


def test_the_search_finds_what_is_there(study):
    series, taken = study
    found = leaks(series, taken)
    for keyword in ("PatientName", "SeriesDescription", "StationName", "private", "in a sequence", "StudyDate"):
        assert any(line.endswith(f": {keyword}") for line in found)
    assert len(taken) > 400


class TestSegment:
    def test_results_hold_no_text_and_no_date_of_the_source(self, study, model, tmp_path, printed):
        series, taken = study
        out = tmp_path / "out"
        assert run(["segment", str(series), "-m", str(model), "-o", str(out), *OBJECTS]) in (0, 3)
        assert printed
        # DICOM objects repeat patient and study, as the standard asks for; nothing else does.
        assert not leaks(out, without_uids(taken), but=(".dcm",))
        assert not [x for x in without_uids(taken).values() if any(x in words for words in printed)]
        assert read_result(out).source.series_uid == taken["SeriesInstanceUID"]

    def test_the_description_is_kept_where_identity_is_asked_for(self, study, model, tmp_path):
        series, taken = study
        words = ["segment", str(series), "-m", str(model), "-o", str(tmp_path), "--with-identity", "--report", "none"]
        assert run(words) in (0, 3)
        assert read_result(tmp_path).source.description == taken["SeriesDescription"]

    def test_without_the_patient_the_whole_folder_is_clean(self, study, model, tmp_path, printed):
        series, taken = study
        out = tmp_path / "out"
        chosen = ("--series", taken["SeriesInstanceUID"])
        words = ["segment", str(series), "-m", str(model), "-o", str(out), *OBJECTS, "--deidentify", *chosen]
        assert run(words) in (0, 3)
        files = {path.name for path in out.iterdir()}
        assert {"seg.dcm", "rtstruct.dcm", "sr.dcm", "report.dcm", "images.zip", "key_image_01.dcm"} <= files
        assert {"result.json", "report.html", "report.pdf", "seg.nii.gz", "lesions.csv"} <= files
        assert not leaks(out, identifying(taken))
        assert not [x for x in taken.values() if any(x in words for words in printed)]
        # The files still belong together: the series that came along is the one that the result names.
        with zipfile.ZipFile(out / "images.zip") as archive:
            archive.extractall(tmp_path / "images")
        image = read_volume(tmp_path / "images")
        result = read_result(out)
        assert (result.source.series_uid, result.source.frame_uid) == (
            image.source.series_uid,
            image.source.frame_uid,
        )
        assert read_segmentation(out / "seg.dcm", image=image).array.any()

    def test_a_prior_brings_nothing_of_its_source(self, study, model, run_folder, tmp_path):
        series, taken = study
        second = tmp_path / "second"
        given = ["-m", str(model), "--series", taken["SeriesInstanceUID"], "--prior", str(run_folder)]
        assert run(["segment", str(series), *given, "-o", str(second), "--dicom-seg", "--deidentify"]) in (0, 3)
        assert (second / "change.json").is_file()
        assert not leaks(second, identifying(taken))


class TestOtherVerbs:
    def test_none_writes_what_the_headers_say(self, study, model, run_folder, tmp_path, monkeypatch, printed):
        series, taken = study
        monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", lambda settings, tasks: Threads())
        out = tmp_path / "others"
        out.mkdir()
        labels = str(run_folder / "seg.nii.gz")
        verbs = (
            ["measure", labels, "--image", str(series), "-o", str(out / "measure")],
            ["convert", str(series), str(out / "image.nii.gz")],
            ["convert", str(series), str(out / "image.nrrd")],
            ["convert", str(series), str(out / "image.mha")],
            ["convert", str(series), str(out / "copies"), "--deidentify"],
            ["report", str(run_folder), "--pdf"],
            ["report", str(run_folder), "--image", str(series), "--lang", "de"],
            ["follow-up", str(run_folder), str(run_folder), "--registration", "none", "-o", str(out / "follow")],
            ["cohort", "run", str(series), "-m", str(model), "-o", str(out / "cohort"), "--report", "full"],
        )
        for words in verbs:
            assert run(words) in (0, 3), words
        # The list of a cohort's studies says where they lie, so that the run can go on: docs/cohorts.md.
        records = (".sqlite", ".sqlite-wal", ".sqlite-shm")
        words_alone = {k: v for k, v in without_uids(taken).items() if k not in ("folder", "subfolder", "file")}
        assert not leaks(out / "copies", identifying(taken))
        shutil.rmtree(out / "copies")
        assert not leaks(out, words_alone, but=records)
        assert not leaks(run_folder, without_uids(taken))
        assert not [x for x in without_uids(taken).values() if any(x in told for told in printed)]


class TestBeforeAnyWork:
    def test_a_missing_package_is_told(self, study, model, tmp_path, monkeypatch):
        def absent():
            raise MissingExtraError(found="no dicom-anonymizer", expected="the package", fix="install it")

        def work(*_, **__):
            raise AssertionError("the network was run")

        monkeypatch.setattr("voxmetry.workflows.dicom_objects.require_deidentifier", absent)
        monkeypatch.setattr("voxmetry.workflows.segment.run_model", work)
        words = ["segment", str(study[0]), "-m", str(model), "-o", str(tmp_path), "--dicom-seg", "--deidentify"]
        assert run(words) != 0
        assert list(tmp_path.iterdir()) == []

    def test_the_package_is_looked_for_by_its_import(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "dicomanonymizer.simpledicomanonymizer", None)
        with pytest.raises(MissingExtraError, match="no dicom-anonymizer"):
            deidentify.require_deidentifier()

    def test_words_in_the_pixels_are_told(self, study, model, tmp_path, monkeypatch):
        series = tmp_path / "series"
        series.mkdir()
        for path in study[0].iterdir():
            dataset = pydicom.dcmread(path)
            dataset.BurnedInAnnotation = "YES"
            dataset.save_as(series / path.name)
        from voxmetry import segment_study

        monkeypatch.setattr("voxmetry.workflows.segment.run_model", lambda *_, **__: pytest.fail("the network was run"))
        wanted = StudySettings(dicom=DicomOutput(seg=True, deidentify=True))
        with pytest.raises(InputError, match="burned into its pixels"):
            segment_study(series, tmp_path / "out", model, settings=wanted)

    def test_identity_and_its_removal_exclude_each_other(self, study, model, tmp_path):
        from voxmetry import segment_study

        wanted = StudySettings(with_identity=True, dicom=DicomOutput(seg=True, deidentify=True))
        with pytest.raises(ConfigError, match="--with-identity and --deidentify"):
            segment_study(study[0], tmp_path / "out", model, settings=wanted)


def test_a_label_map_holds_no_header(study, tmp_path):
    volume = read_volume(study[0])
    array = np.zeros(volume.geometry.shape, np.uint8)
    array[3:9, 3:9, 3:6] = 1
    for name in ("seg.nii.gz", "seg.nrrd", "seg.mha"):
        save(Segmentation(array, volume.geometry, phantoms.segmentation().labels), tmp_path / name)
    assert not leaks(tmp_path, study[1])
