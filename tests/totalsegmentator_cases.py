"""Cases of TotalSegmentator's ways: which parts, which voxel size, which crop. Facts of `models/catalogue.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import yaml

import totalsegmentator_folders

CATALOGUE = Path(__file__).parents[1] / "src" / "voxmetry" / "models" / "catalogue.yaml"
IMAGE = {"shape": (56, 50, 34), "spacing": (1.1, 1.3, 2.1)}
COARSE = {"shape": (72, 64, 40), "spacing": (1.4, 1.4, 2.5)}


LIFTED = ("liver", "lung_lower_lobe_left")


def _cases() -> dict[str, dict[str, Any]]:
    content = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in content["models"]}
    cases = {}
    for name, image in (
        ("totalsegmentator-ct", IMAGE),
        ("totalsegmentator-ct-3mm", COARSE),
        ("totalsegmentator-ct-6mm", COARSE),
        ("totalsegmentator-mr", IMAGE),
        ("liver-segments-ct", COARSE),
        ("lung-vessels-ct", COARSE),
    ):
        entry = entries[name]
        labels = content["tables"][entry["table"]] if "table" in entry else entry["labels"]
        value_of = {label: value for value, label in enumerate(labels, start=1)}
        parts = []
        for seed, part in enumerate(entry["parts"]):
            given = part.get("labels", labels)
            values = {value: value_of[label] for value, label in enumerate(given, start=1)}
            parts.append({"folder": part["folder"], "labels": given, "values": values, "seed": seed + len(labels)})
        case = {"image": image, "resample_mm": entry["resample_mm"], "parts": parts, "modality": entry["modality"]}
        case["step"] = 1 - entry["parts"][0].get("overlap", 0.5)
        if "crop" in entry:
            table = content["tables"][entries[entry["crop"]["model"]]["table"]]
            crop = entry["crop"]
            values = [table.index(label) + 1 for label in crop["structures"]]
            case["crop"] = {"case": crop["model"], "values": values, "margin_mm": crop["margin_mm"]}
        cases[name] = case
    return cases


CASES = _cases()


def write(folder: Path, name: str) -> None:
    """Write the model folders of a case, those of the case that it crops by, and the image."""
    case = CASES[name]
    if "crop" in case:
        write(folder, case["crop"]["case"])
    for part in case["parts"]:
        totalsegmentator_folders.write_part(
            folder,
            part["folder"],
            part["labels"],
            case["resample_mm"][::-1],
            seed=part["seed"],
            lifted=[label for label in LIFTED if label in part["labels"] and name.endswith("mm")],
            channel=case["modality"] if case["modality"] == "CT" else "MRI",
        )
    nibabel.save(totalsegmentator_folders.image(**case["image"]), folder / "image.nii.gz")
