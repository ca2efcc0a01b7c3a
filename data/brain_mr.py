"""Write the manifest of the ten T1 brains with MUSE regions, for the validation of brain-mr.

    python data/brain_mr.py FOLDER/brain-mr > configs/data/brain-mr.yaml

Regions are joined to the structures of the model; what lies across the mid-plane and has no side (corpus callosum,
vermis), and the basal forebrain, which the model does not have, are ignored. All cases are held out.
"""

from __future__ import annotations

import sys
from pathlib import Path

SIDED = {  # right and left
    "hippocampus": (47, 48),
    "thalamus": (59, 60),
    "lateral_ventricle": (51, 52),
    "inferior_lateral_ventricle": (49, 50),
    "caudate": (36, 37),
    "putamen": (57, 58),
    "pallidum": (55, 56),
    "amygdala": (31, 32),
    "accumbens": (23, 30),
    "ventral_diencephalon": (61, 62),
    "cerebellar_cortex": (38, 39),
    "cerebellar_white_matter": (40, 41),
    "cerebral_white_matter": (81, 82),
    "cerebral_cortex": (100, 101),
}
MIDDLE = {"brain_stem": 35, "third_ventricle": 4, "fourth_ventricle": 11}
IGNORED = (71, 72, 73, 75, 76, 95)


def manifest(folder: Path) -> str:
    """Return the manifest for the folder."""
    names = {right: f"{name}_right" for name, (right, _) in SIDED.items()}
    names |= {left: f"{name}_left" for name, (_, left) in SIDED.items()}
    names |= {value: name for name, value in MIDDLE.items()}
    merge = {
        81: [83, 85, 87, 89, 91, 93],
        82: [84, 86, 88, 90, 92, 94],
        100: list(range(102, 208, 2)),
        101: list(range(103, 208, 2)),
    }
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "t1").glob("*.nii.gz"))
    lines = [
        "# Ten T1 brains of young adults with MUSE regions, a model's output and not an expert's; for validation only.",
        "# Written by data/brain_mr.py, which says how regions become structures.",
        "name: brain-mr",
        "root: brain-mr # relative to this file or to VOXMETRY_DATA",
        "channels:",
        '  - {name: mr, modality: MR, path: "t1/{case}.nii.gz"}',
        'label: "regions/{case}.nii.gz"',
        "labels:",
        *[f"  {value}: {name}" for value, name in sorted(names.items())],
        "merge:",
        *[f"  {value}: [{', '.join(map(str, parts))}]" for value, parts in merge.items()],
        f"ignore: [{', '.join(map(str, IGNORED))}]",
        "unlisted: background",
        "cases:",
        *[f"  - {{case: {case}, held_out: true}}" for case in cases],
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manifest(Path(sys.argv[1])))
