"""The split that stays for ever, training on corrections, and whether the new model is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import cases as labelled
import models
from voxmetry.config import dump_yaml
from voxmetry.core.records import MeanInterval, PairedComparison
from voxmetry.errors import ConfigError, InputError
from voxmetry.train import train
from voxmetry.train.cases import Case
from voxmetry.train.dataset import open_data
from voxmetry.train.finish import patient_key
from voxmetry.workflows.annotate.decide import accept, advise, compare_models, keep, read_comparison
from voxmetry.workflows.annotate.retrain import next_version, require_unseen_by, settings_for
from voxmetry.workflows.annotate.split import permanent_split, share_of


def scans(*names, held_out=()):
    """Cases called after their patient and a number: 'a1' is of patient 'a'."""
    return [Case(name, name[0], (), Path(), held_out=name in held_out) for name in names]


class TestSplit:
    def test_whoever_was_trained_on_stays_and_whoever_was_held_out_does(self):
        split = permanent_split(
            scans("a1", "a2", "b1", "c1", "d1"),
            {"training": ["a1"], "validation": ["b1"], "training_patients": [patient_key("c")]},
            held_out_share=1.0,
        )
        # a2 and c1 are of patients that were trained on; only d is new.
        assert split.training == ("a1", "a2", "c1")
        assert split.held_out == ("b1", "d1")
        assert split.new_held_out == ("d1",)

    def test_a_new_patients_side_does_not_depend_on_the_others(self):
        many = [Case(f"case {n}", f"patient {n}", (), Path()) for n in range(200)]
        whole = permanent_split(many, {})
        part = permanent_split(many[:90], {})
        assert set(part.held_out) == set(whole.held_out) & {case.name for case in many[:90]}
        assert 25 <= len(whole.held_out) <= 55
        assert set(whole.held_out) == {case.name for case in many if share_of(case.patient) < 0.2}

    def test_a_later_round_never_trains_on_what_an_earlier_one_held_out(self):
        """The trap of MONAILabel issue 1752: each round adds cases, and deals them anew."""
        known: dict[str, list[str]] = {}
        ever_held_out: set[str] = set()
        ever_trained: set[str] = set()
        for size in (40, 70, 120):
            many = [Case(f"case {n}", f"patient {n // 2}", (), Path()) for n in range(size)]
            split = permanent_split(many, known, held_out_share=size / 200)
            ever_held_out |= set(split.held_out)
            ever_trained |= set(split.training)
            known = {"training": list(split.training), "validation": list(split.held_out)}
        assert ever_held_out & ever_trained == set()

    def test_a_patient_on_both_sides_is_refused(self):
        with pytest.raises(ConfigError, match="1 patients that the model was trained on and that are held out: a"):
            permanent_split(scans("a1", "a2", "b1", held_out=["a2"]), {"training": ["a1"]})

    def test_nobody_held_out_is_refused(self):
        with pytest.raises(ConfigError, match="0 held out"):
            permanent_split(scans("a1", "b1"), {}, held_out_share=0)

    def test_a_model_that_has_seen_the_cases_is_refused(self, tmp_path):
        folder = models.write(tmp_path / "run" / "model")
        content = {"training": ["x"], "training_patients": [patient_key("a")]}
        (folder / "split.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="a2"):
            require_unseen_by(scans("a2"), folder, "run")
        require_unseen_by(scans("b1"), folder, "run")
        (folder / "split.json").unlink()
        with pytest.raises(ConfigError, match="does not say which cases"):
            require_unseen_by(scans("b1"), folder, "run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model on three of five cases, and one that went on from it, both in seconds."""
    root = tmp_path_factory.mktemp("runs")
    data = labelled.write_cases(root / "data")
    settings = labelled.train_settings(epochs=1)
    train(settings, root / "old", data=data)
    split = json.loads((root / "old" / "model" / "split.json").read_text())
    found = open_data(data)
    marked = tuple(replace(case, held_out=case.name in split["validation"]) for case in found.cases)
    going_on = settings_for(root / "old", epochs=1)
    train(going_on, root / "new", data=replace(found, cases=marked))
    return root


class TestRetraining:
    def test_the_settings_go_on_from_the_model(self, runs):
        settings = settings_for(runs / "old", epochs=7)
        assert (settings.epochs, settings.model.version) == (7, "0.1.0")
        assert Path(settings.start_from) == runs / "old" / "model"
        assert settings.learning_rate == labelled.train_settings().learning_rate / 2
        with pytest.raises(ConfigError, match="--config"):
            settings_for(models.write(runs / "alone" / "model"))

    def test_a_version_grows(self):
        assert next_version("1.4.2") == "1.5.0"

    def test_the_split_names_no_patient(self, runs):
        old, new = (json.loads((runs / name / "model" / "split.json").read_text()) for name in ("old", "new"))
        assert (old["training"], old["validation"]) == (new["training"], new["validation"])
        assert old["training_patients"] == sorted(map(patient_key, old["training"]))

    def test_two_models_on_the_same_held_out_cases(self, runs, tmp_path):
        found = compare_models(runs / "old", runs / "new", tmp_path / "c", data=[runs / "data"])
        split = json.loads((runs / "old" / "model" / "split.json").read_text())
        assert list(found.cases) == split["validation"]
        assert {row.difference.n for row in found.paired if row.metric == "dice"} == {len(split["validation"])}
        assert (found.old.version, found.new.version) == ("0.0.1", "0.1.0")
        assert read_comparison(tmp_path / "c") == found
        assert (tmp_path / "c" / "evaluation.html").is_file()

        made = keep(tmp_path / "c", author="Reader A", why="too few cases")
        assert (made.decision, made.taken.version) == ("keep", "0.0.1")
        self.take(runs, tmp_path, found)

    def take(self, runs, tmp_path, found):
        content = found.model_copy(update={"advice": "undecided"})
        (tmp_path / "c" / "comparison.json").write_text(content.model_dump_json())
        with pytest.raises(ConfigError, match="advises otherwise"):
            accept(tmp_path / "c", tmp_path / "use", author="Reader A")
        with pytest.raises(ConfigError, match="--why"):
            accept(tmp_path / "c", tmp_path / "use", author="Reader A", anyway=True)
        made = accept(tmp_path / "c", tmp_path / "use", author="Reader A", anyway=True, why="a trial")
        assert (made.decision, made.advice, made.taken.version) == ("accept", "undecided", "0.1.0")
        weights = (runs / "new" / "model" / "weights.safetensors").read_bytes()
        assert (tmp_path / "use" / "weights.safetensors").read_bytes() == weights
        accept(tmp_path / "c", tmp_path / "use", author="Reader A", anyway=True, why="again")
        aside = tmp_path / "use" / "earlier" / f"0.1.0-{found.new.weights_sha256[:8]}"
        assert (aside / "weights.safetensors").read_bytes() == weights
        changed = found.model_copy(update={"new": found.new.model_copy(update={"weights_sha256": "0" * 64})})
        (tmp_path / "c" / "comparison.json").write_text(changed.model_dump_json())
        with pytest.raises(InputError, match="trained on since"):
            accept(tmp_path / "c", tmp_path / "use", author="A", anyway=True, why="x")


def paired(low, mean, high, p, label="a", metric="dice"):
    span = MeanInterval(n=20, n_patients=20, mean=mean, low=low, high=high, level=0.95)
    return PairedComparison(
        label=label,
        metric=metric,
        difference=span,
        median_difference=mean,
        n_ties=0,
        w_plus=1.0,
        w_minus=1.0,
        p_value=p,
        p_adjusted=p,
        effect_size=0.0,
    )


@pytest.mark.parametrize(
    ("rows", "failed", "advice"),
    [
        ([paired(0.01, 0.02, 0.03, 0.001)], 0, "accept"),
        ([paired(0.01, 0.02, 0.03, 0.2)], 0, "undecided"),
        ([paired(-0.01, 0.01, 0.03, 0.4)], 0, "undecided"),
        ([paired(0.01, 0.02, 0.03, 0.001), paired(-0.03, -0.02, -0.01, 0.001, label="b")], 0, "keep"),
        ([paired(0.01, 0.02, 0.03, 0.001)], 1, "keep"),
        ([], 0, "undecided"),
    ],
)
def test_an_advice_needs_a_difference_that_is_told(rows, failed, advice):
    assert advise(rows, failed)[0] == advice


def test_settings_of_a_configuration_file(tmp_path):
    folder = models.write(tmp_path / "somewhere" / "model")
    path = tmp_path / "train.yaml"
    path.write_text(dump_yaml(labelled.train_settings()))
    assert settings_for(folder, config=path).model.name == "tiny-mr"
