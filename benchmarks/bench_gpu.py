"""The network against the roofline of its own convolutions, and a whole study, on a GPU.

    python benchmarks/bench_gpu.py [--size 512 512 397] [--classes 105] [--precision bf16]
                                   [--execution eager graph compile] [--json FILE]

Needs torch with CUDA and no data, no SimpleITK and no network connection: the image is a seeded field of blobs, and the
network a DynUNet of 32 to 320 channels with a patch of 96 x 96 x 96, whose last layer is fitted to these blobs, so that
what it finds has surfaces like those of organs. Times are by CUDA events, medians of --repeats after a warm-up.

Roofline: each convolution of the network is run by itself, on its own shapes, in the chosen precision and channels
last; their sum is the least that a network of these convolutions takes. `--device cpu --size 48 48 32 --classes 3
--patch 32 --channels 8 16 16 --precision float32 --execution eager` runs the same program without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench_inference import CHANNELS, PATCH, write_fitted
from voxmetry import Geometry, Predictor, Volume, load_model
from voxmetry.nn.model import Model
from voxmetry.nn.runtime import DTYPES

SPACING_MM = (0.8, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 397])
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--execution", nargs="+", default=["eager", "graph", "compile"])
    parser.add_argument("--batch", type=int, default=2, help="windows at once where the network is timed by itself")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patch", type=int, default=PATCH, help="voxels of the network's window along each axis")
    parser.add_argument("--channels", type=int, nargs="+", default=list(CHANNELS), help="of each level of the network")
    parser.add_argument("--json", type=Path, help="file that the figures are written to as well, after each execution")
    options = parser.parse_args()
    volume = blobs(tuple(options.size))
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, {options.precision}, {options.classes} classes\n")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, options)
        labels, rows, size = None, [], options.patch
        for execution in options.execution:
            loaded = load_model(model, device=options.device, precision=options.precision, execution=execution)
            if execution == options.execution[0]:
                least = roofline(loaded, options)
                print(f"convolutions alone, batch {options.batch}: {least * 1e3:.2f} ms")
            print(f"\n{execution}")
            patch = torch.randn(options.batch, 1, size, size, size, device=options.device)
            with torch.inference_mode():
                taken = timed(lambda run=loaded.members[0], patch=patch: run(patch), options)
            speed = options.batch * loaded.cost.gflop / taken / 1e3
            print(f"  network: {taken * 1e3:.2f} ms, {speed:.1f} TFLOP/s, {least / taken:.0%} of the roofline")
            row = {"device": name, "execution": execution, "network_s": taken, "convolutions_s": least, "tflops": speed}
            labels = study(loaded, volume, options, labels, row)
            rows.append(row)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


def blobs(shape: tuple[int, int, int]) -> Volume:
    """Return a CT-like image: a smooth random field in HU, the same for a seed."""
    coarse = torch.randn(1, 1, 14, 14, 12, generator=torch.Generator().manual_seed(0))
    field = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    affine = np.diag([*SPACING_MM, 1.0])
    return Volume((field * 300 + noise * 15).short().numpy(), Geometry(affine, shape), "HU")


def write_model(folder: Path, options: argparse.Namespace) -> None:
    """Fit the last layer to bands of the field."""
    n_classes = options.classes
    image = torch.from_numpy(blobs((options.patch,) * 3).array.astype(np.float32))
    ranks = torch.searchsorted(
        torch.quantile(image[::2, ::2, ::2].flatten(), torch.linspace(0, 1, n_classes + 1)), image
    )
    truth = (ranks - 1).clip(0, n_classes - 1)
    write_fitted(folder, image[None, None].clip(-1000, 1000) / 400, truth, n_classes, channels=options.channels)


def timed(step: Callable[[], object], options: argparse.Namespace) -> float:
    """Return the median seconds of a step, after two that are not counted."""
    for _ in range(2):
        step()
    taken = []
    for _ in range(options.repeats):
        if options.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            taken.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def roofline(loaded: Model, options: argparse.Namespace) -> float:
    """Return the seconds of all convolutions of the network, each run by itself on its own shapes."""
    network = loaded.members[0].network
    kinds = (torch.nn.Conv3d, torch.nn.ConvTranspose3d)
    met: Counter[tuple[object, ...]] = Counter()
    layers = {}

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        key = (type(layer), tuple(inputs[0].shape), tuple(layer.weight.shape), layer.stride)
        met[key] += 1
        layers[key] = layer

    handles = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kinds)]
    with torch.inference_mode():
        loaded.members[0].by_layers(torch.zeros(options.batch, 1, *[options.patch] * 3, device=options.device))
    for handle in handles:
        handle.remove()
    dtype, total = DTYPES[options.precision], 0.0
    for key, count in met.items():
        layer = copy.deepcopy(layers[key]).to(options.device, dtype).to(memory_format=torch.channels_last_3d)
        x = torch.randn(key[1], device=options.device, dtype=dtype).to(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            total += count * timed(lambda layer=layer, x=x: layer(x), options)
    return total


def study(
    loaded: Model, volume: Volume, options: argparse.Namespace, labels: np.ndarray | None, figures: dict[str, object]
) -> np.ndarray:
    """Run a whole study from voxels to labels on its own grid; return the labels, compared with earlier ones.

    Its seconds and gigabytes are added to `figures`.
    """
    predictor = Predictor(loaded)
    predictor(volume)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rows = []
    for _ in range(max(1, options.repeats // 2)):
        clock = [time.perf_counter()]
        prepared = predictor.prepare(volume)
        clock.append(time.perf_counter())
        found = predictor.run(prepared).array
        clock.append(time.perf_counter())
        rows.append((clock[2] - clock[0], clock[1] - clock[0], clock[2] - clock[1]))
    whole, preparing, running = (statistics.median(column) for column in zip(*rows, strict=True))
    peak = f", {torch.cuda.max_memory_allocated() / 1e9:.2f} GB on the device" if options.device == "cuda" else ""
    figures |= {"shape": list(volume.array.shape), "study_s": whole, "preparing_s": preparing, "running_s": running}
    if options.device == "cuda":
        figures["device_gb"] = torch.cuda.max_memory_allocated() / 1e9
    same = "" if labels is None else f", {(labels == found).mean():.4%} of labels as in the first way"
    print(
        f"  {' x '.join(map(str, volume.array.shape))}: {whole:.2f} s ({preparing:.2f} preparing, {running:.2f} from "
        f"there){peak}{same}\n  {predictor.last_plan}"
    )
    return found


if __name__ == "__main__":
    main()
