"""Expected Dice under the network's own probabilities."""

import math

import pytest
import torch

import models
from voxmetry.nn.confidence import Confidence
from voxmetry.nn.window import Slab


def slab(scores, *, axis=0, start=0, fresh=0, weight=1.0):
    return Slab(axis, start, fresh, scores * weight, torch.full(scores.shape[1:], weight))


def by_hand(scores):
    p = torch.softmax(scores, 0).flatten(1)
    m = torch.nn.functional.one_hot(scores.flatten(1).argmax(0), len(scores)).T
    return [float(2 * (p[c] * m[c]).sum() / (p[c].sum() + m[c].sum())) for c in range(1, len(scores))]


def test_it_is_the_definition_whatever_the_weights_and_however_the_slabs_are_cut():
    scores = torch.randn(3, 9, 6, 5, generator=torch.Generator().manual_seed(0)) * 3
    whole, parts = Confidence(models.spec()), Confidence(models.spec())
    whole.feed(slab(scores, weight=2.5))
    parts.feed(slab(scores[:, :4]))
    parts.feed(slab(scores[:, 3:], start=3, fresh=4))
    assert list(whole.expected_dice().values()) == pytest.approx(by_hand(scores), rel=1e-5)
    assert list(parts.expected_dice().values()) == pytest.approx(by_hand(scores), rel=1e-5)


def test_a_sure_network_has_1_and_a_structure_that_is_nowhere_has_none():
    scores = torch.zeros(3, 4, 4, 4)
    scores[1, :2], scores[0, 2:] = 60.0, 60.0
    confidence = Confidence(models.spec())
    confidence.feed(slab(scores))
    first, second = confidence.expected_dice().values()
    assert first == pytest.approx(1.0)
    assert math.isnan(second)


def test_skipped_windows_are_background_for_certain():
    scores = torch.randn(3, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(6, 5, 4)
    weights[4:] = 0
    scores[:, 4:] = 0
    confidence = Confidence(models.spec())
    confidence.feed(Slab(0, 0, 0, scores, weights))
    assert list(confidence.expected_dice().values()) == pytest.approx(by_hand(scores[:, :4]), rel=1e-5)
