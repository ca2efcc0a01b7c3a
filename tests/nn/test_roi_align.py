"""RoIAlign in 3-D: exact where the right answer is known."""

import pytest
import torch

from voxmetry.nn.networks.roi_align import choose_level, roi_align, sample_at, sample_points

SHAPE = (12, 16, 20)
BOXES = torch.tensor(
    [[1.3, 2.2, 3.1, 9.9, 13.7, 18.2], [0.5, 0.5, 0.5, 2.25, 15.5, 4.0], [4.0, 4.0, 4.0, 5.0, 5.0, 5.0]]
)


def affine(shape, stride=(1, 1, 1)):
    """2 i - 3 j + k / 2 + 1 at the centres of voxels, with i, j, k in voxels of the patch, on edges."""
    i, j, k = torch.meshgrid(
        *[(torch.arange(n // s) + 0.5) * s for n, s in zip(shape, stride, strict=True)], indexing="ij"
    )
    return (2 * i - 3 * j + k / 2 + 1)[None, None]


def at_points(boxes, size):
    i, j, k = sample_points(boxes, size).unbind(-1)
    return 2 * i - 3 * j + k / 2 + 1


@pytest.mark.parametrize("size", [1, 4, 7, 14])
def test_an_affine_field_comes_back_exactly(size):
    found = roi_align([affine(SHAPE)], [(1, 1, 1)], [BOXES], size)
    assert found.shape == (3, 1, size, size, size)
    torch.testing.assert_close(found[:, 0], at_points(BOXES, size), atol=2e-5, rtol=0)


def test_it_comes_back_from_each_level_with_strides_of_their_own():
    boxes = torch.tensor([[3.0, 3.0, 4.0, 9.0, 13.0, 16.0], [4.0, 4.0, 6.0, 8.0, 8.0, 10.0]])
    strides = [(1, 1, 1), (2, 2, 1), (2, 4, 2)]
    levels = [affine(SHAPE, stride) for stride in strides]
    for size in (2, 4, 7):
        found = roi_align(levels, strides, [boxes], size)
        torch.testing.assert_close(found[:, 0], at_points(boxes, size), atol=2e-5, rtol=0)
    assert set(choose_level(boxes, strides, 2).tolist()) == {1, 2}  # levels other than the first were asked


def test_boxes_are_sampled_in_their_own_image():
    field = torch.cat([affine(SHAPE), -affine(SHAPE)])
    found = roi_align([field], [(1, 1, 1)], [BOXES[:1], BOXES], 3)
    torch.testing.assert_close(found[0], -found[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2, 0], -at_points(BOXES, 3)[1], atol=2e-5, rtol=0)


def test_no_box_gives_no_row_and_keeps_the_channels():
    assert roi_align([affine(SHAPE)], [(1, 1, 1)], [BOXES[:0]], 5).shape == (0, 1, 5, 5, 5)


def test_beyond_the_edge_the_outermost_voxel_is_held():
    points = torch.tensor([[-5.0, 8.0, 10.0], [40.0, 8.0, 10.0]]).reshape(1, 2, 1, 1, 3)
    found = sample_at(affine(SHAPE)[0], points)[0, 0, :, 0, 0]
    want = [2 * 0.5 - 3 * 8 + 5 + 1, 2 * 11.5 - 3 * 8 + 5 + 1]
    torch.testing.assert_close(found, torch.tensor(want))


def test_gradients_reach_the_voxels_inside_alone():
    field = affine(SHAPE).requires_grad_()
    roi_align([field], [(1, 1, 1)], [torch.tensor([[2.0, 2.0, 2.0, 6.0, 6.0, 6.0]])], 4).sum().backward()
    assert float(field.grad[0, 0, 2:6, 2:6, 2:6].min()) > 0
    assert float(field.grad.sum()) == pytest.approx(64)
    assert float(field.grad[0, 0, 7:].abs().max()) == 0
