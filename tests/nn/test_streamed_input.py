import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Geometry, Predictor, Volume
from voxmetry.config import InputSpec, Normalise
from voxmetry.errors import InferenceError, OutputError
from voxmetry.io import mapped_array
from voxmetry.nn import Confidence, memory
from voxmetry.nn.normalisation import fit, moments, percentiles
from voxmetry.nn.preprocess import preprocess as prepared_whole
from voxmetry.nn.streamed_input import preprocess_streamed, why_held_whole
from voxmetry.nn.window import window_starts

ROOT = Path(__file__).parents[2]
WINDOW = {"method": "window", "low": -50, "high": 150, "mean": 20, "sd": 60}
NORMALISE = {
    "window": {"normalise": WINDOW},
    "zscore": {"normalise": {"method": "zscore"}},
    "zscore of all": {"normalise": {"method": "zscore", "nonzero": False, "percentiles": [0, 100]}},
    "zscore, zeros kept": {"normalise": {"method": "zscore", "keep_zeros": True, "percentiles": [2, 98.7]}},
    "minmax": {"normalise": {"method": "minmax", "low": -1.0, "high": 1.0}},
    "one after the other": {"normalise": WINDOW, "then": [{"method": "zscore", "nonzero": False}]},
}
GRIDS = {
    "same voxels": np.diag([1.0, 1.2, 2.5, 1.0]),
    "finer than the model's": np.diag([0.7, 0.9, 1.3, 1.0]),
    "coarser, turned round": np.array([[-1.9, 0, 0, 9], [0, -2.1, 0, 5], [0, 0, -3.1, 4], [0, 0, 0, 1]]),
    "stored sagittally": np.array([[0, 0, 1.4, 0], [1.1, 0, 0, 0], [0, 1.3, 0, 0], [0, 0, 0, 1.0]]),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks even of small images."""
    for name in ("preprocess", "streamed_input"):
        monkeypatch.setattr(sys.modules[f"voxmetry.nn.{name}"], "RESAMPLE_VALUES", 3000)


def study(affine, *, dtype=np.int16, shape=(30, 26, 44), seed=0):
    rng = np.random.default_rng(seed)
    array = np.asfortranarray(rng.normal(20, 60, shape).astype(dtype))
    array[5:20, :, 10:30] = 0
    return Volume(array, Geometry(affine, shape))


def streamed(predictor, volume, *, axis=None, reuse=False):
    """Run a study slab by slab into a label map on the disk, whatever the plan says."""
    plan = predictor.plan(volume)
    how = dataclasses.replace(plan.how, streamed=True, labels_on_disk=True, reuse=reuse)
    how = dataclasses.replace(how, axis=plan.how.axis if axis is None else axis)
    prepared = preprocess_streamed([volume], predictor.spec)
    return predictor.run(dataclasses.replace(prepared, plan=dataclasses.replace(plan, how=how)))


class TestInput:
    @pytest.mark.parametrize("normalised", NORMALISE)
    @pytest.mark.parametrize("grid", GRIDS)
    def test_each_voxel_is_that_of_the_held_input(self, normalised, grid):
        spec = models.spec(inputs=[{"name": "t1", "modality": "MR", **NORMALISE[normalised]}])
        volume = study(GRIDS[grid])
        whole = prepared_whole([volume], spec)
        made = preprocess_streamed([volume], spec)
        assert made.grid.shape == whole.grid.shape
        axis = made.streamed.axis
        size, patch = whole.grid.shape[axis], spec.window.patch[axis]
        for start in window_starts(size, patch, spec.window):
            part = whole.tensor.narrow(axis + 2, start, min(patch, size))
            assert torch.equal(made.streamed.slices(start, start + part.shape[axis + 2]), part)

    def test_channels_of_several_grids_and_another_time(self):
        inputs = [{"name": name, "modality": "MR", "normalise": {"method": "zscore"}} for name in ("t1", "t2")]
        spec = models.spec(inputs=inputs)
        volumes = [study(GRIDS["same voxels"]), study(GRIDS["finer than the model's"], dtype=np.float32, seed=1)]
        whole, made = prepared_whole(volumes, spec).tensor, preprocess_streamed(volumes, spec).streamed
        # Forwards with a gap, backwards, larger.
        for start, stop in ((0, 8), (4, 12), (30, 38), (2, 10), (0, 20)):
            assert torch.equal(made.slices(start, stop), whole[..., start:stop])

    def test_an_image_without_contrast_is_refused(self):
        flat = Volume(np.full((20, 24, 30), 7, np.int16), Geometry(np.eye(4), (20, 24, 30)))
        with pytest.raises(Exception, match="single value"):
            preprocess_streamed([flat], models.spec())


class TestNumbers:
    @pytest.mark.parametrize("wanted", [(0.5, 99.5), (0, 100), (33.3, 50)])
    def test_percentiles_of_blocks_are_numpys_of_the_whole(self, wanted):
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.normal(0, 900, 4000), np.zeros(500), rng.integers(-5, 5, 700)]).astype(np.float32)
        found = percentiles(lambda: iter(np.array_split(values, 7)), wanted)
        assert found == tuple(np.percentile(values, wanted).tolist())

    @pytest.mark.parametrize("dtype", ["f2", "f8", "i2", "i4", "i8", "u1", "i1", "u2", "u8"])
    def test_percentiles_of_blocks_of_any_type_are_numpys_of_the_whole(self, dtype):
        values = np.random.default_rng(0).normal(60, 20, 3000)
        values = (values - 60 * (np.dtype(dtype).kind != "u")).clip(0 if dtype[0] == "u" else -128, 127).astype(dtype)
        for wanted in ((0.5, 99.5), (0, 100), (33.3, 50)):
            found = percentiles(lambda: iter(np.array_split(values, 7)), wanted)
            assert found == tuple(np.percentile(values, wanted).tolist())

    def test_moments_do_not_hang_on_blocks_or_order(self):
        values = np.random.default_rng(0).gamma(2, 300, 5000).astype(np.float32)
        once = moments(lambda: [values], 10.0, 2000.0)
        assert once == moments(lambda: iter(np.array_split(values[::-1], 13)), 10.0, 2000.0)
        clipped = np.clip(values.astype(np.float64), 10, 2000)
        assert once == pytest.approx((clipped.mean(), clipped.std()), rel=1e-9)

    def test_one_hot_pixel_leaves_the_deviation_of_the_rest(self):
        values = np.random.default_rng(0).normal(100, 10, 100_000).astype(np.float32)
        values[7] = 1e6
        mean, sd = moments(lambda: [values], float(values.min()), 1e6)
        assert (mean, sd) == pytest.approx((values.astype(float).mean(), values.astype(float).std()), rel=1e-7)

    def test_a_mask_goes_with_its_block(self):
        item = InputSpec(name="t1", modality="MR", normalise=Normalise(method="zscore"))
        array = np.random.default_rng(0).normal(50, 9, (12, 10, 8)).astype(np.float32)
        mask = array > 45
        parts = [(array[:5], mask[:5]), (array[5:], mask[5:])]
        assert fit(lambda: parts, item) == fit(lambda: [(array, mask)], item)


class TestLabels:
    @pytest.mark.parametrize("grid", GRIDS)
    @pytest.mark.parametrize("normalised", ["window", "zscore"])
    def test_they_are_those_of_the_held_study(self, grid, normalised, tmp_path):
        inputs = [{"name": "t1", "modality": "MR", **NORMALISE[normalised]}]
        window = {"patch": [16, 24, 8], "overlap": 0.25}
        predictor = Predictor(models.write(tmp_path, inputs=inputs, window=window), device="cpu")
        volume = study(GRIDS[grid])
        assert why_held_whole([volume], predictor.spec) == ""
        whole = predictor(volume)
        assert np.array_equal(streamed(predictor, volume).array, whole.array)
        assert len(np.unique(whole.array)) > 1

    def test_a_study_smaller_than_the_window(self, tmp_path):
        predictor = Predictor(models.write(tmp_path), device="cpu")
        volume = study(GRIDS["same voxels"], shape=(11, 30, 6))
        assert np.array_equal(streamed(predictor, volume, axis=2).array, predictor(volume).array)

    def test_a_plan_that_does_not_fit_streams_and_keeps_the_labels(self, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "CHUNK_VALUES", 100_000)
        monkeypatch.setattr(memory, "resident_bytes", lambda: 500_000_000)
        predictor = Predictor(models.write(tmp_path, window={"patch": [16, 24, 8], "overlap": 0.0}), device="cpu")
        volume = study(GRIDS["same voxels"], shape=(40, 40, 120))
        held = predictor.plan(volume)
        assert not held.how.streamed
        tight = Predictor(predictor.model, memory_gb=(held.needed - 6e6) / 1e9)
        counted = [Confidence(predictor.spec), Confidence(predictor.spec)]
        found = [
            each.run(each.prepare(volume), confidence=count)
            for each, count in zip((predictor, tight), counted, strict=True)
        ]
        assert tight.last_plan.how.streamed
        assert "slab by slab" in str(tight.last_plan)
        assert np.array_equal(found[0].array, found[1].array)
        assert counted[0].expected_dice() == counted[1].expected_dice()

    def test_what_cannot_be_streamed_is_refused_in_words(self, tmp_path):
        predictor = Predictor(models.write(tmp_path, resampling={"rule": "nnunet"}), device="cpu", memory_gb=0.01)
        with pytest.raises(InferenceError, match="input is held whole, as nnU-Net's rule"):
            predictor.plan(phantoms.volume())
        with pytest.raises(InferenceError, match="held whole, as clicks"):
            Predictor(models.write(tmp_path / "b"), device="cpu", memory_gb=0.01).plan(phantoms.volume(), clicks=True)
        # Another file order than the one along which the ring is small.
        flat = study(np.diag([1.0, 1.2, 2.5, 1.0]), shape=(80, 40, 9))
        assert "another axis" in why_held_whole([flat], models.spec())

    def test_a_disk_without_room_for_the_labels_is_said(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(mapped_array, "reserve", full)
        predictor = Predictor(models.write(tmp_path), device="cpu")
        with pytest.raises(OutputError, match="No space left"):
            streamed(predictor, study(GRIDS["same voxels"]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets a limit of Linux")
@pytest.mark.slow
def test_a_study_larger_than_memory_gives_the_same_labels(tmp_path):
    # A room of 120 MB for voxels of 79 MB, a held input of 157, and labels of 39; with small blocks 50 MB are needed.
    inputs = [{"name": "ct", "modality": "CT", "normalise": {**WINDOW, "low": 0}}]
    folder = models.write(
        tmp_path / "model",
        inputs=inputs,
        spacing_mm=[1.0, 1.0, 1.0],
        window={"patch": [32, 32, 16], "overlap": 0.25, "skip_up_to": 0.0},
    )
    code = f"""
        import gc, hashlib, resource, sys
        sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
        import numpy as np, torch
        torch.set_num_threads(1)
        from voxmetry import Geometry, Predictor, Volume, read_volume, save
        from voxmetry.core.memory import is_mapped
        for name in ("preprocess", "streamed_input", "memory"):
            sys.modules["voxmetry.nn." + name].RESAMPLE_VALUES = 300_000
        for name in ("corner_scores", "memory"):
            sys.modules["voxmetry.nn." + name].CHUNK_VALUES = 500_000
        def digest(path):
            return hashlib.sha256(open(path, "rb").read()).hexdigest()
        shape, out = (256, 256, 600), {str(tmp_path)!r}
        array = np.zeros(shape, np.int16, order="F")
        rng = np.random.default_rng(0)
        for k in (5, 250, 560):
            i, j = rng.integers(0, 200, 2)
            array[i : i + 40, j : j + 30, k : k + 12] = rng.integers(0, 200, (40, 30, 12))
        save(Volume(array, Geometry(np.eye(4), shape), "HU"), out + "/large.nii")
        del array
        predictor = Predictor({str(folder)!r}, device="cpu")
        volume = read_volume(out + "/large.nii", modality="CT", mapped=True)
        save(predictor(volume), out + "/held.nii.gz")
        print(predictor.last_plan.how.streamed, is_mapped(volume.array))
        del volume
        gc.collect()
        fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        used = int(fields["VmData"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + 120_000_000, resource.RLIM_INFINITY))
        volume = read_volume(out + "/large.nii", modality="CT", mapped=True)
        save(predictor(volume), out + "/streamed.nii.gz")
        print(predictor.last_plan.how.streamed, is_mapped(volume.array))
        print(predictor.last_plan, file=sys.stderr)
        print(digest(out + "/held.nii.gz") == digest(out + "/streamed.nii.gz"))
        print(len(np.unique(read_volume(out + "/streamed.nii.gz").array)) > 1)
        """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=1800, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["False False", "True True", "True", "True"], ran.stderr
