"""Seconds to write a DICOM segmentation of many segments on many slices, and to read it back; beside highdicom alone.

python benchmarks/bench_dicom_seg.py [--segments 100] [--slices 500] [--size 512] [--runs 3] [--peer]

The segments are boxes of an eighth of the slice on 60 slices each. Prints the table of
docs/how-to/dicom-output.md in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom

import voxmetry
from voxmetry import Geometry, LabelTable, Segmentation, Volume, read_segmentation, read_volume
from voxmetry.io import write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.seg_write import write_seg


def case(folder: Path, segments: int, slices: int, size: int) -> tuple[Volume, Segmentation]:
    """Write a CT series, water in air, and make boxes on it."""
    affine = np.diag([-0.7, -0.7, 1.0, 1.0])
    grid = Geometry(affine, (size, size, slices), "1.2.826.0.1.3680043.8.498.7")
    image = np.full(grid.shape, -1000, np.int16)
    image[size // 8 : -size // 8, size // 8 : -size // 8] = 0
    write_series(Volume(image, grid, "HU"), folder / "ct", modality="CT")
    volume = read_volume(folder / "ct")
    array = np.zeros(grid.shape, np.uint8, order="F")
    random, edge, depth = np.random.default_rng(0), size // 8, min(60, slices // 2)
    for value in range(1, segments + 1):
        i, j = random.integers(0, size - edge, 2)
        k = random.integers(0, slices - depth)
        array[i : i + edge, j : j + edge, k : k + depth] = value
    table = LabelTable.from_names({value: f"structure {value}" for value in range(1, segments + 1)})
    return volume, Segmentation(array, volume.geometry, table)


def by_highdicom(volume: Volume, segmentation: Segmentation, path: Path) -> None:
    """Write the same with highdicom's constructor alone."""
    source = read_source(volume)
    codes = pydicom.sr.codedict.codes
    present = [label for label in segmentation.labels if (segmentation.array == label.value).any()]
    described = [
        highdicom.seg.SegmentDescription(n, x.name, codes.SCT.Organ, codes.SCT.Organ, "MANUAL")
        for n, x in enumerate(present, start=1)
    ]
    numbers = np.zeros(256, np.uint8)
    numbers[[x.value for x in present]] = range(1, len(present) + 1)
    dataset = highdicom.seg.Segmentation(
        [copy.copy(header) for header in source.headers],
        np.ascontiguousarray(numbers[segmentation.array].transpose(2, 1, 0)),
        "BINARY",
        described,
        *(pydicom.uid.generate_uid(), 1, pydicom.uid.generate_uid(), 1, "-", "-", "-", "-"),
    )
    dataset.save_as(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("segments", 100), ("slices", 500), ("size", 512), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peer", action="store_true", help="highdicom's constructor alone as well (minutes)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{given.segments} segments, {given.slices} slices of {given.size} x {given.size}, {given.runs} runs; "
        f"voxmetry {voxmetry.__version__}, highdicom {highdicom.__version__}, pydicom {pydicom.__version__}, "
        f"Python {sys.version.split()[0]}\n\n| job | median s | min s | processor s |\n| --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given)


def run(folder: Path, given: argparse.Namespace) -> None:
    """Print a row for each job."""
    volume, truth = case(folder, given.segments, given.slices, given.size)
    source, path = read_source(volume), folder / "seg.dcm"
    origin = Origin("manual")
    jobs = {
        "write, binary": lambda: write_seg(truth, source, path, origin=origin),
        "read it back": lambda: read_segmentation(path, image=volume),
        "write, label map": lambda: write_seg(truth, source, path, origin=origin, kind="labelmap"),
        "read it back, label map": lambda: read_segmentation(path, image=volume),
    }
    if given.peer:
        jobs["write, binary, highdicom alone"] = lambda: by_highdicom(volume, truth, folder / "peer.dcm")
    for name, job in jobs.items():
        seconds, processor = [], []
        for _ in range(1 if "alone" in name else given.runs):
            begin, before = time.perf_counter(), time.process_time()
            job()
            seconds.append(time.perf_counter() - begin)
            processor.append(time.process_time() - before)
        row = (statistics.median(seconds), min(seconds), statistics.median(processor))
        print(f"| {name} | {' | '.join(f'{x:.2f}' for x in row)} |", flush=True)
    back = read_segmentation(path, image=volume)
    print(f"\nread back equal: {bool((back.array == truth.array).all())}")


if __name__ == "__main__":
    main()
