"""A GPU's whole way, on the GPU and on the CPU in its place.

It imports only what `nn/` and `train/` need, so that it runs on a machine with a GPU and little else:
`pytest -m gpu tests/nn/test_gpu.py`. On the CPU the same tests run with the device swapped: the code that is meant for
a GPU (large slabs, whole windows, labels gathered on the device) runs there, and all but CUDA itself is tried.
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cases
import models
import phantoms
from parity import Blobs, blobs, plain
from parity import predictor as predictor_of
from voxmetry import Predictor, Volume, load_model
from voxmetry.errors import InferenceError
from voxmetry.io import read_volume
from voxmetry.nn import Confidence, MemberAgreement, confidence, device_memory, slabs
from voxmetry.nn.device_memory import OUT_OF_MEMORY, OutOfMemory, Room, fit_device, out_of_memory
from voxmetry.nn.layers import exact_float32, last_layer_in_float32, normalise_channels_last
from voxmetry.nn.memory import fallback
from voxmetry.nn.runtime import RuntimeChoice, TorchRuntime, choose_runtime
from voxmetry.nn.slabs import Streaming
from voxmetry.nn.window import stream_scores, window_scores, window_starts

ROOT = Path(__file__).parents[2]
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@pytest.fixture(params=["cpu", CUDA])
def device(request, monkeypatch):
    """Where the network runs; on the CPU by the ways of a GPU."""
    if request.param == "cpu":
        for room in ("ring_buffer", "restore", "confidence", "corner_scores"):
            monkeypatch.setattr(f"voxmetry.nn.{room}.on_device", lambda _: True)
    return request.param


SHAPE = (41, 37, 23)


@pytest.fixture(scope="module")
def volume():
    return blobs(phantoms.geometry(shape=SHAPE, degrees=(0, 0, 90)))


def on(device, folder, *, network=None, how=None, n_classes=3, **change):
    """A predictor on a device in float32, whose plan is changed by `how`."""
    made = models.spec(**change)
    network = network or Blobs(1, n_classes)
    base = load_model(models.write(folder), device="cpu")
    runtime = TorchRuntime(network.eval(), RuntimeChoice(device, "float32", "test"))
    model = models.replace(
        base, spec=made, members=(runtime,) * made.members, choice=RuntimeChoice(device, "float32", "test")
    )
    return Predictor(model), how


def run(predictor, volume, how=None, **options):
    prepared = predictor.prepare(volume)
    if how:
        prepared = replace(prepared, plan=replace(prepared.plan, how=replace(prepared.plan.how, **how)))
    return predictor.run(prepared, **options).array


def on_the_host(folder, volume, **change):
    """The labels of the plain path of the CPU, with nothing swapped."""
    return predictor_of(Blobs(1, models.spec(**change).n_classes), models.spec(**change), folder)(volume).array


class TestSameLabels:
    """Row by row what may differ on a device, against the labels of the CPU's own path."""

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"batch": 4},
            {"batch": 4, "full_groups": True},
            {"device": "cpu"},
            {"device": "cpu", "image_device": "cpu"},
            {"dtype": torch.float16, "batch": 3},
            {"dtype": torch.float16, "device": "cpu"},
            {"axis": 0},
            {"axis": 1},
        ],
        ids=str,
    )
    def test_ring_on_the_host_batches_and_axes(self, how, device, volume, tmp_path):
        predictor, _ = on(device, tmp_path / "a")
        found, expected = run(predictor, volume, how), on_the_host(tmp_path / "b", volume)
        assert np.bincount(expected.ravel(), minlength=8)[[2, 7]].min() > 100
        least = 0.999 if how.get("dtype") is torch.float16 else 0.9999
        assert (found == expected).mean() >= least

    @pytest.mark.parametrize(
        "change",
        [
            {"regions": [7, 2]},
            {"window": {"patch": [16, 24, 8], "overlap": 0.5, "mirror_axes": [0, 2]}},
            {"members": 2},
            {"activation": "softmax"},
            {"resampling": {"rule": "nnunet"}},
            {"resampling": {"rule": "monai"}},
            {"orientation": "KJI"},
            {"labels": {"labels": [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in (3, 400)]},
             "training_domain": {}},
        ],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    def test_regions_mirroring_ensembles_softmax_rules_and_wide_labels(self, change, device, volume, tmp_path):
        n = models.spec(**change).n_classes
        predictor, _ = on(device, tmp_path / "a", n_classes=n, **change)
        found = run(predictor, volume, {"batch": 2})
        assert (found == on_the_host(tmp_path / "b", volume, **change)).mean() >= 0.9999

    def test_a_study_turned_against_the_patient(self, device, tmp_path):
        turned = blobs(phantoms.geometry(shape=(35, 33, 21), degrees=(40, 10, -35)))
        change = {"training_domain": {"obliqueness_degrees": {"low": 0, "high": 0}}}
        predictor, _ = on(device, tmp_path / "a", **change)
        assert (run(predictor, turned) == on_the_host(tmp_path / "b", turned, **change)).mean() >= 0.9999

    def test_a_second_study_in_the_process_and_the_first_again(self, device, volume, tmp_path):
        predictor, _ = on(device, tmp_path)
        other = blobs(phantoms.geometry(shape=(20, 50, 31)), seed=3)
        first, between, again = (run(predictor, one) for one in (volume, other, volume))
        assert between.shape == other.geometry.shape
        assert np.array_equal(first, again)

    def test_maps_confidence_and_agreement_are_those_of_the_host_and_change_no_label(self, device, volume, tmp_path):
        change = {"members": 2}
        predictor, _ = on(device, tmp_path / "model", **change)
        confidence, agreement = Confidence(predictor.spec), MemberAgreement(predictor.spec)
        maps = ["probabilities", "entropy", "disagreement"]
        found = run(predictor, volume, maps=maps, maps_to=tmp_path / "maps", confidence=confidence, agreement=agreement)
        assert np.array_equal(found, run(predictor, volume))
        host = predictor_of(Blobs(1, 3), models.spec(members=1), tmp_path / "host")
        counted = Confidence(host.spec)
        host.run(host.prepare(volume), confidence=counted)
        assert confidence.expected_dice() == pytest.approx(counted.expected_dice(), rel=1e-5)
        assert all(dice == 1 for dice in agreement.mean_dice().values())
        assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"{name}.nii" for name in maps} | {"maps.json"}

    @pytest.mark.parametrize(("precision", "voxels", "dice"), [("float32", 0.9999, 0.9995), ("auto", 0.998, 0.999)])
    def test_a_trained_model_gives_the_cpus_labels(self, device, precision, voxels, dice):
        volume = read_volume(ROOT / "src" / "voxmetry" / "demo" / "icbm152-hippocampus-right.nii.gz")
        exact = Predictor("hippocampus-mr", device="cpu", precision="float32")(volume).array
        found = Predictor("hippocampus-mr", device=device, precision=precision)(volume).array
        assert (exact == found).mean() >= voxels
        for value in np.unique(exact[exact > 0]):
            a, b = exact == value, found == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= dice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("execution", ["graph", "compile"])
def test_other_executions_give_the_labels_of_eager_on_a_gpu(execution, volume, tmp_path):
    folder = models.write(tmp_path)
    plain_run, quick = (
        Predictor(folder, device="cuda", precision="float32", execution=how) for how in ("eager", execution)
    )
    assert (run(plain_run, volume) == run(quick, volume, {"batch": 3, "full_groups": True})).mean() > 0.999
    assert np.array_equal(run(quick, volume), run(quick, volume))


class _LateCopies:
    """Lets a copy that does not block arrive late, as one from a GPU to pinned memory does."""

    def __init__(self, monkeypatch):
        plain, self.late = torch.Tensor.to, 0

        def to(tensor, *args, non_blocking=False, **kwargs):
            if not non_blocking:
                return plain(tensor, *args, **kwargs)
            self.late += 1
            arriving = torch.zeros_like(tensor)
            threading.Timer(0.002, lambda: arriving.copy_(tensor)).start()
            return arriving

        monkeypatch.setattr(torch.Tensor, "to", to)


def test_scores_that_go_to_a_ring_on_the_host_are_there_before_they_are_read(monkeypatch):
    tensor = torch.randn(1, 1, 30, 30, 20, generator=torch.Generator().manual_seed(0))
    network, made = Blobs(1, 3).eval(), models.spec().window
    with torch.inference_mode():
        expected = window_scores(network, tensor, made)[0]
        _LateCopies(monkeypatch)
        how = Streaming(device="cpu")
        parts = []
        for slab in stream_scores(network, tensor, made, n_outputs=3, how=how):
            mean = (slab.sums / slab.weights).movedim(slab.axis + 1, 0)[slab.fresh - slab.start :]
            parts.append(mean.movedim(0, slab.axis + 1).clone())
    assert torch.allclose(torch.cat(parts, slab.axis + 1), expected, atol=1e-5)


class _Launches(TorchDispatchMode):
    """Counts operations: each is at least one launch on a GPU. Views and allocations are none."""

    FREE = ("view", "slice", "select", "narrow", "as_strided", "permute", "transpose", "unsqueeze", "expand", "empty",
            "detach", "alias", "t.default", "split", "unbind", "squeeze", "_unsafe_view", "movedim")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).removeprefix("aten.").startswith(self.FREE):
            self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


class TestLaunches:
    def counted(self, n_classes, tmp_path, *, length=60):
        labels = [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in range(1, n_classes)]
        change = {"labels": {"labels": labels}, "training_domain": {}}
        predictor, _ = on("cpu", tmp_path, n_classes=n_classes, network=Blobs(1, n_classes), **change)
        prepared = predictor.prepare(blobs(phantoms.geometry(shape=(40, 40, length))))
        agreement, confidence = MemberAgreement(predictor.spec), Confidence(predictor.spec)
        with _Launches() as launches:
            predictor.run(prepared, confidence=confidence, agreement=agreement)
        made = predictor.spec.window
        pairs = zip(prepared.grid.shape, made.patch, strict=True)
        return launches.names, int(np.prod([len(window_starts(*pair, made)) for pair in pairs]))

    def test_do_not_grow_with_the_number_of_classes(self, device, tmp_path):
        if device != "cpu":
            pytest.skip("the count is the same")
        few, windows = self.counted(3, tmp_path / "few")
        many, same = self.counted(40, tmp_path / "many")
        assert windows == same
        network = 10
        assert few.total() <= (network + 12) * windows + 2000
        assert many.total() <= 1.2 * few.total()

    def test_on_the_host_they_do(self, tmp_path):
        """The bound above can fail: the host's own path goes class by class."""
        few, _ = self.counted(3, tmp_path / "few")
        many, _ = self.counted(40, tmp_path / "many")
        assert many.total() > 1.2 * few.total()


class TestMemory:
    @pytest.mark.parametrize(
        "words",
        [
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "GET was unable to find an engine to execute this computation",
            "FIND was unable to find an engine to execute this computation",
            "CUDA driver error: out of memory",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "cudaErrorMemoryAllocation",
            "HIP out of memory",
            "MPS backend out of memory (MPS allocated: 8.00 GB)",
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
            "std::bad_alloc",
            "Unable to allocate 3.00 GiB for an array",
        ],
    )
    def test_runs_out_in_many_words(self, words):
        with pytest.raises(OutOfMemory), out_of_memory():
            raise RuntimeError(words)

    def test_other_errors_pass(self):
        assert all(sign == sign.casefold() for sign in OUT_OF_MEMORY)
        with pytest.raises(RuntimeError, match="sizes do not match"), out_of_memory():
            raise RuntimeError("sizes do not match")

    @pytest.mark.parametrize("words", ["CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory"])
    def test_falls_back_once_to_the_same_labels(self, words, device, volume, tmp_path):
        predictor, _ = on(device, tmp_path / "a")
        expected, (member,) = run(predictor, volume), predictor.model.members
        calls = []

        def once(patches):
            calls.append(len(patches))
            if len(calls) == 3:
                raise RuntimeError(words)
            return member(patches)

        told = []
        again = Predictor(models.replace(predictor.model, members=(once,)), tell=told.append)
        found = run(again, volume, {"batch": 4})
        assert max(calls[3:]) == 1
        assert sum("out of memory" in line for line in told) == 1
        # On the CPU the fallback's ring is in float16.
        assert (found == expected).mean() >= (0.9999 if device == "cuda" else 0.999)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_a_card_with_little_left_gives_the_same_labels_or_says_what_is_needed(self, volume, tmp_path):
        predictor, _ = on("cuda", tmp_path)
        expected, total = run(predictor, volume), torch.cuda.mem_get_info()[1]
        torch.cuda.empty_cache()
        try:
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 64e6) / total)
            assert (run(predictor, volume) == expected).mean() >= 0.9999
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def free(self, monkeypatch, left, *, total=10**11, reserved=0, allocated=0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (left, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: allocated)
        monkeypatch.setattr(device_memory, "DEVICE_MARGIN", 1.0)

    def test_what_fits_lives_on_the_card(self, monkeypatch):
        window, ring, image = 10**9, 2 * 10**9, 3 * 10**9
        expected = {
            20: Room(3, "cuda", "cuda"),
            6: Room(1, "cuda", "cuda"),
            5: Room(3, "cuda", "cpu"),
            3: Room(1, "cuda", "cpu"),
            2: Room(2, "cpu", "cpu"),
            1: Room(1, "cpu", "cpu"),
        }
        for gigabytes, room in expected.items():
            self.free(monkeypatch, gigabytes * 10**9)
            assert fit_device(400.0, window=window, ring=ring, image=image, device="cuda") == room
        self.free(monkeypatch, 10**9 - 1)
        with pytest.raises(InferenceError, match=r"(?s)expected: 1\.00 GB for one window.*--device cpu"):
            fit_device(400.0, window=window, ring=ring, image=image, device="cuda")

    def test_what_torch_holds_and_does_not_use_is_free(self, monkeypatch):
        self.free(monkeypatch, 10**9, reserved=5 * 10**9, allocated=2 * 10**9)
        assert device_memory.free_on_device() == 4 * 10**9

    def test_processes_on_one_card_take_their_share(self, monkeypatch):
        self.free(monkeypatch, 9 * 10**9, total=10**10)
        monkeypatch.setenv("VOXMETRY_DEVICE_SHARE", "0.25")
        assert device_memory.free_on_device() == 2.5e9

    def test_the_fallbacks_of_a_gpu_keep_the_type_of_the_ring_first(self):
        smaller = fallback(Streaming(2, 4, full_groups=True), "cuda")
        assert smaller == Streaming(2, 1, torch.float32, "cpu", "cpu", full_groups=True)
        assert fallback(smaller, "cuda").dtype is torch.float16
        assert fallback(Streaming(2, 1), "openvino").dtype is torch.float16


class TestPrecision:
    def test_float32_is_not_tf32(self):
        seen = []

        class Look(torch.nn.Module):
            def forward(self, x):
                seen.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
                return x

        before = torch.backends.cudnn.conv.fp32_precision
        TorchRuntime(Look(), RuntimeChoice("cpu", "float32", ""))(torch.zeros(1, 1, 2, 2, 2))
        assert seen == [("ieee", "ieee")]
        assert torch.backends.cudnn.conv.fp32_precision == before
        with pytest.raises(ZeroDivisionError), exact_float32():
            raise ZeroDivisionError
        assert torch.backends.cudnn.conv.fp32_precision == before

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_float32_convolutions_on_the_card_are_those_of_the_cpu(self):
        layer = torch.nn.Conv3d(32, 32, 3, padding=1)
        patch = torch.randn(1, 32, 24, 24, 24)
        with torch.inference_mode():
            expected = layer(patch)
            found = TorchRuntime(layer, RuntimeChoice("cuda", "float32", ""))(patch.cuda()).cpu()
        # TF32 has ten bits: errors of 1e-3.
        assert (found - expected).abs().max() < 2e-5

    @pytest.mark.parametrize("place", ["cpu", CUDA])
    def test_scores_in_bf16_are_not_rounded(self, place, tmp_path):
        model = load_model(models.write(tmp_path), device=place, precision="bf16")
        patch = torch.randn(1, 1, 16, 24, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            scores = model.members[0](patch.to(place))
        assert scores.dtype is torch.float32
        assert (scores.bfloat16().float() != scores).float().mean() > 0.9

    def test_only_the_layers_that_make_scores_are_taken_out_of_the_casts(self):
        network = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 1), torch.nn.Conv3d(3, 3, 3), torch.nn.Conv3d(3, 4, 1))
        kinds = [type(layer).__name__ for layer in last_layer_in_float32(network, 4)]
        assert kinds == ["Conv3d", "Conv3d", "_OutputInFloat32"]

    def test_the_norm_keeps_channels_last_and_the_values(self):
        norm = torch.nn.InstanceNorm3d(5, affine=True, eps=1e-4)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        layout = torch.channels_last_3d
        x = (torch.randn(1, 5, 8, 7, 6) * 40 + 300).contiguous(memory_format=layout)
        with torch.inference_mode():
            expected = norm(x)
            found = normalise_channels_last(torch.nn.Sequential(norm))(x)
            two = torch.cat([x, -x])
            both = normalise_channels_last(torch.nn.Sequential(torch.nn.InstanceNorm3d(5)))(two)
        assert (found - expected).abs().max() < 5e-6
        assert found.is_contiguous(memory_format=layout)
        assert torch.allclose(both[0], -both[1], atol=1e-6)

    @pytest.mark.parametrize(("major", "expected"), [(7, "fp16"), (8, "bf16"), (9, "bf16")])
    def test_auto_is_what_the_card_multiplies(self, major, expected, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("voxmetry.nn.runtime.cuda_trouble", lambda: "")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=major))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        assert choose_runtime("cuda").precision == expected

    def test_counting_needs_no_float64_where_there_is_none(self, monkeypatch):
        """Apple's Metal has no float64: on a device that calls itself so, none is asked for."""
        monkeypatch.setattr(confidence, "wide", lambda _: torch.float32)
        monkeypatch.setattr("voxmetry.nn.confidence.on_device", lambda _: True)
        kinds = []

        class Look(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor):
                    kinds.append((str(func), out.dtype, out.numel()))
                return out

        agreement, counted = MemberAgreement(models.spec(members=2)), Confidence(models.spec())
        scores = torch.randn(1, 3, 16, 24, 8)
        with Look():
            counted.feed(slabs.Slab(0, 0, 0, scores[0], torch.ones(16, 24, 8)))
            agreement.watch(0, scores)
            agreement.watch(1, scores)
        # What is in float64 is one number a class, on the host.
        assert {size for _, dtype, size in kinds if dtype is torch.float64} <= {2, 3, 6, 12}
        assert confidence.wide is not None


def test_a_card_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InferenceError, match=r"(?s)no CUDA device.*--device cpu"):
        choose_runtime("cuda")


class TestTraining:
    def test_the_optimiser_of_a_gpu_moves_weights_as_that_of_the_cpu(self):
        """The fused kernel has a twin on the CPU: what is asked of it is tried there."""
        from voxmetry.train.state import optimiser_of

        settings, moved = cases.train_settings(), []
        for name in ("cpu", "cuda"):
            torch.manual_seed(0)
            layer = torch.nn.Conv3d(2, 4, 3)
            optimiser = optimiser_of(layer, settings, torch.device(name))
            assert bool(optimiser.param_groups[0]["fused"]) == (name == "cuda")
            for _ in range(3):
                optimiser.zero_grad(set_to_none=True)
                layer(torch.ones(1, 2, 5, 5, 5)).square().mean().backward()
                optimiser.step()
            moved.append(layer.weight.detach().clone())
        assert torch.allclose(*moved, atol=1e-6)

    @pytest.mark.parametrize("place", ["cpu", CUDA])
    def test_a_run_that_was_stopped_goes_on(self, place, tmp_path, monkeypatch):
        from voxmetry.train import loop, train

        data = cases.write_cases(tmp_path / "data")
        settings = cases.train_settings(epochs=3, precision="float32")
        whole = train(settings, tmp_path / "whole", data=data, device=place)
        step, steps = loop.train_step, []

        def stopped(*args, **kwargs):
            if len(steps) == 2:
                raise KeyboardInterrupt
            steps.append(None)
            return step(*args, **kwargs)

        monkeypatch.setattr(loop, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "halves", data=data, device=place)
        monkeypatch.setattr(loop, "train_step", step)
        halves = train(settings, tmp_path / "halves", data=data, device=place, resume=True)
        image = phantoms.volume()
        labels = [Predictor(made, device="cpu")(image).array for made in (whole, halves)]
        # Bit for bit on a CPU; a GPU's sums of gradients have no fixed order.
        assert (labels[0] == labels[1]).mean() >= (1.0 if place == "cpu" else 0.99)

    @pytest.mark.gpu
    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
    def test_two_processes_by_nccl(self, tmp_path):
        from voxmetry.config import dump_yaml

        data = cases.write_cases(tmp_path / "data")
        (tmp_path / "settings.yaml").write_text(dump_yaml(cases.train_settings(epochs=1)))
        verb = ["train", str(tmp_path / "settings.yaml"), "--data", str(data), "-o", str(tmp_path / "run")]
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "voxmetry", *verb]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        subprocess.run([*command, "--device", "cuda"], check=True, timeout=300, env=environment)
        assert (tmp_path / "run" / "model" / "model.yaml").is_file()


@pytest.mark.slow
def test_this_file_is_collected_without_what_only_other_rooms_need():
    code = """
import sys
for name in ("openvino", "SimpleITK", "nbformat", "highdicom", "matplotlib", "pydicom", "typer", "plotly", "skimage"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", sys.argv[1]]))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__))], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_the_plain_way_agrees_too(device, volume, tmp_path):
    predictor, _ = on(device, tmp_path)
    expected = plain([volume], predictor.spec, Blobs(1, 3))
    found = run(predictor, volume, {"batch": 3})
    assert (found == expected)[(found > 0) | (expected > 0)].mean() >= 0.999
    assert isinstance(volume, Volume)
