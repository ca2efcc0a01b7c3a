"""What is said promises what was checked and no more, and what is printed can be used as it is printed."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest

import models
import phantoms
from voxmetry import StudySettings, Volume, load_model, save
from voxmetry.cli import progress, run
from voxmetry.errors import InputError
from voxmetry.io import write_series
from voxmetry.nn import progress as network_progress
from voxmetry.nn.progress import followed
from voxmetry.report.facts import command
from voxmetry.workflows.cohort.database import CohortRecord, reading
from voxmetry.workflows.cohort.page import write_page
from voxmetry.workflows.cohort.records import Outcome
from voxmetry.workflows.inputs import models_for
from voxmetry.workflows.run_folder import read_result
from voxmetry.workflows.segment import segment_study

PAIR = [
    {"name": "ct", "modality": "CT", "normalise": {"method": "window", "low": 0, "high": 200, "mean": 0, "sd": 1}},
    {"name": "pet", "modality": "PT", "normalise": {"method": "window", "low": 0, "high": 10, "mean": 0, "sd": 1}},
]


LIGHT = StudySettings(report="none")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model") / "tiny-mr")


@pytest.fixture
def study(tmp_path):
    save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), tmp_path / "case_7.nii.gz")
    return tmp_path / "case_7.nii.gz"


@pytest.fixture
def pair(tmp_path):
    """A CT and a PET on another grid, with a model that takes both."""
    ct = phantoms.volume(phantoms.geometry(shape=(21, 27, 11), degrees=(0, 0, 0)))
    grid = phantoms.geometry(shape=(11, 14, 11), spacing_mm=(1.8, 2.6, 2.6), degrees=(0, 0, 0))
    pet = np.full(grid.shape, 0.5, np.float32)
    pet[4:7, 5:8, 4:7] = 8.0
    save(Volume(ct.array - np.int16(100), ct.geometry, "HU"), tmp_path / "ct.nii.gz")
    save(Volume(pet, grid, "SUVbw"), tmp_path / "pet.nii.gz")
    folder = models.write(tmp_path / "pair", inputs=PAIR, name="pair-petct", training_domain={})
    return tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz", folder


class TestModality:
    def test_a_ct_for_an_mr_model_names_models_that_take_it(self, tiny, tmp_path):
        write_series(phantoms.volume(), tmp_path / "ct", modality="CT")
        with pytest.raises(InputError) as told:
            segment_study(tmp_path / "ct", tmp_path / "out", tiny)
        assert "wrong modality: CT" in told.value.found
        assert "export" not in told.value.fix
        assert told.value.fix == f"use {models_for(['CT'])}"

    def test_a_model_of_two_inputs_needs_both(self):
        assert "sarcoma-petct" not in models_for(["CT"])
        assert "sarcoma-petct" in models_for(["CT", "PT"])
        assert "none of the bundled ones" in models_for(["US"])

    def test_a_series_that_cannot_be_read_is_told_as_before(self, tiny, tmp_path):
        write_series(phantoms.volume(), tmp_path / "mr", modality="MR")[4].unlink()
        with pytest.raises(InputError, match="no series that could be taken"):
            segment_study(tmp_path / "mr", tmp_path / "out", tiny)


class TestTrainingCases:
    def reference(self, study, tiny, tmp_path):
        segment_study(study, tmp_path / "first", tiny, settings=LIGHT)
        return tmp_path / "first" / "seg.nii.gz"

    @pytest.mark.parametrize("split", [{"training": ["CASE_7"]}, {"training": ["x"], "training_sha256": "SUM"}])
    def test_a_reference_that_the_model_was_trained_on_is_said(self, split, study, tmp_path, capsys):
        from voxmetry.io.digest import digest_of

        folder = models.write(tmp_path / "own")
        reference = self.reference(study, folder, tmp_path)
        if "training_sha256" in split:
            split = {**split, "training_sha256": [digest_of((study, reference))]}
        (folder / "split.json").write_text(json.dumps(split))
        result = segment_study(study, tmp_path / "out", folder, reference=reference, settings=LIGHT)
        (flag,) = [flag for flag in result.flags if flag.code == "reference_in_training"]
        assert flag.severity == "review"
        # A model that was loaded before knows where it came from.
        again = segment_study(study, tmp_path / "again", load_model(folder), reference=reference, settings=LIGHT)
        assert "reference_in_training" in {flag.code for flag in again.flags}
        words = ["segment", str(study), "-m", str(folder), "-o", str(tmp_path / "x"), "--reference", str(reference)]
        run([*words, "--report", "none"])
        assert "was trained on this case" in capsys.readouterr().out

    def test_no_other_reference_is_flagged_and_without_one_nothing_is(self, study, tmp_path):
        folder = models.write(tmp_path / "own")
        reference = self.reference(study, folder, tmp_path)
        for split in ({"training": ["case_8", "case"]}, {"training": "case_7"}, [1], {}):
            (folder / "split.json").write_text(json.dumps(split))
            out = tmp_path / f"o{len(str(split))}"
            result = segment_study(study, out, folder, reference=reference, settings=LIGHT)
            assert "reference_in_training" not in {flag.code for flag in result.flags}
        (folder / "split.json").write_text('{"training": ["case_7"]}')
        plain = segment_study(study, tmp_path / "o", folder, settings=LIGHT)
        assert "reference_in_training" not in {flag.code for flag in plain.flags}


class TestCommand:
    def test_the_printed_command_repeats_the_run(self, study, tiny, tmp_path):
        words = ["segment", str(study), "-m", str(tiny), "-o", str(tmp_path / "out"), "--device", "cpu", "--report"]
        assert run([*words, "brief", "--tolerance-mm", "2", "--maps", "entropy", "--maps", "probabilities"]) in (0, 3)
        first = read_result(tmp_path / "out")
        self.repeat(first, {"STUDY": study, "MODEL": tiny, "OUT": tmp_path / "again"})
        second = read_result(tmp_path / "again")
        assert second.measurements == first.measurements
        assert second.provenance.settings == first.provenance.settings
        assert second.files == first.files

    def test_of_a_study_with_dicom_objects_and_a_reference(self, tiny, tmp_path):
        write_series(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), tmp_path / "mr", modality="MR")
        words = ["segment", str(tmp_path / "mr"), "-m", str(tiny), "-o", str(tmp_path / "out"), "--device", "cpu"]
        assert run([*words, "--dicom-seg", "--sr", "--report", "none"]) in (0, 3)
        first = read_result(tmp_path / "out")
        line = command(first)
        assert "{" not in line
        self.repeat(first, {"STUDY": tmp_path / "mr", "MODEL": tiny, "OUT": tmp_path / "again"})
        again = read_result(tmp_path / "again")
        assert (again.measurements, again.files) == (first.measurements, first.files)

    def test_of_two_files_names_both(self, pair, tmp_path):
        ct, pet, folder = pair
        first = segment_study([ct, pet], tmp_path / "out", folder, settings=LIGHT)
        assert command(first).startswith("voxmetry segment CT PET -m MODEL -o OUT")
        self.repeat(first, {"CT": ct, "PET": pet, "MODEL": folder, "OUT": tmp_path / "again"})
        assert read_result(tmp_path / "again").others[0].measurements == first.others[0].measurements

    def repeat(self, result, places):
        name, *words = shlex.split(command(result))
        assert name == "voxmetry"
        assert run([str(places.get(word, word)) for word in words]) in (0, 3)


class TestUptake:
    def test_a_petct_shows_uptake_first_and_has_its_pictures(self, pair, tmp_path, capsys):
        ct, pet, folder = pair
        words = ["segment", str(ct), str(pet), "-m", str(folder), "-o", str(tmp_path / "out"), "--unit", "SUVbw"]
        assert run(words) in (0, 3)
        out = capsys.readouterr().out
        first = next(line for line in out.splitlines() if line.strip())
        assert all(word in first for word in ("uptake on pet", "SUVmax", "SUVpeak", "MTV", "TLG"))
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        for name, n in (("projection", 2), ("fusion", 3)):
            figure = page[page.index(f'<figure id="{name}"') :]
            assert figure[: figure.index("</figure>")].count("data:image/png;base64,") == n
        assert (tmp_path / "out" / "preview.png").read_bytes()[:4] == b"\x89PNG"

    def test_the_pet_is_drawn_where_it_lies(self, pair):
        from voxmetry import read_volume
        from voxmetry.report.pictures.planes import plane_of
        from voxmetry.report.pictures.uptake import sampled

        ct, pet = read_volume(pair[0], modality="CT"), read_volume(pair[1], unit="SUVbw")
        for name in ("axial", "coronal", "sagittal"):
            plane = plane_of(ct.geometry, name)
            index = [9, 12, 5][plane.normal]
            picture = sampled(pet, ct.geometry, plane, index)
            assert picture.shape == plane.shape
            rows, columns = np.nonzero(picture > 7.9)
            for row, column in zip(rows, columns, strict=True):
                ijk = np.zeros(3)
                ijk[plane.normal] = index
                ijk[plane.vertical] = plane.shape[0] - 1 - row if plane.flip_vertical else row
                ijk[plane.horizontal] = plane.shape[1] - 1 - column if plane.flip_horizontal else column
                near = np.rint(pet.geometry.to_ijk(ct.geometry.to_mm(ijk))).astype(int)
                assert pet.array[tuple(near)] == 8.0
            assert len(rows) > 3


class TestBeforeTheNetwork:
    def test_a_far_too_large_field_of_view_is_told_before_the_network_runs(self, tiny, tmp_path):
        save(phantoms.volume(phantoms.geometry(shape=(120, 27, 11))), tmp_path / "wide.nii.gz")
        told = []
        segment_study(tmp_path / "wide.nii.gz", tmp_path / "out", tiny, settings=LIGHT, tell=told.append)
        (warning,) = [text for text in told if text.startswith("warning: ")]
        assert "2.2 times as large" in warning
        assert told.index(warning) < told.index("network")

    def test_a_usual_one_is_not(self, study, tiny, tmp_path):
        told = []
        segment_study(study, tmp_path / "out", tiny, settings=LIGHT, tell=told.append)
        assert not [text for text in told if text.startswith("warning: ")]

    def test_without_a_terminal_a_warning_is_a_line_and_steps_are_a_line_now_and_then(self, capsys, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with progress.steps() as tell:
            for second in range(0, 60, 5):
                now[0] = float(second)
                tell("network: 10 %")
            tell("warning: large")
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["15 s: network: 10 %", "30 s: network: 10 %", "45 s: network: 10 %", "warning: large"]

    def test_progress_is_in_per_cent_with_the_time_that_is_left(self, monkeypatch):
        now = iter([0.0, 10.0, 20.0, 30.0, 40.0])
        # Its own clock: other threads of this process look at that of the system.
        monkeypatch.setattr(network_progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
        slabs = [SimpleNamespace(start=start, axis=1, sums=np.zeros((2, 4, 10, 4))) for start in (0, 10, 20, 30)]
        told = []
        assert list(followed(iter(slabs), (4, 40, 4), told.append)) == slabs
        assert told == [
            "network: 25%, about 30 s left",
            "network: 50%, about 20 s left",
            "network: 75%, about 10 s left",
        ]


def test_one_structure_has_one_colour_in_its_report_and_on_the_page_of_its_cohort(study, tiny, tmp_path):
    result = segment_study(study, tmp_path / "one", tiny)
    done = Outcome(
        case="a",
        model="tiny-mr",
        state="done",
        place="x",
        colours={label.name: label.colour for label in result.labels},
        measurements=result.measurements,
    )
    with CohortRecord(tmp_path) as record:
        record._db.execute("INSERT INTO studies (\"case\", model, state) VALUES ('a', 'tiny-mr', 'waiting')")
        record.finished(done, run="1")
    with reading(tmp_path) as db:
        assert dict(db.execute("SELECT label, colour FROM colours").fetchall()) == {
            "front": "#E69F00",
            "back": "#56B4E9",
        }
    write_page(tmp_path)
    page = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    report = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    for row in result.measurements:
        colour = result.labels[row.label].colour
        assert f"--c:{colour}" in report
        assert f"--c:{colour}" in page
