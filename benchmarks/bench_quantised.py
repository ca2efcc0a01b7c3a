"""What 8-bit quantisation by NNCF costs in Dice and saves in time, on a CPU, beside float32 and bf16 in OpenVINO.

    python benchmarks/bench_quantised.py --data DATA [--calibrate 12] [--cases 30] [--model FOLDER]

Needs nncf (3.4.0 was used), which is no dependency of the package. The hippocampus model is quantised with windows of
some cases and judged on others, against their reference labels and against its own labels in float32; with --model, the
time of a window of that model (such as the one of bench_inference.py) is measured as well, quantised with noise, which
changes its labels and not its time.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from voxmetry import Predictor, Volume, clean, load_model, read_segmentation, read_volume
from voxmetry.measurement import compare
from voxmetry.models import find_model, read_spec
from voxmetry.nn.model import Model
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.openvino import convert, import_openvino
from voxmetry.nn.weights import load_into

openvino = import_openvino()
# NNCF would send usage events by the same package, which OpenVINO is kept from finding.
sys.modules.setdefault("openvino_telemetry", None)
import nncf  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOXMETRY_TEST_DATA", "../shared/data")))
    parser.add_argument("--calibrate", type=int, default=12)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    print(f"nncf {nncf.__version__}, openvino {openvino.__version__}, {torch.get_num_threads()} threads\n")
    dice(options)
    if options.model:
        times(options)


def as_openvino(name: str | Path) -> tuple[object, tuple[int, ...]]:
    """Return a model's network in OpenVINO's form, and the shape of its input."""
    spec, folder = read_spec(name), find_model(name)
    network = build_network(spec)
    load_into(network, folder / spec.weights.file, sha256=spec.weights.sha256)
    shape = (1, len(spec.inputs), *spec.window.patch)
    return convert(network.eval(), shape, shape), shape


def quantised(model: object, windows: list[np.ndarray]) -> object:
    return nncf.quantize(model, nncf.Dataset(windows), subset_size=len(windows), preset=nncf.QuantizationPreset.MIXED)


class Compiled:
    """A network on this CPU: patches (B, C, *patch) to scores, one patch after the other."""

    def __init__(self, model: object, precision: str) -> None:
        options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = openvino.Core().compile_model(model, "CPU", options)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Run one batch."""
        parts = [torch.from_numpy(self._compiled(patch[None].contiguous().numpy())[0].copy()) for patch in patches]
        return torch.cat(parts)


def variants(model: object, windows: list[np.ndarray]) -> dict[str, Compiled]:
    small = quantised(model, windows)
    return {
        "float32": Compiled(model, "f32"),
        "bf16": Compiled(model, "bf16"),
        "int8, rest float32": Compiled(small, "f32"),
        "int8, rest bf16": Compiled(small, "bf16"),
    }


def dice(options: argparse.Namespace) -> None:
    """Quantise the hippocampus model and judge it."""
    folder = options.data / "hippocampus-mr"
    images = sorted((folder / "images").glob("*.nii.gz"))[: options.calibrate + options.cases]
    loaded = load_model("hippocampus-mr", device="cpu")
    windows: list[np.ndarray] = []

    def keep(patches: torch.Tensor) -> torch.Tensor:
        windows.extend(patch[None].numpy().copy() for patch in patches)
        return loaded.members[0](patches)

    noting = Predictor(dataclasses.replace(loaded, members=(keep,)))
    for path in images[: options.calibrate]:
        noting(read_volume(path, modality="MR"))
    model, _ = as_openvino("hippocampus-mr")
    runs = variants(model, windows)
    print("| hippocampus-mr | Dice, reference | lowest | Dice, own float32 | lowest | ms a window |")
    print("| --- | --: | --: | --: | --: | --: |")
    cases = [(path, read_volume(path, modality="MR")) for path in images[options.calibrate :]]
    plain: dict[Path, object] = {}
    for name, run in runs.items():
        rows = [judge(loaded, run, path, volume, folder, plain) for path, volume in cases]
        reference, own = zip(*rows, strict=True)
        ms = time_of(run, windows[0], options.repeats) * 1e3
        print(
            f"| {name} | {np.mean(reference):.4f} | {np.min(reference):.4f} | {np.mean(own):.4f} | {np.min(own):.4f} | "
            f"{ms:.1f} |",
            flush=True,
        )


def judge(
    loaded: Model, run: Compiled, path: Path, volume: Volume, folder: Path, plain: dict[Path, object]
) -> tuple[float, float]:
    """Return the mean Dice of a case against its reference, and against the labels of the first way."""
    predictor = Predictor(dataclasses.replace(loaded, members=(run,)))
    found = clean(predictor.run(predictor.prepare(volume)), loaded.spec.clean)
    truth = read_segmentation(folder / "labels" / path.name, labels=loaded.spec.labels, image=volume)
    first = plain.setdefault(path, found)
    each = [compare(prediction=found, reference=other, tolerance_mm=1.0) for other in (truth, first)]
    return tuple(float(np.mean([row.dice for row in rows])) for rows in each)


def time_of(run: Compiled, window: np.ndarray, repeats: int) -> float:
    """Return the median seconds of a window."""
    patch, taken = torch.from_numpy(window), []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run(patch)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def times(options: argparse.Namespace) -> None:
    """Time a window of another model."""
    model, shape = as_openvino(options.model)
    window = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    print(f"\n| {options.model.name} {shape} | s a window |\n| --- | --: |")
    for name, run in variants(model, [window]).items():
        print(f"| {name} | {time_of(run, window, options.repeats):.3f} |", flush=True)


if __name__ == "__main__":
    main()
