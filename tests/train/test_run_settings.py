"""The settings in a run's folder: what they say of a change, and that they find their data set from anywhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from cases import train_settings as settings
from cases import write_cases
from voxmetry.cli import run
from voxmetry.config import TrainSettings, dump_yaml, load_yaml
from voxmetry.errors import ConfigError
from voxmetry.train.run_settings import keep_places, start_folder, with_places
from voxmetry.workflows.train import beside, data_of


@pytest.fixture
def project(tmp_path):
    """A data set, and a configuration in a folder beside it that names it by a relative path."""
    write_cases(tmp_path / "data")
    (tmp_path / "configs").mkdir()
    written = settings(epochs=1, data="../data")
    (tmp_path / "configs" / "train.yaml").write_text(dump_yaml(written), encoding="utf-8")
    return tmp_path


def changed(project: Path, **change: object) -> TrainSettings:
    return settings(**{"epochs": 1, "data": "../data"} | change)


def test_the_command_that_a_refused_resumption_names_goes_on_with_the_run(project, monkeypatch, capsys):
    config, out = project / "configs" / "train.yaml", project / "my runs" / "one"
    monkeypatch.chdir(project)
    assert run(["train", str(config), "-o", str(out), "--device", "cpu"]) == 0
    config.write_text(dump_yaml(changed(project, epochs=9, learning_rate=0.5)), encoding="utf-8")
    capsys.readouterr()
    assert run(["train", str(config), "-o", str(out), "--device", "cpu", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "epochs is 9 and was 1" in said
    assert "learning_rate is 0.5 and was 0.002" in said
    assert "Python" not in said
    command = shlex.split(re.search(r"voxmetry (train .* --resume);", said)[1])
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert run([*command, "--device", "cpu"]) == 0


def test_settings_of_earlier_runs_stay_and_find_their_data_from_anywhere_afterwards(project):
    config, out = project / "configs" / "train.yaml", project / "run"
    out.mkdir()
    shutil.copy(config, out / "settings.yaml")
    given = load_yaml(config, TrainSettings)
    start_folder(given, out, resume=True, data=data_of(given, config))
    keep_places(given, out, data=data_of(given, config))
    assert data_of(load_yaml(out / "settings.yaml", TrainSettings), out / "settings.yaml") == [project / "data"]
    keep_places(given, out, data=data_of(given, config))


def test_a_run_or_a_data_set_that_has_moved_is_no_other_setting(project):
    given = changed(project, start_from="models/old")
    (project / "models" / "old").mkdir(parents=True)
    start_folder(
        given.model_copy(update={"start_from": str(project / "models" / "old")}), project / "run", resume=False
    )
    moved = project / "moved"
    moved.mkdir()
    for name in ("run", "data", "models"):
        (project / name).rename(moved / name)
    start_folder(given, moved / "run", resume=True, data=[moved / "data"])
    with pytest.raises(ConfigError, match=r"start_from is models/other and was .*old"):
        start_folder(given.model_copy(update={"start_from": "models/other"}), moved / "run", resume=True)


def test_of_many_changes_the_first_are_named_and_the_others_counted(project):
    start_folder(changed(project), project / "run", resume=False)
    new = changed(project, epochs=2, seed=3, learning_rate=0.1, weight_decay=0.1, loss="tversky", fold=1)
    with pytest.raises(ConfigError, match=r"weight_decay is 0\.1 and was 0\.01 and 2 more\n"):
        start_folder(new, project / "run", resume=True)
    with pytest.raises(ConfigError, match="fold is 1 and was not set"):
        start_folder(changed(project, fold=1), project / "run", resume=True)


def test_paths_that_lead_nowhere_and_names_of_models_stay_as_they_are(project, monkeypatch):
    monkeypatch.chdir(project)
    given = changed(project, start_from="hippocampus-mr", data="nowhere")
    assert with_places(given, (), Path) == given
    assert with_places(given, Path("data"), Path).data == str(project / "data")


def test_a_data_set_that_a_configuration_names_and_that_is_not_there_can_be_named(project, capsys):
    config = project / "configs" / "train.yaml"
    (project / "data").rename(project / "other")
    assert run(["train", str(config), "-o", str(project / "run"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "names the data set ../data, which is not there" in said
    assert "--data DATASET" in said


def test_a_pattern_is_found_beside_the_configuration(project, monkeypatch):
    monkeypatch.chdir(project / "data")
    found = beside(project / "configs" / "train.yaml", "../data/labels/*.nii.gz")
    assert found == project / "configs" / "../data/labels/*.nii.gz"


def test_a_plan_finds_its_data_set_from_its_own_file(project, monkeypatch):
    monkeypatch.chdir(project)
    assert run(["train-plan", "data", "-o", "configs/plan.yaml", "--epochs", "1"]) == 0
    monkeypatch.chdir(project / "data" / "images")
    plan = project / "configs" / "plan.yaml"
    assert [path.resolve() for path in data_of(load_yaml(plan, TrainSettings), plan)] == [project / "data"]
