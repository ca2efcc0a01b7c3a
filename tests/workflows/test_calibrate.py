"""Foretelling the Dice of a segmentation without a reference."""

import math

import numpy as np
import pytest

import models
from cases import write_cases
from voxmetry import segment_study
from voxmetry.config import ModelSpec, Quality, TrainSettings, dump_yaml, load_yaml, parse_record
from voxmetry.errors import InputError
from voxmetry.flags.study import flag_quality, predict_dice
from voxmetry.train import train
from voxmetry.train.dataset import open_data
from voxmetry.workflows.calibrate import (
    CalibrationReport,
    _calibrate_one,
    calibrate,
    calibrate_model,
    card_section,
    with_section,
)
from voxmetry.workflows.model_folds import ModelFolds


def rows(n=40, *, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.85, 0.98, n)
    dice = np.clip(2 * sure - 0.98 + rng.normal(0, noise, n), 0, 1)
    return [(f"c{i:02}", "liver", float(x), float(y)) for i, (x, y) in enumerate(zip(sure, dice, strict=True))]


class TestFit:
    def test_recovers_the_line_and_catches_the_worst(self):
        found, told = _calibrate_one("liver", rows())
        assert found.quality.slope == pytest.approx(2, abs=0.1)
        assert found.spearman > 0.95
        assert (found.n_worst, found.n_worst_flagged) == (4, 4)
        assert found.mean_absolute_error < 0.01
        assert len(told) == 40
        assert "true Dice 0.99, mean error 0.005" in str(found)
        assert str(found).endswith("8 cases: 4 of the 4 in the worst tenth")

    def test_no_case_is_foretold_by_a_line_that_saw_it(self):
        base = rows(12, noise=0.0)
        spoilt = [*base[:-1], (*base[-1][:3], 0.1)]
        _, before = _calibrate_one("liver", base)
        _, after = _calibrate_one("liver", spoilt)
        assert after[-1].predicted_dice == before[-1].predicted_dice

    def test_certainty_that_says_nothing_foretells_nothing(self):
        rng = np.random.default_rng(3)
        shuffled = [(c, n, float(x), y) for (c, n, _, y), x in zip(rows(), rng.uniform(0.85, 0.98, 40), strict=True)]
        found, _ = _calibrate_one("liver", shuffled)
        assert not found.spearman >= 0.3
        assert not found.skilled
        lowest = min(row.predicted_dice for row in _calibrate_one("liver", shuffled)[1])
        assert found.quality.review_below == pytest.approx(lowest, abs=1e-4)
        assert "Too weak to flag a fifth by (8 cases hold" in str(found)

    def test_more_certainty_never_foretells_less(self):
        turned = [(case, name, 1.83 - x, y) for case, name, x, y in rows()]
        found, told = _calibrate_one("liver", turned)
        assert found.quality.slope == 0
        assert found.quality.intercept == pytest.approx(np.median([y for *_, y in turned]), abs=1e-4)
        assert not found.skilled
        assert "true Dice none, mean error" in str(found)
        assert found.quality.predict(0.5) >= found.quality.review_below
        assert np.ptp([row.predicted_dice for row in told]) < 0.02

    def test_with_few_cases_no_line_is_fitted(self):
        found, told = _calibrate_one("liver", rows(9))
        assert found.quality is None
        assert "too few" in str(found)
        assert math.isnan(found.spearman)
        assert all(math.isnan(row.predicted_dice) for row in told)

    def test_a_case_without_the_structure_is_left_out(self):
        found, _ = _calibrate_one("liver", [*rows(12), ("none", "liver", math.nan, 0.0)])
        assert found.n == 12


class TestCard:
    def report(self, n):
        found, told = _calibrate_one("liver", rows(n))
        return CalibrationReport(data="livers", structures=(found,), rows=tuple(told))

    def test_the_section_has_the_figures_and_the_plot(self):
        section = card_section(self.report(40))
        assert "| liver | 40 | 0.99 | 0.005 |" in section
        assert "certainty does not tell good from bad" not in section
        assert "| 8 | 4 of 4 |" in section
        assert "(calibration.png)" in section
        assert "| liver | 9 | not fitted |" in card_section(self.report(9))

    def test_a_second_calibration_takes_the_place_of_the_first(self):
        first, second = card_section(self.report(40)), card_section(self.report(20))
        once = with_section("# a model\n\nWords.\n", first)
        assert once.startswith("# a model\n\nWords.\n\n## Predicted Dice\n\n")
        twice = with_section(once + "\n## After\n", second)
        assert first not in twice
        assert second in twice
        assert twice.endswith("## After\n")
        assert twice.count("## Predicted Dice") == 1


def test_a_low_predicted_dice_asks_for_a_look():
    how = Quality(intercept=0.0, slope=1.0, review_below=0.9, error=0.02, n_cases=40)
    spec = parse_record(
        models.spec().model_dump(mode="json") | {"quality": {"front": how.model_dump()}}, ModelSpec, where=""
    )
    low, fine = predict_dice({"front": 0.85}, spec), predict_dice({"front": 0.95}, spec)
    assert [flag.code for flag in flag_quality(low)] == ["low_predicted_dice"]
    assert flag_quality(fine) == ()
    assert predict_dice({"front": math.nan}, spec) == ()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    data = write_cases(folder / "data", 14)
    settings = {
        "model": models.spec().model_dump(mode="json"),
        "data": "unused",
        "epochs": 2,
        "batch_size": 2,
        "validation_fraction": 0.8,
        "seed": 7,
    }
    return data, train(parse_record(settings, TrainSettings, where="test"), folder / "run", data=data)


class TestCalibrate:
    def test_the_model_folder_then_foretells_and_flags(self, trained, tmp_path):
        folder, model = trained
        result, files = calibrate_model(open_data(folder), model, tmp_path / "out", into=model, device="cpu")
        names = ["calibration.json", "calibration.csv", "calibration.png"]
        assert [path.name for path in files] == [*names, "calibration.png", "MODEL_CARD.md", "model.yaml"]
        assert (model / "calibration.png").read_bytes() == (tmp_path / "out" / "calibration.png").read_bytes()
        card = (model / "MODEL_CARD.md").read_text()
        assert card.startswith("# ")
        assert card_section(result) in card
        spec = load_yaml(model / "model.yaml", ModelSpec)
        assert {row.label for row in result.structures if row.quality} == set(spec.quality)
        if not spec.quality:
            pytest.fail("nothing was fitted")
        strict = spec.model_copy(
            update={"quality": {k: q.model_copy(update={"review_below": 1.1}) for k, q in spec.quality.items()}}
        )
        (model / "model.yaml").write_text(dump_yaml(strict))
        study = segment_study(folder / "images" / "case_0.nii.gz", tmp_path / "study", model)
        predicted = {row.label for row in study.predicted_dice}
        assert predicted
        assert {f.label for f in study.flags if f.code == "low_predicted_dice"} == predicted

    def test_a_baseline_is_refused(self, trained):
        data = open_data(trained[0])
        entry = ModelFolds("otsu", ((object(), ("case_0",)),), 0)
        with pytest.raises(InputError, match="a classical baseline"):
            calibrate(entry, data)
