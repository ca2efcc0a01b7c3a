"""A device that is missing, taken or too small: an error that says what to do, or the same answer elsewhere."""

import numpy as np
import pytest
import torch

import models
import phantoms
from cases import train_settings, write_cases
from voxmetry import Predictor, save
from voxmetry.cli import run
from voxmetry.errors import InferenceError
from voxmetry.nn import device_memory
from voxmetry.nn.device_memory import fit_device
from voxmetry.nn.runtime import choose_device, choose_runtime
from voxmetry.train import train

BUSY = "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be asynchronously ..."
FULL = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously ..."


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(params=[BUSY, FULL], ids=["held alone", "memory taken"])
def taken_card(request, monkeypatch):
    """A card that torch finds and that another process has."""

    def said(*_):
        raise RuntimeError(request.param)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, name, said)
    return request.param.partition("\n")[0]


class TestMissing:
    def test_a_torch_for_processors(self, no_card, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(torch.version, "hip", None)
        with pytest.raises(InferenceError, match=r"(?s)no CUDA device for this build of torch.*--device cpu"):
            choose_runtime("cuda")

    def test_a_driver_that_is_missing(self, no_card, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        with pytest.raises(InferenceError, match=r"(?s)driver is missing or too old.*nvidia-smi"):
            choose_runtime("cuda")

    def test_segment_and_train_end_with_words_and_write_nothing(self, no_card, tmp_path, capsys):
        save(phantoms.volume(), tmp_path / "image.nii.gz")
        model, out = models.write(tmp_path / "model"), tmp_path / "out"
        cases = str(write_cases(tmp_path / "data"))
        for command in (["segment", str(tmp_path / "image.nii.gz"), "-m", str(model)], ["train", cases]):
            assert run([*command, "-o", str(out), "--device", "cuda"]) == 1
            said = capsys.readouterr().err
            assert "no CUDA device" in said
            assert "--device cpu" in said
            assert "Traceback" not in said
            assert [path.name for path in out.rglob("*") if path.is_file()] == []

    def test_auto_gives_the_answer_of_the_processor(self, no_card, tmp_path):
        folder, volume = models.write(tmp_path), phantoms.volume()
        assert np.array_equal(Predictor(folder)(volume).array, Predictor(folder, device="cpu")(volume).array)


class TestTaken:
    def test_by_name_is_told_in_the_words_of_cuda(self, taken_card):
        for choose in (choose_runtime, choose_device):
            with pytest.raises(InferenceError, match=r"cannot be used: CUDA error") as caught:
                choose("cuda")
            assert taken_card in str(caught.value)
            assert "asynchronously" not in str(caught.value)
            assert "CUDA_VISIBLE_DEVICES" in str(caught.value)

    def test_auto_gives_the_answer_of_the_processor_and_says_why(self, taken_card, tmp_path):
        folder, volume = models.write(tmp_path), phantoms.volume()
        found = Predictor(folder)
        assert taken_card in found.model.choice.why
        assert np.array_equal(found(volume).array, Predictor(folder, device="cpu")(volume).array)
        assert choose_device("auto") == "cpu"

    def test_most_of_the_memory_is_told_with_what_is_needed(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300_000_000, 80_000_000_000))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
        monkeypatch.setattr(device_memory, "DEVICE_MARGIN", 1.0)
        with pytest.raises(InferenceError, match=r"(?s)0\.30 GB of free memory.*2\.00 GB.*end other programs"):
            fit_device(400.0, window=2 * 10**9, ring=0, image=0, device="cuda")


class TestTooSmallToTrain:
    def test_is_told_with_what_takes_less_and_the_run_goes_on_later(self, tmp_path, monkeypatch):
        from voxmetry.train import loop

        data, chosen = write_cases(tmp_path / "data"), train_settings(epochs=2, precision="float32")
        whole = train(chosen, tmp_path / "whole", data=data)
        step = loop.train_step

        def full(*args):
            if args[-1] == 3:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return step(*args)

        monkeypatch.setattr(loop, "train_step", full)
        with pytest.raises(InferenceError, match=r"(?s)no memory left in step 3.*accumulate: 2"):
            train(chosen, tmp_path / "run", data=data)
        monkeypatch.undo()
        found = train(chosen, tmp_path / "run", data=data, resume=True)
        name = "weights.safetensors"
        assert (found / name).read_bytes() == (whole / name).read_bytes()

    def test_another_error_is_not_taken_for_it(self, tmp_path, monkeypatch):
        from voxmetry.train import loop

        monkeypatch.setattr(loop, "train_step", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            train(train_settings(), tmp_path / "run", data=write_cases(tmp_path / "data"))
