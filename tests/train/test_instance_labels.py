"""Instances of labelled cases: where they come from, and how they follow the image through preparation and changes."""

import json

import numpy as np
import pytest
import torch

import balls
from voxmetry import Geometry, LabelTable, Segmentation, save
from voxmetry.config import ModelSpec, TrainSettings, parse_record
from voxmetry.errors import ConfigError, LabelError
from voxmetry.train.batches import batches, cut_out
from voxmetry.train.cache import cached_case
from voxmetry.train.dataset import open_data, read_labelled
from voxmetry.train.instance_labels import components_of, require_within
from voxmetry.train.instance_losses import targets_of
from voxmetry.train.labelled_cases import LabelledCase, load_case


@pytest.fixture
def manifest(tmp_path):
    return balls.write_cases(tmp_path / "data")


def model(**change) -> ModelSpec:
    return parse_record(balls.specification(**change), ModelSpec, where="test")


def settings(**change) -> TrainSettings:
    content = {"model": balls.specification(), "data": "unused", "batch_size": 2, "seed": 3}
    return parse_record(content | change, TrainSettings, where="test")


class TestData:
    def test_values_of_the_label_map_are_instances_of_the_structure_that_is_named(self, manifest):
        data = open_data(manifest)
        found = read_labelled(data.cases[0], data)
        assert data.labels.names == ("ball",)
        assert np.unique(found.instances).tolist() == [0, 4, 9]
        np.testing.assert_array_equal(found.label.mask("ball"), found.instances > 0)

    def test_a_case_keeps_them_on_the_models_grid_and_in_the_cache(self, manifest, tmp_path):
        data, spec = open_data(manifest), model(spacing_mm=[2.0, 2.0, 2.0])
        fresh = load_case(data.cases[0], data, spec)
        assert fresh.instances.shape == (1, 12, 12, 12)
        assert np.unique(fresh.instances).tolist() == [0, 4, 9]
        np.testing.assert_array_equal(fresh.instances > 0, fresh.label > 0)
        for _ in range(2):
            kept = cached_case(data.cases[0], data, spec, tmp_path / "cache")
            np.testing.assert_array_equal(kept.instances, fresh.instances)
            assert kept.instances.dtype == np.uint16

    def test_a_network_that_tells_none_apart_shares_no_entry_and_has_none(self, manifest, tmp_path):
        data = open_data(manifest)
        unet = {"channels": [4, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}
        assert cached_case(data.cases[0], data, model(), tmp_path).instances.size
        assert cached_case(data.cases[0], data, model(network=unet), tmp_path).instances.size == 0

    def test_a_map_beside_the_label_map_tells_them_apart(self, manifest, tmp_path):
        folder = manifest.parent
        semantic = folder / "semantic"
        semantic.mkdir()
        for number in range(4):
            instances = balls.pair(shift=number % 3 - 1.0)
            grid = Geometry(np.eye(4), instances.shape)
            table = LabelTable.from_names({1: "ball"})
            save(Segmentation((instances > 0).astype(np.uint8), grid, table), semantic / f"case_{number}.nii.gz")
        text = manifest.read_text().replace(
            "instances_of: ball", 'instances: "labels/{case}.nii.gz"\nlabels: {1: ball}'
        )
        manifest.write_text(text.replace('label: "labels/', 'label: "semantic/'))
        data = open_data(manifest)
        assert np.unique(load_case(data.cases[0], data, model()).instances).tolist() == [0, 4, 9]
        (folder / "labels" / "case_2.nii.gz").unlink()
        with pytest.raises(Exception, match=r"instances: case_2"):
            open_data(manifest)

    def test_without_a_map_they_are_the_connected_components_of_the_things(self):
        array = np.zeros((9, 5, 5), np.uint8)
        array[0:2], array[3:5], array[6:8] = 1, 1, 2
        label = Segmentation(array, Geometry(np.eye(4), array.shape), LabelTable.from_names({1: "a", 2: "b"}))
        assert components_of(label, ["a", "b"])[:, 0, 0].tolist() == [1, 1, 0, 2, 2, 0, 3, 3, 0]
        assert components_of(label, ["b"])[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0]

    def test_more_components_than_a_map_holds_are_refused(self):
        array = np.zeros((84, 84, 84), np.uint8)
        array[::2, ::2, ::2] = 1
        label = Segmentation(array, Geometry(np.eye(4), array.shape), LabelTable.from_names({1: "speck"}))
        with pytest.raises(LabelError, match="65535"):
            components_of(label, ["speck"])

    @pytest.mark.parametrize("reach", [slice(0, 6), slice(4, 8)])
    def test_an_instance_of_two_structures_or_outside_of_any_is_refused(self, reach):
        grid, array = Geometry(np.eye(4), (8, 4, 4)), np.zeros((8, 4, 4), np.uint8)
        array[0:3], array[3:6] = 1, 2
        label = Segmentation(array, grid, LabelTable.from_names({1: "a", 2: "b"}))
        mine = np.zeros((8, 4, 4), np.uint8)
        mine[reach] = 5
        beside = Segmentation(mine, grid, LabelTable.from_names({5: "5"}))
        with pytest.raises(LabelError, match=r"instances \[5\]"):
            require_within(beside, label)

    @pytest.mark.parametrize(
        ("line", "words"),
        [("merge: {1: [2]}", "merge"), ("ignore: 7", "ignore"), ("labels: {1: cube}", "instances_of: ball")],
    )
    def test_values_with_two_meanings_are_refused(self, manifest, line, words):
        manifest.write_text(manifest.read_text() + line + "\n")
        with pytest.raises(ConfigError, match=words):
            open_data(manifest)


class TestChanges:
    def case(self) -> LabelledCase:
        """An image whose value is the instance's number, so that the three can be compared after any change."""
        instances = balls.draw((40, 44, 36), [(12, 12, 12), (26, 30, 20), (12, 32, 24)], [(9, 8, 7)] * 3)[None]
        label = (instances > 0).astype(np.uint8)
        places = np.stack([np.ones(int(label.sum()), np.int64), np.flatnonzero(label)], axis=1)
        grid = Geometry(np.eye(4), instances.shape[1:])
        return LabelledCase("a", instances.astype(np.float32), label, grid, {}, places, instances=instances)

    def test_a_patch_is_cut_from_the_same_place_of_image_label_and_instances(self):
        case, rng = self.case(), np.random.default_rng(0)
        for _ in range(8):
            image, label = cut_out(case, (16, 12, 20), fraction=0.5, rng=rng)
            assert image.shape[1:] == label.shape[1:] == (24, 18, 28)
            np.testing.assert_array_equal(image[0], label[1])
            np.testing.assert_array_equal(label[0], label[1] > 0)

    @pytest.mark.parametrize("fraction", [0.0, 1.0])
    def test_instances_move_with_the_image_as_labels_do(self, fraction):
        still = {f"{name}_probability": 0.0 for name in ("low_resolution", "blur", "noise", "bias_field", "contrast")}
        augment = still | {"scale_intensity_probability": 0.0, "affine_probability": 1.0, "flip_axes": [0, 1, 2]}
        run = settings(augment=augment, foreground_fraction=fraction)
        moved = 0
        for epoch in range(3):
            for batch in batches([self.case()] * 2, run, epoch=epoch):
                assert batch.instances.shape == (2, 1, 24, 24, 24)
                assert set(batch.instances.unique().tolist()) <= {0, 1, 2, 3}
                torch.testing.assert_close(batch.label, (batch.instances > 0).long())
                # Nearest and linear sampling agree but for the rim.
                same = (batch.image.round() == batch.instances).float().mean()
                assert same > 0.8
                moved += int(batch.instances.max() > 0)
        assert moved

    def test_boxes_are_those_of_the_patch(self):
        patch = torch.zeros(2, 1, 6, 7, 8, dtype=torch.long)
        patch[0, 0, 1:3, 2:5, 3:8], patch[0, 0, 4:, 0:1, 0:2], patch[1, 0, :, :, :] = 300, 7, 2
        label = torch.where(patch == 7, 2, (patch > 0).long())
        first, second = targets_of(patch, label, [2, 1])
        assert sorted(zip(first.ids.tolist(), first.things.tolist(), first.boxes.tolist(), strict=True)) == [
            (7, 0, [4, 0, 0, 6, 1, 2]),
            (300, 1, [1, 2, 3, 3, 5, 8]),
        ]
        assert second.boxes.tolist() == [[0, 0, 0, 6, 7, 8]]
        (only, _) = targets_of(patch, label, [2])
        assert only.ids.tolist() == [7]  # stuff has no instances
        (none,) = targets_of(torch.zeros(1, 1, 4, 4, 4, dtype=torch.long), torch.zeros(1, 1, 4, 4, 4).long(), [1])
        assert none.boxes.shape == (0, 6)


def test_a_manifest_of_instances_is_read_from_json_too(manifest):
    """The keys are those of the record, whatever the layout of the YAML."""
    import yaml

    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(json.dumps(content))
    assert open_data(manifest).cases[0].labelling.instances_of == "ball"
