"""One step of training: in parts, in fp16, and what is waited for."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

import models
import phantoms
from cases import train_settings, write_cases
from voxmetry.config import TrainSettings, parse_record
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.runtime import choose_for_training
from voxmetry.nn.window import window_scores
from voxmetry.train import train
from voxmetry.train.batches import Batch
from voxmetry.train.devices import open_fabric
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.losses import build_loss
from voxmetry.train.state import begin, load_checkpoint, save_checkpoint
from voxmetry.train.step import outputs_of, train_step
from voxmetry.train.validation import classes_of, validate


def settings(**change) -> TrainSettings:
    return train_settings(**({"batch_size": 4, "precision": "float32"} | change))


def batch(n=4) -> Batch:
    torch.manual_seed(1)
    label = torch.randint(0, 3, (n, 1, 16, 24, 8))
    # The last samples have no structure: their Dice alone would pull elsewhere than that of the batch.
    label[n // 2 :] *= torch.rand(label[n // 2 :].shape) < 0.02
    return Batch(torch.randn(n, 1, 16, 24, 8) + label, label)


def weights_after(chosen: TrainSettings, steps=3) -> list[torch.Tensor]:
    state = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32")))
    for step in range(steps):
        train_step(state, chosen, build_loss(chosen.loss), batch(), step)
    return [parameter.detach().clone() for parameter in state.network.parameters()]


NETWORKS = {
    "plain": {},
    "deep supervision": {"channels": [4, 8, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3, [2, 3, 1]],
                         "kernels": [[3] * 3] * 4, "deep_supervision": 1},
    "blocks": {"channels": [4, 8, 8], "strides": [[1] * 3, [2] * 3, [2, 3, 1]], "kernels": [[3] * 3] * 3,
               "deep_supervision": 1, "space_to_depth": [2, 2, 2]},
}  # fmt: skip


class TestAccumulate:
    @pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "tversky"])
    def test_two_halves_are_one_whole_up_to_rounding(self, loss):
        whole, halves, quarters = (weights_after(settings(loss=loss, accumulate=n)) for n in (1, 2, 4))
        begun = begin(settings(), open_fabric(settings(), choose_for_training("cpu", "float32"))).network
        for one, two, four, old in zip(whole, halves, quarters, begun.parameters(), strict=True):
            assert torch.allclose(one, two, atol=2e-5)
            assert torch.allclose(one, four, atol=2e-5)
            assert one.numel() < 8 or not torch.equal(one, old)

    def test_the_mean_of_the_halves_would_not_be(self):
        """What is usually done, a gradient of each half by itself, is another step: the test above can fail."""
        chosen = settings()
        state = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32")))
        network, criterion, made = state.network.train(), build_loss(chosen.loss), batch()

        def gradients(parts):
            network.zero_grad()
            for image, label in zip(made.image.chunk(parts), made.label.chunk(parts), strict=True):
                (criterion(network(image), label) / parts).backward()
            return torch.cat([p.grad.flatten() for p in network.parameters()])

        whole, halves = gradients(1), gradients(2)
        assert (whole - halves).norm() / whole.norm() > 1e-2

    @pytest.mark.parametrize("name", NETWORKS)
    def test_outputs_and_gradients_of_each_kind_of_network(self, name):
        model = models.spec().model_dump(mode="json")
        model["network"] = model["network"] | NETWORKS[name]
        chosen = settings(model=model)
        network = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32"))).network.train()
        found = []
        for parts in (1, 2, 3):
            network.zero_grad()
            outputs = outputs_of(network, batch().image, parts)
            levels = outputs if isinstance(outputs, tuple) else (outputs,)
            sum(level.square().mean() for level in levels).backward()
            found.append([*(level.detach() for level in levels), *(p.grad.clone() for p in network.parameters())])
        for part in found[1:]:
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[0], part, strict=True))

    def test_holds_the_activations_of_one_part(self):
        chosen = settings()
        network = begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32"))).network.train()

        def kept(parts):
            """Bytes that wait for the gradient when the outputs are there."""
            seen = {}

            def pack(tensor):
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                outputs_of(network, batch().image, parts)
            return sum(seen.values())

        assert kept(2) < 0.2 * kept(1)

    def test_a_batch_without_equal_parts_is_refused(self):
        with pytest.raises(ConfigError, match="a batch of 4 has no 3 equal parts"):
            settings(accumulate=3)

    def test_a_run_in_parts_leaves_a_model(self, tmp_path):
        data = write_cases(tmp_path / "data")
        assert (train(settings(accumulate=2, epochs=1), tmp_path / "run", data=data) / "model.yaml").is_file()


class TestFp16:
    """On a processor, whose products in fp16 are slow and the same: what scales and clips is tried."""

    def state(self, chosen):
        scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**14)
        plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=plugin)
        return begin(chosen, fabric)

    def test_steps_are_nearly_those_of_float32(self):
        chosen = settings(learning_rate=1e-3)
        state = self.state(chosen)
        losses = [float(train_step(state, chosen, build_loss(chosen.loss), batch(), step)) for step in range(8)]
        assert losses[-1] < losses[0]
        expected = weights_after(chosen, steps=1)
        other = self.state(chosen)
        train_step(other, chosen, build_loss(chosen.loss), batch(), 0)
        for one, two in zip(other.network.parameters(), expected, strict=True):
            assert (one - two).abs().max() < 2.1e-3  # AdamW's first step is the rate by the sign

    def test_gradients_are_clipped_as_they_are_not_as_they_are_scaled(self, monkeypatch):
        chosen, norms = settings(), []
        real = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(
            torch.nn.utils, "clip_grad_norm_", lambda *args, **kwargs: norms.append(real(*args, **kwargs)) or norms[-1]
        )
        for state in (self.state(chosen), begin(chosen, open_fabric(chosen, choose_for_training("cpu", "float32")))):
            train_step(state, chosen, build_loss(chosen.loss), batch(), 0)
        assert float(norms[0]) == pytest.approx(float(norms[1]), rel=0.05)

    def test_the_scale_survives_a_kill(self, tmp_path):
        chosen = settings()
        state = self.state(chosen)
        train_step(state, chosen, build_loss(chosen.loss), batch(), 0)
        state.fabric.strategy.precision.scaler.update(64.0)
        save_checkpoint(state, tmp_path / "checkpoint.pt")
        again = self.state(chosen)
        assert load_checkpoint(again, tmp_path / "checkpoint.pt")
        assert again.fabric.strategy.precision.scaler.get_scale() == 64.0

    def test_is_for_cards(self, monkeypatch):
        with pytest.raises(InferenceError, match="a training in fp16 on cpu"):
            choose_for_training("cpu", "fp16")
        monkeypatch.setattr("voxmetry.nn.runtime.multiplies_bf16", lambda _: False)
        assert choose_for_training("cuda").precision == "fp16"
        assert choose_for_training("cuda", begun_in="fp16").why == "auto: as the run began"
        assert choose_for_training("cpu", begun_in="fp16").precision == "float32"


def test_a_loss_is_looked_at_when_the_next_step_is_under_way(tmp_path, monkeypatch):
    """A GPU has work by then; a loss that is no number still ends the run, and is named by its own step."""
    from voxmetry.train import loop

    order = []
    step, look = loop.train_step, loop.require_finite

    def stepping(*args):
        order.append(("step", args[-1]))
        return step(*args) * (np.nan if args[-1] == 1 else 1)

    monkeypatch.setattr(loop, "train_step", stepping)
    monkeypatch.setattr(loop, "require_finite", lambda loss, n: (order.append(("look", n)), look(loss, n))[1])
    chosen = settings(batch_size=1, epochs=1)
    with pytest.raises(InferenceError, match="a loss of nan in step 1"):
        train(chosen, tmp_path / "run", data=write_cases(tmp_path / "data"))
    assert order == [("step", 0), ("step", 1), ("look", 0), ("step", 2), ("look", 1)]


class TestValidation:
    def case(self, shape=(40, 37, 23)):
        rng = np.random.default_rng(0)
        image = rng.normal(size=(1, *shape)).astype(np.float16)
        return LabelledCase("a", image, (image > 1).astype(np.uint8), phantoms.geometry(shape=shape), {})

    def network(self):
        return begin(settings(), open_fabric(settings(), choose_for_training("cpu", "float32"))).averaged.eval()

    @pytest.mark.parametrize("shape", [(40, 37, 23), (20, 26, 70), (10, 60, 8)])
    def test_classes_are_those_of_the_whole_scores(self, shape):
        spec, case, network = settings().model, self.case(shape), self.network()
        with torch.inference_mode():
            whole = window_scores(network, torch.from_numpy(case.image[None].astype(np.float32)), spec.window)
        found = classes_of(network, case, spec, "cpu", nullcontext)
        assert found.shape == shape
        assert (found == whole[0].argmax(0).numpy()).mean() > 0.9999

    def test_is_in_the_precision_of_the_training(self):
        kinds = []

        class Seen(torch.nn.Module):
            def forward(self, x):
                y = torch.nn.functional.conv3d(x, torch.ones(3, 1, 1, 1, 1))
                kinds.append(y.dtype)
                return y

        with_bf16 = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        spec = settings().model
        for fabric in (with_bf16, open_fabric(settings(), choose_for_training("cpu", "float32"))):
            validate(Seen(), [self.case((16, 24, 8))], spec, "cpu", autocast=fabric.autocast)
        assert kinds == [torch.bfloat16, torch.float32]


def test_settings_say_what_accumulate_is():
    content = settings().model_dump(mode="json") | {"accumulate": 2}
    assert parse_record(content, TrainSettings, where="test").accumulate == 2
