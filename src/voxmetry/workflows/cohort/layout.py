"""Where the results of each study go: folders of their own, or BIDS derivatives."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxmetry._version import __version__
from voxmetry.core.text import folder_name, inside
from voxmetry.io.atomic import write_text
from voxmetry.workflows.cohort.records import Candidate

WORK = ".voxmetry"
"""Folder inside OUT for what is not a result: the lock, claims, half-done studies."""

_BIDS = {
    "segmentation": "dseg.nii.gz",
    "measurements": "measurements.csv",
    "lesions": "lesions.csv",
    "instances": "instances.nii.gz",
    "panoptic": "panoptic.nii.gz",
    "instance table": "instances.csv",
    "comparison": "comparison.csv",
    "result": "result.json",
    "report": "report.html",
    "thumbnail": "thumbnail.png",
}
_FILES = (".nii.gz", ".csv", ".json", ".html", ".png", ".pdf", ".dcm", ".tsv")
"""Ends of the names of a result's files."""
_BIDS_ALONE = ("dseg.json", "dseg.tsv")

KEPT = (
    *("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength", "ReceiveCoilName", "SequenceName"),
    *("PulseSequenceType", "ScanningSequence", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("SliceThickness", "ContrastBolusIngredient", "TracerName", "TracerRadionuclide", "Units", "Modality"),
)
"""What is kept of a source's sidecar. A list of what may stay: it holds no identity, date or institution."""


def folders_place(model: str, case: str, *, alike: bool = False) -> str:
    """Return OUT's folder of one study: `voxmetry compare` matches the folders of OUT/MODEL by case.

    The name of a case may come from anywhere: what a folder cannot be called, or would lead out of OUT, is replaced,
    and the end of a hash keeps two such names apart. So it does where another case is `alike`: of a name that some
    disks, as those of macOS and Windows, take for the same.

    Examples
    --------
    >>> folders_place("liver-ct", "site_a/case_7"), folders_place("liver-ct", "../../other")
    ('liver-ct/site_a/case_7', 'liver-ct/_/_/other-5cbfa8')
    """
    # A case called as the file of a result is would take that file's place in the folder of another case.
    place = "/".join(part + "_" if part.endswith(_FILES) else part for part in inside(case).split("/"))
    if place != case or alike:
        place += "-" + hashlib.sha256(case.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{folder_name(model)}/{place}"


def names_of(stem: str | None) -> dict[str, str]:
    """Return the final names of a study's files by the names that `segment_study` gives them.

    Parameters
    ----------
    stem
        What they begin with in BIDS; None leaves them as they are.
    """
    # The run itself needs no torch, which comes with the names of the maps: only workers ask.
    from voxmetry.workflows.run_folder import OUTPUTS

    if stem is None:
        return {name: name for name in OUTPUTS.values()}
    names = {name: f"{stem}_{_BIDS.get(what, name)}" for what, name in OUTPUTS.items()}
    return names | {name: f"{stem}_{name}" for name in _BIDS_ALONE}


def bids_place(model: str, candidate: Candidate) -> tuple[str, str]:
    """Return the folder of a BIDS derivative, and what its files' names begin with: it keeps the source's entities.

    Examples
    --------
    >>> found = Candidate(
    ...     case="x", path="x", entities={"sub": "01", "ses": "1", "suffix": "T1w", "datatype": "anat"}
    ... )
    >>> bids_place("hippocampus-mr", found)
    ('sub-01/ses-1/anat', 'sub-01_ses-1_desc-hippocampusmrT1w')
    """
    entities = {name: value for name, value in candidate.entities.items() if name not in ("suffix", "datatype", "desc")}
    parts = [f"sub-{entities['sub']}", *([f"ses-{entities['ses']}"] if "ses" in entities else [])]
    # The source's suffix goes into desc: a T1w and a T2w image of one session would otherwise share their names.
    description = re.sub(r"[^A-Za-z0-9]", "", model) + candidate.entities.get("suffix", "")
    stem = "_".join([*(f"{name}-{value}" for name, value in entities.items()), f"desc-{description}"])
    place = inside("/".join([*parts, candidate.entities.get("datatype", "anat")]))
    return place, stem


def bids_sidecar(source: Mapping[str, object], *, inside: Sequence[str], model: str, sha256: str) -> dict[str, object]:
    """Return the sidecar of a segmentation: what it was made from and how, and what is kept of the source's sidecar."""
    return {
        "Sources": [f"bids:raw:{path}" for path in inside],
        "SpatialReference": "orig",
        "GeneratedBy": [{"Name": "voxmetry", "Version": __version__, "Model": model, "WeightsSHA256": sha256}],
        **{name: source[name] for name in KEPT if name in source},
    }


def write_bids_description(out: Path) -> None:
    """Write `dataset_description.json` of the derivative, and keep a validator from what is no BIDS file."""
    content = {
        "Name": "Voxmetry segmentations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "voxmetry", "Version": __version__}],
        "DatasetLinks": {"raw": "../.."},
    }
    if not (out / "dataset_description.json").exists():
        write_text(out / "dataset_description.json", json.dumps(content, indent=1) + "\n")
    if not (out / ".bidsignore").exists():
        ignored = (
            "cohort.*",
            "measurements.*",
            "*_result.json",
            "*_report.html",
            "*_thumbnail.png",
            "*_preview.png",
            "*_*.csv",
            "*_*overview.nii.gz",
        )
        write_text(out / ".bidsignore", "\n".join(ignored) + "\n")
