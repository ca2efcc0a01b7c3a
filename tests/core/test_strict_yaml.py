import pytest
import yaml

from voxmetry.config import StudySettings, load_yaml
from voxmetry.core.strict_yaml import load_strict
from voxmetry.errors import ConfigError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\nb: {c: 2, c: 3}\n", "'c' is given twice"),
        ("spacing_mm: [1, .inf, 1]\n", "finite"),
        ("x: .NaN\n", "finite"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested deeper"),
        ("a: " + "9" * 6000, "6000 digits"),
        (LAUGHS, "stand for more than"),
        ("a: &a [*a]", "inside what it stands for"),
        ("a: 2020-02-32", "cannot be read"),
    ],
)
def test_what_nobody_writes_on_purpose_is_refused_with_its_line(text, word):
    with pytest.raises(yaml.YAMLError, match=word):
        load_strict(text)


def test_aliases_and_merged_keys_that_people_write_are_read():
    text = "base: &base {x: 1, y: 2}\nother:\n  <<: *base\n  y: 3\nlist: [*base, 1.5e-3, 0x1f]\n"
    found = load_strict(text)
    assert found["other"] == {"x": 1, "y": 3}
    assert found["list"][0] == {"x": 1, "y": 2}
    assert found["list"][2] == 31


def test_a_settings_file_with_a_key_twice_names_file_and_line(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("tolerance_mm: 1\ndevice: cpu\ntolerance_mm: 2\n")
    with pytest.raises(ConfigError, match=r"(?s)study\.yaml.*'tolerance_mm' is given twice.*line 3"):
        load_yaml(path, StudySettings)


def test_a_device_or_a_folder_is_no_settings_file(tmp_path):
    for path in ("/dev/zero", tmp_path):
        with pytest.raises(ConfigError, match="no regular file"):
            load_yaml(path, StudySettings)
