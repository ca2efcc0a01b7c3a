import numpy as np
import pytest
import torch
from scipy import ndimage

from voxmetry.train.losses import build_loss, soft_border, teaching

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


class TestSoftBorder:
    def label(self):
        """Two touching structures and a third one by itself."""
        label = torch.zeros(1, 1, 12, 9, 7, dtype=torch.long)
        label[..., 2:5, 2:7, 2:5], label[..., 5:8, 2:7, 2:5], label[..., 10:, 2:5, 2:5] = 1, 2, 3
        return label

    def test_is_soft_at_voxels_of_a_structure_beside_another_one_alone(self):
        label = self.label()
        soft = soft_border(label, 4, 0.2)
        assert torch.allclose(soft.sum(1), torch.ones(1, 12, 9, 7))
        array = label[0, 0].numpy()
        grown = {v: ndimage.binary_dilation(array == v, np.ones((3, 3, 3))) for v in (1, 2, 3)}
        wanted = np.any([(array == v) & grown[w] for v in (1, 2, 3) for w in (1, 2, 3) if v != w], axis=0)
        assert np.array_equal((soft.max(1).values < 1)[0].numpy(), wanted)
        assert wanted.sum() == 30
        assert torch.equal(soft.argmax(1), label[:, 0])

    def test_no_share_leaves_the_labels(self):
        assert torch.equal(soft_border(self.label(), 4, 0.0).argmax(1), self.label()[:, 0])
        assert float(soft_border(self.label(), 4, 0.0).amax(1).min()) == 1

    @pytest.mark.parametrize("name", NAMES)
    def test_a_border_off_by_one_slice_costs_less_and_right_still_costs_least(self, name):
        label, moved = self.label(), self.label()
        moved[..., 5:6, 2:7, 2:5] = 1
        hard, soft = build_loss(name), build_loss(name, n_classes=4, border_smoothing=0.4)
        right, wrong = scores_of(label, 4), scores_of(moved, 4)
        assert float(soft(right, label)) < float(soft(wrong, label))
        assert float(soft(wrong, label) - soft(right, label)) < float(hard(wrong, label) - hard(right, label))


def test_a_student_is_best_where_its_probabilities_are_the_teachers():
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, 5, 6)
    same, other = teaching(teacher, teacher), teaching(torch.randn(2, 3, 4, 5, 6), teacher)
    assert float(same) < float(other)
    student = teacher.clone().requires_grad_()
    teaching(student, teacher).backward()
    assert float(student.grad.abs().max()) < 1e-6
