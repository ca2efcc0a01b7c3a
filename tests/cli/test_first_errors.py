"""The errors that one makes first say what to do next."""

from __future__ import annotations

import pytest

import phantoms
from voxmetry import save
from voxmetry.cli import run


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
