"""Run the notebooks; as a script, run them all and save them with their outputs: python tests/notebooks.py."""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = tuple(sorted((ROOT / "notebooks").glob("*.ipynb")))


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook from its first cell to its last in `folder`, with this checkout's package; an error ends it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=1800,
        startup_timeout=600,
        iopub_timeout=300,  # of outputs that come after the reply; beyond it they are lost without a word
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore"}
    client.execute(env=environment)
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """All outputs of all cells."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shrink_pictures(notebook: nbformat.NotebookNode) -> None:
    """Give each picture a palette, which makes it smaller in the repository."""
    for output in outputs(notebook):
        data = output.get("data", {})
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
            out = io.BytesIO()
            # By coverage, so that the few pixels of an outline keep their colour among all the grey.
            small = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            small.save(out, format="PNG", optimize=True)
            data["image/png"] = base64.b64encode(out.getvalue()).decode()


def main() -> None:
    """Run all notebooks and save them."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        shrink_pictures(notebook)
        # Which Python and which IPython saved it is no part of what it says.
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
