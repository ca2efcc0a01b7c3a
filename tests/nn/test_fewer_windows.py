"""A fast run takes some of the full run's windows, and those whose middle holds what these find."""

import itertools

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor
from voxmetry.config import WindowSpec
from voxmetry.nn.fewer_windows import FewerWindows, first_windows, takes_fewer_windows
from voxmetry.nn.restore import Decision
from voxmetry.nn.slabs import Streaming
from voxmetry.nn.window import stream_scores, window_starts

PATCH = (8, 12, 6)
SHAPE = (30, 45, 29)
QUARTER = 0.25


def window(placement="monai", **more):
    return WindowSpec(patch=PATCH, overlap=0.5, placement=placement, **more)


def starts_of(shape, how):
    return [window_starts(max(size, patch), patch, how) for size, patch in zip(shape, PATCH, strict=True)]


def thresholded(patches):
    """As a network: bright voxels are a structure; each score hangs on the voxel alone."""
    return torch.cat([0.5 - patches[:, :1], patches[:, :1] - 0.5], dim=1)


def run(image, *, fewer=True, how=None, windows=None, network=thresholded, regions=False):
    """The labels, and the corners of windows in the order in which they were run."""
    corners = []
    classes = Decision(regions=regions).of_slab
    slabs = stream_scores(
        network,
        torch.from_numpy(image)[None, None].float(),
        windows or window(),
        n_outputs=2,
        how=how or Streaming(axis=2),
        begin=corners.extend,
        fewer=FewerWindows(classes, 2) if fewer else None,
    )
    labels, weights = np.zeros(image.shape, np.int16), np.zeros(image.shape, np.float32)
    for slab in slabs:
        box = [slice(None)] * 3
        box[slab.axis] = slice(slab.start, slab.stop)
        labels[tuple(box)] = classes(slab.sums).numpy()
        weights[tuple(box)] = slab.weights.numpy()
    return labels, weights, corners


@pytest.mark.parametrize("placement", ["monai", "nnunet"])
@pytest.mark.parametrize("shape", [SHAPE, (8, 13, 50), (31, 12, 6), (20, 30, 14), (9, 60, 17), (64, 25, 7)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_voxel_is_looked_at(placement, shape, axis):
    _, weights, corners = run(np.zeros(shape, np.float32), how=Streaming(axis=axis), windows=window(placement))
    assert (weights > 0).all()
    every = set(itertools.product(*starts_of(shape, window(placement))))
    assert set(corners) <= every
    assert len(corners) == len(set(corners))


def test_where_nothing_is_found_a_third_at_most_is_run():
    _, _, few = run(np.zeros(SHAPE, np.float32))
    _, _, every = run(np.zeros(SHAPE, np.float32), fewer=False)
    assert len(few) <= len(every) / 3
    starts = starts_of(SHAPE, window())
    first = set().union(*(first_windows(starts, 2, row) for row in range(len(starts[2]))))
    assert set(few) == first


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_each_window_whose_middle_holds_something_is_run(batch, regions):
    image = np.zeros(SHAPE, np.float32)
    image[3:9, 20:26, 11:17] = 1

    def network(patches):
        return torch.cat([patches - 0.5, patches - 2], dim=1) if regions else thresholded(patches)

    labels, _, few = run(image, how=Streaming(axis=2, batch=batch), network=network, regions=regions)
    full, _, every = run(image, fewer=False, network=network, regions=regions)
    assert np.array_equal(labels, full)
    for corner in every:
        middle = tuple(slice(c + p // 4, c + p // 4 + p // 2) for c, p in zip(corner, PATCH, strict=True))
        if image[middle].any():
            assert corner in few
    assert len(few) < len(every) / 2


def test_what_a_window_does_not_see_at_its_edges_is_found_by_the_one_between():
    """A network that sees nothing at the edges of its windows, as most see less there."""
    image = np.zeros(SHAPE, np.float32)
    image[2:28, 16:20, 14:16] = 1

    def network(patches):
        sees = torch.zeros_like(patches)
        sees[:, :, 1:7, 1:11, 1:5] = patches[:, :, 1:7, 1:11, 1:5]
        return thresholded(sees)

    labels, _, few = run(image, network=network)
    full, _, every = run(image, fewer=False, network=network)
    assert (full > 0).sum() > 100
    assert np.array_equal(labels, full)
    assert len(few) < len(every)


def test_where_all_is_found_there_are_little_more_than_a_quarter_overlap_takes():
    _, _, few = run(np.ones(SHAPE, np.float32))
    _, _, less = run(np.ones(SHAPE, np.float32), fewer=False, windows=window().model_copy(update={"overlap": QUARTER}))
    rows = len(starts_of(SHAPE, window())[2])
    assert len(less) < len(few) <= 1.25 * len(less) + rows


def test_the_windows_with_most_come_first():
    image = np.zeros((30, 45, 6), np.float32)
    image[:, :, 2:4] = 1
    image[12:20, 18:30] = 1
    _, _, few = run(image)
    starts = starts_of(image.shape, window())
    first = first_windows(starts, 2, 0)
    more = [corner for corner in few if corner not in first]
    filled = {c: image[c[0] + 2 : c[0] + 6, c[1] + 3 : c[1] + 9, 1:4].sum() for c in itertools.product(*starts)}
    left = [filled[corner] for corner in filled if corner not in few]
    if left:
        assert min(filled[corner] for corner in more) >= max(left)


@pytest.mark.parametrize(("overlap", "fewer"), [(0.25, False), (0.49, False), (0.5, True), (0.6, True), (0.75, False)])
def test_which_models_take_fewer(overlap, fewer):
    assert takes_fewer_windows(models.spec(window={"patch": [16, 24, 8], "overlap": overlap})) is fewer


@pytest.mark.parametrize("change", [{}, {"members": 2}], ids=["single", "ensemble"])
def test_a_predictor_runs_fewer_and_keeps_most_labels(tmp_path, change):
    folder = models.write(tmp_path / "model", **change)
    study = phantoms.volume(phantoms.geometry(shape=(60, 70, 40)))
    full, fast = (Predictor(folder, device="cpu", fast=fast) for fast in (False, True))
    ran = {"full": 0, "fast": 0}
    for name, predictor in (("full", full), ("fast", fast)):
        member = predictor.model.members[0]

        def count(patches, member=member, name=name):
            ran[name] += len(patches)
            return member(patches)

        predictor.model = models.replace(predictor.model, members=(count, *predictor.model.members[1:]))
    labels = full(study).array, fast(study).array
    assert ran["fast"] < 0.6 * ran["full"]
    assert (labels[0] == labels[1]).mean() > 0.7
