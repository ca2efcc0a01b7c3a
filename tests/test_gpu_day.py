"""The script of a GPU's few minutes: what it does by the clock, tried with steps that do nothing."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_day.py"


@pytest.fixture(scope="module")
def gpu_day():
    found = importlib.util.spec_from_file_location("gpu_day", SCRIPT)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look it up
    found.loader.exec_module(module)
    return module


def python(code):
    return [sys.executable, "-S", "-c", code]


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def with_patience(log):
    """The module subprocess, whose limits begin when a process has said its first line: it may start slowly."""

    class Begun(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is not None:
                while not log.read_text().strip() and self.poll() is None:
                    time.sleep(0.02)
            return super().wait(timeout)

    return SimpleNamespace(Popen=Begun, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)


class TestClock:
    def test_a_step_that_hangs_is_stopped_with_all_that_it_started(self, gpu_day, tmp_path, monkeypatch):
        monkeypatch.setattr(gpu_day, "LEAST_S", 0)
        monkeypatch.setitem(gpu_day.LIMITS_S, "tests", 0.5)
        monkeypatch.setattr(gpu_day, "WHOLE_S", 600)
        monkeypatch.setattr(gpu_day, "KEPT_S", 10)
        monkeypatch.setattr(gpu_day, "subprocess", with_patience(tmp_path / "tests.log"))
        day = gpu_day.Day(tmp_path, 600)
        code = (
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        result = day.run("tests", python(code))
        assert result.state == "stopped"
        end = time.monotonic() + 300
        while alive(int(result.words)) and time.monotonic() < end:
            time.sleep(0.05)  # the system takes its time on a busy machine
        assert not alive(int(result.words))
        assert day.run("eager", python("print('figures')")).state == "done"
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert [row["state"] for row in summary["steps"]] == ["stopped", "done"]
        assert "figures" in (tmp_path / "summary.md").read_text()

    def test_a_step_that_fails_says_so_and_the_next_runs(self, gpu_day, tmp_path):
        day = gpu_day.Day(tmp_path, 540)
        assert day.run("tests", python("raise SystemExit('no such case')")).state == "failed"
        assert "no such case" in (tmp_path / "tests.log").read_text()
        assert day.run("eager", python("pass")).state == "done"

    def test_the_minutes_of_the_training_are_kept(self, gpu_day, tmp_path):
        now = [0.0]
        day = gpu_day.Day(tmp_path, 540, now=lambda: now[0])
        assert day.limit("compile") == gpu_day.LIMITS_S["compile"]
        now[0] = 440
        assert day.limit("compile") == 540 - 440 - gpu_day.KEPT_S
        now[0] = 452
        assert day.run("compile", ["never-run"]).state == "not run"
        assert day.limit("training") == pytest.approx(540 - 452)

    def test_limits_fit_the_whole(self, gpu_day):
        steps = [name for name in gpu_day.LIMITS_S if name != "install"]
        assert sum(gpu_day.LIMITS_S[name] for name in steps) + gpu_day.KEPT_S <= gpu_day.WHOLE_S


class TestDevice:
    def test_a_machine_without_cuda_is_told_what_to_do(self, tmp_path):
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--minutes", "1"]
        ran = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        assert ran.returncode == 1
        for words in ("found: no CUDA device (torch", "expected: a GPU", "fix: run it on a machine with a GPU"):
            assert words in ran.stderr
        assert "no CUDA device" in (tmp_path / "summary.md").read_text()

    def test_torch_that_is_not_there_is_told_too(self, gpu_day, monkeypatch):
        broken = SimpleNamespace(returncode=1, stderr="ModuleNotFoundError: No module named 'torch'", stdout="")
        monkeypatch.setattr(gpu_day.subprocess, "run", lambda *_, **__: broken)
        assert "No module named 'torch'" in gpu_day.no_cuda("cuda")
        assert gpu_day.no_cuda("cpu") == ""


class TestInstall:
    def test_wheels_leave_torch_alone(self, gpu_day, tmp_path):
        (tmp_path / "isal-1.whl").touch()
        command = gpu_day.install_command(tmp_path)
        assert "--no-deps" in command
        assert "--no-index" in command
        assert command[-1] == str(tmp_path / "isal-1.whl")

    def test_nothing_is_installed_where_nothing_is_missing(self, gpu_day):
        assert gpu_day.install_command(None, lambda _: True) == []
        assert "--editable" in gpu_day.install_command(None, lambda name: name != "isal")


def test_every_step_is_there_and_reads_its_options(gpu_day, tmp_path):
    options = SimpleNamespace(out=tmp_path, device="cuda", tiny=False)
    assert [name for name, _ in gpu_day.steps_of(options)] == ["tests", "eager", "training-steps", "graph", "compile"]
    for _, command in gpu_day.steps_of(options):
        assert command[1] == "-m" or (SCRIPT.parents[1] / command[1]).is_file()
