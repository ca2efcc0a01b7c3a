"""How long a report takes to open: size of the page, time to its first paint and until its viewer is ready.

    python benchmarks/bench_report.py --ct DATA/ct-multiorgan --json report-bench.json

Pages are written for the demo's region, for the CT slab with 41 structures of `data/README.md`, and for the whole
CT with the same structures, interpolated to finer voxels. Headless Chromium opens each from disk with WebGL rendered
by software, so that a machine with a graphics card is quicker. Figures are medians over the repeats, each in a new
browser process; the milliseconds count from the start of the navigation, with the viewer in sight at once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import voxmetry as vx
from voxmetry.core.records import Provenance, SourceInfo
from voxmetry.demo import run_demo
from voxmetry.measurement import DEFINITIONS
from voxmetry.workflows.provenance import package_versions

ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]


def report_of_labels(image: vx.Volume, labels: vx.Segmentation, path: Path) -> float:
    """Write the report of labels that no model of ours made; return the seconds that it took."""
    grid = image.geometry
    result = vx.StudyResult(
        source=SourceInfo(
            format="NIfTI",
            modality="CT",
            unit=image.unit,
            shape=grid.shape,
            spacing_mm=grid.spacing_mm,
            axcodes=grid.axcodes,
        ),
        labels=labels.labels,
        measurements=vx.measure(labels, image),
        lesions=vx.lesions(labels, image),
        definitions=dict(DEFINITIONS),
        provenance=Provenance(
            voxmetry_version=vx.__version__,
            packages=package_versions(),
            python=platform.python_version(),
            platform=platform.system(),
            model="given-labels",
            model_version="1",
            weights_sha256="",
            settings={},
            device="cpu",
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds={"total": 0.0},
            peak_memory_mb=float("nan"),
        ),
    )
    begin = time.perf_counter()
    vx.write_report(result, path, volume=image, segmentation=labels)
    return time.perf_counter() - begin


def finer(image: vx.Volume, labels: vx.Segmentation, times: int) -> tuple[vx.Volume, vx.Segmentation]:
    """Interpolate to voxels of a fraction of the size."""
    grid = image.geometry
    affine = grid.affine @ np.diag([1 / times, 1 / times, 1 / times, 1.0])
    fine = vx.Geometry(affine, (grid.shape[0] * times, grid.shape[1] * times, grid.shape[2] * times))
    return vx.resample(image, to=fine), vx.resample(labels, to=fine)


def ct_studies(folder: Path, times: int) -> Iterator[tuple[vx.Volume, vx.Segmentation]]:
    """Yield the labelled slab, then the whole CT at finer voxels."""
    labels = vx.read_segmentation(folder / "example_seg.nii.gz")
    yield vx.read_volume(folder / "example_ct_sm.nii.gz", modality="CT"), labels
    whole = vx.read_volume(folder / "example_ct.nii.gz", modality="CT")
    yield finer(whole, vx.resample(labels, to=whole.geometry), times)


def open_page(path: Path, executable: str | None) -> dict[str, float]:
    """Open a page in a new browser and return milliseconds from the start of the navigation."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri() + "#viewer-section")
        page.wait_for_selector("#viewer[data-state]", timeout=120_000, state="attached")
        state = page.get_attribute("#viewer", "data-state")
        if state != "ready":
            raise SystemExit(f"{path.name}: the viewer is {state}")
        page.wait_for_selector("#viewer[data-surfaces]", timeout=120_000, state="attached")
        marks: dict[str, float] = page.evaluate(
            """() => {
              const at = (name) => performance.getEntriesByName(name)[0]?.startTime ?? NaN;
              return { first_paint_ms: at("first-contentful-paint"), viewer_ms: at("viewer-ready"),
                       complete_ms: at("viewer-complete") };
            }"""
        )
        browser.close()
    return marks


def bench(name: str, path: Path, seconds: float, repeats: int, executable: str | None) -> dict[str, Any]:
    """Return the row of one page."""
    runs = [open_page(path, executable) for _ in range(repeats)]
    row: dict[str, Any] = {"page": name, "megabytes": path.stat().st_size / 1e6, "write_seconds": seconds}
    return row | {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Write the pages, open them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, help="folder of the CT with 41 structures")
    parser.add_argument("--finer", type=int, default=4, help="how many times finer the whole-body CT is")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        demo = run_demo(root / "demo")
        pages = {"demo, 36 x 52 x 36": (root / "demo" / "report.html", demo.provenance.seconds.get("write", np.nan))}
        if options.ct:
            for image, labels in ct_studies(options.ct, options.finer):
                path = root / f"ct-{len(pages)}.html"
                seconds = report_of_labels(image, labels, path)
                size = " x ".join(map(str, image.geometry.shape))
                pages[f"CT, {len(np.unique(labels.array)) - 1} structures, {size}"] = (path, seconds)
        for name, (path, seconds) in pages.items():
            rows.append(bench(name, path, seconds, options.repeats, executable))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stdout.write("| page | MB | first paint, ms | slices ready, ms | surfaces too, ms |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    for row in rows:
        sys.stdout.write(
            f"| {row['page']} | {row['megabytes']:.2f} | {row['first_paint_ms']:.0f} | {row['viewer_ms']:.0f} "
            f"| {row['complete_ms']:.0f} |\n"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
