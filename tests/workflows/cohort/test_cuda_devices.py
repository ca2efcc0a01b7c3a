"""Which GPU each worker process of a cohort uses, without torch in the process that starts them."""

import subprocess

import pytest

from voxmetry.config import StudySettings
from voxmetry.workflows.cohort import local
from voxmetry.workflows.cohort.local import cuda_devices
from voxmetry.workflows.cohort.records import RunSettings


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "cuda_devices", lambda environment: cuda_devices(environment) or ["0"])


def environments(workers, device="auto"):
    settings = RunSettings(workers=workers, study=StudySettings(device=device))
    return [local._environment(number, settings) for number in range(workers)]


def test_four_workers_share_one_gpu(one_gpu):
    made = environments(4)
    assert {environment.get("CUDA_VISIBLE_DEVICES", "0") for environment in made} == {"0"}
    assert {environment["VOXMETRY_DEVICE_SHARE"] for environment in made} == {"0.2500"}


def test_workers_take_turns_over_several_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [made["CUDA_VISIBLE_DEVICES"] for made in environments(4)] == ["2,5", "5", "2", "5"]
    assert {made["VOXMETRY_DEVICE_SHARE"] for made in environments(4)} == {"0.5000"}
    assert {made["VOXMETRY_DEVICE_SHARE"] for made in environments(1)} == {"1.0000"}


def test_without_a_gpu_nothing_is_hidden(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "cuda_devices", lambda _: [])
    assert all("CUDA_VISIBLE_DEVICES" not in made for made in environments(3))


def test_devices_are_counted_by_the_driver_or_its_program(tmp_path, monkeypatch):
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "GPU-1a,GPU-2b"}) == ["GPU-1a", "GPU-2b"]
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert cuda_devices({}, tmp_path / "gpus") == ["0", "1"]
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert cuda_devices({}, tmp_path / "none") == []
    monkeypatch.setattr("shutil.which", lambda name: name)
    said = subprocess.CompletedProcess([], 0, stdout="GPU 0: A (UUID: x)\nGPU 1: B (UUID: y)\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    assert cuda_devices({}, tmp_path / "none") == ["0", "1"]
