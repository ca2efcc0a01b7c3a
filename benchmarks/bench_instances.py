"""Instances of networks, of connected components and of watershed on cases with known instances.

    python benchmarks/bench_instances.py configs/data/spine-mr.yaml --mask-rcnn RUN/model --semantic unet=RUN/model \
        --semantic fcn=RUN/model --json OUT.json [--memory]

Held-out cases alone. One row a method: average precision at IoU 0.5 and 0.75 of all detections, panoptic quality and
count error of those that count (see LEAST_SHARE, LEAST_SCORES), mean Dice of pairs with IoU above 0.5, share of the
exams in which every instance has a partner; 95 % intervals by bootstrap over the patients. With --memory alone: the
peak memory of each model on the first case, in a process of its own, beside one that only reads. With --grids-mm alone:
the IoU that a network without an error could reach on such a grid, from the cases to learn from: of the references
there, and back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voxmetry import Predictor, Volume
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.nn.grids import upright_grid
from voxmetry.ops.instances import tell_apart
from voxmetry.ops.resample import resample
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import open_data, read_labelled

RESAMPLES, SEED = 2000, 20261130
LEAST_SHARE = 0.5
"""What is smaller than this share of the smallest instance to learn from is no instance, whatever found it: it is part
of one that the edge of the image cuts off, and references leave those out."""
LEAST_SCORES = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The score from which on an instance counts is the one of these that gives cases to learn from the best quality."""

Method = Callable[[Volume], InstanceSegmentation]


def smallest_ml(data: DataSet) -> float:
    """Return the volume of the smallest instance of the cases to learn from."""
    volumes = []
    for case in (case for case in data.cases if not case.held_out):
        read = read_labelled(case, data)
        if read.instances is None:
            raise SystemExit("the data set does not say its instances")
        counts = np.bincount(read.instances.ravel())[1:]
        volumes += (counts[counts > 0] * read.label.geometry.voxel_ml).tolist()
    return float(min(volumes))


def pair_up(found: InstanceSegmentation, truth: np.ndarray, least_ml: float) -> dict[str, np.ndarray]:
    """Return the IoU (predictions, references) of all pairs, and scores; predictions by falling score."""
    sizes_ml = np.bincount(found.array.ravel()) * found.geometry.voxel_ml
    rows = [row for row in found.detections if sizes_ml[row.value] >= least_ml]
    rows = sorted(rows, key=lambda row: -row.score if np.isfinite(row.score) else -1.0)
    values = [row.value for row in rows]
    n_truth, n_found = int(truth.max()), int(found.array.max())
    both = np.bincount(
        found.array.ravel().astype(np.int64) * (n_truth + 1) + truth.ravel(), minlength=(n_found + 1) * (n_truth + 1)
    )
    both = both.reshape(n_found + 1, n_truth + 1).astype(float)
    present = np.flatnonzero(both.sum(0)[1:]) + 1
    sizes = both.sum(1)[values], both.sum(0)[present]
    shared = both[np.ix_(values, present)]
    iou = shared / (sizes[0][:, None] + sizes[1][None] - shared)
    scores = np.array([row.score if np.isfinite(row.score) else 1.0 for row in rows])
    return {"iou": iou.reshape(len(values), len(present)), "score": scores}


def average_precision(cases: list[dict[str, np.ndarray]], least: float) -> float:
    """Area under the interpolated curve of precision over recall, of all cases' detections together."""
    hits, scores, n_truth = [], [], 0
    for case in cases:
        iou, free = case["iou"], np.ones(case["iou"].shape[1], bool)
        n_truth += len(free)
        for row, score in zip(iou, case["score"], strict=True):
            best = int(np.where(free, row, -1).argmax()) if free.any() else -1
            hit = best >= 0 and bool(free[best]) and row[best] >= least
            if hit:
                free[best] = False
            hits.append(hit)
            scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")
    hit = np.array(hits, float)[order]
    if not len(hit) or not n_truth:
        return 0.0
    recall, precision = np.cumsum(hit) / n_truth, np.cumsum(hit) / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


def summary(cases: list[dict[str, np.ndarray]], least_score: float = 0.5) -> dict[str, float]:
    """Return all figures of some cases; all but the average precisions are of instances with the least score."""
    tp = fp = fn = 0
    ious, counts, whole = [], [], []
    for case in cases:
        kept = case["iou"][case["score"] >= least_score]
        matched = kept[kept > 0.5]  # with an IoU above one half at most one partner is possible
        tp, fp, fn = tp + len(matched), fp + len(kept) - len(matched), fn + kept.shape[1] - len(matched)
        ious += matched.tolist()
        counts.append(abs(len(kept) - kept.shape[1]))
        whole.append(len(matched) == kept.shape[1])
    dice = [2 * x / (1 + x) for x in ious]
    return {
        "AP50": average_precision(cases, 0.5),
        "AP75": average_precision(cases, 0.75),
        "PQ": sum(ious) / max(1e-9, tp + fp / 2 + fn / 2),
        "count_error": float(np.mean(counts)),
        "dice": float(np.mean(dice)) if dice else float("nan"),
        "all_found": float(np.mean(whole)),
    }


def with_interval(cases: list[dict[str, np.ndarray]], least_score: float) -> dict[str, tuple[float, float, float]]:
    """Return each figure with its 95 % interval; cases are of one patient each."""
    rng = np.random.default_rng(SEED)
    drawn = [rng.integers(0, len(cases), len(cases)) for _ in range(RESAMPLES)]
    draws = [summary([cases[i] for i in chosen], least_score) for chosen in drawn]
    found = summary(cases, least_score)
    ends = {name: np.nanpercentile([draw[name] for draw in draws], (2.5, 97.5)) for name in found}
    return {name: (value, float(ends[name][0]), float(ends[name][1])) for name, value in found.items()}


def chosen_score(run: Method, data: DataSet, least_ml: float) -> float:
    """Return the least score that gives the cases to learn from the best panoptic quality."""
    rows = []
    for case in (case for case in data.cases if not case.held_out):
        read = read_labelled(case, data)
        rows.append(pair_up(run(read.volumes[0]), read.instances, least_ml))
    return max(LEAST_SCORES, key=lambda least: summary(rows, least)["PQ"])


def print_bounds(data: DataSet, grids_mm: list[float]) -> None:
    """Print the mean IoU of references put on a grid and back, linearly and cut at one half."""
    print("| grid (mm) | mean IoU | lowest |\n| --- | --- | --- |")
    found: dict[float, list[float]] = {mm: [] for mm in grids_mm}
    for case in (case for case in data.cases if not case.held_out):
        label = read_labelled(case, data).label
        inside = Volume((label.array > 0).astype(np.float32), label.geometry)
        for mm in grids_mm:
            coarse = resample(inside, to=upright_grid(label.geometry, "RAS", (mm, mm, mm)), outside=0)
            seen = Volume((coarse.array > 0.5).astype(np.float32), coarse.geometry)
            back = resample(seen, to=label.geometry, outside=0).array > 0.5
            both, either = back & (inside.array > 0), back | (inside.array > 0)
            found[mm].append(np.count_nonzero(both) / np.count_nonzero(either))
    for mm, values in found.items():
        print(f"| {mm:g} | {np.mean(values):.3f} | {min(values):.3f} |")


def print_memory(models: dict[str, Path | None], image: Path) -> None:
    """Print the peak of a process that runs each model on one image; None reads the image alone."""
    print("| model | peak memory (GB) | processor s |\n| --- | --- | --- |")
    for name, model in models.items():
        ran = subprocess.run([sys.executable, "-c", ONE, str(model or ""), str(image)], capture_output=True, text=True)
        peak, seconds = ran.stdout.split()[-2:] if ran.returncode == 0 else ("nan", "nan")
        print(f"| {name} | {float(peak) / 1e6:.2f} | {float(seconds):.1f} |")


ONE = """
import resource, sys, time
import numpy as np
from voxmetry import Predictor, read_volume
volume = read_volume(sys.argv[2], modality="MR")
began = time.process_time()
if sys.argv[1]:
    predictor = Predictor(sys.argv[1], device="cpu", precision="float32")
    began = time.process_time()
    predictor.instances(volume) if predictor.tells_instances else predictor(volume)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time() - began)
"""


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--root", type=Path, help="folder that the manifest's paths start from")
    parser.add_argument("--mask-rcnn", type=Path)
    parser.add_argument("--semantic", action="append", default=[], help="NAME=MODEL")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--grids-mm", type=float, nargs="+")
    arguments = parser.parse_args()
    data = open_data(arguments.data, root=arguments.root)
    held_out = [case for case in data.cases if case.held_out]
    if arguments.grids_mm:
        print_bounds(data, arguments.grids_mm)
        return
    if arguments.memory:
        named = [item.partition("=")[::2] for item in arguments.semantic]
        models: dict[str, Path | None] = {"none, reads alone": None, **{name: Path(path) for name, path in named}}
        print_memory(
            models | ({"Mask R-CNN": arguments.mask_rcnn} if arguments.mask_rcnn else {}), held_out[0].images[0]
        )
        return
    least_ml = LEAST_SHARE * smallest_ml(data)
    methods: dict[str, Method] = {}
    least_score = 0.5
    if arguments.mask_rcnn:
        methods["Mask R-CNN"] = Predictor(arguments.mask_rcnn, device="cpu").instances
        least_score = chosen_score(methods["Mask R-CNN"], data, least_ml)
    for item in arguments.semantic:
        name, _, path = item.partition("=")
        predictor = Predictor(Path(path), device="cpu")
        for kind in ("components", "watershed"):
            methods[f"{name} + {kind}"] = lambda volume, kind=kind, run=predictor: tell_apart(
                run(volume), kind, min_volume_ml=least_ml
            )
    rows: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for case in held_out:
        read = read_labelled(case, data)
        if read.instances is None:
            raise SystemExit("the data set does not say its instances")
        for name, run in methods.items():
            began = time.process_time()
            found = run(read.volumes[0])
            seconds[name] += time.process_time() - began
            rows[name].append(pair_up(found, read.instances, least_ml))
    table = {name: with_interval(cases, least_score) for name, cases in rows.items()}
    print(f"{len(held_out)} held-out cases, {sum(c['iou'].shape[1] for c in rows[next(iter(rows))])} instances")
    print(f"without what is smaller than {least_ml:.1f} mL, {LEAST_SHARE:g} of the smallest instance to learn from")
    print(f"Mask R-CNN: from a score of {least_score:g}, the best for the cases to learn from")
    print("| method | " + " | ".join(next(iter(table.values()))) + " | processor s a case |")
    for name, figures in table.items():
        cells = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in figures.values()]
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds[name] / len(held_out):.1f} |")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, all models together")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
