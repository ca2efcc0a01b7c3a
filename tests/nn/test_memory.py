import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, Volume, compare, load_model, read_volume
from voxmetry.errors import InferenceError
from voxmetry.nn import Confidence
from voxmetry.nn import network_cost as cost_module
from voxmetry.nn.device_memory import OutOfMemory
from voxmetry.nn.memory import MEASURING_BYTES, PLANE_BYTES
from voxmetry.nn.network_cost import NetworkCost, network_cost
from voxmetry.nn.openvino import openvino_has_bf16
from voxmetry.nn.ring_buffer import RingOverflow
from voxmetry.ops.parts import SLAB_VOXELS

ROOT = Path(__file__).parents[2]

WIDE = {
    "labels": {"labels": [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in range(1, 25)]},
    "training_domain": {},
    "spacing_mm": [1.0, 1.0, 1.0],
    "window": {"patch": [64, 64, 64], "overlap": 0.0},
}
"""25 classes and a large patch: the ring is what takes memory."""


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, whose peak and limits are its own; `model`, `volume` and `peak` are there."""
    head = f"""
        import resource, sys, warnings
        sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
        from pathlib import Path
        import numpy as np, torch
        torch.set_num_threads(1)
        from voxmetry import Geometry, Predictor, Volume
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
        noise = np.random.default_rng(0).integers(0, 200, (200, 128, 128)).astype(np.int16)
        volume = Volume(noise, Geometry(np.eye(4), noise.shape))
        folder = {str(folder)!r}
        """
    source = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=1800, check=False)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with a large ring, and a cache of its networks for OpenVINO: converting takes memory of its own."""
    folder, cache = models.write(tmp_path_factory.mktemp("wide"), **WIDE), tmp_path_factory.mktemp("converted")
    precisions = ["float32"] + ["bf16"] * openvino_has_bf16()
    code = f"""
        import os
        os.environ["VOXMETRY_CACHE"] = {str(cache)!r}
        small = Volume(noise[:64, :64, :64], Geometry(np.eye(4), (64, 64, 64)))
        for precision in {precisions}:
            Predictor(folder, device="openvino", precision=precision)(small)
        """
    assert (ran := in_a_process(code, folder)).returncode == 0, ran.stderr
    return folder, cache


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


class TestPlan:
    @linux
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("device", "precision"), [("cpu", "float32"), ("openvino", "float32"), ("openvino", "bf16")]
    )
    @pytest.mark.parametrize("maps", ["", "entropy"])
    def test_the_peak_is_within_15_per_cent_of_the_prediction(
        self, device, precision, maps, wide, tmp_path, monkeypatch
    ):
        if precision == "bf16" and not openvino_has_bf16():
            pytest.skip("this CPU does not multiply bf16")
        folder, cache = wide
        monkeypatch.setenv("VOXMETRY_CACHE", str(cache))
        code = f"""
            predictor = Predictor(folder, device={device!r}, precision={precision!r})
            maps = {maps.split()}
            prepared = predictor.prepare(volume, maps=maps)
            predictor.run(prepared, maps=maps, maps_to=Path({str(tmp_path)!r}))
            print(prepared.plan.needed, peak())
            """
        ran = in_a_process(code, folder)
        assert ran.returncode == 0, ran.stderr
        predicted, found = map(int, ran.stdout.split())
        assert abs(found - predicted) < 0.15 * predicted

    @linux
    @pytest.mark.slow
    def test_runs_within_a_limit_of_the_system_and_refuses_below_it(self, tmp_path):
        ran = in_a_process(
            """
            predictor = Predictor(folder, device="cpu")
            predictor(Volume(noise[:64], Geometry(np.eye(4), (64, 128, 128))))
            fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
            used = int(fields["VmData"].split()[0]) * 1024
            plan = predictor.plan(volume)
            takes = plan.needed - plan.parts["so far"]
            resource.setrlimit(resource.RLIMIT_DATA, (used + int(1.15 * takes), resource.RLIM_INFINITY))
            print(predictor(volume).array.shape)
            resource.setrlimit(resource.RLIMIT_DATA, (used + takes // 4, resource.RLIM_INFINITY))
            predictor(volume)
            """,
            models.write(tmp_path, **WIDE),
        )
        assert ran.stdout.strip() == "(200, 128, 128)"
        assert ran.returncode == 1
        assert "InferenceError" in ran.stderr
        assert "--memory-gb" in ran.stderr
        assert "ring" in ran.stderr

    def test_measuring_counts_where_the_result_is_measured_in_this_process(self, tmp_path):
        # A large study and a small network.
        grid = phantoms.geometry(shape=(512, 512, 600), spacing_mm=(0.5, 0.5, 0.5))
        volume = Volume(np.broadcast_to(np.int16(0), grid.shape), grid)
        predictor = Predictor(models.write(tmp_path, spacing_mm=[2.0, 2.0, 2.0]), device="cpu")
        plain, measured = predictor.plan(volume), predictor.plan(volume, measured=True)
        assert "measurements" not in plain.parts
        # Slab by slab, and along planes: what is held does not grow with the length of the study.
        assert measured.parts["measurements"] == MEASURING_BYTES * SLAB_VOXELS + PLANE_BYTES * 512 * 600
        assert measured.needed > plain.needed

    def test_the_refusal_says_how_much_is_needed(self, tmp_path):
        predictor = Predictor(models.write(tmp_path), device="cpu", memory_gb=0.01)
        with pytest.raises(InferenceError, match=r"expected: \d+\.\d\d GB: so far \d"):
            predictor(phantoms.volume())

    def test_a_plan_that_just_fits_takes_the_smaller_ring_and_keeps_the_labels(self, tmp_path):
        folder = models.write(tmp_path)
        volume = phantoms.volume(phantoms.geometry(shape=(41, 37, 23)))
        full = Predictor(folder, device="cpu").plan(volume)
        assert full.how.dtype is torch.float32
        told = []
        limit = (full.needed - full.parts["ring"] // 4) / 1e9
        tight = Predictor(folder, device="cpu", memory_gb=limit, tell=told.append)
        # The process may have grown since the first plan by more than the ring of a model this small.
        tight._memory_gb += (tight_base(tight, volume) - full.parts["so far"]) / 1e9
        found = tight(volume)
        assert tight.last_plan.how.dtype is torch.float16
        assert any("float16" in line for line in told)
        assert (found.array == Predictor(folder, device="cpu")(volume).array).mean() > 0.99

    def test_the_ring_is_as_fine_as_the_networks_products(self, tmp_path):
        folder = models.write(tmp_path)
        volume = phantoms.volume(phantoms.geometry(shape=(41, 37, 23)))
        long = Predictor(folder, device="cpu").plan(volume)
        short = Predictor(folder, device="cpu", precision="bf16").plan(volume)
        assert (long.how.dtype, short.how.dtype) == (torch.float32, torch.float16)
        assert short.parts["ring"] < 0.75 * long.parts["ring"]

    @pytest.mark.parametrize("factor", [1e4, 1e6])
    def test_scores_too_large_for_float16_take_the_wider_ring_and_the_same_labels(self, factor, tmp_path):
        folder = models.write(tmp_path)
        volume = phantoms.volume(phantoms.geometry(shape=(41, 37, 23)))
        plain = Predictor(folder, device="cpu")
        loud = models.replace(plain.model, members=(lambda x: plain.model.members[0](x) * factor,))
        told = []
        predictor = Predictor(loud, tell=told.append)
        prepared = predictor.prepare(volume)
        how = dataclasses.replace(prepared.plan.how, dtype=torch.float16)
        prepared = dataclasses.replace(prepared, plan=dataclasses.replace(prepared.plan, how=how))
        confidence = Confidence(predictor.spec)
        found = predictor.run(prepared, confidence=confidence)
        assert any("too large for float16" in line for line in told)
        assert np.array_equal(found.array, plain(volume).array)
        again = Confidence(predictor.spec)
        predictor.run(predictor.prepare(volume), confidence=again)
        assert confidence.expected_dice() == again.expected_dice()

    def test_a_smaller_plan_that_cannot_hold_the_scores_is_told_as_memory_that_ran_out(self, tmp_path, monkeypatch):
        predictor = Predictor(models.write(tmp_path), device="cpu")
        prepared = predictor.prepare(phantoms.volume())
        ends = iter([OutOfMemory(), RingOverflow()])
        monkeypatch.setattr(Predictor, "_stream", lambda *_: (_ for _ in ()).throw(next(ends)))
        with pytest.raises(InferenceError, match="ran out of memory on cpu, with a smaller plan too"):
            predictor.run(prepared)

    def test_the_cost_of_a_network_is_found_once_and_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "cache"))
        folder = models.write(tmp_path / "model")
        first = load_model(folder, device="cpu").cost
        monkeypatch.setattr(cost_module, "network_cost", lambda *_: pytest.fail("it is known"))
        assert load_model(folder, device="cpu").cost == first
        (kept,) = (tmp_path / "cache" / "cost").iterdir()
        monkeypatch.undo()
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "cache"))
        kept.write_text('{"gflop": 1')
        assert load_model(folder, device="cpu").cost == first
        assert json.loads(kept.read_text())["gflop"] == first.gflop

    def test_counts_the_tensors_that_live_at_once(self):
        network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 3, padding=1))
        cost = network_cost(network, models.spec())
        voxels = 16 * 24 * 8
        assert cost == NetworkCost(2 * 27 * (4 + 8) * voxels / 1e9, voxels * 4 * (1 + 4 + 2))

    def test_the_ring_grows_with_the_patch_not_with_the_length(self, tmp_path):
        predictor = Predictor(models.write(tmp_path), device="cpu")
        short, long = (
            predictor.plan(phantoms.volume(phantoms.geometry(shape=(20, 20, n)))).parts["ring"] for n in (100, 400)
        )
        assert short == long


def tight_base(predictor, volume):
    predictor_limit, predictor._memory_gb = predictor._memory_gb, None
    base = predictor.plan(volume).parts["so far"]
    predictor._memory_gb = predictor_limit
    return base


class TestOutOfMemory:
    def failing(self, tmp_path, times, error):
        """A model whose network runs out of memory in its fourth window, so many times."""
        model = load_model(models.write(tmp_path), device="cpu")
        left = [times, 0]

        def run(patches):
            left[1] += 1
            if left[1] % 4 == 0 and left[0]:
                left[0] -= 1
                raise error
            return model.members[0](patches)

        return model, models.replace(model, members=(run,))

    @pytest.mark.parametrize(
        "error",
        [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    )
    def test_falls_back_once_says_so_and_gives_the_same_answer(self, tmp_path, error):
        volume = phantoms.volume(phantoms.geometry(shape=(41, 37, 23)))
        whole, failing = self.failing(tmp_path, 1, error)
        told = []
        found = Predictor(failing, tell=told.append)(volume)
        assert sum("out of memory" in line for line in told) == 1
        assert (found.array == Predictor(whole)(volume).array).mean() > 0.99

    @pytest.mark.real_data
    def test_the_smaller_plan_keeps_the_labels_of_a_trained_network(self, real_data):
        model, left = load_model("hippocampus-mr", device="cpu"), [1]

        def run(patches):
            if left[0]:
                left[0] = 0
                raise MemoryError
            return model.members[0](patches)

        path = min((real_data / "hippocampus-mr" / "images").glob("*.nii.gz"))
        volume = read_volume(path, modality="MR")
        found, expected = Predictor(models.replace(model, members=(run,)))(volume), Predictor(model)(volume)
        assert left == [0]
        assert min(row.dice for row in compare(prediction=found, reference=expected, tolerance_mm=1.0)) > 0.999

    def test_says_what_to_do_when_the_smaller_plan_fails_too(self, tmp_path):
        _, failing = self.failing(tmp_path, 2, MemoryError())
        with pytest.raises(InferenceError, match="smaller plan too"):
            Predictor(failing)(phantoms.volume(phantoms.geometry(shape=(41, 37, 23))))

    def test_another_error_of_the_network_is_not_taken_for_it(self, tmp_path):
        _, failing = self.failing(tmp_path, 1, RuntimeError("shapes do not fit"))
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            Predictor(failing)(phantoms.volume(phantoms.geometry(shape=(41, 37, 23))))


def test_a_score_that_is_not_finite_names_window_and_layer(tmp_path):
    model = load_model(models.write(tmp_path), device="cpu")
    layers = dict(model.members[0].network.named_modules())
    with torch.no_grad():
        layers["bottleneck.conv1.conv"].weight[0] = torch.nan
    with pytest.raises(InferenceError, match=r"window at voxel \(0, 0, 0\), first in layer bottleneck.conv1.conv of"):
        Predictor(model)(
            Volume(np.random.default_rng(0).normal(size=(20, 20, 20)), phantoms.geometry(shape=(20, 20, 20)))
        )
