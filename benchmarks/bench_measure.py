"""Measure and compare a whole-body label map: how long it takes, and how much memory on top of the maps.

    python benchmarks/bench_measure.py --shape 512 512 600 --labels 120 --lesions 400

The map is made: ellipsoids of all sizes as organs, small ones of one label as lesions, the reference the same moved by
(1, 1, 0) voxels; CT noise as the image. Nothing of it is a patient's. Linux only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voxmetry import Geometry, Label, LabelTable, Segmentation, Volume, compare, lesions, measure


def make(shape: tuple[int, int, int], n_labels: int, n_lesions: int) -> tuple[np.ndarray, LabelTable]:
    """Draw ellipsoids into a map that is stored as NIfTI files are, the first axis fastest."""
    rng = np.random.default_rng(0)
    array = np.zeros(shape, np.uint8 if n_labels < 255 else np.uint16, order="F")
    radii = [np.array(shape) * rng.uniform(0.02, 0.11, 3) for _ in range(n_labels)]
    radii += [rng.uniform(1.5, 6, 3) for _ in range(n_lesions)]
    for number, radius in enumerate(radii, start=1):
        centre = rng.uniform(radius + 1, np.array(shape) - radius - 2)
        low, high = np.floor(centre - radius).astype(int), np.ceil(centre + radius).astype(int) + 1
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        i, j, k = np.ogrid[box]
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip((i, j, k), centre, radius, strict=True)) <= 1
        array[box][inside] = min(number, n_labels + 1)
    labels = [Label(value=n, name=f"organ {n}", colour="#E69F00") for n in range(1, n_labels + 1)]
    lesion = Label(value=n_labels + 1, name="lesion", colour="#56B4E9", kind="lesion")
    return array, LabelTable(labels=(*labels, lesion))


def resident_mb(line: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{line}:")[1].split()[0]) * 1024 / 1e6


def timed(name: str, function: Callable[[], object], map_mb: float) -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, wall, cpu = resident_mb("VmRSS"), time.perf_counter(), time.process_time()
    found = function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    extra = resident_mb("VmHWM") - before
    rows = len(found) if isinstance(found, tuple) else 1
    print(f"| {name} | {rows} | {wall:.1f} | {cpu:.1f} | {extra:.0f} ({extra / map_mb:.1f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, type=int, default=(512, 512, 600))
    parser.add_argument("--labels", type=int, default=120)
    parser.add_argument("--lesions", type=int, default=400)
    options = parser.parse_args()
    shape = tuple(options.shape)
    array, table = make(shape, options.labels, options.lesions)
    grid = Geometry(np.diag([0.8, 0.8, 1.5, 1.0]), shape)
    moved = np.zeros_like(array)
    moved[1:, 1:] = array[:-1, :-1]
    segmentation, reference = Segmentation(array, grid, table), Segmentation(moved, grid, table)
    noise = np.random.default_rng(1).integers(-100, 300, (64, 64, 64), np.int16)
    image = Volume(np.tile(noise, [-(-n // 64) for n in shape])[: shape[0], : shape[1], : shape[2]], grid, "HU")
    map_mb = array.nbytes / 1e6
    print(f"{' x '.join(map(str, shape))} voxels, {len(table)} labels, {map_mb:.0f} MB a map\n")
    print("| what | rows | seconds | CPU seconds | peak extra memory, MB (maps) |\n|---|---|---|---|---|")
    timed("measure, with intensities", lambda: measure(segmentation, image), map_mb)
    timed("lesions, with organs", lambda: lesions(segmentation, image, organs=segmentation), map_mb)
    timed("compare", lambda: compare(prediction=segmentation, reference=reference), map_mb)


if __name__ == "__main__":
    main()
