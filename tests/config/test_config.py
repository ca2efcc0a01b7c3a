from pathlib import Path

import pytest
import yaml

from voxmetry.classical import BaselineSpec
from voxmetry.config import ModelSpec, StudySettings, TrainSettings, dump_yaml, load_yaml, parse_record
from voxmetry.errors import ConfigError
from voxmetry.train.manifests import Manifest

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {"models": BaselineSpec, "train": TrainSettings, "study": StudySettings, "data": Manifest}


@pytest.fixture
def template() -> dict:
    return load_yaml(CONFIGS / "train" / "hippocampus-mr.yaml", TrainSettings).model.model_dump(mode="json")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_each_configuration_is_read_and_survives_a_round_trip(path, tmp_path):
    kind = KINDS[path.parent.name]
    record = load_yaml(path, kind)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_yaml(record), encoding="utf-8")
    assert load_yaml(copy, kind) == record


def test_a_typo_is_an_error_that_names_the_key(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("devcie: cpu\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"study\.yaml: devcie"):
        load_yaml(path, StudySettings)


class TestBasedOn:
    def write(self, folder, text, *, base="hippocampus-mr.yaml"):
        (folder / "base.yaml").write_text((CONFIGS / "train" / base).read_text(encoding="utf-8"), encoding="utf-8")
        (folder / "changed.yaml").write_text(text, encoding="utf-8")
        return folder / "changed.yaml"

    def test_a_file_says_what_differs_from_the_one_beside_it(self, tmp_path):
        path = self.write(
            tmp_path,
            "based_on: base.yaml\nepochs: 3\naugment: {scale: 0.5}\nmodel: {network: {channels: [4, 8, 8, 8]}}\n"
            "batch_size: null\n",
        )
        base, found = load_yaml(tmp_path / "base.yaml", TrainSettings), load_yaml(path, TrainSettings)
        assert (found.epochs, found.batch_size) == (3, TrainSettings.model_fields["batch_size"].default)
        assert found.augment == base.augment.model_copy(update={"scale": 0.5})
        assert found.model.network == base.model.network.model_copy(update={"channels": (4, 8, 8, 8)})
        assert (found.seed, found.model.labels) == (base.seed, base.model.labels)

    @pytest.mark.parametrize("name", ["../base.yaml", "7", "[base.yaml]", "/base.yaml", "other/base.yaml"])
    def test_a_base_elsewhere_is_refused_as_paths_would_mean_another_place(self, tmp_path, name):
        with pytest.raises(ConfigError, match="same folder"):
            load_yaml(self.write(tmp_path, f"based_on: {name}\n"), TrainSettings)

    def test_a_base_that_is_missing_or_based_on_another_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
            load_yaml(self.write(tmp_path, "based_on: nowhere.yaml\n"), TrainSettings)
        with pytest.raises(ConfigError, match="stands alone"):
            load_yaml(self.write(tmp_path, "based_on: changed.yaml\n"), TrainSettings)

    def test_a_typo_is_named_in_the_file_that_was_opened(self, tmp_path):
        with pytest.raises(ConfigError, match=r"changed\.yaml: epoch: no such key"):
            load_yaml(self.write(tmp_path, "based_on: base.yaml\nepoch: 3\n"), TrainSettings)

    def test_other_files_know_no_base(self, tmp_path):
        with pytest.raises(ConfigError, match="based_on: no such key"):
            load_yaml(self.write(tmp_path, "based_on: base.yaml\n"), StudySettings)


def test_yaml_is_data_and_never_code(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("device: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(path, StudySettings)


def test_a_missing_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml", StudySettings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": {"patch": [48, 60, 48]}}, "multiple of 8: 64 would do"),
        ({"orientation": "RAR"}, "RAR"),
        ({"orientation": "RAx"}, "RAx"),
        ({"clean": [{"step": "largest", "labels": ["spleen"]}]}, "spleen"),
        ({"spacing_mm": [1, 0, 1]}, "spacing_mm.1"),
        ({"inputs": []}, "inputs"),
        ({"network": {"channels": [16, 32], "strides": [[1, 1, 1]], "kernels": [[3, 3, 3]]}}, "each level"),
    ],
)
def test_an_impossible_model_is_refused_with_its_key(template, change, words):
    with pytest.raises(ConfigError, match=words):
        parse_record(template | change, ModelSpec, where="model.yaml")


def test_the_default_study_file_says_every_setting_as_the_code_has_it():
    path = CONFIGS / "study" / "default.yaml"
    assert load_yaml(path, StudySettings) == StudySettings()
    assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == StudySettings.model_fields.keys()


def test_settings_of_a_run_before_the_removals_are_read_unless_it_used_them(template):
    before = {"model": template, "data": "x", "teacher": None, "teacher_share": 0.5, "border_smoothing": 0.0}
    read = parse_record(before, TrainSettings, where="test")
    assert "teacher_share" not in dump_yaml(read)
    assert parse_record({**before, "teacher_share": 0.3}, TrainSettings, where="test") == read
    for used in ({"teacher": "m"}, {"border_smoothing": 0.2}):
        with pytest.raises(ConfigError, match="removed"):
            parse_record({**before, **used}, TrainSettings, where="test")


class TestSwapOnMirror:
    def model(self, template, **window):
        sides = [{"value": 1, "name": "kidney_left"}, {"value": 2, "name": "kidney_right"}]
        labels = {"labels": [label | {"colour": "#E69F00"} for label in sides]}
        return template | {"labels": labels, "clean": [], "training_domain": {}, "window": template["window"] | window}

    def test_needs_labels_each_named_once_and_the_axis_from_left_to_right(self, template):
        pair = ["kidney_left", "kidney_right"]
        assert parse_record(self.model(template, swap_on_mirror=[pair]), ModelSpec, where="").window.swap_on_mirror
        for window, words in (
            ({"swap_on_mirror": [["kidney_left", "spleen"]]}, "spleen"),
            ({"swap_on_mirror": [pair, pair]}, "named once"),
            ({"swap_on_mirror": [pair], "mirror_axes": [1]}, "left to right"),
        ):
            with pytest.raises(ConfigError, match=words):
                parse_record(self.model(template, **window), ModelSpec, where="")

    def test_a_training_that_knows_sides_does_not_mix_them_in_mirror_images(self, template):
        made = {
            "data": "x",
            "model": self.model(template),
            "augment": {"swap_on_flip": [["kidney_left", "kidney_right"]]},
        }
        with pytest.raises(ConfigError, match="would be mixed"):
            parse_record(made, TrainSettings, where="")
