"""The errors that one makes first say what to do next."""

from __future__ import annotations

import numpy as np
import pytest

import phantoms
from voxmetry import Volume, save
from voxmetry.cli import run
from voxmetry.io import write_series


def told(capsys, *words: str) -> str:
    """What a command says that cannot be done, its lines joined."""
    assert run(list(words)) in (1, 2)
    return " ".join(capsys.readouterr().err.split())


def test_a_missing_option_says_what_it_is(capsys):
    assert "Missing option '-m' / '--model'. A model's name (voxmetry models list)" in told(capsys, "segment", "STUDY")


def test_a_wrong_value_is_told_without_words_of_a_library(capsys):
    said = told(capsys, "segment", "STUDY", "-m", "hippocampus-mr", "-o", "OUT", "--device", "gpu")
    assert "Invalid value for '--device': 'gpu' is not one of" in said


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("models", "show", "hipocampus-mr"), "did you mean hippocampus-mr?"),
        (("models", "show", "hippocampus"), "did you mean hippocampus-mr?"),
        (("segment", "STUDY", "-m", "totalsegmentatr-ct", "-o", "OUT"), "did you mean totalsegmentator-ct"),
        (("segment", "STUDY", "-m", "nothing-like-it", "-o", "OUT"), "run `voxmetry models list`"),
        (("models", "pull", "totalsegmentator-ct-3m"), "did you mean totalsegmentator-ct-3mm?"),
        (
            ("segment", "STUDY", "-m", "hippocampus-mr", "-o", "OUT", "--set", "memory_bg=1"),
            "memory_bg: no such key (did you mean memory_gb?)",
        ),
    ],
)
def test_a_misspelled_name_is_answered_with_the_nearest(words, meant, capsys):
    assert meant in told(capsys, *words)


@pytest.mark.parametrize("group", ["models", "cohort", "data", "annotate"])
def test_a_list_of_verbs_is_told_in_full(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([group, "--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:")[1]
    assert "..." not in listed
    assert max(len(line) for line in listed.splitlines()) <= 80


def test_measure_takes_the_folder_of_a_run(tmp_path, capsys):
    save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
    (tmp_path / "result.json").write_text("{}")
    assert run(["measure", str(tmp_path)]) == 0
    assert phantoms.segmentation().labels.names[0] in capsys.readouterr().out


def test_a_model_folder_needs_no_import(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.yaml").write_text("name: mine")
    assert "it is a model folder already: voxmetry segment STUDY -m" in told(
        capsys, "models", "import", str(tmp_path / "model"), "--name", "mine"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cohort", "IN", "-m", "hippocampus-mr"), "No such command 'IN'. It is one of plan, run, status"),
        (("help",), "It is one of segment,"),
        (("compare", "A", "B", "--tolerance-mm", "-1"), "tolerance_mm: Input should be greater than or equal to 0 "),
        (("follow-up", "A"), "voxmetry follow-up [OPTIONS] {BASELINE} {FOLLOW_UP}"),
    ],
)
def test_what_is_typed_in_another_way_is_told_how_it_goes(words, said, capsys):
    assert said in told(capsys, *words)


def test_settings_that_are_no_keys_are_told_in_words(tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- device\n")
    said = told(
        capsys, "segment", "STUDY", "-m", "hippocampus-mr", "-o", "OUT", "--settings", str(tmp_path / "list.yaml")
    )
    assert "(top level): keys with values are needed" in said


def test_the_folder_of_a_study_is_not_one_for_results(tmp_path, capsys):
    write_series(phantoms.volume(phantoms.geometry()), tmp_path / "study", modality="MR")
    before = sorted(path.name for path in (tmp_path / "study").iterdir())
    study = str(tmp_path / "study")
    for spelled in (study, f"{study}/../study"):
        assert "is the folder that is read" in told(capsys, "segment", study, "-m", "hippocampus-mr", "-o", spelled)
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == before


def test_images_in_the_wrong_order_are_told_the_right_one(tmp_path, capsys):
    grid = phantoms.geometry()
    for name, value in (("ct", -1000), ("pet", 2)):
        save(Volume(np.full(grid.shape, value, np.int16), grid), tmp_path / f"{name}.nii.gz")
    pet, ct = (str(tmp_path / f"{name}.nii.gz") for name in ("pet", "ct"))
    said = told(capsys, "segment", pet, ct, "-m", "sarcoma-petct", "-o", str(tmp_path / "out"))
    assert "in the image that is given as pet" in said
    assert "give the images in the order of the model: CT PET" in said


def test_a_file_in_the_place_of_a_folder_is_told_to_be_one(tmp_path, capsys):
    save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
    said = told(capsys, "measure", str(tmp_path / "seg.nii.gz"), "-o", str(tmp_path / "seg.nii.gz"))
    assert "a file of that name is there" in said


def test_a_table_in_the_letters_of_one_country_is_told_how_to_save_it(tmp_path, capsys):
    (tmp_path / "list.csv").write_bytes("study;case\na.nii.gz;Größe\n".encode("cp1252"))
    said = told(
        capsys, "cohort", "plan", str(tmp_path / "list.csv"), "-m", "hippocampus-mr", "-o", str(tmp_path / "out")
    )
    assert "it is no Unicode text" in said
    assert "save the table as CSV (UTF-8)" in said


def test_a_data_set_that_lies_elsewhere_is_asked_for(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(
        "name: x\nchannels: [{name: t1, modality: MR, path: '{case}.nii.gz'}]\nlabel: 'l/{case}.nii.gz'\n"
        "labels: {1: a}\ncases: [a, b]\n"
    )
    assert "the variable VOXMETRY_DATA" in told(capsys, "data", "check", str(tmp_path / "data.yaml"))
