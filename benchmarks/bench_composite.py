"""A map of 117 structures from five networks: this engine in one pass, beside five runs of nnU-Net's own predictor.

    python benchmarks/bench_composite.py --data DATA [--nnunet-python PYTHON] [--turns 2] [--rows voxmetry nnunet ...]

Rows: `voxmetry` (all structures, from file to label map), `structures` (`--structures liver spleen`: one of the five
networks), `fast` (the same inside the box that the 6 mm model finds), `nnunet` (TotalSegmentator's published steps
round five runs of nnU-Net's predictor, in float32 as the first row; tests/totalsegmentator_oracle.py), which needs a
Python with nnunetv2. Each row is a process of its own with --threads threads, and the rows follow each other in turns.
The table has the medians: seconds on the clock, of the processors, peak memory.

The networks have the names, parts, voxel sizes and label values of TotalSegmentator's and smaller weights made here:
seeded, but for the last layer, which is fitted to the 30 labelled slices of the CT (ct-multiorgan of data/README.md).
The Dice of a row is against `voxmetry`, over the liver and the spleen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
WHOLE, COARSE = "totalsegmentator-ct", "totalsegmentator-ct-6mm"
WANTED = ("liver", "spleen")
CHANNELS = [16, 32, 64, 128, 128]
PATCH = {WHOLE: 96, COARSE: 48}
ROWS = ("voxmetry", "structures", "fast", "nnunet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOXMETRY_TEST_DATA", "../shared/data")))
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "voxmetry-bench-composite")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["VOXMETRY_MODELS"] = str(options.work / "models")
    sys.path.append(str(TESTS))
    if options.one:
        (run_nnunet if options.one[0] == "nnunet" else run_voxmetry)(*options.one, options)
        used = os.times()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024 / 1e9
        print(json.dumps({"seconds": used.elapsed, "cpu_s": used.user + used.system, "peak_gb": peak}))
        return
    if options.nnunet_python is None and "nnunet" in options.rows:
        options.rows.remove("nnunet")
    if not (options.work / "made").exists():
        make(options)
    print(table(in_turns(options), options))


def in_turns(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run each row once a turn, each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
    for turn in range(options.turns):
        for row in options.rows:
            python = str(options.nnunet_python) if row == "nnunet" else sys.executable
            command = [python, __file__, "--work", str(options.work), "--threads", str(options.threads)]
            command += ["--one", row, str(options.work / f"{row}.nii.gz")]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
            begin = os.times().elapsed
            ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
            if ran.returncode:
                raise SystemExit(f"{row} failed:\n{ran.stderr[-2000:]}")
            result = json.loads(ran.stdout.splitlines()[-1]) | {"seconds": os.times().elapsed - begin}
            found[row].append(result)
            print(f"turn {turn + 1}, {row}: {result}", file=sys.stderr, flush=True)
    return found


def run_voxmetry(row: str, out: str, options: argparse.Namespace) -> None:
    """Segment with this engine, from file to label map."""
    from voxmetry import read_volume, save
    from voxmetry.nn import Composite
    from voxmetry.nn.composite import How

    wanted = () if row == "voxmetry" else WANTED
    model = Composite(WHOLE, How("cpu", "float32"), structures=wanted, fast=row == "fast")
    save(model(read_volume(options.work / "image.nii.gz", modality="CT")), out)


def run_nnunet(_row: str, out: str, options: argparse.Namespace) -> None:
    """Take TotalSegmentator's steps round nnU-Net's own predictor, its sums in float32."""
    for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(key, tempfile.gettempdir())
    import nibabel
    import torch

    import nnunet_oracle
    import totalsegmentator_cases
    import totalsegmentator_oracle

    torch.set_num_threads(options.threads)
    nnunet_oracle.add_in_float32()
    labels = totalsegmentator_oracle.run(totalsegmentator_cases.CASES[WHOLE], options.work)
    image = nibabel.load(options.work / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), out)


def make(options: argparse.Namespace) -> None:
    """Write the CT and the archives' folders, fit the last layers, and install the models."""
    import shutil

    import nnunet_folders
    import totalsegmentator_cases
    import totalsegmentator_folders
    from voxmetry.workflows.pull_model import PullOptions, pull_model

    options.work.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.data / "ct-multiorgan" / "example_ct_sm.nii.gz", options.work / "image.nii.gz")
    levels = len(CHANNELS)
    architecture = nnunet_folders.architecture(
        "plain",
        n_stages=levels,
        features_per_stage=CHANNELS,
        kernel_sizes=[[3, 3, 3]] * levels,
        strides=[[1, 1, 1], *[[2, 2, 2]] * (levels - 1)],
        n_conv_per_stage=[2] * levels,
        n_conv_per_stage_decoder=[2] * (levels - 1),
    )
    for name in (COARSE, WHOLE):
        case = totalsegmentator_cases.CASES[name]
        network = {"patch_size": [PATCH[name]] * 3, "architecture": architecture}
        for part in case["parts"]:
            folder, labels, seed = part["folder"], part["labels"], part["seed"]
            spacing = case["resample_mm"][::-1]
            totalsegmentator_folders.write_part(options.work, folder, labels, spacing, seed=seed, network=network)
        pull_model(name, PullOptions(source=options.work))
        for part in case["parts"]:
            fit_part(options, name, part)
        pull_model(name, PullOptions(source=options.work, overwrite=True))
    (options.work / "made").touch()


def fit_part(options: argparse.Namespace, name: str, part: dict) -> None:
    """Fit one network's last layer to the labelled slices of the CT, and write it as nnU-Net's checkpoint."""
    import torch

    import nnunet_folders
    from bench_inference import fit
    from voxmetry.models import find_model, read_spec
    from voxmetry.nn.networks.build import build_network
    from voxmetry.nn.weights import load_into

    member = part["folder"].split("Dataset")[1].split("_")[0]
    folder = find_model(name) / "members" / member
    spec = read_spec(folder)
    built = build_network(spec)
    load_into(built, folder / spec.weights.file, sha256=spec.weights.sha256)
    patch, truth = labelled(options, spec, part["values"])
    fit(built.eval(), built.decoder.output, patch, truth, spec.n_classes)
    checkpoint = options.work / part["folder"] / "fold_0" / "checkpoint_final.pth"
    state = torch.load(checkpoint, weights_only=False)["network_weights"]
    last = f"decoder.seg_layers.{len(CHANNELS) - 2}"
    head = built.decoder.output
    state |= {f"{last}.weight": head.weight.detach(), f"{last}.bias": head.bias.detach()}
    configuration = part["folder"].rsplit("__", 1)[-1]
    nnunet_folders.write_checkpoint(checkpoint, state, configuration=configuration)


def labelled(options: argparse.Namespace, spec: object, values: dict[int, int]) -> tuple[object, object]:
    """Return the middle patch of the labelled slices as network input, and its classes, in the network's axes."""
    import nibabel
    import numpy as np
    import torch
    from scipy.ndimage import zoom

    from voxmetry import read_volume
    from voxmetry.nn.common_grid import CommonGrid
    from voxmetry.nn.preprocess import preprocess

    folder = options.data / "ct-multiorgan"
    volume = read_volume(folder / "example_ct_sm.nii.gz", modality="CT")
    labels = np.asarray(nibabel.load(folder / "example_seg.nii.gz").dataobj)
    i, j, k = spec.spacing_mm
    grid = CommonGrid(volume.geometry, (k, j, i))
    patch = preprocess([grid.resample(volume)], spec).tensor
    size = spec.window.patch[0]
    classes = np.zeros(256, dtype=np.int64)
    for value, painted in values.items():
        classes[painted] = value
    factors = np.array(patch.shape[2:][::-1]) / np.array(labels.shape)
    truth = classes[zoom(labels, factors, order=0)].transpose(2, 1, 0)
    low = [max(0, (have - size) // 2) for have in truth.shape]
    box = tuple(slice(at, at + size) for at in low)
    seen = patch[0, 0].numpy()[box]
    filled = np.pad(seen, [(0, size - have) for have in seen.shape], mode="edge")
    return torch.from_numpy(filled)[None, None], torch.from_numpy(truth[box].copy())


def table(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    """Spell medians, ratios to the first row and Dice as Markdown."""
    from importlib.metadata import version

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1)
    lines = [
        f"{cpu}, {options.threads} threads, torch {version('torch')}, Python {platform.python_version()}, "
        f"{options.turns} turns",
        "",
        "| way | s | CPU s | peak GB | s / first | Dice | same foreground |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    first = statistics.median(run["seconds"] for run in found[options.rows[0]])
    for row, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_s", "peak_gb")}
        dice, same = agreement(options, row)
        lines.append(
            f"| {row} | {middle['seconds']:.1f} | {middle['cpu_s']:.1f} | {middle['peak_gb']:.2f} | "
            f"{middle['seconds'] / first:.2f} | {dice} | {same} |"
        )
    return "\n".join(lines)


def agreement(options: argparse.Namespace, row: str) -> tuple[str, str]:
    """Return Dice of liver and spleen, and the share of equal foreground voxels of a whole map, against `voxmetry`."""
    import nibabel
    import numpy as np

    from voxmetry.models import read_any_spec

    reference = options.work / "voxmetry.nii.gz"
    if row == "voxmetry" or not reference.exists():
        return "", ""
    a, b = (np.asarray(nibabel.load(path).dataobj) for path in (reference, options.work / f"{row}.nii.gz"))
    labels = read_any_spec(WHOLE).labels
    dice = []
    for name in WANTED:
        x, y = a == labels[name].value, b == labels[name].value
        both = x.sum() + y.sum()
        dice.append(f"{2 * (x & y).sum() / both:.4f}" if both else "not found")
    foreground = (a > 0) | (b > 0)
    return ", ".join(dice), f"{(a == b)[foreground].mean():.5f}" if row == "nnunet" else ""


if __name__ == "__main__":
    main()
