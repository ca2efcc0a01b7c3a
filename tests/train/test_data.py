import numpy as np
import pytest

import models
import phantoms
from cases import write_cases
from voxmetry import Segmentation, save
from voxmetry.config import Augment
from voxmetry.errors import GeometryError, InputError
from voxmetry.train.data import augmentation, batches, find_cases, load_case, split


class TestFindCases:
    def test_pairs_by_name_in_order(self, tmp_path):
        cases = find_cases(write_cases(tmp_path))
        assert [case.name for case in cases] == [f"case_{n}" for n in range(5)]
        assert all(case.image.name == case.label.name for case in cases)

    def test_names_the_case_without_a_label(self, tmp_path):
        write_cases(tmp_path)
        (tmp_path / "labels" / "case_3.nii.gz").unlink()
        with pytest.raises(InputError, match="case_3"):
            find_cases(tmp_path)

    def test_refuses_an_empty_or_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match="no images"):
            find_cases(tmp_path / "none")


class TestSplit:
    NAMES = tuple(f"case_{n:03}" for n in range(50))

    def test_each_case_is_on_one_side(self):
        training, held_out = split(self.NAMES, validation_fraction=0.2, seed=3)
        assert len(held_out) == 10
        assert sorted((*training, *held_out)) == sorted(self.NAMES)

    def test_depends_on_the_seed_alone(self):
        first = split(self.NAMES, validation_fraction=0.2, seed=3)
        assert split(self.NAMES, validation_fraction=0.2, seed=3) == first
        assert split(self.NAMES, validation_fraction=0.2, seed=4) != first

    def test_refuses_a_single_case(self):
        with pytest.raises(InputError, match="1 labelled"):
            split(["a"], validation_fraction=0.2, seed=0)


class TestLoadCase:
    def test_label_and_image_lie_on_the_models_grid(self, tmp_path):
        case = load_case(find_cases(write_cases(tmp_path))[1], models.spec())
        assert case.image.shape == (1, 19, 24, 9)
        assert case.label.shape == (1, 19, 24, 9)
        assert case.image[0][case.label[0] == 2].mean() > case.image[0][case.label[0] == 1].mean() > 0.5
        assert case.volume_ml["front"] == pytest.approx(5 * 8 * 3 * 3e-3)

    def test_names_the_case_whose_label_lies_elsewhere(self, tmp_path):
        cases = find_cases(write_cases(tmp_path))
        label = Segmentation(
            np.zeros((19, 24, 9), np.uint8), phantoms.geometry(shape=(19, 24, 9)), models.spec().labels
        )
        save(label, cases[1].label)
        with pytest.raises(GeometryError, match="case_1"):
            load_case(cases[1], models.spec())


class TestBatches:
    @pytest.fixture
    def cases(self, tmp_path):
        return [load_case(case, models.spec()) for case in find_cases(write_cases(tmp_path))]

    def run(self, cases, epoch):
        change = augmentation(Augment(), patch=(16, 24, 8))
        return list(batches(cases, change=change, batch_size=2, seed=5, epoch=epoch))

    def test_an_epoch_is_the_same_each_time_and_another_one_differs(self, cases):
        first, again, other = self.run(cases, 3), self.run(cases, 3), self.run(cases, 4)
        assert all(bool((a[0] == b[0]).all()) and bool((a[1] == b[1]).all()) for a, b in zip(first, again, strict=True))
        assert not all(bool((a[0] == b[0]).all()) for a, b in zip(first, other, strict=True))

    def test_batches_have_the_patch_size_and_fill_the_last(self, cases):
        found = self.run(cases, 0)
        assert len(found) == 3
        assert {tuple(image.shape) for image, _ in found} == {(2, 1, 16, 24, 8)}
        assert {tuple(label.shape) for _, label in found} == {(2, 1, 16, 24, 8)}
        assert all(set(np.unique(label)) <= {0, 1, 2} for _, label in found)

    def test_image_and_label_move_together(self, cases):
        still = Augment(
            low_resolution_probability=0,
            blur_probability=0,
            noise_probability=0,
            bias_field_probability=0,
            contrast_probability=0,
            scale_intensity_probability=0,
            affine_probability=1,
            flip_axes=(0, 1, 2),
        )
        change = augmentation(still, patch=(16, 24, 8))
        for image, label in batches(cases, change=change, batch_size=2, seed=5, epoch=0):
            for index in (1, 2):
                inside = image[label == index]
                if len(inside) > 50:
                    assert inside.mean() > image[label == 0].mean() + 0.8
