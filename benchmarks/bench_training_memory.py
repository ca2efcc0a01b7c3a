"""What a training step takes in memory, beside the estimate that plans are made with.

python benchmarks/bench_training_memory.py [--threads 1] [--precision bf16]

Each network takes two steps on noise in a process of its own. Its peak, less what the same process takes before the
first step, over batch x voxels x channels summed over the levels, in float32 values, is what `VALUES_PER_VOXEL` of
`voxmetry.train.plan` must not be below. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys

NETWORKS: dict[str, tuple[list[int], list[int], int, int]] = {
    # patch, channels, deep supervision, batch
    "hippocampus-mr": ([40, 56, 40], [16, 32, 64, 128], 1, 4),
    "sarcoma-petct": ([48, 48, 48], [16, 32, 64, 128], 1, 2),
    "plan, 262,144 voxels, 16 channels": ([64, 64, 64], [16, 32, 64, 128, 256], 2, 2),
    "plan, 262,144 voxels, 32 channels": ([64, 64, 64], [32, 64, 128, 256, 320], 2, 2),
    "plan, flat patch": ([96, 96, 32], [16, 32, 64, 128], 1, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--network", choices=tuple(NETWORKS), help="Measure this one here; for the program's own use.")
    options = parser.parse_args()
    if options.network:
        print(json.dumps(_measure(options.network, options.threads, options.precision)))
        return
    from voxmetry.train.plan import VALUES_PER_VOXEL, memory_gb

    print("| network | patch | batch | before, GB | peak, GB | plan's estimate, GB | values a voxel and channel |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    highest = 0.0
    for name, (patch, channels, _, batch) in NETWORKS.items():
        given = ["--network", name, "--threads", str(options.threads), "--precision", options.precision]
        done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True, check=True)
        before, peak = json.loads(done.stdout.splitlines()[-1])
        strides = [[1] * 3] + [[2] * 3] * (len(channels) - 1)
        values = (peak - before) / (4e-9 * batch * _values(patch, channels))
        highest = max(highest, values)
        estimate = memory_gb(patch, strides, channels, batch)
        size = " x ".join(map(str, patch))
        print(f"| {name} | {size} | {batch} | {before:.2f} | {peak:.2f} | {estimate:.2f} | {values:.1f} |", flush=True)
    print(
        f"\n{options.precision}, {options.threads} thread(s). Highest {highest:.1f}; the plan takes {VALUES_PER_VOXEL}."
    )


def _values(patch: list[int], channels: list[int]) -> float:
    return sum(math.prod(patch) / 8**level * width for level, width in enumerate(channels))


def _measure(name: str, threads: int, precision: str) -> tuple[float, float]:
    """Peak of this process in 10^9 bytes before the first step and after the second."""
    import torch

    from voxmetry.config import TrainSettings, load_yaml
    from voxmetry.nn.runtime import choose_for_training
    from voxmetry.train.devices import open_fabric
    from voxmetry.train.loop import train_step
    from voxmetry.train.losses import build_loss
    from voxmetry.train.state import begin
    from voxmetry.workflows.provenance import peak_memory_mb

    torch.set_num_threads(threads)
    patch, channels, deep, batch = NETWORKS[name]
    settings = load_yaml("configs/train/hippocampus-mr.yaml", TrainSettings)
    levels = len(channels)
    network = settings.model.network.model_copy(
        update={
            "channels": tuple(channels),
            "strides": ((1, 1, 1), *[(2, 2, 2)] * (levels - 1)),
            "kernels": ((3, 3, 3),) * levels,
            "deep_supervision": deep,
        }
    )
    model = settings.model.model_copy(update={"network": network})
    settings = settings.model_copy(update={"model": model, "precision": precision})
    state, criterion = (
        begin(settings, open_fabric(settings, choose_for_training("cpu", precision))),
        build_loss(settings.loss),
    )
    image = torch.randn(batch, 1, *patch)
    label = torch.randint(0, model.n_classes, (batch, 1, *patch))
    before = peak_memory_mb() / 1000
    for step in range(2):
        train_step(state, settings, criterion, image, label, step)
    return before, peak_memory_mb() / 1000


if __name__ == "__main__":
    main()
