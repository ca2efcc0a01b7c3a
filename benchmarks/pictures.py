"""Make the pictures of docs/how-to/report.md.

    python benchmarks/pictures.py --data DATA

Writes the report of the demo and, with DATA (see data/README.md), that of a sarcoma on PET/CT with its change since a
made-up earlier study; takes screenshots with headless Chromium (desktop, dark, phone) and turns what it prints and the
PDF into pictures (needs pdftoppm). Look at each of them before it is committed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

import voxmetry as vx
from voxmetry.config import StudySettings
from voxmetry.demo import run_demo
from voxmetry.report.viewer import overview
from voxmetry.workflows.report import Wishes, rewrite_report

CASE = "STS_003"
ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]


def sarcoma(data: Path, root: Path) -> Path:
    """Segment a case, and hold it against an earlier study that is the same one with a smaller tumour, 8 mm off."""
    case = data / "sarcoma" / CASE
    paths = [case / "CT_image.nii.gz", case / "PET_image.nii.gz"]
    settings = StudySettings(unit="SUVbw", device="cpu")
    now = vx.segment_study(paths, root / "sarcoma", "sarcoma-petct", settings=settings)
    segmentation = vx.read_segmentation(root / "sarcoma" / "seg.nii.gz", labels=now.labels)
    smaller = ndimage.binary_erosion(segmentation.array > 0, iterations=3).astype(np.uint8)
    volume = vx.read_volume(paths[0], modality="CT")
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += (5.0, -5.0, 4.0)
    there = vx.Geometry(affine, volume.geometry.shape)
    image, mask = vx.Volume(volume.array, there, volume.unit), vx.Segmentation(smaller, there, now.labels)
    earlier = now.model_copy(
        update={
            "measurements": vx.measure(mask, image),
            "lesions": vx.lesions(mask, image, organs=mask),
            "others": (),
            "flags": (),
            "provenance": now.provenance.model_copy(update={"started": "2026-05-04T09:30:00+00:00"}),
        }
    )
    prior = root / "prior"
    prior.mkdir()
    (prior / "result.json").write_text(earlier.model_dump_json(), encoding="utf-8")
    vx.save(mask, prior / "seg.nii.gz")
    vx.save(overview(image), prior / "overview.nii.gz")
    out = root / "sarcoma-change"
    shutil.copytree(root / "sarcoma", out)
    rewrite_report(out, prior=prior, overwrite=True)
    return out


def save(png: bytes, path: Path) -> None:
    """Write a picture with a palette, which makes it smaller in the repository."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)


@contextmanager
def opened(browser: Any, page: Path, width: int, height: int, **context: Any) -> Iterator[Any]:
    """Open a page with its viewer ready."""
    made = browser.new_context(viewport={"width": width, "height": height}, **context)
    tab = made.new_page()
    tab.set_default_timeout(180_000)
    tab.goto(page.as_uri())
    tab.locator("#viewer-section").scroll_into_view_if_needed()
    tab.wait_for_selector("#viewer[data-surfaces]", state="attached")
    tab.evaluate("scrollTo(0, 0)")
    yield tab
    made.close()


def pdf_pages(path: Path, out: Path, name: str, most: int) -> None:
    """Turn the first pages of a PDF into pictures."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["pdftoppm", "-r", "80", "-png", "-l", str(most), path, f"{folder}/page"], check=True)
        for number, page in enumerate(sorted(Path(folder).iterdir()), start=1):
            save(page.read_bytes(), out / f"{name}-{number}.png")


def shoot(browser: Any, folder: Path, out: Path, name: str) -> None:
    """Take the pictures of one run's report."""
    page = folder / "report.html"
    with opened(browser, page, 1280, 1500) as tab:
        save(tab.screenshot(), out / f"{name}-desktop.png")
        tab.pdf(path=folder / "printed.pdf", format="A4")
    with opened(browser, page, 1280, 1500, color_scheme="dark") as tab:
        save(tab.screenshot(), out / f"{name}-dark.png")
    with opened(browser, page, 390, 1600, is_mobile=True, has_touch=True) as tab:
        save(tab.screenshot(), out / f"{name}-phone.png")
    pdf_pages(folder / "printed.pdf", out, f"{name}-print", 2)
    pdf_pages(rewrite_report(folder, Wishes(pdf=True), overwrite=True), out, f"{name}-pdf", 2)


def shoot_parts(browser: Any, folder: Path, out: Path) -> None:
    """Take pictures of what a first screen does not show: the viewer with the PET, and the change since the prior."""
    with opened(browser, folder / "report.html", 1280, 1000) as tab:
        tab.locator("#viewer-where").filter(has_text="SUV").wait_for()
        save(tab.locator("#viewer-section").screenshot(), out / "viewer-petct.png")
        save(tab.locator("section:has(> #change)").screenshot(), out / "report-change.png")


def main() -> None:
    """Make all pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data/README.md; without it the demo alone")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        root = Path(folder)
        run_demo(root / "demo")
        shoot(browser, root / "demo", options.out, "report")
        if options.data:
            changed = sarcoma(options.data, root)
            shoot(browser, root / "sarcoma", options.out, "sarcoma-petct")
            shoot_parts(browser, changed, options.out)
        browser.close()


if __name__ == "__main__":
    main()
