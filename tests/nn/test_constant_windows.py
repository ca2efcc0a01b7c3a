"""Windows that hold one value are run once, and nothing else changes."""

import numpy as np
import pytest
import torch

import models
import phantoms
from parity import Blobs, blobs
from voxmetry import Predictor, Volume
from voxmetry.nn import Confidence, MemberAgreement
from voxmetry.nn.constant_windows import ConstantWindows, has_constant_windows
from voxmetry.nn.slabs import cut
from voxmetry.nn.uncertainty_maps import with_disagreement

CT = [{"name": "ct", "modality": "CT", "normalise": {"method": "window", "low": -900, "high": 300, "sd": 400.0}}]


class Counted(torch.nn.Module):
    """A network that counts its windows; background wherever the image is as dark as air."""

    def __init__(self, n_classes, *, air=0):
        super().__init__()
        self.blobs, self.air, self.windows = Blobs(1, n_classes), air, 0

    def forward(self, x):
        self.windows += len(x)
        scores = self.blobs(x)
        scores[:, self.air] += 100.0 * (x[:, 0] <= -2.24)
        return scores


def head_in_air(shape=(60, 60, 40), seed=0):
    """A body in noisy air, which is one value once it is clipped."""
    volume = blobs(phantoms.geometry(shape=shape, spacing_mm=(1.0, 1.2, 2.5), degrees=(0, 0, 90)))
    body = np.zeros(shape, bool)
    body[22:36, 20:40, 12:30] = True
    air = np.random.default_rng(seed).normal(-1000, 20, shape)
    return Volume(np.where(body, volume.array / 30, air).astype(np.int16), volume.geometry)


def pair(tmp_path, network, **change):
    """The same model twice: windows of one value run each time, and once."""
    made = models.spec(inputs=CT, spacing_mm=[1.0, 1.2, 2.5], **change)
    base = Predictor(models.write(tmp_path), device="cpu").model
    return Predictor(models.replace(base, spec=made, members=(network,) * made.members))


def run(predictor, volume, *, reuse, batch=1, **options):
    from dataclasses import replace

    prepared = predictor.prepare(volume)
    how = replace(prepared.plan.how, reuse=reuse, batch=batch)
    return predictor.run(replace(prepared, plan=replace(prepared.plan, how=how)), **options).array


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"regions": [7, 2]},
        {"window": {"patch": [16, 24, 8], "overlap": 0.5, "mirror_axes": [0, 1]}},
        {"resampling": {"rule": "nnunet", "order": 3}},
    ],
    ids=lambda change: next(iter(change), "plain"),
)
def test_labels_are_the_same_and_far_fewer_windows_are_run(change, tmp_path):
    network = Counted(models.spec(**change).n_classes)
    predictor, volume = pair(tmp_path, network, **change), head_in_air()
    if "regions" in change:
        network.forward = lambda x: network.blobs(x) - 100.0 * (x <= -2.24)
    found = {}
    for reuse in (False, True):
        network.windows = 0
        confidence = Confidence(predictor.spec)
        found[reuse] = (run(predictor, volume, reuse=reuse, confidence=confidence), network.windows, confidence)
    assert (found[False][0] > 0).sum() > 200
    assert np.array_equal(found[False][0], found[True][0])
    if "regions" not in change:
        # Cubic splines ring round the body: fewer windows of air are one value.
        assert found[True][1] < (0.75 if "resampling" in change else 0.6) * found[False][1]
        assert found[True][2].expected_dice() == pytest.approx(found[False][2].expected_dice(), rel=1e-6)


def test_the_plan_looks_for_them_where_the_image_has_much_of_its_lowest_value(tmp_path):
    network = Counted(3)
    predictor = pair(tmp_path, network)
    plan = predictor.plan(head_in_air())
    assert plan.how.reuse
    noise = Volume(
        np.random.default_rng(0).integers(0, 200, (30, 30, 30)).astype(np.int16), phantoms.geometry(shape=(30,) * 3)
    )
    assert not predictor.plan(noise).how.reuse
    assert plan.parts["ring"] > 0
    told = []
    Predictor(predictor.model, tell=told.append)(head_in_air())
    assert any("windows of one value were not run" in line for line in told)


def test_memory_that_is_short_runs_them_all_rather_than_narrow_the_ring(tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.nn.memory.resident_bytes", lambda: 10**8)
    predictor, volume = pair(tmp_path, Counted(3)), head_in_air()
    full = predictor.plan(volume)
    tight = Predictor(predictor.model, memory_gb=(full.needed - 1) / 1e9).plan(volume)
    assert (full.how.reuse, tight.how.reuse, tight.how.dtype) == (True, False, torch.float32)


def test_a_model_that_sees_something_in_air_runs_each_window(tmp_path):
    network = Counted(3, air=1)
    predictor, volume = pair(tmp_path, network), head_in_air()
    expected, all_windows = run(predictor, volume, reuse=False), network.windows
    network.windows = 0
    assert np.array_equal(run(predictor, volume, reuse=True), expected)
    assert network.windows == all_windows
    assert (expected == 2).mean() > 0.5


def test_groups_agreement_and_maps(tmp_path):
    network = Counted(3)
    predictor, volume = pair(tmp_path, network, members=2), head_in_air()
    agreements = [MemberAgreement(predictor.spec) for _ in range(2)]
    for reuse, agreement in zip((False, True), agreements, strict=True):
        run(predictor, volume, reuse=reuse, batch=3, agreement=agreement)
    assert agreements[0].mean_dice() == pytest.approx(agreements[1].mean_dice())
    plain, once = (
        run(predictor, volume, reuse=reuse, maps=["disagreement"], maps_to=tmp_path / str(reuse))
        for reuse in (False, True)
    )
    assert np.array_equal(plain, once)
    files = [(tmp_path / str(reuse) / "disagreement.nii").read_bytes() for reuse in (False, True)]
    assert files[0] == files[1]
    assert with_disagreement is not None


def test_a_channel_that_varies_keeps_a_window(tmp_path):
    constant = ConstantWindows(3, regions=False, kind=torch.float32)
    tensor = torch.zeros(1, 2, 8, 8, 8)
    tensor[0, 1, 5, 5, 5] = 1.0
    tensor[0, :, 0, 0, 0] += 1e-7
    corners = [(0, 0, 0), (4, 4, 4), (0, 4, 0)]
    assert constant.values([cut(tensor[0], corner, (4, 4, 4)) for corner in corners]) == [(0.0, 0.0), None, (0.0, 0.0)]
    assert constant.values([]) == []


@pytest.mark.parametrize(("method", "expected"), [("window", True), ("zscore", True)])
def test_how_much_of_an_image_is_its_lowest_value(method, expected):
    how = {"method": method} | ({"low": -900, "high": 300} if method == "window" else {})
    made = models.spec(inputs=[{"name": "ct", "modality": "CT", "normalise": how}])
    image = head_in_air()
    if method == "zscore":
        image = Volume(np.where(image.array < -500, 0, image.array + 1000), image.geometry)
    assert has_constant_windows(image, made) is expected
