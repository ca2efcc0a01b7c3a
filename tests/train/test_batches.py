import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import phantoms
from cases import write_cases
from voxmetry import Segmentation, save
from voxmetry.config import TrainSettings, parse_record
from voxmetry.errors import ConfigError, GeometryError, InputError
from voxmetry.train.batches import ahead, batches, cut_out
from voxmetry.train.cases import Case, Channel, DataSet
from voxmetry.train.dataset import open_data
from voxmetry.train.folds import hold_out
from voxmetry.train.labelled_cases import PLACES, LabelledCase, load_case, structure_places


def settings(**change):
    content = {"model": models.spec().model_dump(mode="json"), "data": "unused", "seed": 3}
    return parse_record(content | change, TrainSettings, where="test")


def listed(patients):
    """Cases of the given patients, two scans each; no file is opened."""
    scans = [Case(f"{who}_{n}", who, (Path("i"),), Path("l")) for who in patients for n in (1, 2)]
    return DataSet("listed", (Channel("t1"),), None, tuple(scans))


class TestHoldOut:
    DATA = listed([f"p{n:02}" for n in range(25)])

    def test_each_case_is_on_one_side_and_a_patient_never_on_two(self):
        training, held_out = hold_out(self.DATA, settings(validation_fraction=0.2))
        assert len(held_out) == 10
        assert sorted((*training, *held_out)) == sorted(self.DATA.patients)
        assert not {name[:3] for name in training} & {name[:3] for name in held_out}

    def test_depends_on_the_seed_alone(self):
        first = hold_out(self.DATA, settings())
        assert hold_out(self.DATA, settings()) == first
        assert hold_out(self.DATA, settings(seed=4)) != first

    def test_the_folds_hold_out_each_case_once(self):
        parts = [hold_out(self.DATA, settings(folds=4, fold=n))[1] for n in range(4)]
        assert sorted(name for part in parts for name in part) == sorted(self.DATA.patients)
        assert all(not {n[:3] for n in a} & {n[:3] for n in b} for a, b in itertools.combinations(parts, 2))

    def test_a_fraction_of_0_trains_on_all(self):
        training, held_out = hold_out(self.DATA, settings(validation_fraction=0))
        assert (sorted(training), held_out) == (sorted(self.DATA.patients), ())

    def test_refuses_a_single_patient(self):
        with pytest.raises(InputError, match="2 labelled cases of 1 patients"):
            hold_out(listed(["a"]), settings())

    def test_refuses_a_fold_that_there_is_not(self):
        with pytest.raises(ConfigError, match="fold 4 of 4"):
            settings(folds=4, fold=4)


class TestLoadCase:
    def test_label_and_image_lie_on_the_models_grid(self, tmp_path):
        data = open_data(write_cases(tmp_path))
        case = load_case(data.cases[1], data, models.spec())
        assert case.image.shape == (1, 19, 24, 9)
        assert case.label.shape == (1, 19, 24, 9)
        assert case.image[0][case.label[0] == 2].mean() > case.image[0][case.label[0] == 1].mean() > 0.5
        assert case.volume_ml["front"] == pytest.approx(5 * 8 * 3 * 3e-3)

    def test_names_the_case_whose_label_lies_elsewhere(self, tmp_path):
        data = open_data(write_cases(tmp_path))
        label = Segmentation(
            np.zeros((19, 24, 9), np.uint8), phantoms.geometry(shape=(19, 24, 9)), models.spec().labels
        )
        save(label, data.cases[1].label)
        with pytest.raises(GeometryError, match="case_1"):
            load_case(data.cases[1], data, models.spec())

    def test_refuses_a_data_set_with_another_number_of_channels(self, tmp_path):
        data = replace(open_data(write_cases(tmp_path)), channels=(Channel("t1"), Channel("t2")))
        with pytest.raises(ConfigError, match="2 channels in the data set"):
            load_case(data.cases[0], data, models.spec())


class TestBatches:
    @pytest.fixture
    def cases(self, tmp_path):
        data = open_data(write_cases(tmp_path))
        return [load_case(case, data, models.spec()) for case in data.cases]

    def run(self, cases, epoch):
        return list(batches(cases, settings(batch_size=2), epoch=epoch))

    def test_an_epoch_is_the_same_each_time_and_another_one_differs(self, cases):
        first, again, other = self.run(cases, 3), self.run(cases, 3), self.run(cases, 4)
        assert all(bool((a[0] == b[0]).all()) and bool((a[1] == b[1]).all()) for a, b in zip(first, again, strict=True))
        assert not all(bool((a[0] == b[0]).all()) for a, b in zip(first, other, strict=True))

    def test_batches_have_the_patch_size_and_fill_the_last(self, cases):
        found = self.run(cases, 0)
        assert len(found) == 3
        assert {tuple(image.shape) for image, *_ in found} == {(2, 1, 16, 24, 8)}
        assert {tuple(label.shape) for _, label, *_ in found} == {(2, 1, 16, 24, 8)}
        assert all(set(np.unique(label)) <= {0, 1, 2} for _, label, *_ in found)

    def test_image_and_label_move_together(self, cases):
        still = {
            "low_resolution_probability": 0,
            "blur_probability": 0,
            "noise_probability": 0,
            "bias_field_probability": 0,
            "contrast_probability": 0,
            "scale_intensity_probability": 0,
            "affine_probability": 1,
            "flip_axes": (0, 1, 2),
        }
        for image, label, *_ in batches(cases, settings(augment=still, batch_size=2), epoch=0):
            for index in (1, 2):
                inside = image[label == index]
                if len(inside) > 50:
                    assert inside.mean() > image[label == 0].mean() + 0.8

    def test_the_cases_stay_as_they_are(self, cases):
        before = [(case.image.copy(), case.label.copy()) for case in cases]
        for epoch in range(4):
            self.run(cases, epoch)
        for case, (image, label) in zip(cases, before, strict=True):
            assert np.array_equal(case.image, image)
            assert np.array_equal(case.label, label)


class TestAhead:
    def test_keeps_the_order(self):
        assert list(ahead(iter(range(1, 9)))) == list(range(1, 9))

    def test_an_error_arrives_where_the_item_would(self):
        def feed():
            yield 1
            raise InputError(found="a", expected="b", fix="c")

        found = ahead(feed())
        assert next(found) == 1
        with pytest.raises(InputError):
            next(found)


class TestCutOut:
    PATCH = (8, 8, 4)
    AROUND = (2, 2, 1)

    def case(self, label):
        image = np.arange(1, label.size + 1, dtype=np.float32).reshape(1, *label.shape)
        grid = phantoms.geometry(shape=label.shape)
        return LabelledCase("a", image, label[None], grid, {}, structure_places(label[None]))

    def regions(self, label, fraction):
        case = self.case(label)
        return [cut_out(case, self.PATCH, fraction=fraction, rng=np.random.default_rng(seed)) for seed in range(60)]

    def middle(self, part):
        i, j, k = (slice(n, n + size) for n, size in zip(self.AROUND, self.PATCH, strict=True))
        return part[:, i, j, k]

    def label(self):
        label = np.zeros((40, 30, 20), np.uint8)
        label[5:25, 5:25, 3:15] = 1
        label[37, 2, 18] = 2
        return label

    def test_rare_structures_are_seen_as_often_as_large_ones(self):
        found = [set(np.unique(self.middle(part))) for _, part in self.regions(self.label(), 1.0)]
        assert sum(2 in values for values in found) >= 20
        assert sum(1 in values for values in found) >= 20
        assert all(values & {1, 2} for values in found)
        anywhere = [set(np.unique(self.middle(part))) for _, part in self.regions(self.label(), 0.0)]
        assert sum(2 in values for values in anywhere) < 10

    def test_the_patch_lies_inside_and_its_room_is_what_lies_beside_it(self):
        label = self.label()
        whole = np.pad(self.case(label).image[0], [(n, n) for n in self.AROUND], mode="edge")
        for image, part in self.regions(label, 0.5):
            assert image.shape == part.shape == (1, 12, 12, 6)
            corner = int(self.middle(image)[0, 0, 0, 0]) - 1
            i, j, k = np.unravel_index(corner, label.shape)
            assert np.array_equal(image[0], whole[i : i + 12, j : j + 12, k : k + 6])
            assert np.array_equal(self.middle(part)[0], label[i : i + 8, j : j + 8, k : k + 4])

    def test_patches_reach_each_edge_of_the_image(self):
        corners = [int(self.middle(image)[0, 0, 0, 0]) - 1 for image, _ in self.regions(self.label()[:12, :9, :5], 0.0)]
        starts = np.stack(np.unravel_index(corners, (12, 9, 5)))
        assert starts.min(axis=1).tolist() == [0, 0, 0]
        assert starts.max(axis=1).tolist() == [4, 1, 1]

    def test_a_shorter_image_lies_in_the_middle_between_zeros(self):
        image, label = self.regions(np.ones((5, 30, 2), np.uint8), 1.0)[0]
        inside = self.middle(label)[0]
        assert inside.any(axis=(1, 2)).tolist() == [False, True, True, True, True, True, False, False]
        assert inside.any(axis=(0, 1)).tolist() == [False, True, True, False]
        assert np.array_equal(self.middle(image)[0] > 0, inside == 1)

    def test_a_case_without_structures_is_cut_anywhere(self):
        found = self.regions(np.zeros((40, 30, 20), np.uint8), 1.0)
        assert len({float(image[0, 5, 5, 3]) for image, _ in found}) > 10

    def test_a_large_structure_keeps_places_all_over(self):
        places = structure_places(np.ones((1, 60, 50, 40), np.uint8))
        assert len(places) <= PLACES
        spread = np.stack(np.unravel_index(places[:, 1], (60, 50, 40)))
        assert spread.min(axis=1).tolist() == [0, 0, 0]
        assert (spread.max(axis=1) > [57, 40, 30]).all()


def test_large_images_come_out_with_the_patchs_size_and_the_same_each_time():
    label = np.zeros((60, 70, 30), np.uint8)
    label[30:40, 40:60, 10:20] = 1
    case = TestCutOut().case(label)
    for fraction in (0, 0.5):
        chosen = settings(batch_size=2, foreground_fraction=fraction)
        first, again = (list(batches([case, case], chosen, epoch=0)) for _ in range(2))
        assert first[0][0].shape == (2, 1, 16, 24, 8)
        assert torch.equal(first[0][0], again[0][0])
        assert not torch.equal(first[0][0][0], first[0][0][1])
