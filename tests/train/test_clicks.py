"""Clicks that are simulated from errors, and training with them."""

from __future__ import annotations

import numpy as np
import torch

import models
from cases import train_settings, write_cases
from voxmetry import Predictor, read_volume
from voxmetry.core.records.clicks import Click
from voxmetry.train import train
from voxmetry.train.clicks import next_clicks, with_simulated_clicks

ONE = (1.0, 1.0, 1.0)


def test_the_largest_error_is_clicked_in_its_middle():
    truth = np.zeros((12, 9, 9), int)
    truth[1:8, 1:8, 1:8] = 2
    found = np.zeros_like(truth)
    found[10, 4, 4] = 1
    assert next_clicks(found, truth, ONE) == [(2, (4.0, 4.0, 4.0))]
    assert next_clicks(found, truth, ONE, most=5)[1] == (0, (10.0, 4.0, 4.0))


def test_what_touches_but_should_be_two_classes_is_clicked_apart():
    truth = np.zeros((10, 5, 5), int)
    truth[0:5], truth[5:10] = 1, 2
    clicks = next_clicks(np.zeros_like(truth), truth, ONE, most=3)
    assert sorted(place for place, _ in clicks) == [1, 2]
    assert all(truth[tuple(int(x) for x in voxel)] == place for place, voxel in clicks)


def test_the_middle_is_that_in_mm():
    truth = np.zeros((9, 9, 9), int)
    truth[:, 3:6, :] = 1
    (_, voxel), *_ = next_clicks(np.zeros_like(truth), truth, (1.0, 5.0, 1.0))
    # Across the axis of 5 mm it is 15 mm thick, along the others 9 mm: their middle counts.
    assert (voxel[0], voxel[2]) == (4.0, 4.0)


def test_nothing_wrong_is_nothing_to_click():
    truth = np.ones((4, 4, 4), int)
    assert next_clicks(truth, truth, ONE) == []


def test_half_of_the_steps_have_clicks_and_a_seed_repeats_them():
    spec = models.spec(clicks={"reach_mm": 6.0})

    class Nothing(torch.nn.Module):
        def forward(self, x):
            return torch.cat([torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])], 1)

    image, label = torch.randn(2, 1, 16, 24, 8), torch.zeros(2, 1, 16, 24, 8, dtype=torch.long)
    label[:, :, 4:9, 6:14, 2:5] = 2
    made = [with_simulated_clicks(Nothing(), image, label, spec, (7, step, 0)) for step in range(60)]
    clicked = [x for x in made if x.shape[1] == 4]
    assert 20 <= len(clicked) <= 40
    # All errors are of class 2, so that channel alone has clicks, within the structure.
    for x in clicked:
        assert torch.equal(x[:, :1], image)
        assert x[:, 1:3].abs().max() == 0
        peaks = x[:, 3] == 1
        assert peaks.any()
        assert (label[:, 0][peaks] == 2).all()
    again = [with_simulated_clicks(Nothing(), image, label, spec, (7, step, 0)) for step in range(60)]
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_a_run_with_clicks_makes_a_model_that_takes_them(tmp_path):
    data = write_cases(tmp_path / "data", 3)
    content = models.spec(clicks={"reach_mm": 6.0}).model_dump(mode="json")
    settings = train_settings(model=content, epochs=2)
    model = train(settings, tmp_path / "run", data=data)
    predictor = Predictor(model, device="cpu")
    image = read_volume(data / "images" / "case_0.nii.gz", modality="MR")
    plain = predictor(image)
    clicked = predictor(image, clicks=[Click(at=(6, 10, 3), label="front", space="voxel")])
    assert plain.geometry == clicked.geometry
