"""Seconds and peak memory of a whole segmentation, beside MONAI's way and nnU-Net's, each in a process of its own.

    python benchmarks/bench_inference.py --data DATA [--size 512 512 300] [--classes 25] [--rows voxmetry monai]
                                         [--nnunet-python PYTHON] [--repeats 3] [--turns 2] [--minutes 10]
                                         [--cap-gb 12]
                                         [--cache FILE] [--plot FILE]

Rows: `voxmetry` (from file to label map, as the peers do), `voxmetry-float32`, `voxmetry-fast` and `voxmetry-fast-int8`
(with `--fast`, the second in 8 bits; their labels are compared with the row `voxmetry` by Dice of each structure over
1 mL), `segment` (the whole of `voxmetry segment`, with measurements and report), `monai` (its default of float64 for
resampling) and `monai-float32`; `nnunet` and `voxmetry-nnunet` run one nnU-Net model, made here and imported, mirroring
off; `nnunet` needs a Python with nnunetv2. A row that takes under a minute is run --repeats times, the table has the
medians. A row that needs more than --cap-gb is stopped there, and says so. Where other programs run, the seconds of the
processors (under `taskset -c 0`, so that no thread waits for another) say more than those on the clock. With --turns
the rows are run one after the other so often, and each ratio is taken between neighbours in time: a machine that shares
its host changes its speed. With --minutes no turn begins that would end later.

The image is the abdominal CT of data/README.md (ct-multiorgan), interpolated to voxels of 0.71 x 0.59 x 1.12 mm and cut
or mirrored to the size asked for, so that the work grows with the size. The network is a DynUNet of 32 to 320 channels
with a patch of 96 x 96 x 96, whose weights are random and smooth but for its last layer: that is fitted to the label
map that comes with the CT, so that what it finds has the shape of organs. Each row is read from and written to NIfTI
files. Results are kept in --cache by what they depend on, so that one row can be run again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import machine

if TYPE_CHECKING:
    import torch

PATCH, SPACING_MM = 96, 1.5
CHANNELS = (32, 64, 128, 256, 320, 320)
FULL = (512, 512, 300)
PEERS = ("monai", "nnunet")
LEAST_ML = 1.0
"""Structures below are left out of the Dice between two ways."""
QUICK_S = 60
"""A longer run is not repeated."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOXMETRY_TEST_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300], action="append")
    parser.add_argument("--classes", type=int, nargs="+", default=[25])
    parser.add_argument("--rows", nargs="+", default=["voxmetry", "monai"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="when the last turn has ended, with --turns")
    parser.add_argument("--cap-gb", type=float, help="the most that a row may hold, in 10^9 bytes")
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "voxmetry-bench-inference.json")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "voxmetry-bench-inference")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only-known", action="store_true", help="run nothing: show all that is in --cache")
    parser.add_argument("--one", nargs=4, metavar=("ROW", "MODEL", "IMAGE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.end = time.monotonic() + 60 * options.minutes
    if options.one:
        print(json.dumps(run_row(*options.one, cap_gb=options.cap_gb)))
        return
    sizes = options.size[3:] or [options.size[:3]]
    if options.turns < 0 or (options.turns and (options.only_known or options.plot)):
        parser.error("--turns takes 1 or more, and runs all rows anew: neither --only-known nor --plot go with it")
    if options.turns:
        for size, n in itertools.product(sizes, options.classes):
            print(in_turns(options, size, n))
        return
    if options.only_known:
        results = known_rows(options)
    else:
        results = [row for size in sizes for n in options.classes for row in rows_of(options, size, n)]
    print(table(results))
    print(stages(results))
    if options.plot:
        plot(results, options.plot)


def rows_of(options: argparse.Namespace, size: list[int], n_classes: int) -> list[dict[str, object]]:
    """Run each row for one size and number of classes, or take it from the cache."""
    image = image_of(options, size)
    known = json.loads(options.cache.read_text()) if options.cache.exists() else {}
    found, labels = [], {}
    for row in options.rows:
        out = options.work / f"{row}-{n_classes}-{image.name}"
        key = f"{row} {size} {n_classes} {fingerprint(row)}"
        if key not in known:
            known[key] = start(options, row, model_of(options, row, n_classes), image, out)
            options.cache.write_text(json.dumps(known, indent=1))
        labels[row] = out
        found.append({"row": row, "size": size, "classes": n_classes} | known[key])
    add_agreement(found, labels)
    return found


def image_of(options: argparse.Namespace, size: list[int]) -> Path:
    """Make the image of a size, where it is not there yet."""
    options.work.mkdir(parents=True, exist_ok=True)
    image = options.work / f"ct-{'x'.join(map(str, size))}.nii.gz"
    if not image.exists():
        make_image(options.data, image, size)
    return image


def in_turns(options: argparse.Namespace, size: list[int], n_classes: int) -> str:
    """Run the rows in turns, nothing from the cache; spell each turn and the ratios to the own row as Markdown.

    A turn is not begun where one as long as the last would end after --minutes.
    """
    image = image_of(options, size)
    models = {row: model_of(options, row, n_classes) for row in options.rows}
    labels = {row: options.work / f"{row}-{n_classes}-{image.name}" for row in options.rows}
    lines = [machine.processor(), ""]
    lines.append("| turn | way | s | network s | peak GB | predicted GB | time | memory | equal | Dice with voxmetry |")
    lines.append("| --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |")
    ratios: dict[str, list[tuple[float, float]]] = {row: [] for row in options.rows}
    spent: list[dict[str, object]] = []
    for turn in range(1, options.turns + 1):
        began = time.monotonic()
        rows = [
            {"row": row, "size": size, "classes": n_classes} | start(options, row, models[row], image, labels[row])
            for row in options.rows
        ]
        add_agreement(rows, labels)
        for found in rows:
            row, first = str(found["row"]), own_row(found, rows)
            ratio = found["seconds"] / first["seconds"], found["peak_gb"] / first["peak_gb"]
            if "stopped" in found or "stopped" in first:
                ratio = (float("nan"), float("nan"))
            ratios[row].append(ratio)
            over = "> " if "stopped" in found else ""
            spent.append(found | {"row": f"{row}, turn {turn}"})
            predicted = f"{found['predicted_gb']:.2f}" if "predicted_gb" in found else ""
            same = f"{found['same_foreground']:.4%}" if "same_foreground" in found else ""
            lines.append(
                f"| {turn} | {row}: {found['device']} | {over}{found['seconds']:.1f} | {found['network_s']:.1f} | "
                f"{over}{found['peak_gb']:.2f} | {predicted} | {ratio[0]:.2f} | {ratio[1]:.2f} | {same} | "
                f"{told_dice(found)} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
        if 2 * time.monotonic() - began > options.end:
            break
    for row, pairs in ratios.items():
        # A row that was stopped at the limit of memory has no ratio, and makes the median nan.
        time_, memory = (statistics.median(column) for column in zip(*pairs, strict=True))
        lines.append(f"| median of {len(pairs)} | {row} | | | | | {time_:.2f} | {memory:.2f} | | |")
    return "\n".join([*lines, stages(spent)])


def own_row(row: dict[str, object], rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """Return this engine's row of the same case and model, the first that there is; the row itself where there is none.

    nnU-Net's model, made here and imported, is another one than MONAI's.
    """

    def same(other: dict[str, object]) -> bool:
        kinds = [str(each["row"]).endswith("nnunet") for each in (row, other)]
        return kinds[0] == kinds[1] and (row["size"], row["classes"]) == (other["size"], other["classes"])

    ours = [other for other in rows if str(other["row"]).startswith("voxmetry") and same(other)]
    plain = [other for other in ours if other["row"] in ("voxmetry", "voxmetry-nnunet")]
    return next(iter([*plain, *ours]), row)


def known_rows(options: argparse.Namespace) -> list[dict[str, object]]:
    """Return all results of this code and machine from the cache, case by case."""
    cases: dict[tuple[int, ...], list[dict[str, object]]] = {}
    for key, row in json.loads(options.cache.read_text()).items():
        name, i, j, k, classes, made = re.fullmatch(r"(\S+) \[(\d+), (\d+), (\d+)\] (\d+) (.*)", key).groups()
        if made == fingerprint(name):
            size = [int(i), int(j), int(k)]
            cases.setdefault((*size, int(classes)), []).append(
                {"row": name, "size": size, "classes": int(classes)} | row
            )
    for (*size, classes), rows in cases.items():
        image = f"ct-{'x'.join(map(str, size))}.nii.gz"
        add_agreement(rows, {str(row["row"]): options.work / f"{row['row']}-{classes}-{image}" for row in rows})
    return [row for case in sorted(cases) for row in cases[case]]


def model_of(options: argparse.Namespace, row: str, n_classes: int) -> Path:
    """Make the model of a row, where it is not there yet."""
    model = options.work / f"model-{n_classes}"
    if row.endswith("nnunet"):
        model = options.work / f"nnunet-{n_classes}"
        if not model.exists():
            make_nnunet(options.data, model, n_classes)
        return model / ("source" if row == "nnunet" else "imported")
    if not model.exists():
        make_model(options.data, model, n_classes)
    if row != "voxmetry-fast-int8":
        return model
    short = options.work / f"model-{n_classes}-int8"
    if not (short / "int8.json").exists():
        from voxmetry.workflows.quantise_model import QuantiseOptions, quantise_model

        # A part of the CT, which the network is calibrated on and compared with float32 on.
        image = image_of(options, [256, 256, 150])
        quantise_model(model, [image], out=short, options=QuantiseOptions(least_dice=0.0, overwrite=True))
    return short


def fingerprint(row: str) -> str:
    """Name the code and the machine that a cached result belongs to; the peers' do not depend on the code."""
    if row.startswith(PEERS):
        return f"peer {platform.node()} {os.cpu_count()}"
    source = sorted((Path(__file__).parents[1] / "src" / "voxmetry" / "nn").glob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in source)).hexdigest()[:12]
    return f"{code} {platform.node()} {os.cpu_count()}"


def start(options: argparse.Namespace, row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run one row in a process of its own, as often as asked, and return the median run by its seconds."""
    python = str(options.nnunet_python) if row == "nnunet" else sys.executable
    command = [python, __file__, "--one", row, str(model), str(image), str(out)]
    command += ["--cap-gb", str(options.cap_gb)] if options.cap_gb else []
    print(f"{row} on {image.name} ...", file=sys.stderr, flush=True)
    runs: list[dict[str, object]] = []
    while len(runs) < options.repeats and not (runs and runs[-1]["seconds"] > QUICK_S):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"{row} failed:\n{ran.stderr[-2000:]}")
        runs.append(json.loads(ran.stdout.splitlines()[-1]))
        print(f"  {runs[-1]}", file=sys.stderr, flush=True)
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2] | {"runs": len(runs)}


def run_row(row: str, model: str, image: str, out: str, *, cap_gb: float | None) -> dict[str, object]:
    """Run in this process; return its seconds in all, those in the network, and its peak memory."""
    if cap_gb:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(cap_gb * 1e9), resource.RLIM_INFINITY))
    begin = time.perf_counter()
    run = {"monai": run_monai, "monai-float32": run_monai, "nnunet": run_nnunet, "segment": run_segment}.get(
        row, run_voxmetry
    )
    Timed.all.clear()
    try:
        result = run(row, Path(model), Path(image), Path(out))
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        result = {"stopped": True, "device": "torch cpu in float32"}
    used, timed = os.times(), Timed.all[0]
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_s": used.user + used.system,
        "network_s": timed.seconds,
        "network_cpu_s": timed.cpu_s,
        "windows": timed.windows,
        "peak_gb": cap_gb if "stopped" in result else peak_gb(),
        **result,
    }


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of memory: MONAI wraps what its transforms raise."""
    while error is not None:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def peak_gb() -> float:
    """Return the peak of this process in 10^9 bytes, as Linux counts it from its start.

    `ru_maxrss` would begin at what the process that started this one held.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024 / 1e9


class Timed:
    """A network that adds up its own seconds, on the clock and of the processors, and counts its windows."""

    all: ClassVar[list[Timed]] = []

    def __init__(self, network: object) -> None:
        self.network, self.seconds, self.cpu_s, self.windows = network, 0.0, 0.0, 0
        self.all.append(self)

    def __call__(self, patches: object) -> object:
        """Run the network and note the time."""
        begin, busy = time.perf_counter(), time.process_time()
        scores = self.network(patches)
        self.seconds += time.perf_counter() - begin
        self.cpu_s += time.process_time() - busy
        self.windows += len(patches)
        return scores


def run_voxmetry(row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    import dataclasses

    import voxmetry

    clock = [time.perf_counter()]
    precision = "float32" if row == "voxmetry-float32" else "auto"
    loaded = voxmetry.load_model(model, precision=precision, fast=row.startswith("voxmetry-fast"))
    timed = Timed(loaded.members[0])
    predictor = voxmetry.Predictor(dataclasses.replace(loaded, members=(timed,)))
    clock.append(time.perf_counter())
    volume = voxmetry.read_volume(image, modality="CT")
    clock.append(time.perf_counter())
    prepared = predictor.prepare(volume)
    clock.append(time.perf_counter())
    segmentation = predictor.run(prepared)
    clock.append(time.perf_counter())
    voxmetry.save(segmentation, out)
    clock.append(time.perf_counter())
    load, read, prepare, run, write = (b - a for a, b in itertools.pairwise(clock))
    return {
        "load_s": load,
        "read_s": read,
        "prepare_s": prepare,
        "restore_s": run - timed.seconds,
        "write_s": write,
        "device": str(loaded.choice) + (f"; {loaded.fast}" if loaded.fast else ""),
        "predicted_gb": prepared.plan.needed / 1e9,
        "ring_gb": prepared.plan.parts.get("ring", 0) / 1e9,
    }


def run_segment(_row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run the whole of `voxmetry segment`: label map, measurements, tables, report."""
    import dataclasses

    import voxmetry
    from voxmetry.config import StudySettings

    clock = [time.perf_counter()]
    loaded = voxmetry.load_model(model)
    timed = Timed(loaded.members[0])
    predictor = voxmetry.Predictor(dataclasses.replace(loaded, members=(timed,)))
    load = time.perf_counter() - clock[0]
    folder = out.with_name(out.name.removesuffix(".nii.gz"))
    result = voxmetry.segment_study(image, folder, predictor, settings=StudySettings(overwrite=True))
    (folder / "seg.nii.gz").replace(out)
    spent = result.provenance.seconds
    return {
        "load_s": load,
        "read_s": spent["read"],
        "prepare_s": spent["preprocess"],
        "restore_s": spent["network"] - timed.seconds,
        "measure_s": spent["measure"] + spent["clean up"],
        "write_s": time.perf_counter()
        - clock[0]
        - load
        - sum(s for step, s in spent.items() if step not in ("write", "total")),
        "device": str(loaded.choice),
        "predicted_gb": predictor.last_plan.needed / 1e9,
    }


def run_monai(row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run the model in MONAI's own parts, `Model.as_monai()`: the one plain way of this project."""
    import nibabel
    import numpy as np
    import torch

    from voxmetry import load_model

    parts = load_model(model, device="cpu", precision="float32").as_monai(wide=row != "monai-float32")
    timed = Timed(parts.network)
    data = parts.pre({parts.spec.inputs[0].name: str(image)})
    with torch.inference_mode():
        scores = parts.inferer(data["image"][None].as_tensor(), timed)[0]
        data["pred"] = type(data["image"])(scores, meta=data["image"].meta)
        data["pred"].applied_operations = data["image"].applied_operations
        del scores
        labels = parts.post(data)["pred"]
    affine = nibabel.load(image).affine
    nibabel.save(nibabel.Nifti1Image(np.asarray(labels)[0].astype(np.uint8), affine), out)
    return {"device": "torch cpu in float32"}


def run_nnunet(_row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run nnU-Net's own predictor, mirroring off, from file to file in one process."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False
    )
    (folder,) = model.iterdir()
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    timed = Timed(predictor.network.forward)
    predictor.network.forward = timed
    predictor.predict_from_files_sequential([[str(image)]], [str(out)[: -len(".nii.gz")]])
    return {"device": "torch cpu in float32"}


def make_image(data: Path, path: Path, size: list[int]) -> None:
    """Interpolate the CT to 512 x 512 x 300 voxels, then cut or mirror it to a size: the voxels stay as large."""
    import nibabel
    import numpy as np
    import torch

    source = nibabel.load(data / "ct-multiorgan" / "example_ct.nii.gz")
    values = torch.from_numpy(np.asarray(source.dataobj, dtype=np.float32))
    finer = (
        torch.nn.functional.interpolate(values[None, None], size=FULL, mode="trilinear")[0, 0].round().short().numpy()
    )
    for axis, (have, want) in enumerate(zip(FULL, size, strict=True)):
        if want > have:
            finer = np.pad(finer, [(0, want - have) if axis == other else (0, 0) for other in range(3)], "symmetric")
        else:
            finer = finer.take(np.arange(want) + (have - want) // 2, axis)
    affine = np.array(source.affine)
    affine[:3, :3] = affine[:3, :3] * (np.array(values.shape) / np.array(FULL))
    nibabel.save(nibabel.Nifti1Image(finer, affine), path)


def make_model(data: Path, folder: Path, n_classes: int) -> None:
    """Write a model whose last layer is fitted to the label map that comes with the CT."""
    patch, truth = labelled_patch(data, n_classes)
    write_fitted(folder, patch.clip(-1000, 1000) / 400, truth, n_classes)


def labelled_patch(data: Path, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a patch (1, 1, 96, 96, 96) of the CT in HU and the classes (96, 96, 60) of its first slices."""
    import nibabel
    import numpy as np
    import torch

    labels = np.asarray(nibabel.load(data / "ct-multiorgan" / "example_seg.nii.gz").dataobj).astype(int)
    image = np.asarray(nibabel.load(data / "ct-multiorgan" / "example_ct_sm.nii.gz").dataobj, dtype=np.float32)
    kept = np.argsort(-np.bincount(labels[labels > 0]))[: n_classes - 1]
    classes = np.zeros(labels.max() + 1, int)
    classes[kept] = np.arange(1, len(kept) + 1)
    crop = (slice(13, 109), slice(2, 98), slice(0, 30))
    # At half its spacing: the network sees 1.5 mm voxels.
    patch = torch.from_numpy(image[crop])[None, None, 24:72, 24:72, :].repeat_interleave(2, 2)
    patch = patch.repeat_interleave(2, 3).repeat_interleave(2, 4)
    patch = torch.nn.functional.pad(patch, (0, 36, 0, 0, 0, 0), mode="replicate")
    truth = torch.from_numpy(classes[labels[crop][24:72, 24:72]])
    return patch, truth.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)


def write_fitted(
    folder: Path,
    patch: torch.Tensor,
    truth: torch.Tensor,
    n_classes: int,
    *,
    channels: Sequence[int] = CHANNELS,
) -> None:
    """Write a model with seeded weights and a last layer that is fitted by ridge regression.

    Parameters
    ----------
    folder
        A new folder.
    patch
        (1, 1, I, J, K) network input, of the size of the model's patch.
    truth
        (I, J, n) classes of its first n slices along k.
    n_classes
        With the background.
    channels
        Of each level.
    """
    import torch

    from voxmetry.config import ModelSpec, Weights, dump_yaml, parse_record
    from voxmetry.nn.networks.build import build_network
    from voxmetry.nn.weights import sha256_of, to_bytes

    torch.manual_seed(0)
    window = {"method": "window", "low": -1000.0, "high": 1000.0, "mean": 0.0, "sd": 400.0}
    content = {
        "name": f"bench-{n_classes}",
        "version": "0.0.0",
        "summary": "For the benchmark",
        "licence": "Apache-2.0",
        "body_part": "abdomen",
        "inputs": [{"name": "ct", "modality": "CT", "normalise": window}],
        "spacing_mm": [SPACING_MM] * 3,
        # The grid that MONAI's Spacing makes, so that both ways see the same voxels.
        "resampling": {"rule": "monai"},
        "window": {"patch": list(patch.shape[2:]), "overlap": 0.5},
        "network": {
            "channels": list(channels),
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (len(channels) - 1)],
            "kernels": [[3, 3, 3]] * len(channels),
        },
        "labels": {"labels": [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in range(1, n_classes)]},
        "training_domain": {},
    }
    spec = parse_record(content, ModelSpec, where="benchmark")
    network = build_network(spec)
    smooth(network)
    fit(network, network.output_block.conv.conv, patch, truth, n_classes)
    data_bytes = to_bytes(network)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data_bytes)
    finished = spec.model_copy(update={"weights": Weights(sha256=sha256_of(data_bytes))})
    (folder / "model.yaml").write_text(dump_yaml(finished))


def smooth(network: torch.nn.Module) -> None:
    """Give each convolution random mixtures of channels, blurred, so that structures have the surface of organs.

    Where classes meet, scores are interpolated, and outlines are drawn in the report. In the label map that comes with
    the CT 15 % of the voxels lie there; as many do in the labels of this network, and 56 % with kernels of noise.
    """
    import torch

    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = line[:, None, None] * line[:, None] * line
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                mixture = torch.randn(*layer.weight.shape[:2], 1, 1, 1) / layer.in_channels**0.5
                kernel = blur if tuple(layer.weight.shape[2:]) == (3, 3, 3) else torch.ones(layer.weight.shape[2:])
                layer.weight.copy_(mixture * kernel)


def fit(
    network: torch.nn.Module, head: torch.nn.Module, patch: torch.Tensor, truth: torch.Tensor, n_classes: int
) -> None:
    """Fit a network's last layer by ridge regression from the features that reach it."""
    import torch

    seen = []
    hook = head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        network(patch)
        hook.remove()
        i, j, k = truth.shape
        width = seen[-1].shape[1]
        features = seen[-1][0, :, :i, :j, :k].reshape(width, -1).T.double()
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        wanted = torch.nn.functional.one_hot(truth.reshape(-1), n_classes).double()
        gram = features.T @ features + 1e-3 * len(features) * torch.eye(width + 1)
        weights = torch.linalg.solve(gram, features.T @ wanted).float() * 10
        head.weight.copy_(weights[:width].T.reshape(head.weight.shape))
        head.bias.copy_(weights[width])


def make_nnunet(data: Path, folder: Path, n_classes: int) -> None:
    """Write an nnU-Net v2 model folder of the size of nnU-Net's own plans, its last layer fitted, and import it."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import nnunet_folders
    from voxmetry.config import ModelSpec, load_yaml
    from voxmetry.nn.interop import ImportOptions, import_model
    from voxmetry.nn.networks.build import build_network
    from voxmetry.nn.weights import load_into

    channels = [32, 64, 128, 256, 320, 320]
    network = nnunet_folders.architecture(
        "plain",
        n_stages=len(channels),
        features_per_stage=channels,
        kernel_sizes=[[3, 3, 3]] * len(channels),
        strides=[[1, 1, 1], *[[2, 2, 2]] * (len(channels) - 1)],
        n_conv_per_stage=[2] * len(channels),
        n_conv_per_stage_decoder=[2] * (len(channels) - 1),
    )
    how = {
        "patch_size": [PATCH] * 3,
        "spacing": [SPACING_MM] * 3,
        "normalization_schemes": ["CTNormalization"],
        "architecture": network,
    }
    labels = {"background": 0} | {f"s{n}": n for n in range(1, n_classes)}
    nnunet_folders.CASES["bench"] = {
        "spacing": (1.0, 1.0, 1.0),
        "shape": (8, 8, 8),
        "channels": ["CT"],
        "labels": labels,
        "configuration": how,
    }
    source = nnunet_folders.write(folder / "source", "bench")
    (folder / "source" / "image_0000.nii.gz").unlink()
    options = ImportOptions(mirroring=False, overwrite=True, orientation="stored")
    import_model(source, folder / "imported", options)
    spec = load_yaml(folder / "imported" / "model.yaml", ModelSpec)
    network = build_network(spec)
    load_into(network, folder / "imported" / spec.weights.file, sha256=spec.weights.sha256)
    head = network.decoder.output
    patch, truth = labelled_patch(data, n_classes)
    ct = nnunet_folders.CT
    # nnU-Net sees the axes in the order k, j, i.
    seen = (patch.clip(ct["percentile_00_5"], ct["percentile_99_5"]) - ct["mean"]) / ct["std"]
    fit(network.eval(), head, seen.permute(0, 1, 4, 3, 2), truth.permute(2, 1, 0), n_classes)
    state = nnunet_folders.parameters(how, 1, n_classes, seed=7)
    last = f"decoder.seg_layers.{len(channels) - 2}"
    state |= {f"{last}.weight": head.weight.detach(), f"{last}.bias": head.bias.detach()}
    nnunet_folders.write_checkpoint(source / "fold_0" / "checkpoint_final.pth", state)
    import_model(source, folder / "imported", options)


def add_agreement(rows: list[dict[str, object]], files: dict[str, Path]) -> None:
    """Hold each label map against the peer's, where that was run: the share of foreground voxels that are equal.

    Fast runs are compared with the full one as well.
    """
    import nibabel
    import numpy as np

    for row in rows:
        if str(row["row"]).startswith("voxmetry-fast") and files.get("voxmetry", Path("none")).exists():
            row |= own_dice(files["voxmetry"], files[str(row["row"])])
        names = ["nnunet"] if str(row["row"]).endswith("nnunet") else ["monai", "monai-float32"]
        peer = next((files[name] for name in names if name in files and files[name].exists()), None)
        if peer is None or "stopped" in row:
            continue
        plain = np.asarray(nibabel.load(peer).dataobj)
        other = np.asarray(nibabel.load(files[str(row["row"])]).dataobj)
        foreground = (plain > 0) | (other > 0)
        row["same_foreground"] = float((plain == other)[foreground].mean()) if foreground.any() else float("nan")


def own_dice(full: Path, fast: Path) -> dict[str, float]:
    """Return the lowest and the mean Dice of two label maps over the structures of `LEAST_ML` in the first."""
    import nibabel
    import numpy as np

    image = nibabel.load(full)
    a, b = np.asarray(image.dataobj), np.asarray(nibabel.load(fast).dataobj)
    n = int(max(a.max(), b.max())) + 1
    in_a, in_b, both = (np.bincount(x.ravel(), minlength=n)[1:] for x in (a, b, np.where(a == b, a, 0)))
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    large = in_a * voxel_ml >= LEAST_ML
    dice = 2 * both[large] / (in_a + in_b)[large]
    return {"own_dice_lowest": float(dice.min()), "own_dice_mean": float(dice.mean()), "structures": int(large.sum())}


def told_dice(row: dict[str, object]) -> str:
    """Spell the Dice of a fast run with the full one; empty for other rows."""
    if "own_dice_lowest" not in row:
        return ""
    return f"{row['own_dice_lowest']:.4f}, {row['own_dice_mean']:.4f} ({row['structures']})"


def table(rows: list[dict[str, object]]) -> str:
    """Spell the rows as Markdown, ratios against the row 'voxmetry' (or 'voxmetry-nnunet') of the same case."""
    import importlib.metadata

    packages = ("torch", "monai", "openvino", "numpy")
    lines = [
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + f"; {machine.processor()}",
        "",
        "| size | classes | way | s | network s | rest | CPU s | network CPU s | peak GB | predicted GB | time | "
        "CPU time | memory | runs | same foreground | Dice with voxmetry: lowest, mean (structures) |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        own = own_row(row, rows)
        over = "> " if "stopped" in row else ""
        rest = "" if over else f"{1 - row['network_s'] / row['seconds']:.0%}"
        predicted = f"{row['predicted_gb']:.2f}" if "predicted_gb" in row else ""
        same = f"{row['same_foreground']:.4%}" if "same_foreground" in row else ""
        lines.append(
            f"| {' x '.join(map(str, row['size']))} | {row['classes']} | {row['row']}: {row['device']} | "
            f"{over}{row['seconds']:.1f} | {row['network_s']:.1f} | {rest} | {row['cpu_s']:.1f} | "
            f"{row['network_cpu_s']:.1f} | {over}{row['peak_gb']:.2f} | {predicted} | "
            f"{over}{row['seconds'] / own['seconds']:.2f} | {over}{row['cpu_s'] / own['cpu_s']:.2f} | "
            f"{over}{row['peak_gb'] / own['peak_gb']:.2f} | {row['runs']} | {same} | {told_dice(row)} |"
        )
    if any("stopped" in row for row in rows):
        lines += ["", "A row with > was stopped at the limit of memory: it had not finished."]
    return "\n".join(lines)


def stages(rows: list[dict[str, object]]) -> str:
    """Spell where the seconds of this engine went, as Markdown."""
    names = ["load", "read", "prepare", "network", "restore", "measure", "write"]
    lines = ["", f"| size | classes | way | {' | '.join(f'{name} s' for name in names)} | windows | ring GB |"]
    lines.append("| --- | --: | --- |" + " --: |" * (len(names) + 2))
    for row in (row for row in rows if "load_s" in row):
        spent = " | ".join(f"{row[f'{name}_s']:.2f}" if f"{name}_s" in row else "" for name in names)
        ring = f"{row['ring_gb']:.2f}" if "ring_gb" in row else ""
        size = " x ".join(map(str, row["size"]))
        lines.append(f"| {size} | {row['classes']} | {row['row']} | {spent} | {row['windows']} | {ring} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Draw seconds and peak memory over the number of voxels, one line a way, and memory over classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, (time_axes, memory_axes, class_axes) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    usual = [row for row in rows if row["classes"] == 25 and "stopped" not in row]
    for axes, key, label in ((time_axes, "seconds", "seconds"), (memory_axes, "peak_gb", "peak memory, GB")):
        for name in dict.fromkeys(row["row"] for row in usual):
            points = sorted((np.prod(row["size"]) / 1e6, row[key]) for row in usual if row["row"] == name)
            axes.plot(*zip(*points, strict=True), "o-", label=name)
        axes.set(xlabel="million voxels, 25 classes", ylabel=label)
    own = [row for row in rows if row["row"] == "voxmetry"]
    sizes = [row["size"] for row in own]
    size = max(sizes, key=sizes.count)
    points = sorted((row["classes"], row["peak_gb"], row["ring_gb"]) for row in own if row["size"] == size)
    classes, peaks, rings = (np.array(values) for values in zip(*points, strict=True))
    class_axes.plot(classes, peaks, "o-", label="peak")
    class_axes.plot(classes, peaks - rings, "o--", label="peak less the ring of scores")
    class_axes.set(xlabel=f"classes, {' x '.join(map(str, size))} voxels", ylabel="memory, GB")
    for axes in (time_axes, memory_axes, class_axes):
        axes.set(ylim=(0, None), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
