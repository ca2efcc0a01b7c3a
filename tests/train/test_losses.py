import pytest
import torch

from voxmetry.train.losses import build_loss

NAMES = ["dice_ce", "dice_focal", "tversky"]


def scores_of(label, n=2):
    return torch.nn.functional.one_hot(label[:, 0], n).movedim(-1, 1).float() * 20 - 10


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_is_smallest_where_the_network_is_right(name):
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[..., 2:5, 2:5, 2:5] = 1
    right = scores_of(label)
    loss = build_loss(name)
    assert float(loss(right, label)) < 0.05 < float(loss(torch.zeros_like(right), label)) < float(loss(-right, label))


def test_tversky_minds_a_missed_voxel_more_than_an_invented_one():
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[..., 2:6, 2:6, 2:6] = 1
    losses = {}
    for name, place in (("missed", (slice(None), 0, 2, 2, 2)), ("invented", (slice(None), 0, 0, 0, 0))):
        found = label.clone()
        found[place] = 1 - found[place]
        loss = build_loss("tversky")
        loss(scores_of(found), label)
        losses[name] = 1 - float(loss.overlap)
    assert losses["missed"] > 1.5 * losses["invented"]
