"""The streamed engine against the plain way: all scores whole, in float32, by MONAI."""

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

import models
import phantoms
from parity import Blobs, blobs, check, plain, predictor, restore
from voxmetry import Predictor, Volume
from voxmetry.config import WindowSpec
from voxmetry.core.axes import reorientation
from voxmetry.nn.grids import interpolate, positions
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.slabs import Streaming
from voxmetry.nn.window import stream_scores, window_scores, window_starts


def paint_all(scores, values):
    labels = np.zeros(scores.shape[1:], np.uint8)
    for score, value in zip(scores.numpy(), values, strict=True):
        labels[score > 0] = value
    return labels


CASES = {
    "oblique and anisotropic": {"shape": (41, 37, 23)},
    "upright": {"shape": (40, 32, 24), "degrees": (0, 0, 0)},
    "lying on its side": {"shape": (33, 47, 29), "degrees": (90, 0, 90)},
    "smaller than the patch": {"shape": (9, 11, 5)},
    "long": {"shape": (31, 23, 120)},
    "on the model's own spacing": {"shape": (35, 33, 21), "spacing_mm": (1.0, 1.2, 2.5)},
    "coarser than the model": {"shape": (19, 21, 17), "spacing_mm": (2.1, 1.9, 5.5)},
    "thin": {"shape": (35, 33, 3)},
}


class TestParity:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_plain_way(self, case, tmp_path):
        volume, spec = blobs(phantoms.geometry(**CASES[case])), models.spec()
        network = Blobs(1, spec.n_classes)
        check(predictor(network, spec, tmp_path)(volume).array, plain([volume], spec, network))

    def test_two_channels_mirrored_along_two_axes(self, tmp_path):
        channel = {"name": "a", "modality": "MR", "normalise": {"method": "zscore"}}
        spec = models.spec(
            inputs=[channel, channel | {"name": "b"}],
            window={"patch": [16, 24, 8], "overlap": 0.25, "mirror_axes": [0, 2]},
        )
        grid = phantoms.geometry(shape=(41, 37, 23))
        volumes = [blobs(grid, seed=1), blobs(grid, seed=2)]
        network = Blobs(2, spec.n_classes)
        check(predictor(network, spec, tmp_path)(volumes).array, plain(volumes, spec, network))

    def test_regions_that_lie_in_each_other(self, tmp_path):
        spec = models.spec(regions=[7, 2])
        volume, network = blobs(phantoms.geometry(shape=(41, 37, 23))), Blobs(1, 2)
        prepared = preprocess([volume], spec)
        found = predictor(network, spec, tmp_path)(volume)
        with torch.inference_mode():
            scores = window_scores(network, prepared.tensor, spec.window)
        _, oriented = reorientation(volume.geometry, "RAS")
        for axis, at in enumerate(positions(prepared.grid, oriented), start=2):
            scores = interpolate(scores, at, axis)
        check(found.array, paint_all(scores[0], (7, 2)))

    def test_probabilities_are_interpolated_where_the_model_says_so(self, tmp_path):
        spec = models.spec(activation="softmax")
        volume, network = blobs(phantoms.geometry(shape=(41, 37, 23))), Blobs(1, 3)
        prepared = preprocess([volume], spec)
        with torch.inference_mode():
            scores = window_scores(network, prepared.tensor, spec.window).softmax(1)
        expected = restore(scores, grid=prepared.grid, native=volume.geometry, spec=models.spec())
        check(predictor(network, spec, tmp_path)(volume).array, expected.array)

    def test_an_ensemble_averages_the_scores_of_its_members(self, tmp_path):
        first = models.write(tmp_path, seed=1)
        both = models.write(tmp_path / "both", seed=1, members=2)
        volume = blobs(phantoms.geometry(shape=(31, 29, 17)))
        one, two = Predictor(first, device="cpu"), Predictor(both, device="cpu")
        assert len(two.model.members) == 2
        members = two.model.members
        expected = plain([volume], two.spec, lambda x: (members[0](x) + members[1](x)) / 2)
        check(two(volume).array, expected)
        assert not np.array_equal(one(volume).array, two(volume).array)


class TestStreaming:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_axis_and_batch_do_not_change_the_scores(self, axis, batch):
        tensor = torch.randn(1, 1, 40, 30, 20, generator=torch.Generator().manual_seed(0))
        network, window = Blobs(1, 3), WindowSpec(patch=(16, 24, 8), overlap=0.4)
        expected = window_scores(network, tensor, window)[0]
        slabs = []
        with torch.inference_mode():
            how = Streaming(axis=axis, batch=batch)
            for slab in stream_scores(network, tensor, window, n_outputs=3, how=how):
                fresh = (slab.sums / slab.weights).movedim(axis + 1, 0)[slab.fresh - slab.start :]
                slabs.append(fresh.clone())
        assert torch.allclose(torch.cat(slabs).movedim(0, axis + 1), expected, atol=1e-5)

    def test_holds_one_patch_of_scores_whatever_the_length(self):
        network, window = Blobs(1, 3), WindowSpec(patch=(16, 24, 8))
        for length in (40, 400):
            tensor = torch.zeros(1, 1, length, 24, 8)
            with torch.inference_mode():
                deepest = max(
                    slab.sums.untyped_storage().nbytes() for slab in stream_scores(network, tensor, window, n_outputs=3)
                )
            assert deepest == 3 * 17 * 24 * 8 * 4

    @pytest.mark.parametrize("size", [5, 16, 17, 40, 41, 100])
    @pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7, 0.99])
    def test_windows_lie_where_monai_puts_them(self, size, overlap):
        seen = []

        def note(patches):
            seen.extend(int(patch[0, :, 0, 0].min()) for patch in patches)
            return patches.clone()

        along = torch.arange(max(size, 16), dtype=torch.float32)
        tensor = along.reshape(1, 1, -1, 1, 1).expand(1, 1, -1, 4, 4).contiguous()
        SlidingWindowInferer((16, 4, 4), overlap=overlap)(tensor, note)
        assert window_starts(size, 16, WindowSpec(patch=(16, 4, 4), overlap=overlap)) == seen

    def test_names_the_window_whose_scores_are_not_finite(self):
        from voxmetry.errors import InferenceError

        def broken(patches):
            return torch.where(patches > 0, torch.nan, patches)

        tensor = torch.zeros(1, 1, 40, 24, 8)
        tensor[0, 0, 39, 0, 0] = 1
        with pytest.raises(InferenceError, match=r"\(24, 0, 0\)"):
            window_scores(broken, tensor, WindowSpec(patch=(16, 24, 8)))


class TestSkipping:
    def ct(self, **window):
        return models.spec(
            inputs=[
                {
                    "name": "ct",
                    "modality": "CT",
                    "normalise": {"method": "window", "low": -1000, "high": 1000, "sd": 500},
                }
            ],
            window={"patch": [16, 24, 8], "overlap": 0.5} | window,
        )

    def test_air_is_not_run_and_the_labels_stay(self, tmp_path):
        array = np.full((90, 31, 21), -1000, np.int16)
        array[5:30] = 40 + 30 * np.random.default_rng(0).normal(size=(25, 31, 21))
        volume = Volume(array, phantoms.geometry(shape=array.shape))
        count = [0, 0]

        def network_of(index):
            def run(patches):
                count[index] += len(patches)
                body = torch.nn.functional.avg_pool3d(patches, 3, stride=1, padding=1)
                return torch.cat([0.2 * torch.ones_like(body), body + 1.0, 2 * body], dim=1)

            return run

        found = [
            predictor(network_of(index), self.ct(**skip), tmp_path)(volume).array
            for index, skip in enumerate(({}, {"skip_up_to": -900}))
        ]
        assert count[1] < 0.7 * count[0]
        check(found[1], found[0])

    def test_needs_a_unit(self):
        from voxmetry.errors import ConfigError

        with pytest.raises(ConfigError, match="skip_up_to"):
            models.spec(window={"patch": [16, 24, 8], "skip_up_to": 0})
