import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

import models
import phantoms
from cases import write_cases
from voxmetry import LabelTable, Segmentation
from voxmetry.cli import run
from voxmetry.core.records import MeanInterval, PairedComparison
from voxmetry.errors import ConfigError, InputError, OutputExistsError
from voxmetry.measurement.failures import BACKGROUND, CaseProperties, FailureCounter, factors
from voxmetry.train.dataset import open_data
from voxmetry.workflows.evaluate import evaluate, verdicts
from voxmetry.workflows.model_folds import open_entry

OTSU = Path(__file__).parents[2] / "configs" / "models" / "otsu.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_cases(tmp_path_factory.mktemp("sets") / "phantoms-mr", 4)
    described = {"labels": {"background": 0, "front": 2, "back": 7}, "channel_names": {"0": "T1"}}
    (made / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return made


@pytest.fixture
def model(tmp_path):
    made = models.write(tmp_path / "tiny")
    (made / "split.json").write_text(json.dumps({"training": ["case_0"], "validation": []}), encoding="utf-8")
    return made


@pytest.fixture
def baseline(tmp_path):
    path = tmp_path / "bright.yaml"
    text = OTSU.read_text(encoding="utf-8").replace("name: otsu", "name: bright").replace("value: 1", "value: 7")
    path.write_text(text.replace("bone", "back").replace("bright, ", "back, "), encoding="utf-8")
    return path


class TestEvaluate:
    def test_writes_tables_and_pages_and_leaves_out_what_was_trained_on(self, folder, model, baseline, tmp_path):
        out = tmp_path / "out"
        found, files = evaluate(open_data(folder), [model, baseline], out, device="cpu")
        assert [(m.name, m.n_seen, len(m.cohort.cases)) for m in found.models] == [("tiny", 1, 3), ("bright", 0, 4)]
        rows = list(csv.DictReader((out / "evaluation.csv").read_text(encoding="utf-8").splitlines()))
        assert {row["case"] for row in rows if row["model"] == "tiny"} == {"case_1", "case_2", "case_3"}
        assert {"dice", "iou", "hd95_mm", "assd_mm", "surface_dice", "volume_difference_ml"} <= rows[0].keys()
        assert all(path.exists() for path in files)
        assert (out / "predictions" / "bright" / "case_0.nii.gz").exists()
        page = (out / "evaluation.html").read_text(encoding="utf-8")
        assert "1 case left out, because it was trained on them" in page
        assert "http" not in page.replace("http-equiv", "")
        with pytest.raises(OutputExistsError, match="--overwrite"):
            evaluate(open_data(folder), [baseline], out)

    def test_a_structure_has_the_colour_of_the_first_model_that_knows_it_on_all_pages(
        self, folder, model, baseline, tmp_path
    ):
        text = (model / "model.yaml").read_text(encoding="utf-8")
        (model / "model.yaml").write_text(text.replace("#E69F00", "#112233").replace("#56B4E9", "#445566"))
        evaluate(open_data(folder), [model, baseline], tmp_path / "out", device="cpu")
        page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
        assert set(re.findall(r"--c:(#\w+)", page)) == {"#112233", "#445566"}
        own = (tmp_path / "out" / "tiny.html").read_text(encoding="utf-8")
        # Beside them stand the colours of what is missed, invented and in both.
        assert {"#112233", "#445566"} <= set(re.findall(r"--c:(#\w+)", own))
        assert "#E69F00" not in own

    @pytest.mark.parametrize(
        ("split", "words"),
        [
            ({"validation": []}, ""),
            ({"validation": ["case_1"]}, "does not say whether its recipe was chosen on them"),
            ({"validation": ["case_1"], "recipe_chosen_on": []}, ""),
            ({"validation": ["case_1"], "recipe_chosen_on": ["case_1", "gone"]}, "chosen on 1 of these 3 cases"),
        ],
    )
    def test_says_which_cases_the_recipe_was_chosen_on(self, split, words, folder, model, tmp_path):
        (model / "split.json").write_text(json.dumps({"training": ["case_0"]} | split), encoding="utf-8")
        found, _ = evaluate(open_data(folder), [model], tmp_path / "out", device="cpu")
        assert words in found.models[0].recipe
        assert bool(found.models[0].recipe) == bool(words)
        page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
        assert ("recipe" in page) == bool(words)
        if "1 of these" in words:
            others = [row for row in found.models[0].cohort.cases if row.case != "case_1"]
            for name in ("front", "back"):
                dice = np.mean([c.dice for row in others for c in row.comparisons if c.label == name])
                assert f"{name} {dice:.3f} (" in found.models[0].recipe.partition("Dice of the other 2 alone: ")[2]

    def test_says_of_how_many_cases_a_structure_does_not_count_as_nobody_looked_for_it(self, folder, model, tmp_path):
        manifest = {
            "name": "parts",
            "root": str(folder),
            "channels": [{"name": "mr", "modality": "MR", "path": "images/{case}.nii.gz"}],
            "label": "labels/{case}.nii.gz",
            "labels": {2: "front", 7: "back", 9: "side"},
            "cases": ["case_1", {"case": "case_2", "known": ["front", "side"]}, {"case": "case_3", "known": ["front"]}],
        }
        (tmp_path / "parts.yaml").write_text(json.dumps(manifest), encoding="utf-8")
        found, _ = evaluate(open_data(tmp_path / "parts.yaml"), [model], tmp_path / "out", device="cpu")
        cohort = found.models[0].cohort
        assert cohort.notes == (
            "not compared, as the model does not know it: side",
            "not compared, as it was not looked for: back (in 2 of 3 cases)",
        )
        assert [len(row.comparisons) for row in cohort.cases] == [2, 1, 1]

    def test_a_case_that_fails_is_a_row_with_its_reason(self, folder, baseline, tmp_path):
        import shutil

        copy = tmp_path / "copy-mr"
        shutil.copytree(folder, copy)
        (copy / "images" / "case_2.nii.gz").write_bytes(b"no image")
        found, _ = evaluate(open_data(copy), [baseline], tmp_path / "out")
        (failed,) = found.models[0].cohort.failed
        assert failed.case == "case_2"
        assert found.models[0].cohort.structures[0].label == "back"
        assert "case_2" in failed.error["found"]

    def test_a_model_that_has_seen_every_case_is_refused(self, folder, model):
        names = [case.name for case in open_data(folder).cases]
        (model / "split.json").write_text(json.dumps({"training": names}), encoding="utf-8")
        with pytest.raises(InputError, match="trained on all 4 cases"):
            open_entry(model, open_data(folder), device="cpu")

    def test_folds_predict_the_cases_that_they_held_out(self, folder, tmp_path):
        for fold, held_out in enumerate((["case_0", "case_2"], ["case_1"])):
            made = models.write(tmp_path / "run" / f"fold-{fold}" / "model", seed=fold)
            (made / "split.json").write_text(json.dumps({"training": [], "validation": held_out}), encoding="utf-8")
        entry = open_entry(tmp_path / "run", open_data(folder), device="cpu")
        assert [names for _, names in entry.folds] == [("case_0", "case_2"), ("case_1",)]
        assert (entry.name, entry.n_seen) == ("run", 1)

    def test_two_models_of_one_name_are_refused(self, folder, baseline, tmp_path):
        with pytest.raises(ConfigError, match="name"):
            evaluate(open_data(folder), [baseline, baseline], tmp_path / "out")

    def test_the_verb_prints_json(self, folder, baseline, tmp_path, capsys):
        command = ["evaluate", str(folder), "-m", str(baseline), "-o", str(tmp_path / "out"), "--json"]
        assert run(command) == 0
        assert json.loads(capsys.readouterr().out)["models"][0]["is_baseline"] is True


def paired(low: float, mean: float, high: float) -> PairedComparison:
    interval = MeanInterval(n=9, n_patients=9, mean=mean, low=low, high=high, level=0.95)
    return PairedComparison(
        label="tumour",
        metric="dice",
        difference=interval,
        median_difference=mean,
        n_ties=0,
        w_plus=1,
        w_minus=1,
        p_value=0.5,
        effect_size=0,
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.05, 0.2, "the baseline bright is worse than tiny"),
        (-0.05, 0.01, "the baseline bright is as good as tiny to within 0.02"),
        (-0.2, -0.1, "the baseline bright is better than tiny"),
        (-0.1, 0.1, "told apart"),
    ],
)
def test_the_page_says_where_a_baseline_is_as_good(folder, model, baseline, tmp_path, low, high, words):
    found, _ = evaluate(open_data(folder).select(["case_1", "case_2"]), [model, baseline], tmp_path / "o", device="cpu")
    first, other = found.models
    (line,) = verdicts(first, other, [paired(low, (low + high) / 2, high)])
    assert words in line


class TestFailures:
    grid = phantoms.geometry(shape=(20, 18, 12), spacing_mm=(1.0, 2.0, 3.0))
    table = LabelTable.from_names({1: "a", 2: "b"})

    def maps(self):
        truth = np.zeros(self.grid.shape, np.uint8)
        truth[5:10, 5:11, 3:8] = 1
        truth[10:15, 5:11, 3:8] = 2
        return truth, truth.copy()

    def count(self, found, truth):
        counter = FailureCounter()
        structures = [("a", 1, 1), ("b", 2, 2)]
        counter.add(Segmentation(found, self.grid, self.table), Segmentation(truth, self.grid, self.table), structures)
        return counter.result()

    def test_confusion_counts_in_millilitres(self):
        truth, found = self.maps()
        found[10:12, 5:11, 3:8] = 1  # two slices of b are taken for a
        found[5, 5, 3] = 0
        result = self.count(found, truth)
        assert result.classes == (BACKGROUND, "a", "b")
        voxel = self.grid.voxel_ml
        assert result.confusion_ml[2][1] == pytest.approx(2 * 6 * 5 * voxel)
        assert result.confusion_ml[1][0] == pytest.approx(voxel)
        assert sum(map(sum, result.confusion_ml)) == pytest.approx(20 * 18 * 12 * voxel)

    def test_a_boundary_in_its_place_is_zero_everywhere(self):
        truth, found = self.maps()
        assert {row.mean_mm for row in self.count(found, truth).offsets} == {0.0}

    def test_a_side_that_reaches_too_far_is_positive_and_one_too_short_negative(self):
        truth, found = self.maps()
        found[5:15, 11:12, 3:8] = found[5:15, 10:11, 3:8]  # one voxel of 2 mm too far along j
        found[found[:, :, 7:8].nonzero()[0], :, 7:8] = 0  # one voxel of 3 mm too short along k
        offsets = {(row.label, row.side): row.mean_mm for row in self.count(found, truth).offsets}
        codes = dict(zip("RLAPSI", ("right", "left", "anterior", "posterior", "superior", "inferior"), strict=True))
        far, short = codes[self.grid.axcodes[1]], codes[self.grid.axcodes[2]]
        assert offsets["a", far] > 1.0
        assert offsets["a", short] <= -1.0

    def test_a_missed_structure_has_no_boundary(self):
        truth, found = self.maps()
        found[found == 2] = 0
        assert {row.label for row in self.count(found, truth).offsets} == {"a"}

    def test_factors_rank_and_say_why_not(self):
        rows = [
            CaseProperties(
                case=str(n),
                label="a",
                dice=0.5 + n / 20,
                volume_reference_ml=n**2,
                voxel_ml=1,
                slice_mm=1,
                intensity_mean=float("nan"),
            )
            for n in range(1, 8)
        ]
        found = {row.factor: row for row in factors(rows)}
        assert found["volume_reference_ml"].spearman == pytest.approx(1)
        assert found["voxel_ml"].reason == "the same in all cases"
        assert found["intensity_mean"].reason == "0 cases are too few"
