"""Mask R-CNN: what it learns, that it learns, and that a run of it is like any other run."""

import json

import numpy as np
import pytest
import torch

import balls
import models
from voxmetry import Geometry, Predictor, Segmentation, Volume, load_model, segment
from voxmetry.config import ModelSpec, TrainSettings, parse_record
from voxmetry.errors import ConfigError, ModelError
from voxmetry.nn.instance_merging import MergedInstance
from voxmetry.nn.instances import InstanceCollector, paint
from voxmetry.nn.interop import export_model
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.networks.mask_rcnn import mask_in_voxels
from voxmetry.nn.predictor import Prepared
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.restore import Restorer
from voxmetry.nn.runtime import RuntimeChoice, TorchRuntime
from voxmetry.nn.window import stream_scores
from voxmetry.train import train
from voxmetry.train.instance_losses import InstanceLoss, targets_of
from voxmetry.train.losses import build_loss
from voxmetry.train.schedule import learning_rate


def model(**change) -> ModelSpec:
    return parse_record(balls.specification(**change), ModelSpec, where="test")


def settings(**change) -> TrainSettings:
    content = {"model": balls.specification(), "data": "unused", "epochs": 2, "batch_size": 2, "seed": 3}
    return parse_record(content | {"validation_fraction": 0.5} | change, TrainSettings, where="test")


def batch(*pairs):
    images = [balls.image(pair, seed=seed) for seed, pair in enumerate(pairs)]
    x = torch.stack([torch.from_numpy((image - image.mean()) / image.std())[None] for image in images])
    instances = torch.stack([torch.from_numpy(pair.astype(np.int64))[None] for pair in pairs])
    return x, instances, (instances > 0).long()


@pytest.fixture(scope="module")
def taught():
    """A network that saw four images of two balls that touch, a few dozen times."""
    torch.manual_seed(0)
    network = build_network(model())
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    seen = [batch(balls.pair(shift=a), balls.pair(shift=b)) for a, b in ((-1, 0), (1, 0.5))]
    losses = []
    for step in range(STEPS):
        x, instances, label = seen[step % 2]
        learn = InstanceLoss(targets_of(instances, label, [1]), build_loss("dice_ce"), label, seed=step)
        loss = network.train()(x, learn)
        optimiser.param_groups[0]["lr"] = learning_rate(step, STEPS, 3e-3)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimiser.step()
        losses.append(learn.parts)
    return network.eval(), losses


STEPS = 60


def found_in(network, volume, spec):
    prepared: Prepared = preprocess([volume], spec)
    runtime = TorchRuntime(network, RuntimeChoice("cpu", "float32", "test"), n_outputs=2)
    collector = InstanceCollector(runtime, spec, tuple(prepared.tensor.shape[2:]))
    restorer = Restorer(prepared.grid, prepared.native, spec)
    with torch.inference_mode():
        for slab in stream_scores(collector, prepared.tensor, spec.window, n_outputs=2, begin=collector.begin):
            restorer.feed(slab)
    return paint(collector.merged(), restorer.finish(), grid=prepared.grid, spec=spec)


def dice_of_pairs(found, truth):
    """Dice of each ball with the instance that has most of it; each instance once."""
    rows = []
    for number in range(1, int(truth.max()) + 1):
        ball = truth == number
        value = int(np.bincount(found.array[ball]).argmax())
        mine = found.array == value if value else np.zeros_like(ball)
        rows.append((value, 2 * (mine & ball).sum() / (mine.sum() + ball.sum())))
    assert len({value for value, _ in rows}) == len(rows)
    return [dice for _, dice in rows]


class TestLearning:
    def test_each_term_of_the_loss_falls(self, taught):
        _, losses = taught
        for name in ("proposal", "mask", "semantic", "class"):
            first, last = (np.mean([row[name] for row in part]) for part in (losses[:8], losses[-8:]))
            assert last < 0.7 * first, name

    def test_balls_that_touch_are_two_where_components_see_one(self, taught):
        network, _ = taught
        truth = balls.pair(shift=0.25)
        found = found_in(network, Volume(balls.image(truth, seed=9), Geometry(np.eye(4), truth.shape)), model())
        assert len(found) == 2
        assert min(dice_of_pairs(found, truth)) > 0.8
        assert all(row.label == "ball" and row.score > 0.3 for row in found.detections)

    def test_they_are_found_in_windows_and_on_another_grid(self, taught):
        """Four balls in a long image, in three windows; its voxels are flipped, and larger along one axis."""
        network, _ = taught
        truth = np.zeros((24, 24, 48), np.uint16)
        truth[:, :, :24], truth[:, :, 24:] = balls.pair(), np.where(balls.pair() > 0, balls.pair() + 2, 0)
        image = balls.image(truth, seed=4)
        coarse, affine = image[::-1, :, ::2], np.diag([-1.0, 1.0, 2.0, 1.0])
        affine[:3, 3] = [23.0, 5.0, 0.5]
        volume = Volume(np.ascontiguousarray(coarse), Geometry(affine, coarse.shape))
        found = found_in(network, volume, model())
        assert len(found) == 4
        assert min(dice_of_pairs(found, np.ascontiguousarray(truth[::-1, :, ::2]))) > 0.7
        for row in found.detections:
            mask = found.array == row.value
            corners = volume.geometry.to_mm(np.argwhere(mask))
            np.testing.assert_allclose(row.box_ras_mm[0], np.subtract(corners.min(0), [0.5, 0.5, 1.0]), atol=1e-6)
            np.testing.assert_allclose(row.box_ras_mm[1], np.add(corners.max(0), [0.5, 0.5, 1.0]), atol=1e-6)

    def test_an_image_smaller_than_the_patch_is_padded_and_boxes_stay_in_place(self, taught):
        network, _ = taught
        truth = balls.pair()[:, :, 3:20]
        spec = model(window={"patch": [24, 24, 24], "padding": "replicate"})
        found = found_in(network, Volume(balls.image(truth, seed=2), Geometry(np.eye(4), truth.shape)), spec)
        assert max(dice_of_pairs(found, truth)) > 0.75


class TestLoss:
    def test_an_image_without_an_instance_has_a_finite_loss_and_gradients_everywhere(self):
        network = build_network(model()).train()
        x, instances, label = batch(np.zeros((24, 24, 24), np.uint16))
        learn = InstanceLoss(targets_of(instances, label, [1]), build_loss("dice_ce"), label, seed=0)
        loss = network(x, learn)
        loss.backward()
        assert bool(torch.isfinite(loss))
        without = [name for name, weight in network.named_parameters() if weight.grad is None]
        assert without == []

    def test_the_seed_decides_what_is_drawn_and_nothing_else_does(self):
        network = build_network(model()).train()
        x, instances, label = batch(balls.pair(), balls.pair(shift=1))
        values = []
        for seed in (1, 1, 2):
            torch.rand(3)  # the global state moves on
            learn = InstanceLoss(targets_of(instances, label, [1]), build_loss("dice_ce"), label, seed=seed)
            values.append(float(network(x, learn).detach()))
        assert values[0] == values[1] != values[2]


class TestRun:
    def test_a_run_goes_on_to_the_same_weights_and_leaves_a_model(self, tmp_path):
        data = balls.write_cases(tmp_path / "data")
        whole = train(settings(), tmp_path / "whole", data=data)
        run = tmp_path / "parts"
        train(settings(), run, data=data, max_minutes=0)
        # Begun again from the checkpoint of its first epoch, on the learning rate of the whole run.
        first = settings()
        assert json.loads((run / "split.json").read_text())["training"]
        parts = train(first, run, data=data, resume=True)
        assert parts.is_dir()
        again = train(settings(), tmp_path / "again", data=data)
        assert (again / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
        predictor = Predictor(whole, device="cpu")
        truth = balls.pair()
        volume = Volume(balls.image(truth), Geometry(np.eye(4), truth.shape))
        found = predictor.instances(volume)
        assert found.geometry.is_same(volume.geometry)
        assert predictor.tells_instances
        np.testing.assert_array_equal(segment(volume, whole, device="cpu").array, found.segmentation.array)

    def test_labels_that_leave_something_open_are_refused(self, tmp_path):
        data = balls.write_cases(tmp_path / "data")
        mask = data.parent / "labels" / "case_0.nii.gz"
        data.write_text(data.read_text().replace("case_1, case_2", f"{{case: case_1, unknown: {mask}}}, case_2"))
        with pytest.raises(ConfigError, match="not looked for"):
            train(settings(validation_fraction=0), tmp_path / "run", data=data)


class TestRefusals:
    @pytest.fixture
    def folder(self, tmp_path):
        return models.write(tmp_path / "balls", **balls.specification())

    @pytest.mark.parametrize("form", ["onnx", "torchscript", "monai-bundle"])
    def test_export_is_refused_in_words(self, folder, tmp_path, form):
        with pytest.raises(ModelError, match="maskrcnn"):
            export_model(folder, tmp_path / "out", form=form)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("how", [{"device": "openvino"}, {"execution": "compile"}])
    def test_what_only_runs_in_torch_is_refused_elsewhere(self, folder, how):
        with pytest.raises(ConfigError, match="boxes"):
            load_model(folder, **({"device": "cpu"} | how))

    def test_it_is_no_monai_bundle_in_memory_either(self, folder):
        with pytest.raises(ModelError, match="instances"):
            load_model(folder, device="cpu").as_monai()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"things": ["cube"]}, "cube"),
            ({"proposal_levels": [2, 1]}, "to rise"),
            ({"proposal_levels": [3]}, "below 3"),
            ({"pyramid_level": 2}, "above the first"),
            ({"kernels": [[2, 2, 2]] * 3}, "odd"),
            ({"strides": [[1, 1, 1]]}, "one of each"),
        ],
    )
    def test_a_network_that_cannot_be_is_refused_in_words(self, change, words):
        with pytest.raises(ConfigError, match=words):
            model(network=balls.NETWORK | change)

    def test_mirroring_and_ensembles_are_refused(self):
        with pytest.raises(ConfigError, match="mirror_axes"):
            model(window={"patch": [24, 24, 24], "mirror_axes": [0]})
        with pytest.raises(ConfigError, match="members"):
            model(members=3)


def test_a_mask_is_drawn_on_the_voxels_that_its_box_holds():
    """A mask whose logit is the place along i, from -1 to 1, so that 0 is the middle of the box."""
    size = 12
    ramp = ((torch.arange(size) + 0.5) / size * 2 - 1)[:, None, None].expand(size, size, size)
    box = torch.tensor([2.0, 3.0, 4.0, 12.0, 9.0, 8.0])
    logits, place = mask_in_voxels(ramp, box, (20, 20, 20))
    # Enlarged by a tenth on both sides: 1 to 13.
    assert place == (slice(1, 13), slice(2, 10), slice(4, 8))
    centres = torch.arange(1, 13) + 0.5
    want = ((centres - 1) / 12 * 2 - 1)[1:-1]
    torch.testing.assert_close(logits[1:-1, 0, 0], want, atol=1e-5, rtol=0)
    outside, _ = mask_in_voxels(ramp, torch.tensor([30.0, 30, 30, 40, 40, 40]), (20, 20, 20))
    assert outside.numel() == 0


class TestPainting:
    grid = Geometry(np.diag([2.0, 2.0, 2.0, 1.0]), (6, 6, 6))
    native = Geometry(np.eye(4) + np.array([[0, 0, 0, -0.5]] * 3 + [[0, 0, 0, 0]]), (12, 12, 12))

    def semantic(self, value=3):
        return Segmentation(np.full(self.native.shape, value, np.uint8), self.native, model().labels)

    def instance(self, low, high, *, score=0.9, value=1.0):
        place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        size = [b - a for a, b in zip(low, high, strict=True)]
        return MergedInstance(score, 0, place, np.full(size, value, np.float32))

    def test_nothing_found_leaves_no_voxel_of_a_thing(self):
        found = paint([], self.semantic(), grid=self.grid, spec=model())
        assert len(found) == 0
        assert not found.segmentation.array.any()

    def test_masks_lie_where_they_lie_in_mm(self):
        found = paint([self.instance((1, 2, 3), (3, 4, 6))], self.semantic(), grid=self.grid, spec=model())
        where = np.argwhere(found.array == 1)
        # Voxels 1 and 2 of 2 mm reach from 1 to 5 mm, which are the study's voxels 2 to 5.
        assert where.min(0).tolist() == [2, 4, 6]
        assert where.max(0).tolist() == [5, 7, 11]
        assert found.detections[0].box_ras_mm == ((1.0, 3.0, 5.0), (5.0, 7.0, 11.0))
        np.testing.assert_array_equal(found.segmentation.array == 3, found.array == 1)

    def test_of_two_that_want_a_voxel_the_likelier_has_it(self):
        first, second = self.instance((0, 0, 0), (3, 6, 6), value=0.7), self.instance((2, 0, 0), (6, 6, 6), score=0.5)
        found = paint([first, second], self.semantic(), grid=self.grid, spec=model())
        rows = found.array[:, 5, 5].tolist()
        assert rows == [1] * 4 + [2] * 8

    def test_what_a_better_one_has_already_is_no_instance_and_values_follow_one_another(self):
        rows = [
            self.instance((0, 0, 0), (3, 3, 3)),
            self.instance((0, 0, 0), (3, 3, 2), score=0.6),
            self.instance((4, 4, 4), (6, 6, 6), score=0.4),
        ]
        found = paint(rows, self.semantic(), grid=self.grid, spec=model())
        assert [(row.value, row.score) for row in found.detections] == [(1, 0.9), (2, 0.4)]

    def test_stuff_keeps_what_no_instance_takes(self):
        labels = [{"value": 3, "name": "ball", "colour": "#E69F00"}, {"value": 5, "name": "bed", "colour": "#56B4E9"}]
        spec = model(labels={"labels": labels}, network=balls.NETWORK | {"things": ["ball"]})
        semantic = Segmentation(np.full(self.native.shape, 5, np.uint8), self.native, spec.labels)
        found = paint([self.instance((0, 0, 0), (2, 6, 6))], semantic, grid=self.grid, spec=spec)
        assert found.segmentation.array[:, 5, 5].tolist() == [3] * 4 + [5] * 8
