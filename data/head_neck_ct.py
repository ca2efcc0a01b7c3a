"""Write the manifest of the head-and-neck CT data set from its table of contoured organs.

    python data/head_neck_ct.py FOLDER/head-neck-ct > configs/data/head-neck-ct.yaml

An empty cell of `labelled.csv` is an organ that was not contoured, not one that is absent; a number is the share of it
that lies in the image. Patients of `validation-pats` are held out.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

NAMES = {
    "Brainstem": "brainstem",
    "SpinalCord": "spinal_cord",
    "RightParotid": "parotid_gland_right",
    "LeftParotid": "parotid_gland_left",
    "Esophagus": "esophagus",
    "Larynx": "larynx",
    "Mandible": "mandible",
}
TUBES = ("spinal_cord", "esophagus")
"""Contoured part of the way down: unknown below the lowest contoured slice."""


def manifest(table: Path) -> str:
    """Return the manifest for a `labelled.csv`."""
    lines = [
        "# Head-and-neck planning CT, 197 patients: voxmetry data check configs/data/head-neck-ct.yaml",
        "# Written by data/head_neck_ct.py from labelled.csv. known: the organs that were contoured in a case.",
        "name: head-neck-ct",
        "root: head-neck-ct # relative to this file or to VOXMETRY_DATA",
        "channels:",
        '  - {name: ct, modality: CT, path: "images/{case}.nii.gz"}',
        'label: "labels/{case}.nii.gz"',
        "labels: {" + ", ".join(f"{value}: {name}" for value, name in enumerate(NAMES.values(), start=1)) + "}",
        f"unknown_below: [{', '.join(TUBES)}]",
        "cases:",
    ]
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            known = ", ".join(name for column, name in NAMES.items() if row[column])
            held_out = ", held_out: true" if row["split"] == "validation-pats" else ""
            lines.append(f"  - {{case: {row['case']}, known: [{known}]{held_out}}}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manifest(Path(sys.argv[1]) / "labelled.csv"))
