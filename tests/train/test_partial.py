"""Partial labels, from the manifest to the loss and the evaluation."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from monai.losses import DiceCELoss, DiceFocalLoss, TverskyLoss

import models
import phantoms
from cases import train_settings, write_cases
from voxmetry import Geometry, Segmentation, save
from voxmetry.config import TrainingDomain, TrainSettings, load_yaml
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, GeometryError, VoxmetryError
from voxmetry.train.augmentation import Region
from voxmetry.train.batches import batches, epoch_order, holders_of, make_batch
from voxmetry.train.cache import content_key, labelling_text
from voxmetry.train.cases import Case
from voxmetry.train.data_check import check_data
from voxmetry.train.dataset import open_data, patient_folds, read_labelled
from voxmetry.train.draws import Change
from voxmetry.train.fingerprint import scan
from voxmetry.train.folds import hold_out
from voxmetry.train.initial_bias import class_shares
from voxmetry.train.join import open_joined
from voxmetry.train.label_maps import find_label_maps, read_label_maps
from voxmetry.train.labelled_cases import for_model, load_case
from voxmetry.train.losses import StructureLoss, build_loss
from voxmetry.train.partial import Labelling, find_unlabelled
from voxmetry.train.validation import validate
from voxmetry.workflows.evaluate import evaluate

CONFIGS = Path(__file__).parents[2] / "configs"
TABLE = LabelTable.from_names({1: "cord", 2: "liver", 3: "spleen"})


def label_map(axcodes="RAS"):
    """A cord from slice 4 to 9 counted from the feet, a liver beside it."""
    array = np.zeros((6, 5, 12), np.uint8)
    array[2:4, 2, 4:10] = 1
    array[:2, :, 3:6] = 2
    grid = phantoms.geometry(shape=array.shape, spacing_mm=(2.0, 3.0, 4.0)) if axcodes == "RAS" else None
    if grid is None:
        array = np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])
        affine = np.array([[0, 2, 0, 0], [0, 0, 3, 0], [-4.0, 0, 0, 0], [0, 0, 0, 1]])
        grid = Geometry(affine, array.shape)
    return Segmentation(array, grid, TABLE)


class TestUnlabelled:
    def test_what_is_not_known_is_so_everywhere_and_the_rest_nowhere(self):
        found = find_unlabelled(label_map(), Labelling(known=("liver",)), None)
        assert found.known_names == ("liver",)
        assert [found.share_known(name) for name in TABLE.names] == [0, 1, 0]
        assert found.table.shape == (1, 4)
        assert not found.table[:, 0].any()

    @pytest.mark.parametrize("axcodes", ["RAS", "IRA"])
    def test_below_the_lowest_contoured_slice_a_tube_is_unknown(self, axcodes):
        label = label_map(axcodes)
        if axcodes != "RAS":
            assert label.geometry.axcodes[0] == "I"
        found = find_unlabelled(label, Labelling(unknown_below=("cord",)), None)
        unknown = found.table[:, 1][found.zones]
        above_feet = unknown if axcodes == "RAS" else unknown[::-1].transpose(1, 2, 0)
        assert above_feet[..., :4].all()
        assert not above_feet[..., 4:].any()
        assert found.share_known("cord") == pytest.approx(8 / 12)
        assert found.share_known("liver") == 1

    def test_a_tube_that_is_not_in_the_image_is_unknown_throughout(self):
        found = find_unlabelled(label_map(), Labelling(unknown_below=("spleen",)), None)
        assert found.known_names == ("cord", "liver")

    def test_absent_is_knowledge_of_structures_that_the_table_of_the_file_lacks(self):
        tumour = LabelTable.from_names({1: "tumour"})
        found = find_unlabelled(label_map(), Labelling(labels=tumour, absent=("cord", "spleen")), None)
        assert found.known_names == ("cord", "spleen")

    def test_hides_a_structure_where_it_was_not_looked_for_and_no_other(self):
        mask = np.zeros((6, 5, 12), bool)
        mask[:, :, 9:] = True
        found = find_unlabelled(label_map(), Labelling(known=("cord",)), mask)
        hidden = found.hide(label_map())
        assert not hidden.mask("liver").any()
        assert np.array_equal(hidden.mask("cord"), label_map().mask("cord") & ~mask)

    def test_finds_by_name_in_a_prediction_of_other_values(self):
        other = LabelTable.from_names({9: "liver", 4: "kidney"})
        array = np.where(label_map().array == 2, 9, 0).astype(np.uint8)
        array[0, 0, 0] = 4
        prediction = Segmentation(array, label_map().geometry, other)
        hidden = find_unlabelled(label_map(), Labelling(known=("cord",)), None).hide(prediction)
        assert np.unique(hidden.array).tolist() == [0, 4]


def manifest(folder, name="m.yaml", **change):
    write_cases(folder, 4)
    content = {
        "name": "small",
        "root": ".",
        "channels": [{"name": "t1", "modality": "MR", "path": "images/{case}.nii.gz"}],
        "label": "labels/{case}.nii.gz",
        "labels": {2: "big", 7: "small"},
        "cases": [f"case_{n}" for n in range(4)],
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content | change), encoding="utf-8")
    return path


def spec(names=("big", "small")):
    made = models.spec()
    table = LabelTable.from_names({2: names[0], 7: names[1]})
    return made.model_copy(update={"labels": table, "clean": (), "training_domain": TrainingDomain()})


class TestManifest:
    def test_known_by_case_over_known_for_all(self, tmp_path):
        path = manifest(tmp_path, known=["big"], cases=["case_0", {"case": "case_1", "known": ["big", "small"]}])
        read = {case.name: read_labelled(case, open_data(path)) for case in open_data(path).cases}
        assert read["case_0"].unlabelled.known_names == ("big",)
        assert read["case_1"].unlabelled.is_complete

    @pytest.mark.parametrize("key", ["known", "unknown_below"])
    def test_a_name_that_is_no_label_is_an_error_that_lists_those_there_are(self, key, tmp_path):
        with pytest.raises(ConfigError, match=rf"{key} of the case case_0 names bgi") as error:
            open_data(manifest(tmp_path, **{key: ["bgi"]}))
        assert "big, small" in error.value.expected

    def test_ignore_of_a_structures_value_is_an_error(self, tmp_path):
        with pytest.raises(ConfigError, match="ignore: 7, the value of small"):
            open_data(manifest(tmp_path, ignore=7))

    def test_voxels_to_ignore_are_background_and_unknown(self, tmp_path):
        data = open_data(manifest(tmp_path, labels={2: "big"}, ignore=7))
        found = read_labelled(data.cases[0], data)
        where = found.unlabelled.table[:, 1][found.unlabelled.zones]
        assert np.unique(found.label.array).tolist() == [0, 2]
        assert found.label.labels.names == ("big",)
        assert int(where.sum()) == 4 * 8 * 3  # the box of value 7

    def test_nnunets_ignore_label_is_one(self, tmp_path):
        write_cases(tmp_path, 3)
        (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "big": 2, "ignore": 7}}', encoding="utf-8")
        data = open_data(tmp_path)
        found = read_labelled(data.cases[0], data)
        assert data.labels.names == ("big",)
        assert found.unlabelled.share_known("big") < 1

    def test_a_mask_of_unknown_voxels_counts_and_one_on_another_grid_is_refused_by_name(self, tmp_path):
        data = open_data(manifest(tmp_path))
        label = read_labelled(data.cases[0], data).label
        mask = np.zeros(label.array.shape, np.uint8)
        mask[:, :, 3:] = 1
        for name, grid, part in (("good", label.geometry, mask), ("bad", phantoms.geometry(shape=(5, 6, 7)), None)):
            array = part if part is not None else np.ones((5, 6, 7), np.uint8)
            save(Segmentation(array, grid, LabelTable.from_names({1: "unknown"})), tmp_path / f"{name}.nii.gz")
        data = open_data(manifest(tmp_path, unknown="good.nii.gz", cases=["case_0"]))
        found = read_labelled(data.cases[0], data)
        assert found.unlabelled.share_known("big") == pytest.approx(3 / 8)
        data = open_data(manifest(tmp_path, unknown="bad.nii.gz", cases=["case_0"]))
        with pytest.raises(VoxmetryError, match="case_0"):
            read_labelled(data.cases[0], data)
        assert issubclass(GeometryError, VoxmetryError)

    def test_a_csv_manifest_says_the_same(self, tmp_path):
        write_cases(tmp_path, 3)
        lines = ["case,label,t1,known,held_out"]
        lines += [
            f"case_{n},labels/case_{n}.nii.gz,images/case_{n}.nii.gz,{k},{h}"
            for n, k, h in ((0, "label_2", ""), (1, "label_2; label_7", "yes"), (2, "", "no"))
        ]
        path = tmp_path / "m.csv"
        path.write_text("\n".join(lines), encoding="utf-8")
        data = open_data(path)
        assert [case.labelling.known for case in data.cases] == [("label_2",), ("label_2", "label_7"), None]
        assert hold_out(data, train_settings())[1] == ("case_1",)

    def test_held_out_cases_of_the_data_set_are_held_out_but_not_from_folds(self, tmp_path):
        data = open_data(manifest(tmp_path, cases=["case_0", "case_1", "case_2", {"case": "case_3", "held_out": True}]))
        assert hold_out(data, train_settings(validation_fraction=0)) == (("case_0", "case_1", "case_2"), ("case_3",))
        assert len(hold_out(data, train_settings(fold=0, folds=2))[1]) == 2


def test_folds_spread_a_structure_that_few_cases_were_searched_for(tmp_path):
    rare = {1, 2, 3, 5, 8}
    cases = [
        Case(f"c{n}", f"c{n}", (), tmp_path, labelling=Labelling(known=("a", "b") if n in rare else ("a",)))
        for n in range(20)
    ]
    for seed in range(8):
        folds = patient_folds(cases, n=5, seed=seed)
        assert [len(fold) for fold in folds] == [4] * 5
        assert [sum(int(name[1:]) in rare for name in fold) for fold in folds] == [1] * 5


class TestPrepared:
    def test_zones_reach_the_models_grid_and_what_is_unknown_has_no_volume(self, tmp_path):
        data = open_data(manifest(tmp_path, unknown_below=["big"], known=["big"]))
        case = load_case(data.cases[0], data, spec())
        assert case.label.shape[0] == 2
        assert case.absent.shape[1] == 3
        assert np.isnan(case.volume_ml["small"])
        assert case.volume_ml["big"] > 0
        assert not (case.label[0] == 2).any()  # it was drawn, but the manifest says that nobody looked for it
        assert case.known.tolist() == [True, True, False]

    def test_a_complete_case_has_one_channel(self, tmp_path):
        data = open_data(manifest(tmp_path))
        case = load_case(data.cases[0], data, spec())
        assert case.label.shape[0] == 1
        assert not len(case.absent)

    def test_other_names_are_matched_by_value_and_known_with_them(self, tmp_path):
        data = for_model(open_data(manifest(tmp_path, known=["big"])), spec(("large", "tiny")))
        assert read_labelled(data.cases[0], data).unlabelled.known_names == ("large",)

    def test_nothing_in_common_is_an_error(self, tmp_path):
        data = open_data(manifest(tmp_path, labels={2: "a", 7: "b"}))
        other = models.spec().model_copy(update={"labels": LabelTable.from_names({3: "c", 4: "d"})})
        with pytest.raises(ConfigError, match="the structures a, b"):
            for_model(data, other)

    def test_the_cache_tells_labellings_apart(self, tmp_path):
        texts = set()
        for change in ({}, {"known": ["big"]}, {"unknown_below": ["big"]}, {"labels": {2: "small", 7: "big"}}):
            data = open_data(manifest(tmp_path, **change))
            texts.add(content_key("source", spec(), labelling_text(data.cases[0], data)))
        assert len(texts) == 4


class TestJoin:
    def test_structures_are_matched_by_name_and_what_a_set_does_not_name_was_not_looked_for(self, tmp_path):
        first = manifest(tmp_path / "a")
        second = manifest(tmp_path / "b", labels={2: "small", 7: "other"})
        data = open_joined([first, second])
        assert [(label.value, label.name) for label in data.labels] == [(1, "big"), (2, "small"), (3, "other")]
        read = {case.name: read_labelled(case, data) for case in data.cases}
        assert set(read) == {f"{part}-case_{n}" for part in ("small", "small-2") for n in range(4)}
        assert read["small-2-case_0"].unlabelled.known_names == ("small", "other")
        assert read["small-case_0"].unlabelled.known_names == ("big", "small")
        raw = read_labelled(open_data(second).cases[0], open_data(second)).label.array
        assert np.array_equal(read["small-2-case_0"].label.mask("small"), raw == 2)

    def test_other_channels_are_refused(self, tmp_path):
        channels = [{"name": "ct", "modality": "CT", "path": "images/{case}.nii.gz"}]
        with pytest.raises(ConfigError, match=r"t1 \(MR\) in small and ct \(CT\) in small"):
            open_joined([manifest(tmp_path / "a"), manifest(tmp_path / "b", channels=channels)])

    def test_a_set_without_names_is_refused(self, tmp_path):
        write_cases(tmp_path / "b", 2)
        with pytest.raises(ConfigError, match="no label table in the data set b"):
            open_joined([manifest(tmp_path / "a"), tmp_path / "b"])


class TestLoss:
    def some(self, *, learns=False):
        torch.manual_seed(0)
        n = 4
        logits = torch.randn(2, n, 5, 6, 7, dtype=torch.float64, requires_grad=learns)
        return logits, torch.randint(0, n, (2, 1, 5, 6, 7))

    def test_with_everything_known_it_is_monais(self):
        logits, label = self.some()
        same = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
        tversky = TverskyLoss(alpha=0.3, beta=0.7, **same)(logits, label)
        wanted = {
            "dice_ce": DiceCELoss(**same)(logits, label),
            "dice_focal": DiceFocalLoss(gamma=2.0, **same)(logits, label),
            "tversky": tversky + torch.nn.functional.cross_entropy(logits, label[:, 0]),
        }
        for name, value in wanted.items():
            assert float(build_loss(name)(logits, label)) == pytest.approx(float(value), rel=1e-9), name

    @pytest.mark.parametrize("name", ["dice_ce", "dice_focal", "tversky"])
    def test_nothing_absent_changes_nothing(self, name):
        logits, label = self.some()
        nothing = torch.zeros(2, 4, 1, 1, 1, dtype=torch.bool)
        assert torch.allclose(build_loss(name)(logits, label), build_loss(name)(logits, label, nothing))

    def test_how_the_background_and_what_was_not_looked_for_share_is_of_no_matter(self):
        logits, label = self.some()
        absent = torch.zeros(2, 4, 1, 1, 1, dtype=torch.bool)
        absent[:, 2] = True
        label[label == 2] = 0
        moved = logits.detach().clone()
        total = torch.logsumexp(moved[:, [0, 2]], 1)
        share = torch.rand_like(total)
        moved[:, 0], moved[:, 2] = total + share.log(), total + (1 - share).log()
        for name in ("dice_ce", "tversky"):
            assert torch.allclose(build_loss(name)(logits, label, absent), build_loss(name)(moved, label, absent))

    def test_it_is_the_loss_of_the_classes_that_were_looked_for(self):
        logits, label = self.some()
        absent = torch.zeros(2, 4, 1, 1, 1, dtype=torch.bool)
        absent[:, 2] = True
        label[label == 2] = 0
        kept = torch.stack([torch.logsumexp(logits[:, [0, 2]], 1), logits[:, 1], logits[:, 3]], 1)
        renumbered = torch.where(label == 3, 2, label)
        for name in ("dice_ce", "tversky"):
            assert torch.allclose(build_loss(name)(logits, label, absent), build_loss(name)(kept, renumbered))

    def test_what_is_drawn_but_was_not_looked_for_counts_as_background(self):
        logits, label = self.some()
        absent = torch.zeros(2, 4, 1, 1, 1, dtype=torch.bool)
        absent[:, 2] = True
        loss = build_loss("dice_ce")
        assert torch.allclose(loss(logits, label, absent), loss(logits, torch.where(label == 2, 0, label), absent))

    def test_voxels_about_which_nothing_is_known_have_no_gradient(self):
        logits, label = self.some(learns=True)
        absent = torch.zeros(2, 4, 5, 6, 7, dtype=torch.bool)
        absent[:, 1:, :, :, 3:] = True
        build_loss("dice_ce")(logits, label, absent).backward()
        assert float(logits.grad[..., 3:].abs().max()) == 0
        assert float(logits.grad[..., :3].abs().max()) > 0

    def test_a_batch_about_which_nothing_is_known_has_a_loss_of_zero(self):
        logits, label = self.some(learns=True)
        absent = torch.ones(2, 4, 1, 1, 1, dtype=torch.bool)
        absent[:, 0] = False
        for name in ("dice_ce", "dice_focal", "tversky"):
            loss = build_loss(name)(logits, label, absent)
            assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
            loss.backward()
            assert float(logits.grad.abs().max()) == pytest.approx(0, abs=1e-8)

    def test_it_says_how_well_each_structure_is_met_and_nan_where_nobody_looked(self):
        logits, label = self.some()
        absent = torch.zeros(2, 4, 1, 1, 1, dtype=torch.bool)
        absent[:, 2] = True
        loss = StructureLoss()
        loss(logits, label, absent)
        assert torch.isnan(loss.overlap).tolist() == [False, True, False]
        same = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
        loss(logits, label)
        assert float(1 - loss.overlap.mean()) == pytest.approx(float(DiceCELoss(lambda_ce=0, **same)(logits, label)))


class TestSamples:
    def cases(self, tmp_path, **change):
        data = open_data(manifest(tmp_path, **change))
        return [load_case(case, data, spec()) for case in data.cases]

    def settings(self, **change):
        model = spec().model_dump(mode="json")
        return train_settings(**({"model": model} | change))

    def test_batches_say_what_was_not_looked_for_sample_by_sample(self, tmp_path):
        cases = self.cases(tmp_path, cases=["case_0", "case_1", {"case": "case_2", "known": ["small"]}])
        (batch,) = list(batches(cases[1:], self.settings(), epoch=0))
        rows = batch.absent[:, :, 0, 0, 0].tolist()
        assert sorted(rows) == [[False, False, False], [False, True, False]]
        assert next(iter(batches(cases[:2], self.settings(), epoch=0))).absent is None

    def test_zones_move_with_the_label(self, tmp_path):
        cases = self.cases(tmp_path, unknown_below=["big"])
        for batch in batches(cases, self.settings(augment={"affine_probability": 1, "flip_axes": [0, 1, 2]}), epoch=1):
            assert batch.absent.shape == (2, 3, 16, 24, 8)
            assert batch.absent[:, 1].any()
            assert not batch.absent[:, 2].any()
            assert not (batch.absent[:, 1] & (batch.label[:, 0] == 1)).any()

    def test_a_flip_exchanges_sides_in_label_and_in_what_is_known(self):
        chosen = self.settings(augment={"swap_on_flip": [["big", "small"]], "flip_axes": [0]})
        label = np.zeros((2, 16, 24, 8), np.uint8)
        label[0, 0], label[0, 15], label[0, 1, 0, 0], label[1, :3] = 1, 2, 2, 1
        absent = torch.tensor([[False, True, False], [False, True, False]])
        image = label[:1].astype(np.float32)
        for mirrored in (False, True):
            change = Change(start=(0, 0, 0), flips=(mirrored, False, False))
            batch = make_batch([Region(image, label, change, absent)], chosen)
            classes = batch.label[0, 0]
            assert classes[0].unique().tolist() == [1]  # if mirrored it was 2, at the other end
            assert classes[15].unique().tolist() == [2]
            assert int(classes[14 if mirrored else 1, 0, 0]) == (1 if mirrored else 2)
            assert batch.absent[0, :, 4, 4, 4].tolist() == [False, not mirrored, mirrored]
            assert float(batch.image[0, 0, 0, 0, 0]) == (2 if mirrored else 1)

    def test_rare_structures_come_as_often_as_the_others(self, tmp_path):
        cases = self.cases(
            tmp_path,
            labels={2: "big", 7: "small"},
            cases=["case_0", "case_1", "case_2", {"case": "case_3", "known": ["small"]}],
        )
        for case in cases[:3]:
            object.__setattr__(case, "places", case.places[case.places[:, 0] == 1])
        assert holders_of(cases) == {1: [0, 1, 2], 2: [3]}
        chosen = self.settings(foreground_fraction=1.0, sampling="structures", steps_per_epoch=40)
        n_rare = sum(
            int(batch.absent is not None and batch.absent[:, 1].any(-1).any(-1).any(-1).sum())
            for batch in batches(cases, chosen, epoch=0)
        )
        assert 20 < n_rare < 60  # of 80; by case it would be 20

    def test_epochs_of_a_fixed_length_show_all_cases_equally_often(self):
        chosen = self.settings(steps_per_epoch=3)
        shown = np.concatenate([epoch_order(5, chosen, epoch) for epoch in range(5)])
        assert np.bincount(shown).tolist() == [6] * 5
        assert np.array_equal(epoch_order(5, chosen, 3), epoch_order(5, chosen, 3))

    def test_a_batch_joins_a_case_with_zones_and_one_without(self):
        still, image = Change(start=(0, 0, 0)), np.zeros((1, 16, 24, 8), np.float32)
        zones = np.zeros((2, 16, 24, 8), np.uint8)
        zones[1, 1] = 1
        absent = torch.tensor([[False, False, False], [False, True, False]])
        regions = [Region(image, zones[:1], still), Region(image, zones, still, absent)]
        batch = make_batch(regions, self.settings())
        assert not batch.absent[0].any()
        assert batch.absent[1, 1, 1].all()
        assert not batch.absent[1, 1, 0].any()
        assert batch.instances is None

    def test_shares_count_a_structure_where_it_was_looked_for(self, tmp_path):
        full, part = self.cases(tmp_path), self.cases(tmp_path, known=["big"])
        shares = class_shares(full, 3)
        mixed = class_shares([*full[:2], *part[2:]], 3)
        assert shares.sum() == pytest.approx(1)
        assert mixed[2] == pytest.approx(class_shares(full[:2], 3)[2], rel=0.02)


def test_the_fingerprint_and_the_check_know_it(tmp_path):
    rows = ["case_0", {"case": "case_1", "known": ["small"]}, {"case": "case_2", "absent": ["small"], "known": ["big"]}]
    data = open_data(manifest(tmp_path, cases=rows))
    _, facts, found = scan(data)
    assert [(row.name, row.n_cases, row.n_known) for row in found.structures] == [("big", 2, 2), ("small", 3, 3)]
    assert np.isnan(facts[1].volume_ml["big"])
    codes = {(row.case, row.code, row.structure) for row in check_data(data).findings}
    assert ("case_1", "not_looked_for", None) in codes
    assert ("case_1", "contradiction", "big") in codes
    assert ("case_2", "contradiction", "small") in codes


def test_validation_counts_a_structure_where_it_was_looked_for(tmp_path):
    data = open_data(manifest(tmp_path, known=["small"]))
    case = load_case(data.cases[0], data, spec())

    class Found(torch.nn.Module):
        def forward(self, x):
            scores = torch.zeros(len(x), 3, *x.shape[2:])
            scores[:, 1] = 1.0
            return scores

    row = validate(Found(), [case], spec(), "cpu")[case.name]
    assert np.isnan(row["big"])
    assert row["small"] == 0


def test_evaluation_counts_a_structure_only_where_it_was_looked_for(tmp_path):
    rows = ["case_0", {"case": "case_1", "known": ["small"]}, {"case": "case_2", "known": []}]
    bright = Path(__file__).parents[2] / "configs" / "models" / "otsu.yaml"
    text = bright.read_text(encoding="utf-8").replace("value: 1", "value: 2").replace("name: bright", "name: big")
    (tmp_path / "bright.yaml").write_text(text, encoding="utf-8")
    data = open_data(manifest(tmp_path / "data", cases=rows))
    found, _ = evaluate(data, [tmp_path / "bright.yaml"], tmp_path / "out")
    counted = {row.case: [one.label for one in row.comparisons] for row in found.models[0].cohort.cases}
    assert counted == {"case_0": ["big"], "case_1": [], "case_2": []}
    assert all(row.error is None for row in found.models[0].cohort.cases)
    assert [row.label for row in found.models[0].cohort.structures] == ["big"]


@pytest.mark.real_data
class TestShippedManifests:
    def test_of_head_and_neck_says_of_each_case_what_its_table_says(self, real_data):
        root = real_data / "head-neck-ct"
        if not root.is_dir():
            pytest.skip("no head-neck-ct in the real data: see data/README.md")
        data = open_data(CONFIGS / "data" / "head-neck-ct.yaml", root=root)
        with (root / "labelled.csv").open(newline="", encoding="utf-8") as file:
            rows = {row["case"]: row for row in csv.DictReader(file)}
        columns = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
        assert data.labels is not None
        for case in data.cases:
            wanted = {label.name for label, column in zip(data.labels, columns, strict=True) if rows[case.name][column]}
            assert set(case.labelling.known) == wanted
            assert case.held_out == (rows[case.name]["split"] == "validation-pats")
        chosen = load_yaml(CONFIGS / "train" / "head-neck-ct.yaml", TrainSettings)
        spec = for_model(data, chosen.model)
        found = read_labelled(spec.cases[0], spec)
        place = {
            name: np.argwhere(found.label.mask(name)).mean(0) for name in ("parotid_gland_right", "parotid_gland_left")
        }
        assert found.label.geometry.axcodes[0] == "R"
        assert place["parotid_gland_right"][0] > place["parotid_gland_left"][0]

    def test_of_brains_joins_regions_to_the_models_structures(self, real_data):
        if not (real_data / "brain-mr").is_dir():
            pytest.skip("no brain-mr in the real data: see data/README.md")
        data = open_data(CONFIGS / "data" / "brain-mr.yaml", root=real_data / "brain-mr")
        chosen = load_yaml(CONFIGS / "train" / "brain-mr.yaml", TrainSettings)
        assert hold_out(data, chosen) == ((), tuple(case.name for case in data.cases))
        case = load_case(data.cases[0], data, chosen.model)
        assert 7 < case.volume_ml["thalamus_left"] < 11
        assert 150 < case.volume_ml["cerebral_cortex_right"] < 350
        assert np.isnan(case.volume_ml["csf"])  # MUSE has no such region
        known = {name: (case.label[0] == index).nonzero() for index, name in enumerate(chosen.model.labels.names, 1)}
        assert known["hippocampus_left"][0].mean() < known["hippocampus_right"][0].mean()

    def test_the_label_maps_hold_nothing_that_the_configuration_does_not_name(self, real_data):
        if not (real_data / "brain-label-maps").is_dir():
            pytest.skip("no brain-label-maps in the real data: see data/README.md")
        chosen = load_yaml(CONFIGS / "train" / "brain-mr.yaml", TrainSettings)
        paths = find_label_maps(real_data / "brain-label-maps")
        maps = read_label_maps(paths[::7], chosen.synthesis, "RAS")
        assert [1.8 < volume < 6 for volume in maps.volumes_ml(17)] == [True] * 3
        left, right = (maps.values.index(value) for value in (17, 53))
        head = maps.flat[: int(maps.shapes[0].prod())].view(*maps.shapes[0].tolist())
        assert float(torch.argwhere(head == left)[:, 0].float().mean()) < float(
            torch.argwhere(head == right)[:, 0].float().mean()
        )
