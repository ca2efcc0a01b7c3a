import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import phantoms
from voxmetry import Predictor, compare, load_model, read_volume
from voxmetry.errors import ConfigError
from voxmetry.nn.openvino import OpenVinoRuntime, cache_folder, import_openvino, is_whole, openvino_has_bf16
from voxmetry.nn.runtime import WORTH_COMPILING_GFLOP, choose_for_training, choose_runtime

ROOT = Path(__file__).parents[2]


class TestChoice:
    def test_a_large_network_goes_to_openvino_and_says_why(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        large, small = (choose_runtime(gflop=gflop) for gflop in (WORTH_COMPILING_GFLOP, WORTH_COMPILING_GFLOP / 2))
        assert (large.device, small.device) == ("openvino", "cpu")
        assert "20 GFLOP a window" in str(large)
        assert "too few" in str(small)

    def test_openvino_takes_bf16_only_where_the_cpu_has_it(self, monkeypatch):
        for has, wanted in ((True, "bf16"), (False, "float32")):
            monkeypatch.setattr("voxmetry.nn.runtime.openvino_has_bf16", lambda has=has: has)
            assert choose_runtime("openvino").precision == wanted

    @pytest.mark.parametrize(
        ("device", "torch_uses", "openvino_finds", "cuda_has", "wanted"),
        [
            ("cpu", "AVX512", True, False, "bf16"),  # Sapphire Rapids, Zen 4
            ("cpu", "AVX512", False, False, "float32"),  # Skylake-X: AVX-512 without bf16
            ("cpu", "AVX2", False, False, "float32"),  # laptops, Zen 3
            ("cpu", "AVX2", True, False, "float32"),  # a torch that is kept from AVX-512
            ("cpu", "DEFAULT", False, False, "float32"),  # ARM
            ("cuda", "AVX2", False, True, "bf16"),  # Ampere and later
            ("cuda", "AVX512", True, False, "fp16"),  # V100, T4: torch emulates bf16 there
        ],
    )
    def test_training_takes_bf16_only_where_the_processor_multiplies_it(
        self, device, torch_uses, openvino_finds, cuda_has, wanted, monkeypatch
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_uses)
        monkeypatch.setattr("voxmetry.nn.runtime.openvino_has_bf16", lambda: openvino_finds)
        # With emulation torch says yes on every CUDA device.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or cuda_has
        )
        choice = choose_for_training(device)
        assert (choice.device, choice.precision) == (device, wanted)
        assert (
            str(choice)
            == f"{device} in {wanted} (auto: it {'multiplies' if wanted == 'bf16' else 'does not multiply'} bf16)"
        )
        assert choose_for_training(device, "bf16").precision == "bf16", "what is asked for is done"
        assert ("many times faster" in choose_for_training(device, "bf16").why) == (wanted != "bf16")

    def test_inference_on_a_gpu_that_emulates_bf16_takes_fp16(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("voxmetry.nn.runtime.cuda_trouble", lambda: "")
        for has, wanted in ((True, "bf16"), (False, "fp16")):
            monkeypatch.setattr(
                torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: including_emulation or has
            )
            assert choose_runtime("cuda").precision == wanted

    @pytest.mark.parametrize(
        ("began", "has", "wanted", "said"),
        [
            ("bf16", True, "bf16", "as the run began"),
            ("float32", True, "float32", "as the run began"),
            ("float32", False, "float32", "as the run began"),
            ("bf16", False, "float32", "its weights will not be those of one processor"),
            (None, True, "bf16", "it multiplies bf16"),
        ],
    )
    def test_a_run_that_goes_on_stays_in_its_precision_where_it_can(self, began, has, wanted, said, monkeypatch):
        monkeypatch.setattr("voxmetry.nn.runtime.multiplies_bf16", lambda _: has)
        choice = choose_for_training("cpu", begun_in=began)
        assert choice.precision == wanted
        assert said in choice.why

    def test_refuses_a_precision_that_is_unknown_or_that_the_device_lacks(self):
        with pytest.raises(ConfigError, match="fp16 on cpu"):
            choose_runtime("cpu", "fp16")
        with pytest.raises(ConfigError, match="int4"):
            choose_runtime("cpu", "int4")

    def test_openvino_does_not_say_bf16_where_it_would_compute_in_float32(self, monkeypatch):
        monkeypatch.setattr("voxmetry.nn.runtime.openvino_has_bf16", lambda: False)
        with pytest.raises(ConfigError, match=r"(?s)bf16 on openvino.*would compute in float32.*--precision float32"):
            choose_runtime("openvino", "bf16")
        monkeypatch.setattr("voxmetry.nn.runtime.openvino_has_bf16", lambda: True)
        assert choose_runtime("openvino", "bf16").precision == "bf16"

    def test_the_predictor_says_what_it_runs_on(self, tmp_path):
        told = []
        Predictor(models.write(tmp_path), device="cpu", tell=told.append)
        assert told == ["tiny-mr on cpu in float32 (as asked for)"]


class TestOpenVino:
    @pytest.mark.parametrize(("most", "lets"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True)])
    def test_bf16_is_not_used_where_onednn_is_kept_from_it(self, most, lets, monkeypatch):
        has = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
        assert openvino_has_bf16.__wrapped__() == (has and lets)

    def test_its_telemetry_is_off(self):
        code = (
            "import sys; from voxmetry.nn.openvino import convert, import_openvino; import torch;"
            "import_openvino(); convert(torch.nn.Conv3d(1, 1, 3), (1, 1, 8, 8, 8), (1, 1, 8, 8, 8));"
            "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
        )
        path = {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"}
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path, check=False)
        assert ran.stdout.strip() == "[]", ran.stderr

    def test_a_second_start_takes_the_network_from_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path))
        torch.manual_seed(0)
        network, patch = torch.nn.Conv3d(1, 2, 3, padding=1).eval(), torch.randn(2, 1, 8, 8, 8)
        first = OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")(patch)

        def never(*_):
            raise AssertionError("converted again")

        monkeypatch.setattr("voxmetry.nn.openvino.convert", never)
        again = OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")(patch)
        with torch.inference_mode():
            assert torch.allclose(first, network(patch), atol=1e-5)
        assert torch.equal(first, again)
        with pytest.raises(AssertionError, match="converted again"):
            OpenVinoRuntime(lambda: network, "b", shape=(1, 1, 8, 8, 8), precision="float32")

    def test_runs_without_a_cache_that_can_be_written(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "file" / "cache"))
        network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
        assert (
            OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")(
                torch.ones(1, 1, 8, 8, 8)
            ).shape[1]
            == 2
        )

    @pytest.mark.parametrize("name", ["network.xml", "network.bin", "network.sha256"])
    @pytest.mark.parametrize("damage", ["half", "other bytes", "gone"])
    def test_a_damaged_network_in_the_cache_is_converted_again(self, tmp_path, monkeypatch, name, damage):
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path))
        torch.manual_seed(0)
        network, patch = torch.nn.Conv3d(1, 8, 3, padding=1).eval(), torch.randn(1, 1, 8, 8, 8)
        first = OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")(patch).clone()
        (folder,) = (tmp_path / "openvino").iterdir()
        for blob in folder.glob("*.blob"):
            blob.unlink()
        content = bytearray((folder / name).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 16] = bytes(byte ^ 0x55 for byte in content[middle : middle + 16])
        (folder / name).write_bytes(content[:middle] if damage == "half" else content)
        if damage == "gone":
            (folder / name).unlink()
        again = OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")(patch)
        assert torch.equal(first, again)
        assert is_whole(folder / "network.xml")

    def test_a_cache_that_runs_full_is_done_without_and_left_as_it_was(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path))

        def full(_, path, **__):
            path.with_suffix(".bin").write_bytes(b"0" * 100)
            raise RuntimeError("basic_ios::clear: iostream error")

        monkeypatch.setattr(import_openvino(), "save_model", full)
        network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
        made = OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")
        assert made(torch.ones(1, 1, 8, 8, 8)).shape[1] == 2
        (folder,) = (tmp_path / "openvino").iterdir()
        assert {path.suffix for path in folder.iterdir()} <= {".blob"}

    def test_what_a_killed_run_left_in_the_cache_is_swept_a_day_later(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path))
        folder = cache_folder("a", (1, 1, 8, 8, 8), import_openvino().__version__)
        for name in ("part-1.bin", "part-2.bin"):
            (folder / name).write_bytes(b"half")
        os.utime(folder / "part-1.bin", (0, 0))
        network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
        OpenVinoRuntime(lambda: network, "a", shape=(1, 1, 8, 8, 8), precision="float32")
        assert [path.name for path in folder.glob("part-*")] == ["part-2.bin"]


def test_a_model_that_is_compiled_is_not_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXMETRY_CACHE", str(tmp_path / "cache"))
    folder = models.write(tmp_path / "model")
    volume = phantoms.volume()
    first = Predictor(folder, device="openvino", precision="float32")(volume)
    monkeypatch.setattr("voxmetry.nn.model.build_network", lambda _: pytest.fail("built again"))
    again = Predictor(folder, device="openvino", precision="float32")(volume)
    assert np.array_equal(first.array, again.array)
    # With other code that builds networks it is not the same network.
    monkeypatch.setattr("voxmetry.nn.model.BUILDERS", ("dynunet.py",))
    with pytest.raises(pytest.fail.Exception, match="built again"):
        Predictor(folder, device="openvino", precision="float32")


def test_bf16_by_torch_is_close_to_float32(tmp_path):
    folder = models.write(tmp_path)
    exact, short = (load_model(folder, device="cpu", precision=name) for name in ("float32", "bf16"))
    patch = torch.randn(1, 1, 16, 24, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = [model.members[0](patch).float() for model in (exact, short)]
    assert 0 < (scores[0] - scores[1]).abs().max() < 0.1 * scores[0].std()


@pytest.mark.real_data
@pytest.mark.skipif(not openvino_has_bf16(), reason="this CPU does not multiply bf16")
def test_openvino_in_bf16_keeps_the_bundled_models_labels(real_data):
    plain, fast = Predictor("hippocampus-mr", device="cpu"), Predictor("hippocampus-mr", device="openvino")
    assert fast.precision == "bf16"
    for path in sorted((real_data / "hippocampus-mr" / "images").glob("*.nii.gz"))[:3]:
        volume = read_volume(path, modality="MR")
        found, expected = fast(volume), plain(volume)
        both = compare(prediction=found, reference=expected, tolerance_mm=1.0)
        assert min(row.dice for row in both) > 0.998
        assert np.array_equal(fast(volume).array, found.array)
