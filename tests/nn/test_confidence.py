"""Expected Dice under the network's own probabilities, and how far the networks of an ensemble agree."""

import math

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, StudySettings, save, segment_study
from voxmetry.flags.study import AGREEMENT
from voxmetry.nn.confidence import Confidence, MemberAgreement
from voxmetry.nn.mirroring import averaged
from voxmetry.nn.slabs import Slab
from voxmetry.nn.window_weights import blending_weights


@pytest.fixture(scope="module")
def volume():
    return phantoms.volume(phantoms.geometry(shape=(41, 37, 23), degrees=(0, 0, 90)))


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


class TestAgreement:
    def spec(self, members=2):
        return models.spec(members=members)

    def scores(self, labels):
        """Scores (1, 3, *patch) whose largest is the label."""
        patch = tuple(self.spec().window.patch)
        made = torch.zeros(1, 3, *patch)
        grid = torch.zeros(patch, dtype=torch.long)
        for value, place in labels.items():
            grid[place] = value
        return made.scatter_(1, grid[None, None], 1.0)

    def test_networks_that_say_the_same_have_1(self):
        agreement = MemberAgreement(self.spec())
        for member in (0, 1):
            agreement.watch(member, self.scores({1: slice(0, 3)}))
        first, second = agreement.mean_dice().values()
        assert first == 1
        assert math.isnan(second)

    def test_it_is_the_mean_over_pairs_with_the_weights_of_the_blending(self):
        agreement = MemberAgreement(self.spec(members=3))
        patch = tuple(self.spec().window.patch)
        masks = []
        for window in range(2):
            masks.append([])
            for member in range(3):
                place = slice(member + window, 5)
                agreement.watch(member, self.scores({2: place}))
                mask = torch.zeros(patch, dtype=torch.bool)
                mask[place] = True
                masks[-1].append(mask)
        weights = blending_weights(self.spec().window)
        total = lambda mask: sum(float(weights[m].double().sum()) for m in mask)  # noqa: E731
        pairs = [
            2 * total([w[a] & w[b] for w in masks]) / (total([w[a] for w in masks]) + total([w[b] for w in masks]))
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        assert agreement.mean_dice()["back"] == pytest.approx(sum(pairs) / 3, rel=1e-6)

    def test_a_structure_that_one_network_alone_finds_is_disagreed_upon(self):
        agreement = MemberAgreement(self.spec())
        agreement.watch(0, self.scores({1: slice(0, 3)}))
        agreement.watch(1, self.scores({}))
        assert agreement.mean_dice()["front"] == 0

    def test_one_network_has_none(self):
        agreement = MemberAgreement(self.spec(members=1))
        assert not agreement.defined
        assert all(math.isnan(dice) for dice in agreement.mean_dice().values())

    def test_labels_and_maps_are_the_same_bytes_with_it(self, tmp_path, volume):
        ready = Predictor(models.write(tmp_path / "model", members=2), device="cpu")
        prepared = ready.prepare(volume, maps=["disagreement"])
        agreement = MemberAgreement(ready.spec)
        plain = ready.run(prepared, maps=["disagreement"], maps_to=tmp_path / "plain")
        watched = ready.run(prepared, maps=["disagreement"], maps_to=tmp_path / "watched", agreement=agreement)
        assert np.array_equal(plain.array, watched.array)
        assert (tmp_path / "plain/disagreement.nii").read_bytes() == (
            tmp_path / "watched/disagreement.nii"
        ).read_bytes()
        counted = agreement.mean_dice()
        again = MemberAgreement(ready.spec)
        ready.run(prepared, agreement=again)
        assert again.mean_dice() == pytest.approx(counted, nan_ok=True)

    @pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
    def test_mirror_images_belong_to_their_network(self, mirror_axes):
        seen = {}
        members = [lambda x: x * 2.0, lambda x: -x]
        patches = torch.randn(2, 3, 4, 5, 6)
        watched = averaged(members, mirror_axes, watch=lambda place, scores: seen.update({place: scores.clone()}))
        assert torch.equal(watched(patches), averaged(members, mirror_axes)(patches))
        turns = 2 ** len(mirror_axes)
        assert torch.allclose(seen[0], 2 * turns * patches)
        assert torch.allclose(seen[1], -turns * patches)


def test_a_study_says_how_far_the_networks_agree_and_asks_for_a_look_where_they_do_not(tmp_path, volume):
    model = models.write(tmp_path / "model", members=2)
    save(volume, tmp_path / "image.nii.gz")
    result = segment_study(tmp_path / "image.nii.gz", tmp_path / "out", model, settings=StudySettings(device="cpu"))
    told = {row.label: row.mean_dice for row in result.members_agreement}
    assert told
    flagged = {flag.label for flag in result.flags if flag.code == "members_disagree"}
    assert flagged == {name for name, dice in told.items() if dice < AGREEMENT}
    assert flagged, "two untrained networks do not agree"
    assert "members disagree" in (tmp_path / "out" / "report.html").read_text()
