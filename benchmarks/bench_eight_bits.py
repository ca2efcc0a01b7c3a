"""What 8 bits keep of a model's labels, on images that they were not calibrated on.

    python benchmarks/bench_eight_bits.py brain-mr --calibrate A.nii.gz B.nii.gz --images C.nii.gz D.nii.gz --out q

Dice of the network in 8 bits, its windows as in the full run, and of `--fast`, each with the full run in float32.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from machine import processor
from voxmetry import StudySettings, nn
from voxmetry.config import fast_spec
from voxmetry.core.records import FastRun
from voxmetry.measurement.overlap import overlaps
from voxmetry.models.eight_bits import read_eight_bits
from voxmetry.nn.eight_bits import in_eight_bits, stored_members
from voxmetry.nn.fewer_windows import takes_fewer_windows
from voxmetry.workflows.inputs import read_inputs
from voxmetry.workflows.quantise_model import QuantiseOptions, quantise_model


def main() -> None:
    """Quantise a model, and print a table of Dice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the model in 8 bits; used if it is there")
    options = parser.parse_args()
    if not (options.out / "int8.json").is_file():
        every = QuantiseOptions(least_dice=0.0)
        quantise_model(options.model, options.calibrate, out=options.out, options=every, tell=print)
    full = nn.load_model(options.out, device="openvino", precision="float32")
    ways = _ways(full, options.out)
    print(f"{processor()}; {full.spec.name}, weights {full.weights.sha256[:12]}")
    print("| image | structure | mL | Dice in 8 bits | Dice of `--fast` in 8 bits |\n| --- | --- | --: | --: | --: |")
    for path in options.images:
        volumes = read_inputs(path, full.spec, StudySettings()).volumes
        whole, *others = [way(volumes) for way in ways]
        for label in full.spec.labels:
            pair = [(label.value, label.value)]
            found = [overlaps(prediction=other, reference=whole, pairs=pair)[0] for other in others]
            ml = found[0].n_reference * whole.geometry.voxel_ml
            dice = " | ".join(f"{each.dice:.4f}" for each in found)
            print(f"| {path.name.split('.')[0]} | {label.name} | {ml:.2f} | {dice} |", flush=True)


def _ways(full: nn.Model, folder: Path) -> list[nn.Predictor]:
    """Return the full run, the same in 8 bits, and a fast run in 8 bits."""
    made = read_eight_bits(folder, full.spec)
    if made is None:
        raise SystemExit(f"{folder} holds no networks in 8 bits")
    short = replace(full, members=stored_members(full.spec, folder, made), choice=in_eight_bits(full.choice))
    few = takes_fewer_windows(full.spec)
    fast = replace(short, spec=full.spec if few else fast_spec(full.spec), fast=FastRun(fewer_windows=few))
    return [nn.Predictor(model) for model in (full, short, fast)]


if __name__ == "__main__":
    main()
