"""The engine beside the plain way: a network that finds blobs, and MONAI's window, inverse and argmax."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from scipy.ndimage import gaussian_filter

import models
from voxmetry import Predictor, Volume
from voxmetry.nn.mirroring import mirror_turns
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.restore import Restorer
from voxmetry.nn.slabs import Slab


def restore(scores, *, grid, native, spec):
    """Labels on the study's own grid from scores (1, n_classes, I, J, K) on `grid` that are held whole."""
    restorer = Restorer(grid, native, spec)
    restorer.feed(Slab(0, 0, 0, scores[0], torch.ones(scores.shape[2:], device=scores.device)))
    return restorer.finish()


class Blobs(torch.nn.Module):
    """A smooth network with many classes: random mixtures of blurred input, so that structures have a size."""

    def __init__(self, n_inputs: int, n_classes: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Conv3d(n_inputs * 3, n_classes, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.randn(self.mix.weight.shape, generator=generator))
            self.mix.bias.copy_(torch.randn(self.mix.bias.shape, generator=generator) / 4)

    def forward(self, x):
        pool = torch.nn.functional.avg_pool3d
        blurred = [pool(x, size, stride=1, padding=size // 2, count_include_pad=False) for size in (3, 5, 7)]
        return self.mix(torch.cat(blurred, dim=1))


def blobs(grid, seed=0):
    """A volume of smooth noise."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 2)
    return Volume((noise * 5000).astype(np.int16), grid)


def predictor(network, spec, folder):
    made = Predictor(models.write(folder), device="cpu")
    return Predictor(models.replace(made.model, spec=spec, members=(network,)))


def plain(volumes, spec, network):
    """MONAI's sliding window, the inverse of its resampling on all scores, then argmax."""
    prepared = preprocess(volumes, spec)
    turns = mirror_turns(spec.window.mirror_axes)

    def run(patches):
        return sum(torch.flip(network(torch.flip(patches, turn)), turn) for turn in turns) / len(turns)

    inferer = SlidingWindowInferer(
        spec.window.patch, overlap=spec.window.overlap, mode="gaussian", padding_mode="constant"
    )
    with torch.inference_mode():
        scores = inferer(prepared.tensor, run)[0]
    image = MetaTensor(scores, affine=torch.from_numpy(np.array(prepared.grid.affine)))
    back = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)
    affine = torch.from_numpy(np.array(prepared.native.affine))
    restored = back(image, dst_affine=affine, spatial_size=prepared.native.shape)
    return np.array([0, *spec.labels.values])[restored.numpy().argmax(0)]


def check(found, expected):
    """At least 99.9 % of foreground voxels, and Dice 0.999 for each structure, as
    docs/reference/performance.md promises."""
    foreground = (found > 0) | (expected > 0)
    assert foreground.any()
    assert (found == expected)[foreground].mean() >= 0.999
    for value in np.unique(expected[expected > 0]):
        a, b = found == value, expected == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.999
