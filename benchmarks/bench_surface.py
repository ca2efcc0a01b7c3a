"""Surface distances of all structures of a multi-organ map, against MONAI and surface-distance on the same machine.

    python benchmarks/bench_surface.py --sizes small large --repeats 3

The map is data/ct-multiorgan/example_seg.nii.gz (41 structures), each structure interpolated linearly to a larger grid.
The prediction is the map shifted by (2, 1, -2) voxels, with 70 % of the voxels at the structures' borders and 0.02 % of
all voxels taken away at random. Asked for together: Hausdorff, HD95, average symmetric surface distance and surface
Dice at 1 mm of every structure. Each contender runs in a process of its own; the time is the median over the repeats
without reading the arrays (MONAI runs once), the ratios are against this package with the peer's definition of a
surface, the memory is the growth of the peak resident set over the two loaded
maps. Linux only.

`cropped`: the peer is handed the box round each structure, cut out beforehand at no cost, in place of the whole map.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = {"tiny": (122, 101, 90), "small": (366, 303, 336), "large": (512, 512, 300)}
SPACING_MM = (0.8, 0.8, 1.5)
DATA = Path(os.environ.get("VOXMETRY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
PRESENT = np.zeros(256, bool)
Numbers = dict[int, tuple[float, float, float, float]]


def upsample(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Interpolate each structure linearly and give each voxel to the one with the largest share, half at least."""
    from scipy.ndimage import find_objects

    best, out = np.full(shape, 0.5, np.float32), np.zeros(shape, np.uint8)
    factor = np.array(shape) / array.shape
    for value, box in enumerate(find_objects(array), start=1):
        if box is None:
            continue
        low = [max(0, part.start - 1) for part in box]
        high = [min(n, part.stop + 1) for part, n in zip(box, array.shape, strict=True)]
        share = (array[tuple(map(slice, low, high))] == value).astype(np.float32)
        target = []
        for axis in range(3):
            first, last = int(low[axis] * factor[axis]), min(shape[axis], int(np.ceil(high[axis] * factor[axis])))
            target.append(slice(first, last))
            where = np.clip((np.arange(first, last) + 0.5) / factor[axis] - 0.5 - low[axis], 0, share.shape[axis] - 1)
            below = np.floor(where).astype(int)
            above = np.minimum(below + 1, share.shape[axis] - 1)
            part = (where - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            share = np.take(share, below, axis) * (1 - part) + np.take(share, above, axis) * part
        region = tuple(target)
        wins = (share > best[region]) | ((share >= 0.5) & (out[region] == 0))
        best[region][wins] = share[wins]
        out[region][wins] = value
    return out


def disturb(array: np.ndarray) -> np.ndarray:
    """Shift, erode and speckle."""
    rng = np.random.default_rng(0)
    out = np.zeros_like(array)
    out[2:, 1:, :-2] = array[:-2, :-1, 2:]
    border = np.zeros(out.shape, bool)
    for axis in range(3):
        differs = np.diff(out, axis=axis) != 0
        for part in (slice(1, None), slice(None, -1)):
            border[tuple(part if a == axis else slice(None) for a in range(3))] |= differs
    out[border & (rng.random(out.shape, dtype=np.float32) < 0.7)] = 0
    out[rng.random(out.shape, dtype=np.float32) < 2e-4] = 0
    return out


def voxmetry_elements(p: np.ndarray, r: np.ndarray, workers: int) -> Numbers:
    return _voxmetry(p, r, workers, "elements")


def voxmetry_border_voxels(p: np.ndarray, r: np.ndarray, workers: int) -> Numbers:
    return _voxmetry(p, r, workers, "border voxels")


def _voxmetry(p: np.ndarray, r: np.ndarray, workers: int, kind: str) -> Numbers:
    from voxmetry import Geometry, LabelTable, Segmentation
    from voxmetry.measurement import distance as m

    grid = Geometry(np.diag([*SPACING_MM, 1.0]), r.shape)
    values = [value for value in range(1, 256) if PRESENT[value]]
    table = LabelTable.from_names({value: f"structure {value}" for value in values})
    found = m.surface_distances(
        prediction=Segmentation(p, grid, table),
        reference=Segmentation(r, grid, table),
        pairs=[(value, value) for value in values],
        kind=kind,
        workers=workers,
    )
    return {
        value: (
            m.hausdorff_distance_mm(d),
            m.hausdorff_distance_mm(d, 95),
            m.average_symmetric_surface_distance_mm(d),
            m.surface_dice(d, 1.0),
        )
        for value, d in zip(values, found, strict=True)
    }


def surface_distance(p: np.ndarray, r: np.ndarray, workers: int, crop: bool = False) -> Numbers:  # noqa: ARG001
    import surface_distance as s

    numbers = {}
    for value, a, b in _masks(p, r, crop):
        d = s.compute_surface_distances(b, a, SPACING_MM)
        numbers[value] = (
            s.compute_robust_hausdorff(d, 100),
            s.compute_robust_hausdorff(d, 95),
            float(np.mean(s.compute_average_surface_distance(d))),
            s.compute_surface_dice_at_tolerance(d, 1.0),
        )
    return numbers


def monai(p: np.ndarray, r: np.ndarray, workers: int, crop: bool = False) -> Numbers:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    torch.set_num_threads(workers)
    numbers = {}
    for value, a, b in _masks(p, r, crop):
        x, y = (torch.from_numpy(mask)[None, None] for mask in (a, b))
        both = {"include_background": True, "spacing": SPACING_MM}
        numbers[value] = (
            float(compute_hausdorff_distance(x, y, **both)),
            float(compute_hausdorff_distance(x, y, percentile=95, **both)),
            float(compute_average_surface_distance(x, y, symmetric=True, **both)),
            float(compute_surface_dice(x, y, class_thresholds=[1.0], **both)),
        )
    return numbers


def surface_distance_cropped(p: np.ndarray, r: np.ndarray, workers: int) -> Numbers:
    return surface_distance(p, r, workers, crop=True)


def monai_cropped(p: np.ndarray, r: np.ndarray, workers: int) -> Numbers:
    return monai(p, r, workers, crop=True)


def _masks(p: np.ndarray, r: np.ndarray, crop: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    from scipy.ndimage import find_objects

    boxes = zip(find_objects(p), find_objects(r), strict=True)
    for value, pair in enumerate(boxes, start=1):
        if pair[1] is None:
            continue
        region = tuple(
            slice(max(0, min(a.start, b.start) - 1), max(a.stop, b.stop) + 1) for a, b in zip(*pair, strict=True)
        )
        part = region if crop else ...
        yield value, p[part] == value, r[part] == value


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray, int], Numbers]] = {
    "voxmetry, elements": voxmetry_elements,
    "voxmetry, border voxels": voxmetry_border_voxels,
    "surface-distance": surface_distance,
    "surface-distance, cropped": surface_distance_cropped,
    "MONAI": monai,
    "MONAI, cropped": monai_cropped,
}


def resident_mb(line: str) -> float:
    """Resident memory of this process now (VmRSS) or at its peak (VmHWM), in 10^6 bytes."""
    # The peak that getrusage gives is inherited from the parent process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{line}:")[1].split()[0]) * 1024 / 1e6


def run_one(folder: Path, name: str, workers: int) -> None:
    """Run one contender once on the saved maps and print what came out as JSON."""
    tiny = np.zeros((8, 8, 8), np.uint8)
    tiny[2:5, 2:5, 2:5] = PRESENT[1] = 1
    CONTENDERS[name](tiny, tiny, workers)  # imports, tables and caches are paid for here
    p, r = np.load(folder / "p.npy"), np.load(folder / "r.npy")
    for plane in r:
        PRESENT[plane] = True
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back
    before = resident_mb("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    numbers = CONTENDERS[name](p, r, workers)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "extra_mb": resident_mb("VmHWM") - before,
                "numbers": list(numbers.values()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=sorted(SHAPES), default=["small"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=sorted(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds ct-multiorgan")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(Path(options.one[0]), options.one[1], options.workers)
        return
    import nibabel

    source = np.asarray(nibabel.load(options.data / "ct-multiorgan" / "example_seg.nii.gz").dataobj).astype(np.uint8)
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "monai", "torch")}
    versions["surface-distance"] = importlib.metadata.version("surface-distance")
    print(f"{platform.processor() or platform.machine()}, {options.workers} threads, {versions}\n")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            reference = upsample(source, SHAPES[size])
            np.save(Path(folder) / "r.npy", reference)
            np.save(Path(folder) / "p.npy", disturb(reference))
            report(reference, Path(folder), options)


def report(reference: np.ndarray, folder: Path, options: argparse.Namespace) -> None:
    """Run all contenders in turn and print the table of one size."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for repeat in range(options.repeats):
        for name in options.only:
            if repeat and name.startswith("MONAI"):
                continue
            command = [sys.executable, __file__, "--one", str(folder), name, "--workers", str(options.workers)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    shape = " x ".join(map(str, reference.shape))
    print(f"{shape} voxels, {len(np.unique(reference)) - 1} structures, {reference.nbytes / 1e6:.0f} MB a map")
    print(
        "| | seconds (median, min-max) | ratio | CPU seconds | ratio | peak extra memory, maps "
        "| mean HD, HD95, ASSD mm, surface Dice |"
    )
    print("|---|---|---|---|---|---|---|")
    medians = {
        name: tuple(statistics.median(result[what] for result in results) for what in ("seconds", "cpu"))
        for name, results in runs.items()
    }
    for name, results in runs.items():
        seconds = [result["seconds"] for result in results]
        cpu = statistics.median(result["cpu"] for result in results)
        memory = statistics.median(result["extra_mb"] for result in results) * 1e6 / reference.nbytes
        means = ", ".join(f"{x:.3f}" for x in np.mean(np.array(results[0]["numbers"]), axis=0))
        time_s = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        # Each peer against the same definition of a surface.
        own = "voxmetry, border voxels" if name.startswith("MONAI") else "voxmetry, elements"
        wall_x, cpu_x = (
            f"{a / b:.1f}" if own in medians and not name.startswith("voxmetry") else ""
            for a, b in zip(medians[name], medians.get(own, (1.0, 1.0)), strict=True)
        )
        print(f"| {name} | {time_s} | {wall_x} | {cpu:.2f} | {cpu_x} | {memory:.1f} | {means} |")
    print(flush=True)


if __name__ == "__main__":
    main()
