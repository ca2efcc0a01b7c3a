import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Segmentation, save
from voxmetry.cli import run
from voxmetry.io import write_series

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def study(tmp_path):
    save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), tmp_path / "study.nii.gz")
    return tmp_path / "study.nii.gz"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def label_maps(tmp_path):
    first = phantoms.segmentation()
    moved = np.roll(first.array, 1, axis=2)
    save(first, tmp_path / "reference.nii.gz")
    save(Segmentation(moved, first.geometry, first.labels), tmp_path / "prediction.nii.gz")
    return tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"


def call(capsys, *arguments: object) -> tuple[int, dict, str]:
    """Run a verb with --json; return its exit code, its JSON and what it told on stderr."""
    code = run([*map(str, arguments), "--json"])
    out, told = capsys.readouterr()
    return code, json.loads(out) if out.strip() else {}, told


class TestSegment:
    def test_json_is_the_result_file(self, capsys, study, model, tmp_path):
        code, content, _ = call(capsys, "segment", study, "-m", model, "-o", tmp_path / "out", "--report", "none")
        assert content == json.loads((tmp_path / "out" / "result.json").read_text())
        assert code == (3 if any(flag["severity"] == "review" for flag in content["flags"]) else 0)

    def test_flagged_for_review_is_exit_code_3(self, capsys, model, tmp_path):
        path = tmp_path / "wide.nii.gz"
        save(phantoms.volume(phantoms.geometry(shape=(80, 27, 11))), path)
        code, content, _ = call(capsys, "segment", path, "-m", model, "-o", tmp_path / "out", "--report", "none")
        assert code == 3
        assert "field_of_view_out_of_domain" in {flag["code"] for flag in content["flags"]}

    def test_settings_come_from_a_file_and_options_win(self, capsys, study, model, tmp_path):
        path = tmp_path / "study.yaml"
        path.write_text("tolerance_mm: 2.5\ndevice: openvino\nreport: none\n")
        arguments = ("segment", study, "-m", model, "-o", tmp_path / "out", "--settings", path, "--device", "cpu")
        _, content, _ = call(capsys, *arguments)
        assert content["provenance"]["settings"]["tolerance_mm"] == 2.5
        assert content["provenance"]["device"] == "cpu"

    def test_a_person_sees_the_table_and_the_files(self, capsys, study, model, tmp_path):
        run(["segment", str(study), "-m", str(model), "-o", str(tmp_path / "out")])
        out = capsys.readouterr().out
        assert "front" in out
        assert "report.html" in out
        assert "Research use only" in out


class TestErrors:
    def test_a_failed_study_is_exit_code_1_in_words_and_in_json(self, capsys, model, tmp_path):
        code, content, told = call(capsys, "segment", tmp_path / "none.nii.gz", "-m", model, "-o", tmp_path / "out")
        assert code == 1
        assert content.keys() == {"error", "found", "expected", "fix"}
        assert told.startswith("voxmetry: ")
        assert "expected:" in told

    @pytest.mark.parametrize(
        "arguments",
        [
            ["segment", "STUDY", "-m", "no-such-model", "-o", "OUT"],
            ["segment", "STUDY", "-m", "MODEL"],
            ["segment", "STUDY", "-m", "MODEL", "-o", "OUT", "--device", "tpu"],
            ["train", "none.yaml"],
            ["models", "show", "none"],
            ["unknown"],
        ],
    )
    def test_wrong_usage_is_exit_code_2(self, capsys, study, model, tmp_path, arguments):
        names = {"STUDY": study, "MODEL": model, "OUT": tmp_path / "out"}
        assert run([str(names.get(word, word)) for word in arguments]) == 2
        told = capsys.readouterr().err
        assert told
        assert "Traceback" not in told

    def test_results_are_not_overwritten_unasked(self, capsys, study, model, tmp_path):
        arguments = ["segment", str(study), "-m", str(model), "-o", str(tmp_path / "out"), "--report", "none"]
        run(arguments)
        assert run(arguments) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert run([*arguments, "--overwrite"]) in (0, 3)


class TestOtherVerbs:
    def test_inspect_lists_series(self, capsys, tmp_path):
        write_series(phantoms.volume(), tmp_path / "series", modality="MR", description="t1")
        code, content, _ = call(capsys, "inspect", tmp_path / "series")
        assert code == 0
        (series,) = content["series"]
        assert (series["modality"], series["n_slices"], series["verdict"]) == ("MR", phantoms.SHAPE[2], "regular")
        assert run(["inspect", str(tmp_path / "series")]) == 0
        assert "regular" in capsys.readouterr().out

    def test_inspect_describes_a_file(self, capsys, study):
        _, content, _ = call(capsys, "inspect", study)
        assert content["image"]["shape"] == [21, 27, 11]

    def test_inspect_says_why_a_path_cannot_be_read(self, capsys, tmp_path):
        code, content, _ = call(capsys, "inspect", tmp_path / "none")
        assert code == 1
        assert content["found"]

    def test_measure_gives_the_volume_by_hand(self, capsys, label_maps):
        code, content, _ = call(capsys, "measure", label_maps[1])
        assert code == 0
        by_label = {row["label"]: row for row in content["measurements"]}
        assert by_label["a"]["volume_ml"] == pytest.approx(3 * 4 * 2 * 0.9 * 1.3 * 2.6 / 1000)
        assert by_label["a"]["intensity_mean"] is None

    def test_compare_gives_dice_and_distance_by_hand(self, capsys, label_maps):
        code, content, _ = call(capsys, "compare", "--prediction", label_maps[0], "--reference", label_maps[1])
        assert code == 0
        for row in content["comparisons"]:
            # Two slices, moved by one: half of each mask is common, and one slice of 2.6 mm lies between the ends.
            assert row["dice"] == pytest.approx(0.5)
            assert row["hausdorff_mm"] == pytest.approx(2.6, abs=1e-6)
        assert "hd95_mm" in content["definitions"]
        assert run(["compare", "--prediction", str(label_maps[0]), "--reference", str(label_maps[1])]) == 0

    def test_models_are_listed_and_shown(self, capsys, model):
        code, content, _ = call(capsys, "models", "list")
        assert code == 0
        assert "hippocampus-mr" in [item["name"] for item in content["models"]]
        code, content, _ = call(capsys, "models", "show", model)
        assert content["model"]["name"] == "tiny-mr"
        assert run(["models", "show", "hippocampus-mr"]) == 0
        assert "Licence of these weights" in capsys.readouterr().out

    def test_version(self, capsys):
        assert run(["--version"]) == 0
        assert capsys.readouterr().out.startswith("voxmetry ")


def test_light_verbs_import_no_torch():
    code = (
        "import sys, voxmetry, voxmetry.cli.app\n"
        "from voxmetry.cli import run\n"
        "run(['models', 'list'])\n"
        "heavy = {'torch', 'monai', 'SimpleITK', 'matplotlib', 'nibabel'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    environment = {"PYTHONPATH": str(SRC), "PATH": ""}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
