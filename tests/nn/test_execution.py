"""Ways to run a network in torch. What needs a GPU is stood in for: a recording that replays what it was given."""

import contextlib
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, Volume, load_model, save
from voxmetry.cli import run
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.execution import WARM_UP, Graph
from voxmetry.nn.runtime import choose_runtime

ROOT = Path(__file__).parents[2]


class TestChoice:
    def test_is_refused_where_the_device_cannot(self):
        with pytest.raises(ConfigError, match="graph on cpu"):
            choose_runtime("cpu", execution="graph")
        with pytest.raises(ConfigError, match="compile on openvino"):
            choose_runtime("openvino", execution="compile")
        with pytest.raises(ConfigError, match="'magic'"):
            choose_runtime("cpu", execution="magic")

    def test_is_said(self):
        assert str(choose_runtime("cpu", execution="compile")) == "cpu in float32 by compile (as asked for)"

    def test_the_verb_hands_it_on(self, tmp_path, capsys):
        folder = models.write(tmp_path / "model")
        save(phantoms.volume(), tmp_path / "mr.nii")
        options = ["--device", "cpu", "--execution", "graph"]
        assert run(["segment", str(tmp_path / "mr.nii"), "-m", str(folder), "-o", str(tmp_path / "out"), *options]) == 2
        assert "execution graph on cpu" in capsys.readouterr().err


class TestCompiled:
    @pytest.fixture
    def traced(self, monkeypatch):
        """Let torch trace the network without generating code, which takes a compiler and a minute."""
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_gives_the_same_labels(self, traced, tmp_path):
        folder = models.write(tmp_path)
        volume = phantoms.volume()
        plain, compiled = (Predictor(folder, device="cpu", execution=how) for how in ("eager", "compile"))
        assert np.array_equal(plain(volume).array, compiled(volume).array)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_compiler_that_is_not_there_is_an_error_in_words(self, monkeypatch, tmp_path):
        def broken(*_):
            raise RuntimeError("no C++ compiler")

        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
        with pytest.raises(InferenceError, match="could not compile"):
            Predictor(models.write(tmp_path), device="cpu", execution="compile")(phantoms.volume())

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_layer_that_gives_nan_is_named_all_the_same(self, traced, tmp_path):
        model = load_model(models.write(tmp_path), device="cpu", execution="compile")
        with torch.no_grad():
            dict(model.members[0].network.named_modules())["bottleneck.conv1.conv"].weight[0] = torch.nan
        noise = np.random.default_rng(0).normal(size=(20, 20, 20))
        with pytest.raises(InferenceError, match=r"first in layer bottleneck\.conv1\.conv"):
            Predictor(model)(Volume(noise, phantoms.geometry(shape=noise.shape)))


class Recorder:
    """Stands in for `torch.cuda`: a graph replays the steps that were run while it was recorded."""

    def __init__(self, monkeypatch, step):
        self.recording, self.replays = False, 0
        recorder = self

        class CudaGraph:
            def replay(self):
                recorder.replays += 1
                recorder.output.copy_(step(recorder.input))

        @contextlib.contextmanager
        def graph(_):
            recorder.recording = True
            yield
            recorder.recording = False

        class Stream:
            def wait_stream(self, _):
                pass

        monkeypatch.setattr(torch.cuda, "CUDAGraph", CudaGraph)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())


class TestGraph:
    def test_records_once_replays_its_shape_and_runs_others_without(self, monkeypatch):
        calls = []

        def step(patches):
            return patches * 2 + 1

        recorder = Recorder(monkeypatch, step)

        def network(patches):
            calls.append((len(patches), recorder.recording))
            out = step(patches)
            if recorder.recording:
                recorder.input, recorder.output = patches, out
            return out

        runner = Graph(network)
        first, second, last = torch.randn(4, 1, 2, 2, 2), torch.randn(4, 1, 2, 2, 2), torch.randn(3, 1, 2, 2, 2)
        assert torch.equal(runner(first), step(first))
        assert torch.equal(runner(second), step(second))
        assert torch.equal(runner(last), step(last))
        assert calls == [(4, False)] * WARM_UP + [(4, True), (3, False)]
        assert recorder.replays == 2


@pytest.mark.slow
def test_the_way_of_the_network_needs_no_simpleitk(tmp_path):
    folder = models.write(tmp_path)
    code = f"""
import sys, warnings
sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
for name in ("SimpleITK", "highdicom", "matplotlib"):
    sys.modules[name] = None
import phantoms
from voxmetry.nn import Predictor
print(Predictor({str(folder)!r}, device="cpu")(phantoms.volume()).array.shape)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("(")
