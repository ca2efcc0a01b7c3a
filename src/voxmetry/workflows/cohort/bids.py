"""The images of a BIDS data set, with their entities and sidecars."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from voxmetry.core.text_files import read_text
from voxmetry.errors import FormatError, InputError
from voxmetry.workflows.cohort.discover import Known, image_candidate
from voxmetry.workflows.cohort.oddities import alone, odd, shown
from voxmetry.workflows.cohort.records import Candidate, Fault

MODALITY = {
    **dict.fromkeys(("T1w", "T2w", "T2star", "PDw", "FLAIR", "PDT2", "inplaneT1", "inplaneT2", "angio"), "MR"),
    **{"pet": "PT", "ct": "CT"},
}
"""BIDS suffixes of images with three axes, and what they are. CT is not in the standard yet and found in practice."""

_NAME = re.compile(r"^((?:[a-zA-Z]+-[a-zA-Z0-9+]+_)+)([a-zA-Z0-9]+)\.nii(?:\.gz)?$")


def is_bids(root: Path) -> bool:
    """Whether a folder is a raw BIDS data set: it says so in `dataset_description.json`, and has a subject."""
    return (root / "dataset_description.json").is_file() and any(root.glob("sub-*"))


def find_bids(
    root: Path, *, known: Known | None = None, tell: Callable[[int], None] | None = None
) -> tuple[Candidate, ...]:
    """Find the images of a raw BIDS data set; derivatives and source data are not looked at.

    Raises
    ------
    InputError
        If there is no image with three axes in it.
    """
    found = []
    for path in sorted(_images(root)):
        entities = entities_of(path.name)
        if entities is None or entities["suffix"] not in MODALITY:
            continue
        entities["datatype"] = path.parent.name
        case = re.sub(r"\.nii(\.gz)?$", "", path.relative_to(root).as_posix())
        change: dict[str, object] = {
            "entities": entities,
            "modality": MODALITY[entities["suffix"]],
            "patient": entities.get("sub"),
        }
        strange = odd(path)
        candidate = shown(case, strange) if strange else image_candidate(path, case, known=known)
        unread = None if strange else _sidecar_fault(path, root)
        change["fault"] = candidate.fault or unread
        found.append(candidate.model_copy(update=change))
        if tell:
            tell(len(found))
    if not found:
        raise InputError(
            found="no image with three axes in the BIDS data set",
            expected=f"files below sub-*/ that end in {', '.join(f'_{suffix}' for suffix in MODALITY)}",
            fix="check that this is the root of the raw data set",
        )
    return tuple(found)


def _images(root: Path) -> Iterator[Path]:
    """Yield what is called as an image is, below each subject's folder; links to folders are followed once."""
    for subject in root.glob("sub-*"):
        for parent, _, names in os.walk(subject):
            yield from (Path(parent, name) for name in names if name.endswith((".nii", ".nii.gz")))


def _sidecar_fault(path: Path, root: Path) -> Fault | None:
    def look() -> None:
        read_sidecar(path, root)

    def told(fault: Fault) -> Fault | None:
        return fault

    return alone(look, told)


def entities_of(name: str) -> dict[str, str] | None:
    """Take a BIDS file name apart; None where it is none.

    Examples
    --------
    >>> entities_of("sub-01_ses-a_run-2_T1w.nii.gz")
    {'sub': '01', 'ses': 'a', 'run': '2', 'suffix': 'T1w'}
    """
    match = _NAME.match(name)
    if not match or not name.startswith("sub-"):
        return None
    pairs = dict(part.split("-", 1) for part in match.group(1).rstrip("_").split("_"))
    return {**pairs, "suffix": match.group(2)}


def read_sidecar(path: Path, root: Path) -> dict[str, object]:
    """Read what the sidecars say about an image, by BIDS' principle of inheritance: the nearest one wins.

    Raises
    ------
    FormatError
        If a sidecar is no JSON object.
    """
    entities = entities_of(path.name)
    if entities is None:
        return {}
    content: dict[str, object] = {}
    folders = [folder for folder in reversed(path.parents) if folder == root or root in folder.parents]
    for folder in folders:
        for candidate in sorted(folder.glob("*.json"), key=lambda entry: len(entry.name)):
            theirs = _parts(candidate)
            if theirs is not None and all(entities.get(name) == value for name, value in theirs.items()):
                content |= _load(candidate)
    return content


def _parts(path: Path) -> dict[str, str] | None:
    """Return the entities and the suffix that a sidecar's name asks for; None where it is no sidecar."""
    *pairs, suffix = path.stem.split("_")
    if "-" in suffix or suffix not in MODALITY or not all("-" in pair for pair in pairs):
        return None
    return {**dict(pair.split("-", 1) for pair in pairs), "suffix": suffix}


def _load(path: Path) -> dict[str, object]:
    try:
        content = json.loads(read_text(path)) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise FormatError(
            found=f"the sidecar {path.name} cannot be read as a JSON object",
            expected="a JSON object, as BIDS asks for",
            fix="mend or remove it",
        )
    return content
