"""Changes to a batch beside MONAI's transforms of the same name, draw by draw."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from monai.transforms import (
    AdjustContrast,
    Affine,
    Flip,
    GaussianSmooth,
    RandAffine,
    RandBiasField,
    RandSimulateLowResolution,
    ScaleIntensity,
)
from scipy.stats import kstest

from voxmetry.config import Augment
from voxmetry.train.augmentation import Region, augment, degrade, margin
from voxmetry.train.draws import Change, draw_change

PATCH = (16, 24, 8)
REGION = tuple(size + 2 * margin(size) for size in PATCH)
MIDDLE = tuple(margin(size) for size in PATCH)
EVERYTHING = Augment(
    flip_axes=(0, 1, 2),
    **{field: 1.0 for field in Augment.model_fields if field.endswith("_probability")},
)
NOTHING = Augment(flip_axes=(), **{field: 0.0 for field in Augment.model_fields if field.endswith("_probability")})


def drawn(how=EVERYTHING, seed=0, *, region=REGION, anywhere=False):
    return draw_change(how, np.random.default_rng(seed), patch=PATCH, region=region, anywhere=anywhere)


def made(shape=REGION, seed=0, channels=1):
    image = np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)
    return image, (image[:1] > 1).astype(np.uint8) * 7


class TestPlace:
    @pytest.mark.parametrize("seed", range(4))
    def test_a_turned_patch_is_monais(self, seed):
        image, label = made()
        change = replace(drawn(seed=seed), elastic=None)
        found, classes = augment([Region(image, label, change)], PATCH)
        degraded = torch.from_numpy(image)[None].clone()
        mirrored = Flip([n for n, flip in enumerate(change.flips) if flip]) if any(change.flips) else (lambda x: x)
        matrix = np.eye(4)
        matrix[:3, :3] = change.linear
        for part, mode, result in ((degraded[0], "bilinear", found), (label, "nearest", classes)):
            turn = Affine(affine=matrix, spatial_size=PATCH, mode=mode, padding_mode="border", image_only=True)
            expected = torch.as_tensor(np.asarray(turn(mirrored(torch.as_tensor(part).float()))))[None]
            if mode == "nearest":  # halves may be rounded to either side
                assert (result == expected).float().mean() > 0.999
            else:
                degrade(expected, [change])
                assert torch.allclose(result, expected, atol=1e-4)

    def test_an_image_that_is_turned_as_a_whole_lies_where_it_was_cut(self):
        shape = (20, 27, 11)
        image, label = made(shape)
        change = replace(drawn(NOTHING, region=shape, anywhere=True), linear=drawn(seed=5).linear, start=(3, 1, 2))
        matrix = np.eye(4)
        matrix[:3, :3] = change.linear
        whole = Affine(affine=matrix, mode="bilinear", padding_mode="border", image_only=True)(torch.from_numpy(image))
        found, _ = augment([Region(image, label, change)], PATCH)
        assert torch.allclose(found[0], torch.as_tensor(np.asarray(whole))[:, 3:19, 1:25, 2:10], atol=1e-4)

    def test_where_nothing_turns_voxels_are_mirrored_and_cut_as_they_are(self):
        image, label = made()
        change = replace(drawn(NOTHING), flips=(True, False, True))
        found, classes = augment([Region(image, label, change)], PATCH)
        i, j, k = (slice(low, low + size) for low, size in zip(MIDDLE, PATCH, strict=True))
        for result, array in ((found, image), (classes, label)):
            assert np.array_equal(result[0], array[:, ::-1, :, ::-1][:, i, j, k])
        still = augment([Region(image, label, replace(change, linear=np.eye(3)))], PATCH)
        assert torch.allclose(still[0], found, atol=1e-5)
        assert torch.equal(still[1], classes)

    def test_shifts_move_a_patch_by_their_voxels(self):
        image, label = made()
        shifts = np.zeros((3, 2, 3, 2))
        shifts[1] = 2
        found, classes = augment([Region(image, label, Change(start=MIDDLE, elastic=shifts))], PATCH)
        plain, _ = augment([Region(image, label, Change(start=(MIDDLE[0], MIDDLE[1] + 2, MIDDLE[2])))], PATCH)
        assert torch.allclose(found, plain, atol=1e-4)
        assert set(classes.unique().tolist()) == {0, 7}

    def test_regions_of_unlike_sizes_share_a_batch(self):
        shapes = [(20, 27, 11), (16, 24, 9), (22, 30, 8)]
        regions = [
            Region(*made(shape, n), drawn(seed=n, region=shape, anywhere=True)) for n, shape in enumerate(shapes)
        ]
        together, labels = augment(regions, PATCH)
        for row, region in enumerate(regions):
            alone, label = augment([region], PATCH)
            assert torch.equal(together[row], alone[0])
            assert torch.equal(labels[row], label[0])


class TestValues:
    def changed(self, **one):
        image = torch.from_numpy(made(PATCH, channels=2)[0])
        result = torch.stack([image, image])
        degrade(result, [Change(start=(0, 0, 0)), Change(start=(0, 0, 0), **one)])
        assert torch.equal(result[0], image)
        return image, result[1]

    @pytest.mark.parametrize("sigma", [(0.5, 0.8, 1.2), (0.3, 2.5, 1.0), (4.0, 0.5, 3.0)])
    def test_blur(self, sigma):
        image, found = self.changed(blur=sigma)
        assert torch.allclose(found, torch.as_tensor(GaussianSmooth(sigma=sigma)(image)), atol=1e-4)

    @pytest.mark.parametrize("zoom", [0.5, 0.71, 0.99])
    def test_low_resolution(self, zoom):
        image, found = self.changed(zoom=zoom)
        monai = RandSimulateLowResolution(prob=1.0, downsample_mode="area", zoom_range=(zoom, zoom))
        assert torch.allclose(found, torch.as_tensor(monai(image)), atol=1e-6)

    def test_bias_field(self):
        coefficients = drawn(seed=3).bias
        image, found = self.changed(bias=coefficients)
        monai = RandBiasField(degree=2, prob=1.0)
        degrees = np.argwhere(np.indices((3, 3, 3)).sum(0) <= 2)  # in MONAI's order
        monai.randomize(image.shape[1:])
        monai._coeff = [float(coefficients[tuple(place)]) for place in degrees]
        assert np.count_nonzero(coefficients) == len(degrees) == 10
        assert torch.allclose(found, torch.as_tensor(monai(image, randomize=False)).float(), atol=1e-5)

    @pytest.mark.parametrize("gamma", [0.7, 1.5])
    def test_contrast(self, gamma):
        image, found = self.changed(gamma=gamma)
        assert torch.allclose(found, torch.as_tensor(AdjustContrast(gamma=gamma)(image)), atol=1e-5)

    def test_contrast_of_an_image_of_one_value(self):
        image = torch.full((1, 1, *PATCH), 3.0)
        degrade(image, [Change(start=(0, 0, 0), gamma=0.7)])
        assert torch.equal(image, torch.full_like(image, 3.0))

    def test_scale(self):
        image, found = self.changed(factor=1.2)
        assert torch.allclose(found, torch.as_tensor(ScaleIntensity(minv=None, maxv=None, factor=0.2)(image)))

    def test_noise(self):
        image, found = self.changed(noise_sd=0.3, seed=5)
        added = (found - image).flatten()
        assert kstest(added.numpy(), "norm", (0, 0.3)).pvalue > 1e-3
        assert not torch.equal((found - image)[0], (found - image)[1])


class TestDraws:
    N = 2000

    def all(self, how, **options):
        return [drawn(how, seed, **options) for seed in range(self.N)]

    def test_come_as_often_as_the_settings_say(self):
        how = Augment(flip_axes=(0, 2), elastic_probability=0.1)
        found = self.all(how)
        wanted = {
            "linear": how.affine_probability,
            "elastic": 0.1,
            "blur": how.blur_probability,
            "zoom": how.low_resolution_probability,
            "bias": how.bias_field_probability,
            "noise_sd": how.noise_probability,
            "gamma": how.contrast_probability,
            "factor": how.scale_intensity_probability,
        }
        assert {field.name for field in fields(Change)} == {*wanted, "start", "flips", "seed"}
        for name, share in wanted.items():
            n = sum(getattr(change, name) is not None for change in found)
            assert abs(n - self.N * share) < 4.5 * (self.N * share * (1 - share)) ** 0.5, name
        flips = np.mean([change.flips for change in found], axis=0)
        assert flips[1] == 0
        assert np.allclose(flips[[0, 2]], 0.5, atol=0.05)

    def test_are_spread_evenly_over_their_ranges(self):
        found = self.all(EVERYTHING)
        columns = {
            "blur": (np.array([change.blur for change in found])[:, 1], EVERYTHING.blur_sigma_voxels),
            "zoom": ([change.zoom for change in found], EVERYTHING.low_resolution_zoom),
            "bias": ([change.bias[1, 0, 1] for change in found], (0.0, 0.15)),
            "noise": ([change.noise_sd for change in found], (0.0, EVERYTHING.noise_sd)),
            "gamma": ([change.gamma for change in found], EVERYTHING.contrast_gamma),
            "factor": ([change.factor - 1 for change in found], (-0.25, 0.25)),
        }
        for name, (values, (low, high)) in columns.items():
            assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-4, name

    def test_turns_are_those_of_monai(self):
        """Each entry of the matrix is spread as RandAffine's is."""
        angle = float(np.deg2rad(EVERYTHING.rotate_degrees))
        grid = RandAffine(rotate_range=(angle,) * 3, scale_range=(EVERYTHING.scale,) * 3, prob=1.0).rand_affine_grid
        grid.set_random_state(seed=0)
        theirs = []
        for _ in range(self.N):
            grid(spatial_size=(2, 2, 2))
            theirs.append(np.asarray(grid.get_transformation_matrix())[:3, :3])
        ours = np.stack([change.linear for change in self.all(EVERYTHING)])
        for a in range(3):
            for b in range(3):
                assert kstest(ours[:, a, b], np.stack(theirs)[:, a, b]).pvalue > 1e-4, (a, b)

    def test_a_patch_lies_anywhere_in_a_whole_image(self):
        starts = np.array([change.start for change in self.all(NOTHING, region=(18, 24, 11), anywhere=True)])
        assert [np.unique(column).tolist() for column in starts.T] == [[0, 1, 2], [0], [0, 1, 2, 3]]

    def test_a_sample_is_the_same_to_the_last_bit_in_whatever_batch(self):
        regions = [Region(*made(seed=n), drawn(seed=n)) for n in range(3)]
        together = augment(regions, PATCH)
        for row, region in enumerate(regions):
            for all_of_them, alone in zip(together, augment([region], PATCH), strict=True):
                assert torch.equal(all_of_them[row], alone[0])
        assert torch.equal(augment(regions, PATCH)[0], together[0])
