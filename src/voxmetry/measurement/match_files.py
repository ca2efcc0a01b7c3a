"""Find the prediction and the reference of each case in two folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from voxmetry.errors import InputError
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of

STUDY_FILE = "seg"
"""What `voxmetry segment` calls its label map: such a file is named after its folder."""
_SHOWN = 5


class FilePair(NamedTuple):
    """One case: its name and its two files."""

    case: str
    prediction: Path
    reference: Path


class MatchedFiles(NamedTuple):
    """The cases of two folders, by name, and the cases that only one of them has."""

    pairs: tuple[FilePair, ...]
    unmatched_predictions: tuple[str, ...]
    unmatched_references: tuple[str, ...]


def match_files(prediction: str | os.PathLike[str], reference: str | os.PathLike[str]) -> MatchedFiles:
    """Pair the label maps of two folders by their names without suffix.

    Parameters
    ----------
    prediction, reference
        Folders, searched with their subfolders for NIfTI, NRRD and MetaImage files. A case is called after the path
        of its file inside the folder, `site_a/case_7`; `case_7/seg.nii.gz`, as `voxmetry segment` leaves it, is
        `case_7`. Hidden files and files of other formats are not looked at.

    Returns
    -------
    MatchedFiles
        Sorted by name.

    Raises
    ------
    InputError
        If a folder is missing, two files in it have the same name but for the suffix, or no name is in both.
    """
    ours, theirs = label_maps(Path(prediction), "prediction"), label_maps(Path(reference), "reference")
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise InputError(
            found=f"no name in both folders; predictions: {_some(ours)}; references: {_some(theirs)}",
            expected="files of the same name but for the suffix, such as case_1.nii.gz and case_1.nrrd",
            fix="rename the files of one folder, or check that these are the right folders",
        )
    return MatchedFiles(
        tuple(FilePair(case, ours[case], theirs[case]) for case in both),
        tuple(sorted(ours.keys() - theirs.keys())),
        tuple(sorted(theirs.keys() - ours.keys())),
    )


def case_name(path: Path) -> str:
    """Return a path's name of a case: without suffix, and a study's own file after its folder.

    Examples
    --------
    >>> case_name(Path("a/case_1.nii.gz")), case_name(Path("case_2/seg.nii.gz")), case_name(Path("seg.nii.gz"))
    ('a/case_1', 'case_2', 'seg')
    """
    stem = path.name[: len(path.name) - len(suffix_of(path))]
    return (path.parent if stem == STUDY_FILE and path.parent != Path() else path.parent / stem).as_posix()


def label_maps(folder: Path, which: str) -> dict[str, Path]:
    """Return the label maps below a folder by the names of their cases; `which` says what they are in an error.

    Raises
    ------
    InputError
        If the folder is missing, or two files in it are of one case.
    """
    if not folder.is_dir():
        raise InputError(
            found=f"the {which} {folder.name or folder} is no folder",
            expected="two folders, or two files",
            fix="check the path",
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not path.is_file() or suffix_of(path) not in (*NIFTI, *ITK):
            continue
        name = case_name(inside)
        if name in found:
            raise InputError(
                found=f"two {which} files of the case {name}: {found[name].name} and {path.name}",
                expected="one label map a case",
                fix="move one of them elsewhere",
            )
        found[name] = path
    return found


def _some(names: dict[str, Path]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "(none)"
