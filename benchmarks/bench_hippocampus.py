"""Accuracy and seconds of a hippocampus model on the cases that it did not see, by the command's own path.

    python benchmarks/bench_hippocampus.py DATA/hippocampus-mr --model RUNS/hippocampus-mr/fold-0/model [--json]

Each held-out case (of the model's split.json) goes through `segment_study` with its label as the reference:
reading, network, restoring, post-processing, measuring, comparing and the report. The bundled weights have seen all
201 cases: name the model of a fold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from voxmetry import StudyResult, load_model, segment_study
from voxmetry.models import find_model

FIELDS = ("dice", "hausdorff_mm", "hd95_mm", "assd_mm", "surface_dice")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--model", required=True, help="model folder of a fold")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = held_out(arguments.model)
    model = load_model(arguments.model, device=arguments.device)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            image, label = (arguments.data / part / f"{name}.nii.gz" for part in ("images", "labels"))
            results[name] = segment_study(image, Path(scratch) / name, model, reference=label)
    table = summary(results, model.spec.labels.names)
    print(json.dumps(table, indent=1) if arguments.json else as_text(table))


def held_out(model: str) -> list[str]:
    """Names of the cases that a model was not trained on, by its split.json."""
    names = json.loads((find_model(model) / "split.json").read_text())["validation"]
    if not names:
        raise SystemExit(f"{model} was trained on all cases: name the model of a fold, such as RUNS/NAME/fold-0/model")
    return names


def summary(results: dict[str, StudyResult], labels: tuple[str, ...]) -> dict:
    """Mean and lowest of each structure, the seconds of a case, and the cases that were flagged."""
    structures = {}
    for label in labels:
        rows = {name: next(r for r in result.comparisons if r.label == label) for name, result in results.items()}
        structures[label] = {field: statistics.fmean(getattr(row, field) for row in rows.values()) for field in FIELDS}
        worst = min(rows, key=lambda name, rows=rows: rows[name].dice)
        structures[label] |= {"dice_lowest": rows[worst].dice, "dice_lowest_case": worst}
    seconds = [result.provenance.seconds for result in results.values()]
    return {
        "cases": len(results),
        "structures": structures,
        "seconds_median": {step: statistics.median(s[step] for s in seconds) for step in ("network", "total")},
        "flagged": sorted(name for name, result in results.items() if result.needs_review),
    }


def as_text(table: dict) -> str:
    """Spell the summary as the table that README and the model card show."""
    lines = [
        f"{table['cases']} held-out cases",
        "",
        "| structure | Dice | lowest Dice | Hausdorff mm | HD95 mm | ASSD mm | surface Dice 1 mm |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, row in table["structures"].items():
        distances = f"{row['hausdorff_mm']:.2f} | {row['hd95_mm']:.2f} | {row['assd_mm']:.3f}"
        lowest = f"{row['dice_lowest']:.4f} ({row['dice_lowest_case']})"
        lines.append(f"| {label} | {row['dice']:.4f} | {lowest} | {distances} | {row['surface_dice']:.4f} |")
    seconds = table["seconds_median"]
    lines += [
        "",
        f"median seconds a case without writing: {seconds['total']:.2f}, of which network {seconds['network']:.2f}",
        f"flagged for review: {', '.join(table['flagged']) or 'none'}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
